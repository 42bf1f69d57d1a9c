use std::collections::BTreeMap;

use evalign_core::{Estimate, Output, RunId, SampleRecord};
use evalign_rag::quality::{AbstentionQuality, GoldQuestion, RuleMetrics, Told};
use evalign_stats::{mean, mean_stderr, normal_interval};
use serde::{Deserialize as _, Serialize};

use super::{JudgedMetric, KeptAnswer};
use crate::RunError;

/// What an evaluation of answers found, and the run that it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnswerReport {
    pub run_id: RunId,
    pub n_questions: usize,
    pub n_answered: usize,
    /// By metric: over the questions it can be told of.
    pub metrics: BTreeMap<String, Estimate>,
    /// Questions that a judge was asked about and said nothing of, by metric. They are in no mean.
    pub unscored: BTreeMap<String, u64>,
    pub abstention: AbstentionQuality,
    /// By the question's id.
    pub per_question: BTreeMap<String, AnsweredQuestion>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnsweredQuestion {
    pub question: String,
    /// Absent where nothing was answered.
    pub answer: Option<String>,
    pub confidence: f64,
    pub metrics: BTreeMap<String, f64>,
}

impl AnswerReport {
    pub(super) fn of(run_id: &RunId, samples: &[SampleRecord]) -> Result<Self, RunError> {
        let (mut per_question, mut told) = (BTreeMap::new(), Vec::new());
        let mut unscored = BTreeMap::new();
        for sample in samples {
            let (gold, kept) = read(sample)?;
            let value = |metric: &str| {
                sample.scores.iter().find(|score| score.metric == metric).and_then(|score| score.value)
            };
            told.push(Told {
                is_answerable: gold.is_answerable(),
                is_answered: kept.text.is_some(),
                confidence: kept.confidence,
                is_right: gold.is_answerable()
                    && value("citation_precision").is_some_and(|right| right > 0.0),
            });
            for score in sample.scores.iter().filter(|score| score.value.is_none()) {
                *unscored.entry(score.metric.clone()).or_default() += 1;
            }
            let metrics = sample.scores.iter().filter_map(|score| Some((score.metric.clone(), score.value?)));
            let answered = AnsweredQuestion {
                question: gold.question,
                answer: kept.text,
                confidence: kept.confidence,
                metrics: metrics.collect(),
            };
            per_question.insert(gold.id, answered);
        }
        Ok(Self {
            run_id: run_id.clone(),
            n_questions: samples.len(),
            n_answered: told.iter().filter(|told| told.is_answered).count(),
            metrics: estimates(&per_question),
            unscored,
            abstention: AbstentionQuality::of(&told),
            per_question,
        })
    }

    /// Metrics in the order in which they are shown.
    pub fn shown(&self) -> impl Iterator<Item = (&str, &Estimate)> {
        let names = RuleMetrics::NAMES.into_iter().chain(JudgedMetric::ALL.map(JudgedMetric::name));
        names.filter_map(|name| self.metrics.get_key_value(name).map(|(name, value)| (name.as_str(), value)))
    }
}

fn estimates(questions: &BTreeMap<String, AnsweredQuestion>) -> BTreeMap<String, Estimate> {
    let mut values: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
    for (name, value) in questions.values().flat_map(|question| &question.metrics) {
        values.entry(name).or_default().push(*value);
    }
    let estimate = |values: &[f64]| {
        let (value, stderr) = (mean(values), mean_stderr(values));
        let ci95 = value.zip(stderr).and_then(|(value, stderr)| normal_interval(value, stderr, 0.95));
        Estimate { value, stderr, ci95, n: values.len() as u64 }
    };
    values.into_iter().map(|(name, values)| (name.clone(), estimate(&values))).collect()
}

fn read(sample: &SampleRecord) -> Result<(GoldQuestion, KeptAnswer), RunError> {
    let malformed = |error: serde_json::Error| RunError::malformed(&sample.key, error);
    let gold = GoldQuestion::deserialize(&sample.doc).map_err(malformed)?;
    let text = match &sample.output {
        Some(Output::Text { text, .. }) => text.as_str(),
        _ => "",
    };
    Ok((gold, serde_json::from_str(text).map_err(malformed)?))
}
