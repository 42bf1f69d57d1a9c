//! The store through its public interface. Seeds are printed and can be set:
//! `EVALIGN_TEST_SEED=7 EVALIGN_TEST_STEPS=200000 cargo test -p evalign-store model_based`.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod changes;
mod common;
mod concurrency;
mod faults;
mod indexes;
mod jobs;
mod kills;
mod leases;
mod model_based;
mod reading;
mod service;
mod versions;
