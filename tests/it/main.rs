//! Tests of the whole: the real binary end to end, and the shape of the workspace.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod arrows;
mod bad_input;
mod cli;
mod clients;
mod compare;
mod deployment;
mod devices;
mod disk;
mod export;
mod fuzz;
mod https;
mod import;
mod interrupt;
mod judge;
mod juries;
mod kill;
mod leaderboard;
mod logs;
mod openai;
mod openai_bad_input;
mod openai_durability;
mod openai_endings;
mod openai_judge;
mod openai_limits;
mod openai_retries;
mod openai_secrets;
mod openai_spending;
mod openai_truth;
mod pairs;
mod parity;
mod promises;
mod rag;
mod rag_aloud;
mod rag_hostile;
mod rag_search;
mod rag_tables;
mod rag_tuning;
mod robustness;
mod run;
mod schema_fuzz;
mod serve;
mod structured;
#[cfg(feature = "otel")]
mod traces;
mod train;
