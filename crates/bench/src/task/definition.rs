use std::collections::BTreeMap;

use evalign_core::{Digest, ScoringMode};
use evalign_judge::Aggregation;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::robustness::{OptionsDefinition, Paraphrase};

/// A leaf task, complete: a dataset, how a row becomes a prompt, and how an answer becomes a score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskDefinition {
    pub name: String,
    pub version: String,
    pub summary: String,
    /// The paper and the place the facts were taken from.
    pub source: String,
    pub tags: Vec<String>,
    pub dataset: DatasetSource,
    /// Columns computed from the row, in order, as expressions.
    pub process: IndexMap<String, String>,
    pub output: OutputKind,
    pub description: String,
    pub prompt: String,
    pub choices: Option<Choices>,
    pub target: TargetDefinition,
    pub target_delimiter: String,
    pub gen_prefix: Option<String>,
    pub shots: ShotsDefinition,
    pub generation: Option<Generation>,
    pub repeats: u32,
    pub filters: Vec<FilterPipeline>,
    pub metrics: Vec<MetricDefinition>,
    /// What differs under `--compat lm-eval`.
    pub lm_eval: Option<ModeOverrides>,
    /// Columns with the question's own words, as the dataset has them.
    pub question: Vec<String>,
    pub options: Option<OptionsDefinition>,
    pub paraphrases: Vec<Paraphrase>,
    pub judge: Option<JudgeDefinition>,
}

impl TaskDefinition {
    /// The definition as `mode` uses it, with the overrides applied and gone.
    #[must_use]
    pub fn for_mode(&self, mode: ScoringMode) -> Self {
        let mut task = self.clone();
        let overrides = task.lm_eval.take().filter(|_| mode == ScoringMode::LmEval);
        if let Some(overrides) = overrides {
            task.filters = overrides.filters.unwrap_or(task.filters);
            task.metrics = overrides.metrics.unwrap_or(task.metrics);
        }
        task
    }

    /// Digest of all that decides prompts and scores. What only people read is left out, and what only
    /// variants and judges use: the protocols of those contain it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut value = serde_json::to_value(self).unwrap_or(Value::Null);
        if let Value::Object(map) = &mut value {
            for field in ["summary", "source", "tags", "question", "options", "paraphrases", "judge"] {
                map.remove(field);
            }
        }
        Digest::of_json(&value)
    }
}

/// What a judge goes by where one is named for the run. Its scores stand beside those of the metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeDefinition {
    /// A rubric that ships, or one of `rubrics/` in an include path.
    pub rubric: String,
    /// Template for what the judge is told was asked; the task's `prompt` if absent.
    pub question: Option<String>,
    /// Template for a right answer; the task's target if absent. Shown by rubrics that go by one.
    pub reference: Option<String>,
    /// Template for what an answer was to be based on.
    pub context: Option<String>,
    /// Verdicts of each judge on each answer, 1 if absent; more need a `temperature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub repeats: Option<u32>,
    /// How freely verdicts are sampled; 0, the likeliest one, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Longest explanation before a verdict, in tokens, instead of the rubric's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation_tokens: Option<u32>,
    /// How the verdicts of several judges and repeats become one; `mean` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Aggregation>,
}

/// Where rows come from: a dataset of the hub (or the same path under `--data-root`), or a file that
/// stands beside the task file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DatasetSource {
    /// `ORG/NAME` on the hub.
    pub path: Option<String>,
    /// The hub's configuration name, `main` for example.
    pub config: Option<String>,
    /// A commit, tag or branch on the hub.
    pub revision: Option<String>,
    /// Split that is evaluated.
    pub split: Option<String>,
    /// Split that worked examples are taken from.
    pub shots_split: Option<String>,
    /// Rows to evaluate, as a file beside the task file (JSONL, CSV or parquet).
    pub file: Option<String>,
    /// Rows worked examples are taken from, as a file.
    pub shots_file: Option<String>,
    /// Keep only rows in which a column has a value.
    #[serde(rename = "where")]
    pub filter: Option<RowFilter>,
}

/// Keep only rows in which `column` is `value`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowFilter {
    pub column: String,
    pub value: String,
}

/// What the model is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// Log-likelihood of every choice.
    MultipleChoice,
    /// Text up to a stop string.
    GenerateUntil,
    /// Log-likelihood of the target text itself.
    Perplexity,
}

impl OutputKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MultipleChoice => "multiple_choice",
            Self::GenerateUntil => "generate_until",
            Self::Perplexity => "perplexity",
        }
    }
}

/// The answers on offer: the same for every row, or an expression that gives the row's list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a list of texts, or an expression")]
pub enum Choices {
    Fixed(Vec<String>),
    Expression(String),
}

/// The right answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetDefinition {
    /// A template: the text, or for multiple choice the index of the choice or its text.
    One(String),
    /// An expression that gives a list of texts, any of which is right.
    Any(String),
}

/// Worked examples before the question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShotsDefinition {
    /// How many, unless the request says otherwise.
    pub count: u32,
    /// The request cannot say otherwise.
    pub fixed: bool,
    pub sampler: Sampler,
    /// Expression whose values the balanced sampler takes in turn.
    pub balance_by: Option<String>,
    /// Examples written in the task file, used instead of a split.
    pub examples: Vec<Map<String, Value>>,
    pub delimiter: String,
    /// The reference draws one example more and drops the evaluated document although the splits
    /// differ (it compares two absent names).
    pub extra_draw: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// The first rows of the split, in its order.
    FirstN,
    /// A seeded draw per document.
    #[default]
    Random,
    /// A seeded draw per document with equally many examples of each value of `balance_by`.
    Balanced,
}

