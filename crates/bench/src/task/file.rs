use std::collections::BTreeMap;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::definition::{
    Choices, DatasetSource, FilterPipeline, Generation, JudgeDefinition, MetricDefinition, ModeOverrides,
    OutputKind, Sampler,
};
use super::robustness::{OptionsDefinition, Paraphrase};
use super::yaml::parse_yaml;
use crate::error::BenchError;

/// A task file as written. It defines a `task`, a `family` of tasks or a `group`; a file with none of
/// them is a base for `include`, and its name begins with `_`. A field that is absent comes from the included file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TaskFile {
    /// Name of the file, in the same directory, that fields not given here are taken from.
    pub include: Option<String>,
    /// Name of the task: lower-case letters, digits, `.`, `_`, `-`, at most 64.
    pub task: Option<String>,
    /// Many tasks that differ in one word.
    pub family: Option<FamilyFile>,
    /// Name of a group of tasks whose scores are aggregated.
    pub group: Option<String>,
    /// Tasks and groups of the group.
    pub members: Option<Vec<String>>,
    /// Whether a group's mean counts every sample equally (true) or every task (false).
    pub weight_by_size: Option<bool>,
    pub version: Option<Version>,
    /// One line for `evalign tasks list`.
    pub summary: Option<String>,
    /// The paper, and where the facts of this definition come from.
    pub source: Option<String>,
    pub tags: Option<Vec<String>>,
    pub dataset: Option<DatasetSource>,
    /// Columns to add to every row: name and expression, in order.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub process: Option<IndexMap<String, String>>,
    pub output: Option<OutputKind>,
    /// Template for the text before the worked examples.
    pub description: Option<String>,
    /// Template for the question.
    pub prompt: Option<String>,
    pub choices: Option<Choices>,
    /// Template for the right answer.
    pub target: Option<String>,
    /// Expression for a list of right answers, instead of `target`.
    pub targets: Option<String>,
    /// Between question and answer; a space if absent.
    pub target_delimiter: Option<String>,
    /// Template for the beginning of the answer, put into the model's mouth.
    pub gen_prefix: Option<String>,
    pub shots: Option<ShotsFile>,
    pub generation: Option<Generation>,
    /// Answers per document.
    pub repeats: Option<u32>,
    pub filters: Option<Vec<FilterPipeline>>,
    pub metrics: Option<Vec<MetricDefinition>>,
    /// What is different under `--compat lm-eval`.
    pub lm_eval: Option<ModeOverrides>,
    /// Columns (computed ones included) with the question's own words: what `--perturb` changes, and what
    /// is looked for in a corpus.
    pub question: Option<Vec<String>>,
    /// For tasks whose prompts show the options under labels: what `--option-order` moves.
    pub options: Option<OptionsDefinition>,
    /// The task in other words, for `--perturb paraphrase`.
    pub paraphrases: Option<Vec<Paraphrase>>,
    /// What a judge goes by, for `--judge REF`.
    pub judge: Option<JudgeDefinition>,
}

/// `%{member}`, `%{member_words}` (underscores as spaces) and `%{category}` stand for the member's name
/// and category in the texts of a family.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FamilyFile {
    /// Name of each task.
    pub name: Option<String>,
    /// Group of all members.
    pub group: Option<String>,
    /// Group of each category.
    pub category_group: Option<String>,
    pub group_version: Option<Version>,
    /// Members by category.
    #[schemars(with = "Option<BTreeMap<String, Vec<String>>>")]
    pub categories: Option<IndexMap<String, Vec<String>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShotsFile {
    /// How many, unless the request says otherwise; 0 if absent.
    pub count: Option<u32>,
    /// The request cannot say otherwise.
    pub fixed: Option<bool>,
    pub sampler: Option<Sampler>,
    /// Expression whose values the balanced sampler takes in turn.
    pub balance_by: Option<String>,
    /// Worked examples as rows, used instead of a split.
    pub examples: Option<Vec<Map<String, Value>>>,
    /// A file of worked examples by key.
    pub examples_file: Option<String>,
    /// The key in that file; the task's name if absent.
    pub examples_key: Option<String>,
    /// Between worked examples; an empty line if absent.
    pub delimiter: Option<String>,
    /// Draw one more than asked for and drop the evaluated document, as the reference does for tasks
    /// that name neither a test split nor a few-shot split.
    pub extra_draw: Option<bool>,
}

