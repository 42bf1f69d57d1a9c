//! Judges at work: answers scored, models compared, judges held against people.
//!
//! ```text
//! score, calibrate:  rows of a file -> verdicts (a phase for each judge) -> report
//! arena:             answers (a phase for each competitor) -> verdicts (a phase for each judge) -> report
//! votes:             the arena's answers -> people's verdicts, which join the arena's report
//! task:              a task's answers -> verdicts, which join the task's own scores
//! ```
//!
//! Every verdict is a sample of a run, stored as the model gave it; reports are functions of what is stored.

mod arena;
mod board;
mod file;
mod ratings;
mod report;
mod reward;
mod rows;
mod task;
mod votes;

pub use arena::{Arena, ArenaOutcome, ArenaRequest};
pub use file::{FileJudging, FileJudgingRequest, JudgedSource};
pub use report::{CriterionReport, JudgeReport, JudgingReport};
pub use rows::JudgedRow;
pub use task::verdicts_on;
pub use votes::{Ballot, Vote, VoteQuestion, Votes};

pub(crate) use board::arena_block;
pub(crate) use reward::{TaskReward, best_of};
pub(crate) use task::{TaskJudge, is_verdict, mean_verdicts, task_judged, unjudged};

#[cfg(test)]
mod tests;
