//! Models through their public interface. The tests on real weights need `EVALIGN_TEST_MODEL` (the path
//! of SmolLM2-135M-Instruct.Q4_1.gguf) and say so where it is missing.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod cached;
mod common;
mod loading;
mod local;
mod scripted;
