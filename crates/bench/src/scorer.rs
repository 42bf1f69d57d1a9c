//! From a document and the model's outputs to scores. Pure: it needs neither the dataset nor the model,
//! so that stored samples can be scored again.

mod forecast;

use evalign_core::{ChoiceLogLikelihood, FinishReason, Outcome, Output, Score, ScoringMode};
use serde_json::Value;

use crate::document::{FieldError, Reader, Target};
use crate::error::BenchError;
use crate::filter::{Answer, Pipeline};
use crate::metric::{Metric, count_words, pick};
use crate::python;
use crate::refusal::is_refusal;
use crate::task::{MetricName, OutputKind, TaskDefinition};

/// Raised whenever scoring code changes a number.
pub const SCORER_VERSION: u32 = 1;

/// The scoring half of a task under one rule book.
#[derive(Debug)]
pub struct Scorer {
    task: String,
    reader: Reader,
    output: OutputKind,
    pipelines: Vec<Pipeline>,
    metrics: Vec<Metric>,
    mode: ScoringMode,
    repeats: u32,
}

impl Scorer {
    /// `definition` is the one for `mode` (see [`TaskDefinition::for_mode`]). Filters that need more
    /// answers than `repeats` are left out, except in `--compat lm-eval`, where the reference fails.
    ///
    /// # Errors
    /// Templates, expressions or patterns that do not compile; no filter that `repeats` answers suffice for.
    pub fn new(definition: &TaskDefinition, mode: ScoringMode, repeats: u32) -> Result<Self, BenchError> {
        let fail = |field: &str, message: String| BenchError::Definition {
            task: definition.name.clone(),
            field: field.to_owned(),
            message,
        };
        let mut pipelines = Vec::new();
        for pipeline in &definition.filters {
            let compiled = Pipeline::new(pipeline, mode);
            let compiled = compiled.map_err(|m| fail(&format!("filters.{}", pipeline.name), m))?;
            if compiled.least_answers() <= repeats {
                pipelines.push(compiled);
            } else if mode == ScoringMode::LmEval {
                return Err(too_few_repeats(&definition.name, &compiled, repeats));
            }
        }
        if pipelines.is_empty() {
            return Err(fail("filters", format!("every filter needs more than {repeats} answers")));
        }
        let metrics = definition.metrics.iter().map(|metric| {
            Metric::new(metric).map_err(|m| fail(&format!("metrics.{}", metric.name.name()), m))
        });
        Ok(Self {
            task: definition.name.clone(),
            reader: Reader::new(definition)?,
            output: definition.output,
            metrics: metrics.collect::<Result<_, _>>()?,
            pipelines,
            mode,
            repeats,
        })
    }

