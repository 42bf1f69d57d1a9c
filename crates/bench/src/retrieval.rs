//! Evaluations of search as runs: a query is a sample, its metrics are the scores, and what takes the place of
//! the model is the way of searching.
//!
//! The documents are written anew in every session and removed at its end, which costs less than to keep
//! account of them; what queries found is committed a few at a time and not asked again.

mod name;

use std::path::PathBuf;
use std::time::Instant;

use evalign_core::{
    Digest, FinishReason, GenerateParams, Latency, ModelIdentity, Outcome, Output, Prompt, Request,
    RequestKind, RunId, RunSpec, RunStatus, SampleKey, SampleRecord, Score, ScoringMode, SpecDifference,
    TaskSpec, Usage,
};
use evalign_rag::chunker::ChunkSettings;
use evalign_rag::{
    BeirAnswer, BeirCollection, BeirEvaluation, BeirMeasured, BeirQuery, BeirReport, Embedder,
    EmbedderIdentity, MetricDifference, PerQuery, Probe, Reranker, RetrievalMetrics, SearchMode,
    SearchOptions, SearchWay, VectorStore, difference,
};
use evalign_store::{NewRun, Store, StoredRun};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::aggregate::{logged_result, run_results};
use crate::pairing::phase_spec;
use crate::runner::{ActiveRun, Cancel, Steps};
use crate::scorer::SCORER_VERSION;
use crate::{BenchError, RunError, RunRequest};
pub use name::way_of_searching;

/// Version of what a metric means: goes up when one of them would come out otherwise.
const VERSION: &str = "1";

/// Queries whose answers are committed together.
const QUERIES_TOGETHER: usize = 16;

/// Hits of a query that are kept with its sample.
const KEPT_HITS: usize = 100;

/// What the names of evaluations' collections begin with.
const COLLECTION: &str = "evaluation-";

/// What `evalign rag eval` asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrievalRequest {
    /// `retrieval`: what kind of run this is.
    pub procedure: String,
    /// Its model is the way of searching, its tasks are none.
    pub run: RunRequest,
    /// Directory of the collection.
    pub beir: PathBuf,
    pub split: String,
    /// Where the vectors are while it runs: `edge` or `qdrant`.
    pub store: String,
    /// As it was named; absent where only words are searched.
    pub embedder: Option<String>,
    /// What the model behind a name on a server made of a known text when the run was begun. No part of what identifies
    /// the run: a server computes it a little otherwise each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    pub threads: Option<usize>,
    pub offline: bool,
    /// Vectors of documents may come from the cache, and the time of the ingest then leaves them out.
    pub reuse_vectors: bool,
    pub options: SearchOptions,
    /// Documents are cut and count by their best chunk; absent: each is searched whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunking: Option<ChunkSettings>,
    /// What judges the first hits again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerank: Option<RerankRequest>,
}

/// A second look at the first hits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RerankRequest {
    /// A local model, or `onnx/NAME`.
    pub reference: String,
    /// Hits that are judged.
    pub depth: usize,
}

impl RetrievalRequest {
    #[must_use]
    pub fn way(&self) -> SearchWay {
        let rerank_depth = self.rerank.as_ref().map(|rerank| rerank.depth);
        SearchWay { chunking: self.chunking, options: self.options.clone(), rerank_depth }
    }

    /// How a collection is searched when that is measured: all vectors are scanned, and a single list is judged to its
    /// full depth (fused lists are as long as they are).
    #[must_use]
    pub fn measured(mut options: SearchOptions) -> SearchOptions {
        options.exact = true;
        match options.mode {
            SearchMode::Hybrid => {}
            SearchMode::Bm25 | SearchMode::Dense => {
                options.depth = options.depth.max(RetrievalMetrics::DEPTH);
            }
        }
        options
    }

    /// Whether vectors are looked for. Without, an embedder only counts the tokens of chunks.
    #[must_use]
    pub fn needs_vectors(&self) -> bool {
        self.options.mode != SearchMode::Bm25
    }

    /// What [`RetrievalRequest::procedure`] is.
    pub const PROCEDURE: &'static str = "retrieval";
}

/// What an evaluation found, and the run that it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetrievalReport {
    pub run_id: RunId,
    #[serde(flatten)]
    pub report: BeirReport,
}

/// What is kept of a session besides its samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Ingested {
    n_cut: u64,
    ingest_seconds: f64,
}

/// What searches.
#[derive(Clone, Copy)]
pub struct RetrievalTools<'a> {
    pub vectors: &'a dyn VectorStore,
    /// Needed for vectors and for chunks.
    pub embedder: Option<&'a dyn Embedder>,
    /// Needed where [`RetrievalRequest::rerank`] asks for one.
    pub reranker: Option<&'a Reranker>,
}

