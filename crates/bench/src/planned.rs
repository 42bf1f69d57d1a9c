//! A leaf task ready to run: samples are rendered one at a time, when they are needed.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use evalign_core::{Digest, GenerateParams, Prompt, Request, RequestKind, SampleKey, TaskSpec, sample_seed};
use serde_json::{Map, Value};

use crate::document::{Document, FieldError, Reader};
use crate::error::BenchError;
use crate::judging::{TaskJudge, TaskReward};
use crate::prompt::{PromptStyle, Turn};
use crate::rows::RowSource;
use crate::scorer::Scorer;
use crate::shots::Shots;
use crate::task::{OutputKind, TaskDefinition};
use crate::variant::Rewriter;

/// A leaf task of a plan.
#[derive(Debug)]
pub struct PlannedTask {
    pub(crate) spec: TaskSpec,
    pub(crate) definition: TaskDefinition,
    pub(crate) reader: Reader,
    pub(crate) rows: RowSource,
    pub(crate) shots: Shots,
    pub(crate) style: PromptStyle,
    /// Without seed; log-likelihood tasks do not use it.
    pub(crate) params: GenerateParams,
    pub(crate) seed: u64,
    pub(crate) scorer: Scorer,
    /// How rows are changed where the task is asked in another way.
    pub(crate) rewriter: Option<Rewriter>,
    /// Where the task asks for a judge and the run has one.
    pub(crate) judge: Option<TaskJudge>,
    /// Where the run's judge is a reward model.
    pub(crate) reward: Option<TaskReward>,
    /// Rendered examples by index in the pool; most documents share some.
    pub(crate) rendered_shots: Mutex<HashMap<u32, Arc<[Turn; 2]>>>,
}

/// One question to the model, and all that is known about it before it is answered.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedSample {
    pub key: SampleKey,
    /// The row as templates saw it, computed columns included.
    pub doc: Value,
    pub doc_hash: Digest,
    pub request: Request,
    /// SHA-256 of the prompt text; of the messages as JSON while a chat is not rendered
    /// (see [`PlannedSample::set_rendered_prompt`]).
    pub prompt_hash: Digest,
    /// The right answer as `str(target)` prints it in Python.
    pub target: String,
    pub target_hash: Digest,
}

impl PlannedSample {
    /// Takes the hash of the text a chat became, which is what the reference hashes.
    pub fn set_rendered_prompt(&mut self, text: &str) {
        self.prompt_hash = Digest::of(text);
    }

    /// What the model is shown.
    #[must_use]
    pub fn prompt(&self) -> Option<&Prompt> {
        match &self.request.kind {
            RequestKind::LogLikelihood { context, .. } => Some(context),
            RequestKind::Generate { prompt, .. } => Some(prompt),
            RequestKind::Perplexity { .. } => None,
        }
    }
}

