//! The vocabulary of evalign: the types every other crate speaks.
//!
//! A *run* measures one *model* on a set of *tasks*. A task yields *samples*; each sample is rendered
//! into a [`Request`], answered by a [`Response`], and judged into [`Score`]s. A run's scores are
//! aggregated into [`Estimate`]s, and those are what people read.
//!
//! The one decision made here: whatever did not produce a trustworthy answer is an [`Outcome`] of its
//! own (truncated, refused, unparsed, error, unscored), never a wrong answer and never a zero. Numbers
//! without a value are absent (`Option`), never NaN.
//!
//! This crate does no I/O, knows no async runtime, and depends on no other crate of the workspace.

mod digest;
mod hint;
mod ids;
mod latency;
mod model_ref;
mod outcome;
mod repeats;
mod request;
mod response_format;
mod results;
mod run;
mod safe_text;
mod sample;
mod seed;
mod sensitivity;
mod variant;

pub use digest::{Digest, canonical_json};
pub use hint::Hint;
pub use ids::{NAME_FORM, RunId, SampleKey, Tenant, is_name};
pub use latency::{Latency, LatencySummary, Percentiles};
pub use model_ref::{ModelRef, ModelRefError, Provider};
pub use outcome::{Outcome, OutcomeCounts, Score};
pub use repeats::{AtK, RepeatResult};
pub use request::{
    ChoiceLogLikelihood, FinishReason, GenerateParams, MOST_TOP_LOGPROBS, Message, Output, Prompt, Request,
    RequestKind, Response, Role, Spent, TokenLogprob, TopLogprob, Usage,
};
pub use response_format::{AnswerForm, AnswerSchema, ResponseField, ResponseFormat, ResponseValue};
pub use results::{Estimate, MetricResult, ModelSummary, RunResults, Seconds, TaskResult};
pub use run::{Dtype, ModelIdentity, RunSpec, RunStatus, ScoredBy, ScoringMode, SpecDifference, TaskSpec};
pub use safe_text::{is_obeyed, sanitize};
pub use sample::SampleRecord;
pub use seed::sample_seed;
pub use sensitivity::{OptionOrderResult, PerturbationResult, VariantScore};
pub use variant::Variant;