/// A version, written as text or as a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Version(pub String);

/// A file of worked examples: rows by key.
pub(crate) type ExamplesFile = BTreeMap<String, Vec<Map<String, Value>>>;

macro_rules! or_fields {
    ($child:ident, $base:ident: $($field:ident),+ $(,)?) => {
        Self { $($field: $child.$field.or($base.$field)),+ }
    };
}

/// Like `Option::or`, but two present values are merged field by field.
fn merge<T>(child: Option<T>, base: Option<T>, both: impl FnOnce(T, T) -> T) -> Option<T> {
    match (child, base) {
        (Some(child), Some(base)) => Some(both(child, base)),
        (child, base) => child.or(base),
    }
}

impl TaskFile {
    /// A family is defined where its name is given; a base may hold only its categories.
    pub(crate) fn family_defined(&self) -> bool {
        self.family.as_ref().is_some_and(|family| family.name.is_some())
    }

    /// Reads YAML. `name` is what errors call the file.
    ///
    /// # Errors
    /// With line, column and field where the text is not a task file.
    pub fn parse(name: &str, text: &str) -> Result<Self, BenchError> {
        parse_yaml(name, text)
    }

    /// This file with the gaps filled from `base`. Datasets, shots and families are merged field by
    /// field, everything else is taken whole. What a file defines is never inherited.
    pub(crate) fn over(self, base: Self) -> Self {
        let (child, mut base) = (self, base);
        base.task = None;
        base.group = None;
        Self {
            include: None,
            family: merge(child.family.clone(), base.family.clone(), FamilyFile::over),
            dataset: merge(child.dataset.clone(), base.dataset.clone(), dataset_over),
            shots: merge(child.shots.clone(), base.shots.clone(), ShotsFile::over),
            ..or_fields!(child, base:
                include, task, family, group, members, weight_by_size, version, summary, source, tags,
                dataset, process, output, description, prompt, choices, target, targets, target_delimiter,
                gen_prefix, shots, generation, repeats, filters, metrics, lm_eval, question, options,
                paraphrases, judge)
        }
    }
}

impl FamilyFile {
    /// What the family as a whole is about: the members' summary without the member.
    pub(crate) fn summary(&self, of_member: &str) -> String {
        let cut = of_member.split("%{member").next().unwrap_or_default();
        cut.trim_end_matches([' ', ':', ',']).to_owned()
    }

    fn over(self, base: Self) -> Self {
        let child = self;
        or_fields!(child, base: name, group, category_group, group_version, categories)
    }
}

impl ShotsFile {
    fn over(self, base: Self) -> Self {
        let child = self;
        or_fields!(child, base:
            count, fixed, sampler, balance_by, examples, examples_file, examples_key, delimiter, extra_draw)
    }
}

fn dataset_over(child: DatasetSource, base: DatasetSource) -> DatasetSource {
    DatasetSource {
        path: child.path.or(base.path),
        config: child.config.or(base.config),
        revision: child.revision.or(base.revision),
        split: child.split.or(base.split),
        shots_split: child.shots_split.or(base.shots_split),
        file: child.file.or(base.file),
        shots_file: child.shots_file.or(base.shots_file),
        filter: child.filter.or(base.filter),
    }
}

/// The JSON Schema of task files, as shipped in `benchmarks/schema.json`.
#[must_use]
pub fn task_schema() -> Value {
    let mut schema = schemars::schema_for!(TaskFile).to_value();
    if let Value::Object(map) = &mut schema {
        map.insert("title".to_owned(), Value::from("evalign task file"));
    }
    schema
}
