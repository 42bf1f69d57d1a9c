//! What an answer says beyond right and wrong: which option it takes, and how sure the model is of each.

use evalign_core::{ChoiceLogLikelihood, Output, SampleRecord, Score};
use evalign_stats::softmax;
use serde_json::Value;

use super::{Scorer, gold_indices};
use crate::document::Reader;
use crate::error::BenchError;
use crate::metric::{choice_value, pick};
use crate::python;
use crate::task::{MetricName, OutputKind};

/// The choices of an item as a probability forecast.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Forecast {
    /// One for each choice; they sum to 1.
    pub(crate) probabilities: Vec<f64>,
    /// What the metric takes: the most likely choice, the first of equals.
    pub(crate) picked: usize,
    /// Indices of the right choices.
    pub(crate) gold: Vec<usize>,
}

impl Scorer {
    /// The metric whose choices calibration is about: `acc`, or the first there is. `None` for tasks
    /// that do not choose.
    pub(crate) fn choosing_metric(&self) -> Option<MetricName> {
        let names = || self.metrics.iter().map(|metric| metric.name);
        let choosing = self.output == OutputKind::MultipleChoice;
        names().find(|name| choosing && *name == MetricName::Acc).or_else(|| names().find(|_| choosing))
    }

    /// The name of the first filter, which is the only one where choices are scored.
    pub(crate) fn first_filter(&self) -> &str {
        self.pipelines.first().map_or("none", |pipeline| pipeline.name.as_str())
    }

    /// The softmax over the choices' log-likelihoods, divided by length as `metric` does. `None` without
    /// log-likelihoods, or where they are not numbers.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    pub(crate) fn forecast(
        &self,
        record: &SampleRecord,
        metric: MetricName,
    ) -> Result<Option<Forecast>, BenchError> {
        let Some(Output::LogLikelihood { choices: answers }) = &record.output else { return Ok(None) };
        let (choices, gold) = self.question(&record.doc)?;
        Ok(forecast(metric, &choices, answers, gold))
    }

    /// The place of the option that an answer takes, from 0: the choice picked, or the label written.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    pub(crate) fn option_taken(
        &self,
        record: &SampleRecord,
        score: &Score,
        labels: &[String],
    ) -> Result<Option<usize>, BenchError> {
        match &record.output {
            None | Some(Output::Perplexity { .. }) => Ok(None),
            Some(Output::LogLikelihood { .. }) => {
                let metric = self.metrics.iter().find(|metric| metric.name.name() == score.metric);
                let Some(metric) = metric else { return Ok(None) };
                Ok(self.forecast(record, metric.name)?.map(|forecast| forecast.picked))
            }
            Some(Output::Text { .. }) if !score.outcome.is_decided() => Ok(None),
            Some(Output::Text { .. }) => Ok(score.answer.as_deref().and_then(|answer| label(answer, labels))),
        }
    }

    /// The question's own words: the columns that the task names, or the rendered question where it names
    /// none.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    pub(crate) fn question_text(&self, doc: &Value, columns: &[String]) -> Result<String, BenchError> {
        let Value::Object(row) = doc else { return Err(self.fail("the stored document is not an object")) };
        if columns.is_empty() {
            let question = self.reader.prompt(&Reader::processed(row));
            return question.map_err(|error| self.unreadable(&error));
        }
        let texts: Vec<&str> = columns.iter().filter_map(|column| row.get(column)?.as_str()).collect();
        Ok(texts.join("\n"))
    }

    fn question(&self, doc: &Value) -> Result<(Vec<String>, Vec<usize>), BenchError> {
        let Value::Object(row) = doc else { return Err(self.fail("the stored document is not an object")) };
        let document = Reader::processed(row);
        let target = self.reader.target(&document).map_err(|error| self.unreadable(&error))?;
        let choices = self.reader.choices(&document).map_err(|error| self.unreadable(&error))?;
        let gold = gold_indices(&target, &choices);
        Ok((choices, gold))
    }
}

fn forecast(
    metric: MetricName,
    choices: &[String],
    answers: &[ChoiceLogLikelihood],
    gold: Vec<usize>,
) -> Option<Forecast> {
    if choices.len() != answers.len() {
        return None;
    }
    let values: Vec<f64> =
        choices.iter().zip(answers).map(|(choice, answer)| choice_value(metric, choice, answer)).collect();
    let picked = pick(metric, choices, answers)?.choice;
    Some(Forecast { probabilities: softmax(&values)?, picked, gold })
}

/// The place of the label an answer is, whatever its case and the brackets around it.
fn label(answer: &str, labels: &[String]) -> Option<usize> {
    let plain = |text: &str| python::lower(&python::strip_punctuation(python::strip(text)));
    let wanted = plain(answer);
    labels.iter().position(|label| plain(label) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn log_likelihoods_become_probabilities() {
        let answers: Vec<ChoiceLogLikelihood> = [0.5f64, 0.25, 0.125, 0.125]
            .iter()
            .map(|p| ChoiceLogLikelihood { sum: (p * 0.3).ln(), tokens: 1, greedy: false })
            .collect();
        let found = forecast(MetricName::Acc, &strings(&["A", "B", "C", "D"]), &answers, vec![1]).unwrap();
        for (ours, expected) in found.probabilities.iter().zip([0.5, 0.25, 0.125, 0.125]) {
            assert!((ours - expected).abs() < 1e-12);
        }
        assert_eq!((found.picked, found.gold), (0, vec![1]));
        // Divided by two characters, -4 and -3 are -2 and -3.
        let answers = [-4.0, -3.0].map(|sum| ChoiceLogLikelihood { sum, tokens: 1, greedy: false });
        let found = forecast(MetricName::AccNorm, &strings(&["ab", "c"]), &answers, vec![]).unwrap();
        assert_eq!(found.picked, 0);
        assert!((found.probabilities[0] - 1.0 / (1.0 + (-1f64).exp())).abs() < 1e-12);
        assert_eq!(forecast(MetricName::Acc, &strings(&["A"]), &answers, vec![]), None);
        let broken = [f64::NAN, -1.0].map(|sum| ChoiceLogLikelihood { sum, tokens: 1, greedy: false });
        assert_eq!(forecast(MetricName::Acc, &strings(&["A", "B"]), &broken, vec![]), None);
    }

    #[test]
    fn labels_are_read_through_brackets() {
        let labels = strings(&["A", "B", "C", "D"]);
        for (answer, place) in [("B", Some(1)), ("(c)", Some(2)), (" D. ", Some(3)), ("E", None), ("", None)]
        {
            assert_eq!(label(answer, &labels), place, "{answer:?}");
        }
    }
}
