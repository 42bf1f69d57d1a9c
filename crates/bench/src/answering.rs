//! Evaluations of answers from documents as runs: a question is a sample, what it is answered and how good that is
//! are its output and its scores, and what takes the place of the model is the way of answering.
//!
//! ```text
//! question -> answer with citations -> rules -> scores
//!                                   -> judges, claim by claim -> scores, or why there are none
//! ```

mod judged;
mod report;

use std::path::PathBuf;
use std::time::Instant;

use evalign_core::{
    Digest, FinishReason, GenerateParams, Latency, ModelIdentity, ModelRef, Outcome, Output, Prompt,
    Provider, Request, RequestKind, RunId, RunSpec, RunStatus, SampleKey, SampleRecord, Score, ScoringMode,
    TaskSpec, Usage,
};
use evalign_rag::answer::{Answer, AnswerOptions, Answerer};
use evalign_rag::quality::{GoldQuestion, RuleMetrics};
use evalign_rag::{Chunk, Expansion, Filter, RagError, Reranker, SearchOptions};
use evalign_store::{NewRun, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::aggregate::{logged_result, run_results};
use crate::pairing::phase_spec;
use crate::runner::{ActiveRun, Cancel, RunOfSteps, Steps};
use crate::scorer::SCORER_VERSION;
use crate::{RunError, RunRequest};
pub use judged::{AnswerJudges, JudgedMetric};
pub use report::{AnswerReport, AnsweredQuestion};

/// Version of what a metric means: goes up when one of them would come out otherwise. 2: hits of equal texts are one.
const VERSION: &str = "2";

/// What an evaluation of answers is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnsweringRequest {
    /// `answering`: what kind of run this is.
    pub procedure: String,
    /// Its model writes the answers, or is [`quoting`]; its tasks are none.
    pub run: RunRequest,
    /// The questions' file.
    pub questions: PathBuf,
    pub index: String,
    pub tenant: String,
    /// Where the vectors are: `edge` or `qdrant`.
    pub store: String,
    /// The model that judges, if one does.
    pub judge: Option<ModelRef>,
    pub top_k: usize,
    /// How chunks are found; absent: as `evalign rag query` finds them where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchOptions>,
    /// Conditions on chunks as they are typed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// Other ways to look for an answer, which the writer thinks up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expansions: Vec<Expansion>,
    /// What judges the hits first: a local model, or `onnx/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerank: Option<String>,
    /// Below this confidence nothing is answered; `None`: the default.
    pub min_confidence: Option<f64>,
    pub threads: Option<usize>,
    pub offline: bool,
}

impl AnsweringRequest {
    /// How questions are answered.
    ///
    /// # Errors
    /// Conditions on chunks that are none.
    pub fn options(&self) -> Result<AnswerOptions, RunError> {
        let defaults = AnswerOptions::default();
        let search = self.search.clone().unwrap_or_else(SearchOptions::recommended);
        Ok(AnswerOptions {
            search: SearchOptions { limit: self.top_k, ..search },
            filter: Chunk::filters(&self.filters)?,
            expansions: self.expansions.clone(),
            threshold: self.min_confidence.unwrap_or(defaults.threshold),
            ..defaults
        })
    }

    /// What [`AnsweringRequest::procedure`] is.
    pub const PROCEDURE: &'static str = "answering";
}

/// What answers where no model writes: the index's own statements.
#[must_use]
pub fn quoting() -> ModelRef {
    ModelRef { provider: Provider::Local, name: "quotes".to_owned(), adapter: None }
}

/// An evaluation of answers, ready to start.
pub struct Answering<'a> {
    questions: &'a [GoldQuestion],
    answerer: &'a Answerer<'a>,
    options: &'a AnswerOptions,
    judges: Option<&'a AnswerJudges>,
    task: String,
    new: NewRun,
}

impl std::fmt::Debug for Answering<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answering").field("task", &self.task).finish_non_exhaustive()
    }
}

impl RunOfSteps for Answering<'_> {
    fn new_run(&self) -> &NewRun {
        &self.new
    }
}

