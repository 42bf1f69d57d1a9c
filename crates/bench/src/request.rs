use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use evalign_core::{Dtype, GenerateParams, ModelRef, RunId, ScoringMode};
use evalign_model::ServerKind;
use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::option_order::OptionOrder;
use crate::perturb::Perturbation;

/// Everything `evalign eval` and `POST /v1/runs` accept. What is absent is decided by the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    pub model: ModelRef,
    /// Names of tasks or groups.
    pub tasks: Vec<String>,
    /// Worked examples per prompt, where the task does not fix their number.
    #[serde(default)]
    pub shots: Option<u32>,
    /// Documents per leaf task, counted from the first.
    #[serde(default)]
    pub limit: Option<Limit>,
    /// A range of documents of each leaf task. They keep the prompts they have in a full run.
    #[serde(default)]
    pub samples: Option<DocRange>,
    /// Answers per document.
    #[serde(default)]
    pub repeats: Option<u32>,
    #[serde(default)]
    pub temperature: Option<f64>,
    #[serde(default)]
    pub top_p: Option<f64>,
    #[serde(default)]
    pub top_k: Option<u32>,
    #[serde(default)]
    pub min_p: Option<f64>,
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// Wrap prompts in the model's chat template. Absent: no.
    #[serde(default)]
    pub chat_template: Option<bool>,
    /// With a chat template: every worked example is a turn of its own, not part of one user message.
    #[serde(default)]
    pub multiturn: bool,
    #[serde(default)]
    pub system_instruction: Option<String>,
    /// Which rule book: evalign's own, or lm-evaluation-harness bug for bug.
    #[serde(default, rename = "compat")]
    pub mode: ScoringMode,
    /// In which orders lettered options are asked.
    #[serde(default)]
    pub option_order: OptionOrder,
    /// Also ask the questions perturbed, in these ways.
    #[serde(default)]
    pub perturb: Vec<Perturbation>,
    /// Share of the question's letters that typos replace; absent: [`crate::DEFAULT_TYPO_RATE`].
    #[serde(default)]
    pub typo_rate: Option<f64>,
    /// Seeds the choice of worked examples and sampling. 1234 is the reference's few-shot seed.
    #[serde(default = "default_seed")]
    pub seed: u64,
    #[serde(default)]
    pub dtype: Option<Dtype>,
    #[serde(default)]
    pub device: Option<String>,
    #[serde(default)]
    pub memory_gib: Option<f64>,
    #[serde(default)]
    pub deterministic: bool,
    #[serde(default)]
    pub base_url: Option<String>,
    /// The software or service behind the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerKind>,
    /// File with settings for a model on a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_settings: Option<PathBuf>,
    /// Answers of a server come as streams, which shows the time to the first token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// Multiple choice is asked for as text: another measurement, with metrics of another name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generated_choices: bool,
    /// The judge of tasks that ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<ModelRef>,
    /// Further judges: a jury with the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jury: Vec<ModelRef>,
    /// What chat templates take for the present; absent: today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// The run that this goes on with: what would be another one is refused. No part of a stored request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes: Option<RunId>,
    /// Requests in flight; absent lets the provider find out.
    #[serde(default)]
    pub max_concurrency: Option<u32>,
    /// How often a request that fails in passing is asked again.
    #[serde(default = "default_max_retries")]
    pub max_retries: u32,
    #[serde(default)]
    pub budget_tokens: Option<u64>,
    #[serde(default)]
    pub budget_usd: Option<f64>,
    /// Requests to the server, those that fail included.
    #[serde(default)]
    pub budget_requests: Option<u64>,
    /// File with the prices of models.
    #[serde(default)]
    pub prices: Option<PathBuf>,
    #[serde(default)]
    pub data_root: Option<PathBuf>,
    #[serde(default)]
    pub include_path: Vec<PathBuf>,
    #[serde(default)]
    pub offline: bool,
}

/// Seed of a run that names none.
pub const DEFAULT_SEED: u64 = 1234;

/// How often a run that says nothing asks again.
pub const DEFAULT_MAX_RETRIES: u32 = 4;

fn default_max_retries() -> u32 {
    DEFAULT_MAX_RETRIES
}

fn default_seed() -> u64 {
    DEFAULT_SEED
}

impl RunRequest {
    /// How texts are drawn that no task asks for: at this temperature where the request names none.
    pub(crate) fn drawn_at(&self, temperature: f64) -> GenerateParams {
        GenerateParams {
            max_tokens: self.max_tokens.unwrap_or(256),
            temperature: self.temperature.unwrap_or(temperature),
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            seed: self.seed,
            ..GenerateParams::default()
        }
    }

    /// Who judges, the first first.
    pub fn judges(&self) -> impl Iterator<Item = &ModelRef> {
        self.judge.iter().chain(&self.jury)
    }

