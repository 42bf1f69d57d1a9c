//! SFT, reward model and DPO on the engine's own blocks: losses, LoRA, optimiser, checkpoint.
//!
//! What this crate owns: rows of every TRL layout become [`Item`]s (`dataset`), items become micro-batches
//! (`batch`), a [`Learner`] turns a micro-batch into a loss and gradients, and [`Trainer`] drives it: AdamW,
//! schedules, clipping, accumulation, evaluation, checkpoints, alarms. The numbers and names are TRL's.
//!
//! The one decision: a training run is a pure function of its configuration, its data and its starting
//! weights. Order, batches and random numbers are functions of (seed, epoch, update), sums are added in a
//! fixed order, and a checkpoint holds everything else, so that a run that was killed and resumed ends with
//! the same bytes as one that was not.
//!
//! State of a run: `prepare` (tokenise, report what was cut or left out) -> plan (updates, memory) -> updates,
//! each a set of micro-batches, one clip, one AdamW step -> checkpoint (complete or absent, never half) ->
//! final weights. A loss or gradient that is not finite stops it before the weights are touched.
//!
//! This crate must not know HTTP, storage or how progress is drawn.

mod alarm;
mod batch;
mod checkpoint;
mod conduct;
mod config;
mod dataset;
mod error;
mod item;
mod job;
mod learner;
mod lora;
mod loss;
mod metrics;
mod monitor;
mod optimizer;
mod policy;
mod random;
mod reward_accuracy;
mod schedule;
mod trainer;
mod verify;

pub use alarm::{Alarm, AlarmKind};
pub use batch::{Batching, Order};
pub use checkpoint::{Checkpoints, TrainerState, read_tensors, write_tensors};
pub use conduct::{Conducted, Place, conduct};
pub use config::{Interval, Names, ScheduleArguments, Settings, TrainConfig, TrainKind};
pub use dataset::{DatasetOptions, Prepared, Purpose, Report, prepare, preview};
pub use error::TrainError;
// Who trains an adapter may want it in the model.
pub use evalign_lm::export::{Merged, MergedForm, merge};
pub use item::{Item, MicroBatch, Sequence};
pub use job::{Job, RecomputeChoice, Sources};
pub use learner::{Answer, Gradients, Learner, Observed, Parameter, ReferenceLogps, Scale, SequenceObserved};
pub use lora::LoraOptions;
pub use loss::{FDivergence, Kto, Objective, PairLoss, PairTerm, Preference, SftLoss};
pub use metrics::Metrics;
pub use monitor::{Facts, Line, Monitor, SampledText, charts, last_values, read_metrics, write_report};
pub use optimizer::{AdamW, AdamWOptions, clip, gradient_norm};
pub use policy::{Method, Policy, PolicyOptions};
pub use reward_accuracy::{RewardAccuracy, RewardScore, ScoreOptions, reward_accuracy, score_rewards};
pub use schedule::{Decay, Schedule, ScheduleKind};
pub use trainer::{
    Accumulation, EarlyStopping, Ending, Event, ReferenceStore, Start, Trainer, TrainerOptions,
};
pub use verify::{Certificate, Check, verify};
