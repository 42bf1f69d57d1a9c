//! What lm-evaluation-harness 0.4.13 printed, against what this crate makes of the same data. Needs the
//! development data named by `EVALIGN_SHARED`; skipped, visibly, without it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests may panic, and say what they skip")]

mod golden;
mod runner;
