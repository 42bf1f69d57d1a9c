//! Models through their public interface. The tests on real weights
//! say so where they cannot be had.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod cached;
mod common;
mod loading;
mod local;
mod openai;
mod openai_fields;
mod openai_probe;
mod openai_split;
mod openai_streaming;
mod scripted;
mod streaming;
