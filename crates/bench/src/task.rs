//! What a task is: task files, their families and groups, and the catalog of all of them.

mod catalog;
mod check;
mod definition;
mod embedded;
mod family;
mod file;
mod generated;
mod robustness;
mod yaml;

pub use catalog::{Catalog, GroupDefinition, TaskSummary};
pub use check::{CheckedFile, validate, validate_all};
pub use definition::{
    Choices, DatasetSource, FilterPipeline, FilterStep, Generation, JudgeDefinition, MetricDefinition,
    MetricName, ModeOverrides, MultiChoiceRegexStep, OutputKind, RegexStep, RowFilter, Sampler,
    ShotsDefinition, TargetDefinition, TaskDefinition,
};
pub(crate) use embedded::{EmbeddedRows, embedded_rows};
#[cfg(test)]
pub(crate) use family::compile_check;
pub use file::{TaskFile, task_schema};
pub(crate) use generated::is_generated;
pub use robustness::{OptionsDefinition, Paraphrase};
