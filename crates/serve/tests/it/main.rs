//! The service in this process: requests straight into its routes, and over a socket where that matters. Tests of
//! a promise carry its number.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod access;
mod bad_input;
mod common;
mod completions;
mod events;
mod files;
mod idempotency;
mod openapi;
mod operations;
mod pages;
mod runs;