impl std::fmt::Debug for RetrievalTools<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RetrievalTools").field("vectors", &self.vectors.place()).finish_non_exhaustive()
    }
}

/// An evaluation of search, ready to start.
pub struct Retrieval<'a> {
    request: &'a RetrievalRequest,
    collection: &'a BeirCollection,
    tools: RetrievalTools<'a>,
    task: String,
    new: NewRun,
}

impl std::fmt::Debug for Retrieval<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retrieval").field("request", self.request).finish_non_exhaustive()
    }
}

/// The collection of vectors that the evaluation of a run writes; between its sessions there is none.
#[must_use]
pub fn evaluation_collection(run: &RunId) -> String {
    format!("{COLLECTION}{run}")
}

/// The run whose evaluation a collection of this name is, if it is one.
#[must_use]
pub fn run_of_evaluation(collection: &str) -> Option<&str> {
    collection.strip_prefix(COLLECTION)
}

impl<'a> Retrieval<'a> {
    #[must_use]
    pub fn new(
        request: &'a RetrievalRequest,
        collection: &'a BeirCollection,
        tools: RetrievalTools<'a>,
    ) -> Self {
        let task = task_spec(request, collection);
        let spec = RunSpec {
            model: identity_of(request, collection, tools),
            mode: ScoringMode::Default,
            scorer_version: SCORER_VERSION,
            seed: request.run.seed,
            chat_template: false,
            system_instruction: None,
            rendered_at: None,
            tasks: vec![task.clone()],
        };
        let of_vectors = tools.embedder.filter(|_| request.needs_vectors());
        let probe = of_vectors.and_then(|embedder| embedder.identity().probe.clone());
        let new = NewRun {
            spec,
            request: json!(RetrievalRequest { probe, ..request.clone() }),
            samples_total: collection.queries.len() as u64,
            fork: false,
        };
        Self { request, collection, tools, task: task.task, new }
    }