/// How to generate. Absent numbers are the provider's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Generation ends before the first of these.
    pub until: Vec<String>,
    #[serde(default = "default_max_tokens")]
    pub max_tokens: u32,
    /// 0 is greedy decoding.
    #[serde(default)]
    pub temperature: f64,
    #[serde(default)]
    pub top_p: Option<f64>,
    #[serde(default)]
    pub top_k: Option<u32>,
    #[serde(default)]
    pub min_p: Option<f64>,
    #[serde(default)]
    pub repetition_penalty: Option<f64>,
}

fn default_max_tokens() -> u32 {
    256
}

/// A named chain of steps from the model's answers to the one that is compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterPipeline {
    pub name: String,
    pub steps: Vec<FilterStep>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilterStep {
    Regex(RegexStep),
    MultiChoiceRegex(MultiChoiceRegexStep),
    /// Keep the first answer.
    TakeFirst,
    /// Keep the first `k` answers.
    TakeFirstK(u32),
    /// Keep the most frequent answer; the first seen among equals.
    MajorityVote,
    /// Trim white space on both sides.
    RemoveWhitespace,
    Lowercase,
    Uppercase,
    /// Replace known answers; others become unreadable.
    Map(BTreeMap<String, String>),
    /// Write a number in one way: `$1,000.00` as `1000`. What is no number becomes unreadable.
    Number,
}

/// Python's `re.findall`, one of its matches, the first group in it that is not empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegexStep {
    pub pattern: String,
    /// Which match: 0 is the first, -1 the last.
    #[serde(default)]
    pub group_select: i64,
    /// The answer where nothing matches.
    #[serde(default = "default_fallback")]
    pub fallback: String,
}

/// A regex step that, where nothing matches, looks for the text of a choice and then for a bare letter
/// after a colon. Needs a `choices` column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MultiChoiceRegexStep {
    pub pattern: String,
    #[serde(default)]
    pub group_select: i64,
    #[serde(default = "default_fallback")]
    pub fallback: String,
    /// Compare choice texts without regard to case.
    #[serde(default)]
    pub ignore_case: bool,
    /// Compare choice texts without punctuation.
    #[serde(default)]
    pub ignore_punctuation: bool,
}

fn default_fallback() -> String {
    "[invalid]".to_owned()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricDefinition {
    pub name: MetricName,
    /// Removed from answer and target before they are compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regexes_to_ignore: Vec<String>,
    #[serde(default)]
    pub ignore_case: bool,
    /// Ignore ASCII punctuation.
    #[serde(default)]
    pub ignore_punctuation: bool,
    /// Ignore ASCII digits.
    #[serde(default)]
    pub ignore_numbers: bool,
    /// Compare as numbers where both sides are numbers: `18.00` equals `18`.
    #[serde(default)]
    pub numeric: bool,
}

impl MetricDefinition {
    #[must_use]
    pub fn plain(name: MetricName) -> Self {
        Self {
            name,
            regexes_to_ignore: Vec::new(),
            ignore_case: false,
            ignore_punctuation: false,
            ignore_numbers: false,
            numeric: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetricName {
    /// The most likely choice is the right one.
    Acc,
    /// As `acc`, log-likelihoods divided by the choice's length in Unicode characters.
    AccNorm,
    /// As `acc`, log-likelihoods divided by the choice's length in UTF-8 bytes.
    AccBytes,
    ExactMatch,
    /// None of the targets stands in the answer: letters and digits are compared, without case.
    Avoids,
    /// The answer does not plainly decline to answer.
    Complies,
    /// The letter the model wrote is the right choice's. Only of multiple choice asked with
    /// `--generated-choices`, never of a task file.
    #[schemars(skip)]
    #[serde(skip_deserializing)]
    AccGenerated,
    WordPerplexity,
    BytePerplexity,
    BitsPerByte,
}

impl MetricName {
    pub const ALL: [Self; 10] = [
        Self::Acc,
        Self::AccNorm,
        Self::AccBytes,
        Self::ExactMatch,
        Self::Avoids,
        Self::Complies,
        Self::AccGenerated,
        Self::WordPerplexity,
        Self::BytePerplexity,
        Self::BitsPerByte,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::AccBytes => "acc_bytes",
            Self::ExactMatch => "exact_match",
            Self::Avoids => "avoids",
            Self::Complies => "complies",
            Self::AccGenerated => "acc_generated",
            Self::WordPerplexity => "word_perplexity",
            Self::BytePerplexity => "byte_perplexity",
            Self::BitsPerByte => "bits_per_byte",
        }
    }

    /// The kind of output it is computed from.
    #[must_use]
    pub fn output(self) -> OutputKind {
        match self {
            Self::Acc | Self::AccNorm | Self::AccBytes => OutputKind::MultipleChoice,
            Self::ExactMatch | Self::Avoids | Self::Complies | Self::AccGenerated => {
                OutputKind::GenerateUntil
            }
            Self::WordPerplexity | Self::BytePerplexity | Self::BitsPerByte => OutputKind::Perplexity,
        }
    }
}

/// Fields that another rule book reads differently.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModeOverrides {
    pub filters: Option<Vec<FilterPipeline>>,
    pub metrics: Option<Vec<MetricDefinition>>,
}
