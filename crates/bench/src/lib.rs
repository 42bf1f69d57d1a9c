//! Benchmarks: what a task is, how a row of a dataset becomes a prompt, and how a model's answer becomes
//! a score.
//!
//! The way through this crate is the way of a sample: a [`Catalog`] of task files gives a
//! [`TaskDefinition`]; [`draft`] finds its rows and decides its worked examples; a [`PlannedTask`]
//! renders one [`PlannedSample`] at a time; the model's output comes back to its [`Scorer`].
//!
//! The one decision made here: there are two rule books, and every number says which one it follows.
//! `--compat lm-eval` reproduces lm-evaluation-harness 0.4.13 bug for bug (prompts, draws, regular
//! expressions); the default mode mends what is known to be wrong there, and what could not be decided
//! is an outcome of its own, never a wrong answer.
//!
//! Nothing is rendered before it is needed: planning fourteen thousand documents reads their file once
//! and draws indices. This crate does no network of its own and knows nothing of HTTP.

mod aggregate;
mod answering;
mod breakdown;
mod calibration;
mod compare;
mod conduct;
mod contamination;
mod critique;
mod detectable;
mod document;
mod error;
mod export;
mod filter;
mod generated_choice;
mod import;
mod injections;
mod judging;
mod leaderboard;
mod measures;
mod metric;
mod number;
mod option_order;
mod paired;
mod pairing;
mod perturb;
mod plan;
mod planned;
mod prompt;
pub mod python;
mod refusal;
mod request;
mod rescore;
mod resume;
mod retrieval;
mod rows;
mod run_error;
mod runner;
mod scored;
mod scorer;
mod shots;
mod swaps;
pub mod task;
mod template;
mod variant;
mod verify;

#[cfg(test)]
mod tests;

pub use aggregate::{Scoreboard, request_of};
pub use answering::{
    AnswerJudges, AnswerReport, AnsweredQuestion, Answering, AnsweringRequest, JudgedMetric, quoting,
};
pub use breakdown::{Breakdown, BreakdownGroup, BreakdownOptions, BreakdownResult};
pub use calibration::{CalibrationOptions, Reliability, ReliabilityBin};
pub use compare::{
    CLUSTER_BY_SUBJECT, Change, ChangeKind, Changes, ChangesQuery, CompareOptions, ComparedRun, Comparison,
    ProtocolDifference, RunComparison, SHOWN_AT, changes, compare,
};
pub use conduct::{Asked, Cast, KeptResults, Spending, conclude, job_spec, verdicts_by};
pub use contamination::{Contamination, Corpus, DirtyItem, FEWEST_WORDS, NGRAM_WORDS, SplitResult};
pub use critique::{
    Critique, CritiqueBound, CritiqueFiles, CritiqueReport, CritiqueRequest, CutTexts, PrincipleCounts,
    critique_results,
};
pub use detectable::{Detectable, detectable};
pub use error::BenchError;
pub use export::{ExportFormat, export_run, export_steps};
pub use import::{Imported, import_run};
pub use injections::{InjectionCounts, Injections, InjectionsReport, InjectionsRequest};
pub use judging::{
    Arena, ArenaOutcome, ArenaRequest, Ballot, CriterionReport, FileJudging, FileJudgingRequest, JudgeReport,
    JudgedRow, JudgedSource, JudgingReport, Vote, VoteQuestion, Votes, verdicts_on,
};
pub use leaderboard::{
    BOARD_STYLE, Board, BoardBlock, BoardQuery, BoardRow, Gap, RunLink, board_page, board_sections, caveats,
    leaderboard,
};
pub use measures::{MeasuredResults, Measures, MeasuresWanted};
pub use option_order::OptionOrder;
pub use paired::{Agreement, Difference, LeftOut, McNemarP, PairedTest, lower_is_better};
pub use pairing::{
    Build, BuiltPair, Decontamination, Filters, Judges, LoadedPrompt, PairFiles, PairsReport, PairsRequest,
    load_prompts, write_pairs,
};
pub use perturb::{DEFAULT_TYPO_RATE, Perturbation};
pub use plan::{Draft, Plan, PlannedGroup, draft, plan};
pub use planned::{PlannedSample, PlannedTask};
pub use request::{DEFAULT_MAX_RETRIES, DEFAULT_SEED, DocRange, Limit, RunRequest};
pub use rescore::{Rescored, rescore};
pub use resume::check_resume;
pub use retrieval::{
    RerankRequest, Retrieval, RetrievalReport, RetrievalRequest, RetrievalTools, evaluation_collection,
    retrieval_difference, retrieval_metrics, run_of_evaluation, way_of_searching,
};
pub use run_error::RunError;
pub use runner::{
    ActiveRun, Asking, Cancel, CancelLevel, Phase, Progress, RunEnd, RunOfSteps, Silent, Snapshot, Steps,
    StoreCache,
};
pub use scorer::{SCORER_VERSION, Scorer};
pub use swaps::{SwapAudit, SwapDifference};
pub use task::{
    Catalog, CheckedFile, GroupDefinition, TaskDefinition, TaskFile, TaskSummary, task_schema, validate,
    validate_all,
};
pub use verify::{Cause, Divergence, Verification, VerifyOptions, verify};
