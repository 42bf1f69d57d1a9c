//! The crate against a local server with the hub's routes, and against wheels made on the spot.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking, in helper functions too")]

#[cfg(unix)]
mod built_in;
mod downloads;
mod errors;
mod hub_models;
mod network;
mod python;
mod secrets;
mod server;