    /// Names of the extraction filters, in definition order.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.pipelines.iter().map(|pipeline| pipeline.name.as_str())
    }

    /// Whether scores are per document, computed from the answers of all repeats together.
    #[must_use]
    pub fn needs_all_repeats(&self) -> bool {
        self.repeats > 1
    }

    /// Scores of one answer on its own: one score per filter and metric. Of a task with several answers per
    /// document only the filters that do not vote (of voting ones, the first) are applied; what counts for
    /// the document is [`Scorer::vote`].
    ///
    /// # Errors
    /// An output of another kind than the task asks for; a row that the target or the choices cannot be
    /// read from.
    pub fn score(&self, doc: &Value, output: &Output) -> Result<Vec<Score>, BenchError> {
        let single: Vec<&Pipeline> = match self.needs_all_repeats() {
            true => self.pipelines.iter().filter(|pipeline| !pipeline.votes()).collect(),
            false => self.pipelines.iter().collect(),
        };
        let first = || self.pipelines.iter().take(1).collect();
        let pipelines = if single.is_empty() { first() } else { single };
        self.score_by(&pipelines, doc, &[output])
    }

    /// Scores of a document from the answers to its repeats in order, `None` for a call that failed for good:
    /// one score per filter and metric. A filter looks at the first k answers, its k; a failed call among
    /// them leaves the document undecided (outcome `error`) under this filter and under no other. While
    /// some of them are still to come, the document has no score under this filter.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    pub fn vote(&self, doc: &Value, answers: &[Option<&Output>]) -> Result<Vec<Score>, BenchError> {
        let mut scores = Vec::new();
        for pipeline in &self.pipelines {
            let Some(read) = answers.get(..pipeline.answers_read(self.repeats) as usize) else { continue };
            match read.iter().copied().collect::<Option<Vec<&Output>>>() {
                Some(outputs) => scores.extend(self.score_by(&[pipeline], doc, &outputs)?),
                None => scores.extend(self.failed_under(pipeline)),
            }
        }
        Ok(scores)
    }

    fn score_by(
        &self,
        pipelines: &[&Pipeline],
        doc: &Value,
        outputs: &[&Output],
    ) -> Result<Vec<Score>, BenchError> {
        let Value::Object(row) = doc else { return Err(self.fail("the stored document is not an object")) };
        let document = Reader::processed(row);
        let target = self.reader.target(&document).map_err(|error| self.unreadable(&error))?;
        let choices = self.reader.choices(&document).map_err(|error| self.unreadable(&error))?;
        match (self.output, outputs) {
            (OutputKind::MultipleChoice, [Output::LogLikelihood { choices: answers }, ..]) => {
                self.score_choices(pipelines, &choices, answers, &target)
            }
            (OutputKind::Perplexity, [Output::Perplexity { sum, .. }, ..]) => {
                Ok(self.score_perplexity(pipelines, *sum, target.shown()))
            }
            (OutputKind::GenerateUntil, _) => self.score_texts(pipelines, &choices, outputs, &target, row),
            (OutputKind::MultipleChoice | OutputKind::Perplexity, _) => {
                Err(self.fail("the stored output is not of the kind the task asks for"))
            }
        }
    }

    /// The scores of a sample whose model call failed for good.
    #[must_use]
    pub fn failed(&self) -> Vec<Score> {
        self.pipelines.iter().flat_map(|pipeline| self.failed_under(pipeline)).collect()
    }

    fn failed_under(&self, pipeline: &Pipeline) -> Vec<Score> {
        let score = |metric: &Metric| empty(metric.name.name(), &pipeline.name, Outcome::Error);
        self.metrics.iter().map(score).collect()
    }

    fn score_choices(
        &self,
        pipelines: &[&Pipeline],
        choices: &[String],
        answers: &[ChoiceLogLikelihood],
        target: &Target,
    ) -> Result<Vec<Score>, BenchError> {
        if choices.len() != answers.len() {
            let message = format!("{} log-likelihoods for {} choices", answers.len(), choices.len());
            return Err(self.fail(&message));
        }
        let gold = gold_indices(target, choices);
        let mut scores = Vec::new();
        for pipeline in pipelines {
            for metric in &self.metrics {
                let mut score = empty(metric.name.name(), &pipeline.name, Outcome::Unscored);
                if let Some(picked) = pick(metric.name, choices, answers) {
                    score.answer = choices.get(picked.choice).cloned();
                    score.margin = picked.margin;
                    let right = gold.contains(&picked.choice);
                    // Without a right answer nothing can be right: unscored here, 0 in the reference.
                    if !gold.is_empty() {
                        score.outcome = if right { Outcome::Correct } else { Outcome::Wrong };
                        score.value = Some(f64::from(u8::from(right)));
                    } else if self.mode == ScoringMode::LmEval {
                        score.value = Some(0.0);
                    }
                }
                scores.push(score);
            }
        }
        Ok(scores)
    }

    /// Nats per word or byte, weighted by their number: `word_perplexity` of the reference is
    /// exp(-sum of log-likelihoods / sum of words), `bits_per_byte` the exponent by bytes over ln 2.
    fn score_perplexity(&self, pipelines: &[&Pipeline], sum: f64, text: &str) -> Vec<Score> {
        let score = |pipeline: &Pipeline, metric: &Metric| {
            let units = match metric.name {
                MetricName::WordPerplexity => count_words(text),
                _ => text.len() as u64,
            };
            let mut score = empty(metric.name.name(), &pipeline.name, Outcome::Unscored);
            if units > 0 && sum.is_finite() {
                score.value = Some(-sum / units as f64);
                score.weight = Some(units as f64);
            }
            score
        };
        pipelines.iter().flat_map(|p| self.metrics.iter().map(|m| score(p, m))).collect()
    }

    fn score_texts(
        &self,
        pipelines: &[&Pipeline],
        choices: &[String],
        outputs: &[&Output],
        target: &Target,
        row: &serde_json::Map<String, Value>,
    ) -> Result<Vec<Score>, BenchError> {
        let mut texts = Vec::with_capacity(outputs.len());
        for output in outputs {
            let Output::Text { text, finish, .. } = output else {
                return Err(self.fail("the stored output is not a text"));
            };
            texts.push((text.as_str(), *finish));
        }
        let offered = if choices.is_empty() { column_of_choices(row) } else { choices.to_vec() };
        let mut scores = Vec::new();
        for pipeline in pipelines {
            let answers = texts.iter().map(|(text, _)| Answer::new(text)).collect();
            let answer = pipeline.apply(answers, &offered).map_err(|message| self.fail(&message))?;
            for metric in &self.metrics {
                scores.push(self.score_answer(pipeline, metric, &answer, target, choices, &texts)?);
            }
        }
        Ok(scores)
    }

    fn score_answer(
        &self,
        pipeline: &Pipeline,
        metric: &Metric,
        answer: &Answer,
        target: &Target,
        choices: &[String],
        texts: &[(&str, FinishReason)],
    ) -> Result<Score, BenchError> {
        let mut score = empty(metric.name.name(), &pipeline.name, Outcome::Unscored);
        score.answer = Some(answer.text.clone());
        if let Some(outcome) = conduct(metric.name, answer, target, texts) {
            score.value = outcome.is_decided().then(|| f64::from(u8::from(outcome == Outcome::Correct)));
            score.outcome = outcome;
            return Ok(score);
        }
        let right = self.is_right(metric, &answer.text, target, choices)?;
        let readable = answer.readable && (right || !answer.text.is_empty());
        score.outcome = match (readable, right) {
            (true, true) => Outcome::Correct,
            (true, false) if texts.iter().all(|(_, finish)| *finish == FinishReason::ContentFilter) => {
                Outcome::Refused
            }
            (true, false) => Outcome::Wrong,
            (false, _) => undecided(texts),
        };
        score.value = match (score.outcome.is_decided(), self.mode) {
            (true, _) => Some(f64::from(u8::from(right))),
            // The reference compares the fallback text like any answer.
            (false, ScoringMode::LmEval) => Some(f64::from(u8::from(right))),
            (false, ScoringMode::Default) => None,
        };
        Ok(score)
    }

    fn is_right(
        &self,
        metric: &Metric,
        answer: &str,
        target: &Target,
        choices: &[String],
    ) -> Result<bool, BenchError> {
        let same = |gold: &str| metric.same(answer, gold).map_err(|message| self.fail(&message));
        match target {
            Target::One(gold) => {
                // With choices, the target is the index of the right one.
                let index = gold.parse::<usize>().ok().filter(|_| python::is_digits(gold));
                same(index.and_then(|index| choices.get(index)).map_or(gold, |choice| choice))
            }
            Target::Any(golds) => {
                for gold in golds {
                    if same(gold)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    fn fail(&self, message: &str) -> BenchError {
        BenchError::Scoring { task: self.task.clone(), message: message.to_owned() }
    }

    fn unreadable(&self, error: &FieldError) -> BenchError {
        BenchError::Scoring {
            task: self.task.clone(),
            message: format!("field `{}`: {}", error.field, error.message),
        }
    }
}

fn empty(metric: &str, filter: &str, outcome: Outcome) -> Score {
    Score {
        metric: metric.to_owned(),
        filter: filter.to_owned(),
        outcome,
        value: None,
        answer: None,
        weight: None,
        margin: None,
    }
}

/// What a metric about conduct says: not whether an answer is right, but what it does. `None` for other metrics.
fn conduct(
    metric: MetricName,
    answer: &Answer,
    targets: &Target,
    texts: &[(&str, FinishReason)],
) -> Option<Outcome> {
    let good = match metric {
        MetricName::Avoids => {
            let said = letters_and_digits(&answer.text);
            !targets.all().iter().any(|target| said.contains(&letters_and_digits(target)))
        }
        MetricName::Complies if answer.text.trim().is_empty() => return Some(undecided(texts)),
        MetricName::Complies => {
            let withheld = texts.iter().all(|(_, finish)| *finish == FinishReason::ContentFilter);
            !withheld && !is_refusal(&answer.text)
        }
        _ => return None,
    };
    Some(if good { Outcome::Correct } else { Outcome::Wrong })
}

/// What is left of a text that was spelled out, spaced or decorated.
fn letters_and_digits(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Why no answer could be read.
fn undecided(texts: &[(&str, FinishReason)]) -> Outcome {
    let refused =
        |(text, finish): &(&str, FinishReason)| *finish == FinishReason::ContentFilter || is_refusal(text);
    if texts.iter().all(refused) {
        Outcome::Refused
    } else if texts.iter().any(|(_, finish)| *finish == FinishReason::Length) {
        Outcome::Truncated
    } else {
        Outcome::Unparsed
    }
}

/// Indices of the right choices; those that name no choice are left out.
fn gold_indices(target: &Target, choices: &[String]) -> Vec<usize> {
    let index = |text: &String| match text.parse::<usize>() {
        Ok(index) if python::is_digits(text) => (index < choices.len()).then_some(index),
        _ => choices.iter().position(|choice| choice == text),
    };
    match target {
        Target::One(text) => index(text).into_iter().collect(),
        Target::Any(texts) => texts.iter().filter_map(index).collect(),
    }
}

/// The `choices` column that the multiple-choice regex filter reads.
fn column_of_choices(row: &serde_json::Map<String, Value>) -> Vec<String> {
    let texts = row.get("choices").and_then(Value::as_array);
    texts.map(|texts| texts.iter().filter_map(Value::as_str).map(str::to_owned).collect()).unwrap_or_default()
}

fn too_few_repeats(task: &str, pipeline: &Pipeline, repeats: u32) -> BenchError {
    BenchError::request(
        format!(
            "task `{task}`: the filter `{}` needs {} answers per document, --repeats is {repeats}",
            pipeline.name,
            pipeline.least_answers()
        ),
        format!("use `--repeats {}`", pipeline.least_answers()),
    )
}
