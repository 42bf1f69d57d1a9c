//! Which way of searching suits a collection, as a run.

use std::path::PathBuf;
use std::sync::Arc;

use evalign_bench::{ActiveRun, Cancel, RunRequest, job_spec};
use evalign_core::RunStatus;
use evalign_rag::chunker::ChunkSettings;
use evalign_rag::embed::CachedEmbedder;
use evalign_rag::{BeirCollection, EdgeStore, Reranker, TuneRequest, tune};
use evalign_store::{Store, StoredRun};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Steps, TuningBody, of_field};
use crate::app::App;
use crate::error::ApiResult;
use crate::evidence::check_hits;
use crate::indexes::embedder_identity;
use crate::uploads;
use crate::work::asked;

/// Ways of cutting documents in one sweep.
const MOST_CUTS: usize = 8;

/// Depths that a reranker is tried at in one sweep.
const MOST_DEPTHS: usize = 8;

/// What such a run is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SweepRequest {
    procedure: String,
    /// Its model is the embedder.
    run: RunRequest,
    beir: PathBuf,
    embedder: String,
    metric: String,
    chunkings: Vec<ChunkSettings>,
    rerank: Option<String>,
    /// Runs that were queued before there was a choice say nothing of it.
    #[serde(default = "default_depths")]
    rerank_depths: Vec<usize>,
    /// How many of the collection's are asked; absent: all.
    #[serde(default)]
    queries: Option<usize>,
}

fn default_depths() -> Vec<usize> {
    TuneRequest::RERANK_DEPTHS.into()
}

impl SweepRequest {
    pub(crate) const PROCEDURE: &'static str = "tune";

    fn of<'a>(&'a self, reranker: Option<&'a Reranker>) -> TuneRequest<'a> {
        TuneRequest {
            metric: &self.metric,
            chunkings: self.chunkings.clone(),
            reranker,
            rerank_depths: &self.rerank_depths,
        }
    }

    /// What is asked of a collection.
    fn asked(&self, collection: BeirCollection) -> BeirCollection {
        match self.queries {
            Some(most) => collection.with_queries(most),
            None => collection,
        }
    }
}

/// Ways of cutting documents.
fn chunkings(body: &TuningBody) -> ApiResult<Vec<ChunkSettings>> {
    let overlaps = if body.chunk_overlap.is_empty() { &[0][..] } else { &body.chunk_overlap };
    let prefixes = if body.prefix { 2 } else { 1 };
    if body.chunk_tokens.len().saturating_mul(overlaps.len()).saturating_mul(prefixes) > MOST_CUTS {
        return Err(of_field("chunk_tokens", format!("at most {MOST_CUTS} ways of cutting")));
    }
    if body.chunk_tokens.is_empty() && !body.chunk_overlap.is_empty() {
        return Err(of_field("chunk_overlap", "`chunk_overlap` goes with `chunk_tokens`"));
    }
    if body.chunk_tokens.is_empty() && body.prefix {
        return Err(of_field("prefix", "`prefix` goes with `chunk_tokens`"));
    }
    Ok(BeirCollection::cuts(&body.chunk_tokens, overlaps, body.prefix))
}

/// Depths that a reranker is tried at.
fn rerank_depths(body: &TuningBody) -> ApiResult<Vec<usize>> {
    if body.rerank_depths.is_empty() {
        return Ok(default_depths());
    }
    if body.rerank.is_none() {
        return Err(of_field("rerank_depths", "`rerank_depths` goes with `rerank`"));
    }
    if body.rerank_depths.len() > MOST_DEPTHS {
        return Err(of_field("rerank_depths", format!("at most {MOST_DEPTHS} numbers of hits")));
    }
    body.rerank_depths.iter().map(|depth| check_hits(*depth, "rerank_depths")).collect()
}

impl App {
    /// Creates the run that compares ways of searching a collection.
    pub(crate) async fn start_tuning(&self, store: &Store, body: &TuningBody) -> ApiResult<StoredRun> {
        let chunkings = chunkings(body)?;
        let place = self.uploaded(store, &body.collection)?.as_place();
        if body.queries == Some(0) {
            return Err(of_field("queries", "is 1 or more"));
        }
        let depths = rerank_depths(body)?;
        let collection = self.collection(store, &place)?;
        let name = self.embedder_name(body.embedder.as_deref()).await?;
        let embedder = self.embedder_named(&name).await?;
        let identity = embedder_identity(embedder.identity());
        let rerank = body.rerank.as_ref().map(|model| self.rerank_reference(store, model, "rerank"));
        let request = SweepRequest {
            procedure: SweepRequest::PROCEDURE.to_owned(),
            run: RunRequest::new(identity.reference.clone(), Vec::new()),
            beir: place,
            embedder: name,
            metric: body.metric.clone(),
            chunkings,
            rerank: rerank.transpose()?,
            rerank_depths: depths,
            queries: body.queries,
        };
        let collection = request.asked(collection);
        request.of(None).check(&collection, embedder.as_ref())?;
        let definition = json!([
            request.metric,
            request.chunkings,
            collection.titles_digest(),
            request.rerank,
            request.rerank_depths
        ]);
        let data = (&collection.digest(), collection.queries.len() as u64);
        let spec = job_spec(identity, SweepRequest::PROCEDURE, &definition, data);
        self.start_work(store, spec, &request, false)
    }

    /// Sweeps. What was tried is not kept when that breaks off, but for the vectors of documents.
    pub(crate) async fn drive_tuning(
        self: &Arc<Self>,
        run: &ActiveRun,
        (store, stored): (&Store, &StoredRun),
        cancel: &Cancel,
    ) -> ApiResult<RunStatus> {
        let request: SweepRequest = asked(stored)?;
        let collection = request.asked(self.collection(store, &request.beir)?);
        let embedder = self.embedder_named(&request.embedder).await?;
        let embedder = CachedEmbedder::across_sessions(embedder, store.clone())?;
        let meter = |model| self.metered_run((store, &run.id), model);
        let reranker =
            request.rerank.as_ref().map(|model| self.reranker(store, (model, &request.run), &meter));
        let reranker = reranker.transpose()?.map(|reranker| reranker.keeping(store.clone()));
        // What is compared is ways of searching, which rank alike in any store.
        let directory = uploads::partial(&self.home)?;
        let vectors = EdgeStore::new(directory.path().to_owned());
        let sweep = request.of(reranker.as_ref());
        let steps = Steps::new(self, store, run, sweep.steps(&collection).total());
        let advance = |_, more| steps.advance(more);
        let Some(report) =
            run.attended(cancel, tune(&collection, (&vectors, &embedder), &sweep, &advance)).await?
        else {
            return Ok(self.ended(store, RunStatus::Cancelled));
        };
        let report = report?;
        steps.end()?;
        run.complete(&json!(report))?;
        Ok(RunStatus::Completed)
    }
}
