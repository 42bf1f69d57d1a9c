//! The service in this process: requests straight into its routes, and over a socket where that matters. Tests of
//! a promise carry its number.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod access;
mod alignment;
mod bad_input;
mod browser;
mod common;
mod completions;
mod contention;
mod events;
mod fields;
mod files;
mod idempotency;
mod indexes;
mod judged;
mod limits;
mod messages;
mod openapi;
mod operations;
mod pages;
mod pages_diff;
mod pages_indexes;
mod pages_vote;
mod places;
mod remembered;
mod retrieval;
mod runs;
mod scoring;
mod stored;
mod streaming;
