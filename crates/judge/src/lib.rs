//! LLM-as-judge, constitutional critique and revision, preference pairs: the steps, not their scheduling.
//!
//! A [`Judge`] is a model with a [`Rubric`]. It is shown [`Material`] and says how good one answer is
//! ([`Judge::pointwise_request`]) or which of two is better ([`Judge::pairwise_request`], always in both [`Order`]s). What it
//! says is held to a form where the model can be ([`evalign_core::ResponseFormat`]), read strictly
//! ([`Verdict`]), asked for again where it is no verdict, and otherwise undecided ([`Unscored`]) with a
//! reason: never a zero.
//!
//! The one decision: whatever is judged is data. It stands in blocks that it cannot end ([`Fence`]), only
//! ever in the user's turn, and nothing that a judge quotes from it is taken for the verdict.
//!
//! This crate makes requests and reads answers. When they are asked, stored and asked again after a crash is
//! the business of `bench`; it knows neither runner nor store.

mod arena;
mod bias;
mod calibrate;
mod constitution;
mod critique;
mod effect;
mod error;
#[cfg(test)]
mod fake_model;
mod fence;
mod insist;
mod judge;
mod jury;
mod lint;
mod minhash;
mod pairs;
mod pairwise;
mod pointwise;
mod prompts;
mod rubric;
mod style;
mod verdict;

pub use arena::{ArenaBattle, ArenaReport, HeadToHead, Standing, StyleControl};
pub use bias::{BiasReport, BiasTally, JudgedAnswer, JudgedPair, family_of, family_of_name};
pub use calibrate::{JudgeCalibration, LabelledPair, LabelledScore, ReliabilityBin};
pub use constitution::{Constitution, Principle};
pub use critique::{Critic, Reviewed, spoken};
pub use effect::Effect;
pub use error::JudgeError;
pub use fence::Fence;
pub use judge::{JUDGE_VERSION, Judge, JudgeOptions, Material};
pub use jury::{
    Aggregation, JuryAgreement, jury_preferences, jury_scores, preference_agreement, score_agreement,
};
pub use lint::{
    Check, Converted, Finding, LengthCounts, LintReport, Linter, MOST_REMEMBERED, Severity, check_file,
    convert_file,
};
pub use minhash::NearDuplicates;
pub use pairs::{Strategy, balanced_by_length, is_held_out, select};
pub use pairwise::{Comparison, Order, OrderVerdict, Pair, Preference};
pub use pointwise::{CriterionScore, Judged, score_all};
pub use prompts::{Prompts, as_text};
pub use rubric::{ABSTAIN, Criterion, NamedRubric, Rubric, Scale, Shown};
pub use style::{Style, formatting_marks};
pub use verdict::{Choice, Unscored, Verdict};