    fn evaluation(&self, run: &RunId) -> Result<BeirEvaluation<'a>, RunError> {
        let RetrievalTools { vectors, embedder, reranker } = self.tools;
        let of_vectors = embedder.filter(|_| self.request.needs_vectors());
        let name = evaluation_collection(run);
        let mut evaluation = BeirEvaluation::new(self.collection, (vectors, &name), of_vectors);
        if let (Some(chunking), Some(counter)) = (self.request.chunking, embedder) {
            evaluation = evaluation.cut(chunking, counter)?;
        }
        if let (Some(rerank), Some(reranker)) = (&self.request.rerank, reranker) {
            evaluation = evaluation.reranked(reranker, rerank.depth);
        }
        Ok(evaluation)
    }

    /// The run that it is.
    #[must_use]
    pub fn new_run(&self) -> &NewRun {
        &self.new
    }

    /// Creates the run, or finds the one that measured the same, and takes its lease. `again`: always as a run of
    /// its own.
    ///
    /// # Errors
    /// As [`ActiveRun::start`].
    pub fn start(&self, store: &Store, owner: &str, again: bool) -> Result<ActiveRun, RunError> {
        ActiveRun::start_phases(&NewRun { fork: again, ..self.new.clone() }, store, owner)
    }

    /// Whether a run that was found is of the model that is behind the embedder's name today: vectors of another one have
    /// nothing to do with those that it began with, and its figures are not those of today.
    ///
    /// # Errors
    /// [`RunError::SpecChanged`] where the server has another model under that name.
    pub fn check_model(&self, run: &StoredRun) -> Result<(), RunError> {
        let Some(embedder) = self.tools.embedder.map(Embedder::identity) else { return Ok(()) };
        // Of before this was recorded nothing is known.
        let Some(then) = run.request.get("probe") else { return Ok(()) };
        let then: Probe = serde_json::from_value(then.clone())
            .map_err(|error| RunError::malformed(format!("request of run {}", run.id), error))?;
        let changed = |now: &Probe| SpecDifference {
            field: format!("model behind {}", embedder.name),
            stored: "the one that it was begun with".to_owned(),
            now: format!("another one: the same text has another vector (cosine {:.3})", now.cosine(&then)),
        };
        match &embedder.probe {
            Some(now) if *now != then && !now.is_same_model(&then) => {
                Err(RunError::SpecChanged { run: run.id.clone(), differences: vec![changed(now)] })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Documents to write and queries to ask.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.collection.documents.len() as u64 + self.new.samples_total
    }

    /// Writes the documents, asks the queries that are not answered yet, removes the documents, and keeps the
    /// results. On any cancellation what was answered is kept and everything else ends.
    ///
    /// # Errors
    /// As [`Self::check_model`]; a failure of the store of vectors, of the embedder or of the store of runs; a lost
    /// lease.
    pub async fn drive(
        &self,
        run: &ActiveRun,
        store: &Store,
        cancel: &Cancel,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<RunStatus, RunError> {
        self.check_model(&store.run(&run.id)?)?;
        let results = |ingested| self.results(run, store, ingested);
        let status = run.carry_out(cancel, self.work(run, store, advance), results).await;
        let cleaned = self.evaluation(&run.id)?.clean_up().await;
        let status = status?;
        cleaned?;
        Ok(status)
    }

    async fn work(
        &self,
        run: &ActiveRun,
        store: &Store,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<Ingested, RunError> {
        let start = Instant::now();
        let evaluation = self.evaluation(&run.id)?;
        let n_cut = evaluation.ingest(advance).await?;
        let ingested = Ingested { n_cut, ingest_seconds: start.elapsed().as_secs_f64() };
        for group in (0u64..).zip(evaluation.queries()).collect::<Vec<_>>().chunks(QUERIES_TOGETHER) {
            let mut answered = Vec::with_capacity(group.len());
            for (doc, query) in group {
                let key = SampleKey { task: self.task.clone(), doc: *doc, repeat: 0 };
                if !run.is_finished(&key) {
                    let answer = evaluation.answer(query, &self.request.options).await?;
                    answered.push(self.record(key, query, &answer));
                }
                advance(1);
            }
            // Not beside the next query, whose time is taken.
            store.commit_samples(run.lease(), &answered)?;
        }
        Ok(ingested)
    }

    fn record(&self, key: SampleKey, query: &BeirQuery, answer: &BeirAnswer<'_>) -> SampleRecord {
        let judged = self.collection.judgements.get(&query.id);
        let doc = json!({ "id": query.id, "query": query.text, "judgements": judged });
        let prompt = Prompt::Text(query.text.clone());
        let kind = RequestKind::Generate { prompt, params: GenerateParams::default() };
        let hits = answer.ranking.iter().take(KEPT_HITS).map(|(id, score)| format!("{id}\t{score}\n"));
        let score = |(name, value): (&str, f64)| Score {
            metric: name.to_owned(),
            filter: "none".to_owned(),
            outcome: Outcome::Unscored,
            value: Some(value),
            answer: None,
            weight: None,
            margin: None,
        };
        let metrics = answer.metrics.iter();
        let metrics = metrics
            .flat_map(|metrics| RetrievalMetrics::NAMES.map(|name| Some((name, metrics.get(name)?))))
            .flatten();
        SampleRecord {
            key: key.clone(),
            doc_hash: Digest::of_json(&doc),
            doc,
            request: Request { key, kind },
            prompt_hash: Digest::of(&query.text),
            target: String::new(),
            target_hash: Digest::of(""),
            output: Some(Output::Text {
                text: hits.collect(),
                finish: FinishReason::Stop,
                logprobs: None,
                reasoning: None,
            }),
            error: None,
            scores: metrics.map(score).collect(),
            usage: Usage::default(),
            truncated_tokens: 0,
            latency: Some(Latency { total_ms: answer.seconds * 1e3, first_token_ms: None, attempts: 0 }),
            requests: 0,
            cost_usd: None,
        }
    }

    /// Results of the common kind, and what a report needs besides.
    fn results(&self, run: &ActiveRun, store: &Store, ingested: Ingested) -> Result<Value, RunError> {
        let samples = run.steps().answered(&self.task)?;
        let spec = &self.new.spec.tasks[0];
        let result = logged_result(ScoringMode::Default, spec, samples.into_iter().map(Ok))?;
        let mut results = json!(run_results(store, store.run(&run.id)?, vec![result])?);
        results[RetrievalRequest::PROCEDURE] = json!(ingested);
        Ok(results)
    }

    /// The report of a finished run, from what is stored. `None` for one that is not finished.
    ///
    /// # Errors
    /// As [`Self::check_model`]; a failure of the store, results that cannot be read.
    pub fn report(&self, store: &Store, id: &RunId) -> Result<Option<RetrievalReport>, RunError> {
        let run = store.run(id)?;
        let Some(kept) = run.results.as_ref().filter(|_| run.status == RunStatus::Completed) else {
            return Ok(None);
        };
        self.check_model(&run)?;
        let ingested: Ingested = serde_json::from_value(kept[RetrievalRequest::PROCEDURE].clone())
            .map_err(|error| RunError::malformed(format!("results of run {id}"), error))?;
        let records = Steps::of(store, id).answered(&self.task)?;
        let latency = |record: &SampleRecord| Some(record.latency?.total_ms / 1e3);
        let measured = BeirMeasured {
            n_cut: ingested.n_cut,
            ingest_seconds: ingested.ingest_seconds,
            latencies: records.iter().filter_map(latency).collect(),
            per_query: per_query(&records)?,
        };
        let report = self.evaluation(id)?.report(&self.request.store, &self.request.options, measured);
        Ok(Some(RetrievalReport { run_id: id.clone(), report }))
    }
}

/// The metrics of each query of a stored evaluation, and the digest of the collection that it is of.
///
/// # Errors
/// A run of another kind, a failure of the store.
pub fn retrieval_metrics(store: &Store, run: &StoredRun) -> Result<(Digest, PerQuery), RunError> {
    let task = run.spec.tasks.first().filter(|_| {
        run.request["procedure"].as_str() == Some(RetrievalRequest::PROCEDURE)
            && run.status == RunStatus::Completed
    });
    let task = task.ok_or_else(|| {
        RunError::malformed(format!("run {}", run.id), "is no finished evaluation of search")
    })?;
    let samples = Steps::of(store, &run.id).answered(&task.task)?;
    Ok((task.dataset.clone(), per_query(&samples)?))
}

/// Every metric of `b` against `a`, query by query.
///
/// # Errors
/// Evaluations of different collections.
pub fn retrieval_difference(
    (of_a, a): &(Digest, PerQuery),
    (of_b, b): &(Digest, PerQuery),
) -> Result<Vec<MetricDifference>, RunError> {
    if of_a != of_b {
        return Err(BenchError::request(
            "the two evaluations are of different collections",
            "evaluate both on the same documents, queries and judgements",
        )
        .into());
    }
    Ok(difference(a, b)?)
}

fn per_query(records: &[SampleRecord]) -> Result<PerQuery, RunError> {
    let malformed =
        |record: &SampleRecord| RunError::malformed(&record.key, "is no sample of an evaluation of search");
    let metrics = |record: &SampleRecord| {
        let named = record.scores.iter().filter_map(|score| Some((score.metric.clone(), score.value?)));
        let named: serde_json::Map<String, Value> = named.map(|(name, value)| (name, json!(value))).collect();
        let id = record.doc["id"].as_str().ok_or_else(|| malformed(record))?;
        let metrics = serde_json::from_value(Value::Object(named)).map_err(|_| malformed(record))?;
        Ok((id.to_owned(), metrics))
    };
    records.iter().map(metrics).collect()
}

/// The collection as a task: named by its directory, told apart by its content.
fn task_spec(request: &RetrievalRequest, collection: &BeirCollection) -> TaskSpec {
    let name = request.beir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let split = if request.split == "test" { String::new() } else { format!("-{}", request.split) };
    let metrics = json!({
        "metrics": RetrievalMetrics::NAMES, "depth": RetrievalMetrics::DEPTH, "version": VERSION,
    });
    let name = format!("retrieval/{name}{split}");
    let queries = collection.queries.len() as u64;
    let phase = phase_spec(&name, &metrics, &collection.digest(), (queries, 1), None);
    TaskSpec { version: VERSION.to_owned(), ..phase }
}

/// The way of searching as what answers.
fn identity_of(
    request: &RetrievalRequest,
    collection: &BeirCollection,
    tools: RetrievalTools<'_>,
) -> ModelIdentity {
    let embedder = tools.embedder.map(Embedder::identity);
    // What a server makes of a text differs a little each time: an evaluation that is resumed is still the same.
    let described = embedder.map(EmbedderIdentity::without_probe);
    let mut way = json!({ "options": request.options, "embedder": described });
    if let Some(chunking) = request.chunking {
        way["chunking"] = json!(chunking);
        if chunking.prefix {
            way["titles"] = json!(collection.titles_digest());
        }
    }
    if let (Some(rerank), Some(reranker)) = (&request.rerank, tools.reranker) {
        way["rerank"] = json!([reranker.digest(), rerank.depth]);
    }
    ModelIdentity {
        reference: way_of_searching(&request.way(), embedder.map(|embedder| embedder.name.as_str())),
        weights: Digest::of_json(&way),
        tokenizer: Digest::of("english words 1: two word characters or more, stop words, Porter2"),
        chat_template: None,
        adapter: None,
        trained_on: None,
        dtype: "none".to_owned(),
        device: request.store.clone(),
    }
}
