//! Judges as users have them: real models, real prompts.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking, in helper functions too")]

mod constrained;
