//! Preference pairs, from prompts to files: answers are drawn, judged or scored, and the better one of two becomes
//! what training is to prefer.
//!
//! ```text
//! answers (a phase, or the task's own run) -> comparisons in both orders (a phase) -> pairs -> filters -> files
//! ```
//!
//! What is asked is committed sample by sample; everything behind it is a function of what is stored, so that files
//! can be written again at any time, without a model.

mod build;
mod candidates;
mod decontaminate;
mod filters;
mod judged;
mod judged_pairs;
mod judges;
mod origin;
mod prompts;
mod right_wrong;
mod spec;
mod write;

pub use build::{Build, PairsRequest};
pub use decontaminate::Decontamination;
pub(crate) use decontaminate::DecontaminationCounts;
pub use filters::{Filters, PairsReport};
pub use judges::Judges;
pub use origin::BuiltPair;
pub use prompts::{LoadedPrompt, load_prompts};
pub use write::{PairFiles, write_pairs};

pub(crate) use judged::{
    Side, Verdicts, answered, compare_scores, comparison_askings, outcome_of, read_comparison, verdict_of,
};
pub(crate) use origin::{Origin, messages_of};
pub(crate) use prompts::digest_of_prompts;
pub(crate) use right_wrong::prompt_of;
pub(crate) use spec::{phase_spec, run_spec};