    /// Refuses a judge that is named twice: asked for its likeliest verdict it agrees with itself, and has two votes.
    pub(crate) fn check_judges<'a>(judges: impl IntoIterator<Item = &'a ModelRef>) -> Result<(), BenchError> {
        let mut seen = Vec::new();
        for judge in judges {
            if seen.contains(&judge) {
                return Err(BenchError::request(
                    format!("the judge `{judge}` is named twice"),
                    "name it once; for several verdicts of one judge have it asked several times, at a temperature above 0",
                ));
            }
            seen.push(judge);
        }
        Ok(())
    }

    /// A request that leaves everything to the tasks.
    #[must_use]
    pub fn new(model: ModelRef, tasks: Vec<String>) -> Self {
        Self {
            model,
            tasks,
            shots: None,
            limit: None,
            samples: None,
            repeats: None,
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: None,
            max_tokens: None,
            chat_template: None,
            multiturn: false,
            system_instruction: None,
            mode: ScoringMode::Default,
            option_order: OptionOrder::AsGiven,
            perturb: Vec::new(),
            typo_rate: None,
            seed: DEFAULT_SEED,
            dtype: None,
            device: None,
            memory_gib: None,
            deterministic: false,
            base_url: None,
            server: None,
            model_settings: None,
            stream: false,
            generated_choices: false,
            judge: None,
            jury: Vec::new(),
            now: None,
            resumes: None,
            max_concurrency: None,
            max_retries: DEFAULT_MAX_RETRIES,
            budget_tokens: None,
            budget_usd: None,
            budget_requests: None,
            prices: None,
            data_root: None,
            include_path: Vec::new(),
            offline: false,
        }
    }
}

/// How many documents of a leaf task are evaluated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// The first `n`.
    Docs(u64),
    /// This share of the documents, rounded up; between 0 and 1.
    Fraction(f64),
}

impl Limit {
    fn from_number(number: f64) -> Result<Self, String> {
        if number > 0.0 && number < 1.0 {
            Ok(Self::Fraction(number))
        } else if number >= 1.0 && number.fract() == 0.0 && number <= 9.0e15 {
            Ok(Self::Docs(number as u64))
        } else {
            Err(format!(
                "a limit is a number of documents of at least 1, or a share of them between 0 and 1, not {number}"
            ))
        }
    }

    /// Documents to evaluate out of `total`.
    #[must_use]
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Docs(n) => n.min(total),
            Self::Fraction(share) => ((total as f64 * share).ceil() as u64).min(total),
        }
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number: f64 =
            text.trim().parse().map_err(|_| format!("`{text}` is neither a number nor a share"))?;
        Self::from_number(number)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docs(n) => write!(f, "{n}"),
            Self::Fraction(share) => write!(f, "{share}"),
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Docs(n) => serializer.serialize_u64(*n),
            Self::Fraction(share) => serializer.serialize_f64(*share),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_number(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Documents `start..end`, end not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DocRange {
    pub start: u64,
    pub end: u64,
}

impl FromStr for DocRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a range of documents like `10..20`");
        let (start, end) = text.split_once("..").ok_or_else(bad)?;
        let range = Self {
            start: start.trim().parse().map_err(|_| bad())?,
            end: end.trim().parse().map_err(|_| bad())?,
        };
        if range.start >= range.end {
            return Err(format!("the range `{text}` is empty"));
        }
        Ok(range)
    }
}

impl fmt::Display for DocRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl Serialize for DocRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DocRange {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_is_named_once() {
        let judges = |names: [&str; 3]| names.map(|name| name.parse::<ModelRef>().unwrap());
        assert!(RunRequest::check_judges(&judges(["local/a", "local/b", "openai/a"])).is_ok());
        let error = RunRequest::check_judges(&judges(["local/a", "local/b", "local/a"])).unwrap_err();
        assert!(error.to_string().contains("`local/a` is named twice"), "{error}");
    }

    #[test]
    fn limits() {
        assert_eq!("5".parse(), Ok(Limit::Docs(5)));
        assert_eq!("0.1".parse(), Ok(Limit::Fraction(0.1)));
        for bad in ["0", "-1", "1.5", "x", "nan", "inf"] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
        assert_eq!(Limit::Fraction(0.1).of(1319), 132);
        assert_eq!(Limit::Docs(5).of(3), 3);
    }

    #[test]
    fn ranges() {
        assert_eq!("3..7".parse(), Ok(DocRange { start: 3, end: 7 }));
        for bad in ["3", "7..3", "3..3", "a..b", "..4"] {
            assert!(bad.parse::<DocRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_is_json_and_refuses_unknown_fields() {
        let mut request = RunRequest::new("local/x".parse().unwrap(), vec!["gsm8k".to_owned()]);
        request.limit = Some(Limit::Fraction(0.5));
        request.samples = Some(DocRange { start: 1, end: 4 });
        request.mode = ScoringMode::LmEval;
        let json = serde_json::to_value(&request).unwrap();
        assert_eq!(json["compat"], "lm-eval");
        assert_eq!(json["samples"], "1..4");
        assert_eq!(serde_json::from_value::<RunRequest>(json).unwrap(), request);
        let error = serde_json::from_str::<RunRequest>(r#"{"model":"local/x","tasks":[],"limt":3}"#);
        assert!(error.unwrap_err().to_string().contains("limt"));
    }
}