impl PlannedTask {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.task
    }

    #[must_use]
    pub fn spec(&self) -> &TaskSpec {
        &self.spec
    }

    /// The definition with the rule book's overrides applied.
    #[must_use]
    pub fn definition(&self) -> &TaskDefinition {
        &self.definition
    }

    #[must_use]
    pub fn scorer(&self) -> &Scorer {
        &self.scorer
    }

    /// Indices of the documents to evaluate, in the split.
    #[must_use]
    pub fn docs(&self) -> Range<u64> {
        self.spec.docs[0]..self.spec.docs[1]
    }

    #[must_use]
    pub fn repeats(&self) -> u32 {
        self.spec.repeats
    }

    /// Samples: documents times repeats.
    #[must_use]
    pub fn len(&self) -> u64 {
        (self.spec.docs[1] - self.spec.docs[0]) * u64::from(self.spec.repeats)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys of all samples, by document, then by repeat.
    pub fn keys(&self) -> impl Iterator<Item = SampleKey> {
        self.docs().flat_map(move |doc| (0..self.repeats()).map(move |repeat| self.key(doc, repeat)))
    }

    fn key(&self, doc: u64, repeat: u32) -> SampleKey {
        SampleKey { task: self.spec.task.clone(), doc, repeat }
    }

    /// The `index`-th document of the plan (counted from its first), answer number `repeat`.
    ///
    /// # Errors
    /// An index past the end; a row that cannot be read, or that the templates fail on (with its number).
    pub fn sample(&self, index: u64, repeat: u32) -> Result<PlannedSample, BenchError> {
        let doc = self.spec.docs[0].saturating_add(index);
        if doc >= self.spec.docs[1] || repeat >= self.spec.repeats {
            return Err(BenchError::Rows {
                task: self.spec.task.clone(),
                dataset: self.rows.name(),
                message: format!("document {doc}, repeat {repeat} is not part of the plan"),
            });
        }
        let document = self.document(doc)?;
        let target = self.reader.target(&document).map_err(|error| self.row_error(doc, error))?;
        let key = self.key(doc, repeat);
        let kind = match self.definition.output {
            OutputKind::Perplexity => RequestKind::Perplexity { text: target.shown().to_owned() },
            OutputKind::MultipleChoice => RequestKind::LogLikelihood {
                context: self.prompt(doc, &document)?,
                continuations: self.continuations(doc, &document)?,
            },
            OutputKind::GenerateUntil => {
                let params = GenerateParams { seed: sample_seed(self.seed, &key), ..self.params.clone() };
                RequestKind::Generate { prompt: self.prompt(doc, &document)?, params }
            }
        };
        let target = target.to_python();
        Ok(PlannedSample {
            prompt_hash: prompt_hash(&kind),
            doc_hash: document.hash(),
            target_hash: Digest::of(&target),
            target,
            request: Request { key: key.clone(), kind },
            doc: Value::Object(document.row),
            key,
        })
    }

    /// The sample of a key of this task.
    ///
    /// # Errors
    /// As [`PlannedTask::sample`].
    pub fn sample_by_key(&self, key: &SampleKey) -> Result<PlannedSample, BenchError> {
        // A document before the first wraps to an index past the end.
        self.sample(key.doc.wrapping_sub(self.spec.docs[0]), key.repeat)
    }

    /// Reads and renders what a first sample needs, so that a task that cannot work fails before
    /// anything is loaded. Names a missing column where that is the cause.
    pub(crate) fn check_first(&self) -> Result<(), BenchError> {
        let first = self.spec.docs[0];
        let check = || {
            let document = self.document(first)?;
            self.reader.target(&document).map_err(|error| self.row_error(first, error))?;
            self.reader.choices(&document).map_err(|error| self.row_error(first, error))?;
            self.reader.prompt(&document).map_err(|error| self.row_error(first, error))?;
            if self.shots.count > 0 { self.shot_turns(0).map(|_| ()) } else { Ok(()) }
        };
        check().map_err(|error| match self.reader.missing_column(&self.rows.columns()) {
            Some((column, field)) if matches!(error, BenchError::Row { .. }) => {
                self.rows.unread_column(&self.spec.task, &column).unwrap_or_else(|| BenchError::Rows {
                    task: self.spec.task.clone(),
                    dataset: self.rows.name(),
                    message: format!(
                        "there is no column `{column}`, which the field `{field}` uses; columns are {}",
                        self.rows.columns().join(", ")
                    ),
                })
            }
            _ => error,
        })
    }

    fn document(&self, doc: u64) -> Result<Document, BenchError> {
        let row = self.rows.get(&self.spec.task, doc)?;
        let document = self.reader.document(row).map_err(|error| self.row_error(doc, error))?;
        let Some(rewriter) = &self.rewriter else { return Ok(document) };
        let mut row = document.row;
        rewriter.rewrite(doc, &mut row).map_err(|error| self.row_error(doc, error))?;
        Ok(Reader::processed(&row))
    }

    fn prompt(&self, doc: u64, document: &Document) -> Result<Prompt, BenchError> {
        let fail = |error| self.row_error(doc, error);
        let description = self.reader.description(document).map_err(fail)?;
        let mut turns: Vec<Turn> = self.style.system_turn(&description).into_iter().collect();
        for shot in self.shots.of(doc, &self.rows)? {
            turns.extend(self.shot_turns(shot)?.iter().cloned());
        }
        let question = self.reader.prompt(document).map_err(fail)?;
        let gen_prefix = self.reader.gen_prefix(document).map_err(fail)?;
        turns.extend(self.style.last_turns(question, gen_prefix));
        Ok(self.style.prompt(turns))
    }

    fn shot_turns(&self, index: u32) -> Result<Arc<[Turn; 2]>, BenchError> {
        let lock = || self.rendered_shots.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(turns) = lock().get(&index) {
            return Ok(turns.clone());
        }
        let row = self.shots.pool().get(&self.spec.task, index)?;
        let turns = self.render_shot(row).map_err(|error| BenchError::Row {
            task: self.spec.task.clone(),
            field: error.field,
            dataset: self.shots.pool().name(),
            row: u64::from(index) + 1,
            message: error.message,
        })?;
        let turns = Arc::new(turns);
        lock().insert(index, turns.clone());
        Ok(turns)
    }

    fn render_shot(&self, row: Map<String, Value>) -> Result<[Turn; 2], FieldError> {
        let document = self.reader.document(row)?;
        let question = self.reader.prompt(&document)?;
        let target = self.reader.target(&document)?;
        let mut answer = target.shown();
        let choices = match self.definition.output {
            OutputKind::MultipleChoice => self.reader.choices(&document)?,
            OutputKind::GenerateUntil | OutputKind::Perplexity => Vec::new(),
        };
        // A multiple-choice target is the index of the choice, or the choice itself.
        if let Some(choice) = answer.parse::<usize>().ok().and_then(|index| choices.get(index)) {
            answer = choice;
        }
        let gen_prefix = self.reader.gen_prefix(&document)?;
        Ok(self.style.shot_turns(question, answer, gen_prefix.as_deref()))
    }

    fn continuations(&self, doc: u64, document: &Document) -> Result<Vec<String>, BenchError> {
        let choices = self.reader.choices(document).map_err(|error| self.row_error(doc, error))?;
        let delimiter = self.style.choice_delimiter(self.definition.gen_prefix.as_deref());
        Ok(choices.into_iter().map(|choice| format!("{delimiter}{choice}")).collect())
    }

    fn row_error(&self, doc: u64, error: FieldError) -> BenchError {
        BenchError::Row {
            task: self.spec.task.clone(),
            field: error.field,
            dataset: self.rows.name(),
            row: doc + 1,
            message: error.message,
        }
    }
}

pub(crate) fn prompt_hash(kind: &RequestKind) -> Digest {
    let of = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => Digest::of(text),
        Prompt::Chat(messages) => Digest::of_json(&serde_json::to_value(messages).unwrap_or(Value::Null)),
    };
    match kind {
        RequestKind::LogLikelihood { context, .. } => of(context),
        RequestKind::Generate { prompt, .. } => of(prompt),
        RequestKind::Perplexity { text } => Digest::of(text),
    }
}