impl<'a> Answering<'a> {
    /// `again`: as a run of its own, even where the same was measured before.
    ///
    /// # Errors
    /// The state of the index cannot be read.
    pub fn new(
        request: &AnsweringRequest,
        questions: &'a [GoldQuestion],
        (answerer, options): (&'a Answerer<'a>, &'a AnswerOptions),
        judges: Option<&'a AnswerJudges>,
        again: bool,
    ) -> Result<Self, RunError> {
        let task = task_spec(request, questions, judges, &index_digest(answerer)?);
        let spec = RunSpec {
            model: identity_of(request, answerer, options),
            mode: ScoringMode::Default,
            scorer_version: SCORER_VERSION,
            seed: request.run.seed,
            chat_template: false,
            system_instruction: None,
            rendered_at: None,
            tasks: vec![task.clone()],
        };
        let samples_total = questions.len() as u64;
        let new = NewRun { spec, request: json!(request), samples_total, fork: again };
        Ok(Self { questions, answerer, options, judges, task: task.task, new })
    }

    /// Asks the questions that are not answered yet and keeps the results. On any cancellation what was answered is
    /// kept.
    ///
    /// # Errors
    /// A failure of an index, a model, a judge or the store of runs; a lost lease.
    pub async fn drive(
        &self,
        run: &ActiveRun,
        store: &Store,
        cancel: &Cancel,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<RunStatus, RunError> {
        let results = |()| {
            let samples = run.steps().answered(&self.task)?;
            let task = &self.new.spec.tasks[0];
            let result = logged_result(ScoringMode::Default, task, samples.into_iter().map(Ok))?;
            Ok(json!(run_results(store, store.run(&run.id)?, vec![result])?))
        };
        run.carry_out(cancel, self.work(run, store, advance), results).await
    }

    async fn work(
        &self,
        run: &ActiveRun,
        store: &Store,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RunError> {
        for (doc, question) in (0u64..).zip(self.questions) {
            let key = SampleKey { task: self.task.clone(), doc, repeat: 0 };
            if !run.is_finished(&key) {
                let record = self.sample(key, question).await?;
                store.commit_sample(run.lease(), &record).await?;
            }
            advance(1);
        }
        Ok(())
    }

    async fn sample(&self, key: SampleKey, question: &GoldQuestion) -> Result<SampleRecord, RunError> {
        let started = Instant::now();
        let answer = self.answerer.answer(&question.question, self.options).await?;
        let seconds = started.elapsed().as_secs_f64();
        let found = self.chunks(&answer)?;
        let rules = RuleMetrics::of(question, &answer, &found).0;
        let mut scores: Vec<Score> =
            rules.into_iter().map(|(name, value)| score(&name, Outcome::Unscored, Some(value))).collect();
        if let Some(judges) = self.judges {
            scores.extend(judges.scores(question, &answer, &found).await?);
        }
        Ok(record(key, question, &answer, scores, seconds))
    }

    fn chunks(&self, answer: &Answer) -> Result<Vec<Chunk>, RagError> {
        let (index, tenant) = (self.answerer.index, self.answerer.tenant);
        answer.hits.iter().map(|hit| Chunk::from_payload(index, hit.id, tenant, &hit.payload)).collect()
    }

    /// The report of a finished run, from what is stored. `None` for one that is not finished.
    ///
    /// # Errors
    /// A failure of the store, samples that cannot be read.
    pub fn report(&self, store: &Store, id: &RunId) -> Result<Option<AnswerReport>, RunError> {
        if store.run(id)?.status != RunStatus::Completed {
            return Ok(None);
        }
        AnswerReport::of(id, &Steps::of(store, id).answered(&self.task)?).map(Some)
    }
}

fn score(metric: &str, outcome: Outcome, value: Option<f64>) -> Score {
    Score {
        metric: metric.to_owned(),
        filter: "none".to_owned(),
        outcome,
        value,
        answer: None,
        weight: None,
        margin: None,
    }
}

/// What is kept of an answer, as the sample's output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptAnswer {
    text: Option<String>,
    abstained: Option<String>,
    confidence: f64,
    claims: Value,
}

fn record(
    key: SampleKey,
    question: &GoldQuestion,
    answer: &Answer,
    scores: Vec<Score>,
    seconds: f64,
) -> SampleRecord {
    let doc = json!(question);
    let kept = KeptAnswer {
        text: answer.text.clone(),
        abstained: answer.abstained.clone(),
        confidence: answer.confidence,
        claims: json!(answer.claims),
    };
    let prompt = Prompt::Text(question.question.clone());
    let target = question.answers.first().cloned().unwrap_or_default();
    SampleRecord {
        key: key.clone(),
        doc_hash: Digest::of_json(&doc),
        doc,
        request: Request { key, kind: RequestKind::Generate { prompt, params: GenerateParams::default() } },
        prompt_hash: Digest::of(&question.question),
        target_hash: Digest::of(&target),
        target,
        output: Some(Output::Text {
            text: json!(kept).to_string(),
            finish: FinishReason::Stop,
            logprobs: None,
            reasoning: None,
        }),
        error: None,
        scores,
        usage: Usage::default(),
        truncated_tokens: 0,
        latency: Some(Latency { total_ms: seconds * 1e3, first_token_ms: None, attempts: 0 }),
        requests: 0,
        cost_usd: None,
    }
}

/// Of what is in the index: the versions of its documents.
fn index_digest(answerer: &Answerer<'_>) -> Result<Digest, RunError> {
    let documents = answerer.state.indexed_documents(answerer.index, answerer.tenant)?;
    let versions: Vec<_> =
        documents.iter().map(|document| json!([document.document, document.version])).collect();
    Ok(Digest::of_json(&json!(versions)))
}

/// The questions over this index as a task: named by their file, told apart by their content.
fn task_spec(
    request: &AnsweringRequest,
    questions: &[GoldQuestion],
    judges: Option<&AnswerJudges>,
    index: &Digest,
) -> TaskSpec {
    let name =
        request.questions.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let metrics = json!({
        "metrics": RuleMetrics::NAMES, "judges": judges.map(AnswerJudges::digest), "version": VERSION,
    });
    let (name, dataset) = (format!("answers/{name}"), Digest::of_json(&json!([questions, index])));
    let phase = phase_spec(&name, &metrics, &dataset, (questions.len() as u64, 1), None);
    TaskSpec { version: VERSION.to_owned(), ..phase }
}

/// How sources are found and when they suffice. What is not asked for is not named: a run that does without it is the
/// same as before there was such a thing.
fn decided_by(options: &AnswerOptions) -> Value {
    let mut how = json!({
        "search": options.search, "threshold": options.threshold, "context_tokens": options.context_tokens,
    });
    if options.filter != Filter::default() {
        how["filter"] = json!(options.filter);
    }
    if !options.expansions.is_empty() {
        how["expansions"] = json!(options.expansions);
    }
    how
}

/// The way of answering as what answers: the writer, how it is given what, and the embedder.
fn identity_of(
    request: &AnsweringRequest,
    answerer: &Answerer<'_>,
    options: &AnswerOptions,
) -> ModelIdentity {
    let writer = answerer.model.as_ref().map(|model| model.identity());
    let mut way = decided_by(options);
    way["writer"] = json!(writer);
    way["embedder"] = json!(answerer.embedder.identity());
    way["reranker"] = json!(answerer.reranker.as_ref().map(Reranker::digest));
    let (tokenizer, chat_template, dtype) = match writer {
        Some(writer) => (writer.tokenizer.clone(), writer.chat_template.clone(), writer.dtype.clone()),
        None => (Digest::of("quotes"), None, "none".to_owned()),
    };
    ModelIdentity {
        reference: request.run.model.clone(),
        weights: Digest::of_json(&way),
        tokenizer,
        chat_template,
        adapter: None,
        trained_on: None,
        dtype,
        device: request.store.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs are found again and resumed by it.
    #[test]
    fn only_what_is_asked_for_makes_another_way_of_answering() {
        let keys = |options: &AnswerOptions| -> Vec<String> {
            decided_by(options).as_object().unwrap().keys().cloned().collect()
        };
        let plain = AnswerOptions::default();
        assert_eq!(keys(&plain), ["search", "threshold", "context_tokens"]);
        let filter = Chunk::filters(&["kind=pdf".to_owned()]).unwrap();
        let filtered = AnswerOptions { filter, expansions: vec![Expansion::Hyde], ..plain };
        assert_eq!(keys(&filtered), ["search", "threshold", "context_tokens", "filter", "expansions"]);
    }
}
