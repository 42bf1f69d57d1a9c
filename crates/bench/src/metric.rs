//! What an answer is worth.

use evalign_core::ChoiceLogLikelihood;

use crate::number::canonical_number;
use crate::python::{self, Regex};
use crate::task::{MetricDefinition, MetricName};

/// A compiled [`MetricDefinition`].
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) name: MetricName,
    ignored: Vec<Regex>,
    definition: MetricDefinition,
}

impl Metric {
    pub(crate) fn new(definition: &MetricDefinition) -> Result<Self, String> {
        let compile = |pattern: &String| Regex::new(pattern).map_err(|error| format!("`{pattern}`: {error}"));
        let ignored = definition.regexes_to_ignore.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { name: definition.name, ignored, definition: definition.clone() })
    }

    /// `exact_match` of the reference (ported there from Hugging Face `evaluate`), and where the
    /// definition says so equality as numbers.
    pub(crate) fn same(&self, answer: &str, target: &str) -> Result<bool, String> {
        let (answer, target) = (self.reduced(answer)?, self.reduced(target)?);
        if answer == target {
            return Ok(true);
        }
        let numbers = self.definition.numeric.then(|| (canonical_number(&answer), canonical_number(&target)));
        Ok(matches!(numbers, Some((Some(answer), Some(target))) if answer == target))
    }

    fn reduced(&self, text: &str) -> Result<String, String> {
        let mut text = text.to_owned();
        for regex in &self.ignored {
            text = regex.sub("", &text, 0)?;
        }
        if self.definition.ignore_case {
            text = python::lower(&text);
        }
        if self.definition.ignore_punctuation {
            text = python::strip_punctuation(&text);
        }
        if self.definition.ignore_numbers {
            text.retain(|c| !c.is_ascii_digit());
        }
        Ok(text)
    }
}

/// The choice a multiple-choice metric takes, and how sure that is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pick {
    pub(crate) choice: usize,
    /// The smallest change of a single log-likelihood, in nats, that would change the pick. Absent with
    /// one choice, or where a value is not finite.
    pub(crate) margin: Option<f64>,
}

/// `np.argmax` over log-likelihood divided by length (1 for `acc`, Unicode characters for `acc_norm`,
/// UTF-8 bytes for `acc_bytes`; the choice without its delimiter). Ties go to the first, and so does NaN.
pub(crate) fn pick(metric: MetricName, choices: &[String], answers: &[ChoiceLogLikelihood]) -> Option<Pick> {
    let scored: Vec<(f64, f64)> = choices
        .iter()
        .zip(answers)
        .map(|(choice, answer)| (choice_value(metric, choice, answer), length(metric, choice)))
        .collect();
    let mut best = 0;
    for (i, (value, _)) in scored.iter().enumerate() {
        if value.is_nan() {
            best = i;
            break;
        }
        if *value > scored[best].0 {
            best = i;
        }
    }
    let (top, top_length) = *scored.get(best)?;
    // Raising another choice by d lifts its value by d / its length; lowering the best one likewise.
    let distance = |(i, (value, length)): (usize, &(f64, f64))| {
        (i != best).then(|| (top - value) * length.min(top_length))
    };
    let margin = scored.iter().enumerate().filter_map(distance).min_by(f64::total_cmp);
    Some(Pick { choice: best, margin: margin.filter(|margin| margin.is_finite()) })
}

/// The log-likelihood of a choice as a metric compares it: divided by the choice's length.
pub(crate) fn choice_value(metric: MetricName, choice: &str, answer: &ChoiceLogLikelihood) -> f64 {
    answer.sum / length(metric, choice)
}

fn length(metric: MetricName, choice: &str) -> f64 {
    match metric {
        MetricName::AccNorm => choice.chars().count() as f64,
        MetricName::AccBytes => choice.len() as f64,
        _ => 1.0,
    }
}

/// `len(re.split(r"\s+", text))`: parts between runs of white space, empty ones at the ends included.
pub(crate) fn count_words(text: &str) -> u64 {
    let mut words = 1;
    let mut in_space = false;
    for c in text.chars() {
        let space = python::is_space(c);
        words += u64::from(space && !in_space);
        in_space = space;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(sums: &[f64]) -> Vec<ChoiceLogLikelihood> {
        sums.iter().map(|sum| ChoiceLogLikelihood { sum: *sum, tokens: 1, greedy: false }).collect()
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn ties_go_to_the_first() {
        let choices = strings(&["a", "b", "c"]);
        let picked = pick(MetricName::Acc, &choices, &answers(&[-2.0, -1.0, -1.0])).unwrap();
        assert_eq!(picked, Pick { choice: 1, margin: Some(0.0) });
    }

    #[test]
    fn length_is_characters_or_bytes() {
        let choices = strings(&["aaa", "éé"]);
        let lls = answers(&[-6.0, -5.0]);
        assert_eq!(pick(MetricName::Acc, &choices, &lls).unwrap().choice, 1);
        assert_eq!(pick(MetricName::AccNorm, &choices, &lls).unwrap().choice, 0);
        assert_eq!(pick(MetricName::AccBytes, &choices, &lls).unwrap().choice, 1);
        // -2.0 against -2.5: raising the second by 1.0 (2 characters) makes them equal.
        assert_eq!(pick(MetricName::AccNorm, &choices, &lls).unwrap().margin, Some(1.0));
    }

    #[test]
    fn values_that_are_no_numbers_give_no_margin() {
        let choices = strings(&["a", "b"]);
        let picked = pick(MetricName::Acc, &choices, &answers(&[-1.0, f64::NAN])).unwrap();
        assert_eq!(picked, Pick { choice: 1, margin: None });
        assert_eq!(pick(MetricName::Acc, &choices, &answers(&[-1.0, f64::NEG_INFINITY])).unwrap().choice, 0);
        assert_eq!(pick(MetricName::Acc, &[], &[]), None);
    }

    #[test]
    fn words_as_python_counts_them() {
        for (text, words) in [("", 1), ("a", 1), ("a b", 2), (" a\n\nb ", 4), ("a\u{1f}b", 2)] {
            assert_eq!(count_words(text), words, "{text:?}");
        }
    }
}
