//! The crate through its public interface: both stores, the published figures, crashes and tenants.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking, in helper functions too")]

mod bm25_parity;
mod conformance;
mod crashes;
mod dense_parity;
mod gone;
mod server;
mod stores;
mod tenants;
