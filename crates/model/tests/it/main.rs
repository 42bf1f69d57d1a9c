//! Models through their public interface. The tests on real weights
//! say so where they cannot be had.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod cached;
mod common;
mod loading;
mod local;
mod scripted;
