//! Tests of the whole: the real binary end to end, and the shape of the workspace.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod arrows;
mod bad_input;
mod cli;
mod disk;
mod export;
mod https;
mod import;
mod interrupt;
mod kill;
mod parity;
mod run;
