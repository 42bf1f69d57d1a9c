//! Which way of searching suits a collection, as a run.

use std::path::PathBuf;
use std::sync::Arc;

use evalign_bench::{ActiveRun, Cancel, RunRequest, job_spec};
use evalign_core::RunStatus;
use evalign_rag::chunker::ChunkSettings;
use evalign_rag::embed::CachedEmbedder;
use evalign_rag::{BeirCollection, EdgeStore, Reranker, TuneRequest, tune};
use evalign_store::{NewRun, Store, StoredRun};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Steps, TuningBody, of_field};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::indexes::embedder_identity;
use crate::uploads;

/// Ways of cutting documents in one sweep.
const MOST_CUTS: usize = 8;

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
}

impl SweepRequest {
    pub(crate) const PROCEDURE: &'static str = "tune";

    fn of<'a>(&'a self, reranker: Option<&'a Reranker>) -> TuneRequest<'a> {
        TuneRequest { metric: &self.metric, chunkings: self.chunkings.clone(), reranker }
    }
}

/// Ways of cutting documents, each number of tokens with each overlap.
fn chunkings(body: &TuningBody) -> ApiResult<Vec<ChunkSettings>> {
    let overlaps = if body.chunk_overlap.is_empty() { &[0][..] } else { &body.chunk_overlap };
    if body.chunk_tokens.len().saturating_mul(overlaps.len()) > MOST_CUTS {
        return Err(of_field("chunk_tokens", format!("at most {MOST_CUTS} ways of cutting")));
    }
    if body.chunk_tokens.is_empty() && !body.chunk_overlap.is_empty() {
        return Err(of_field("chunk_overlap", "`chunk_overlap` goes with `chunk_tokens`"));
    }
    let tokens = body.chunk_tokens.iter();
    Ok(tokens.flat_map(|tokens| overlaps.iter().map(|more| BeirCollection::chunks(*tokens, *more))).collect())
}

impl App {
    /// Creates the run that compares ways of searching a collection.
    pub(crate) async fn start_tuning(&self, store: &Store, body: &TuningBody) -> ApiResult<StoredRun> {
        let chunkings = chunkings(body)?;
        let place = self.uploaded(store, &body.collection)?.as_place();
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
        };
        request.of(None).check(&collection, embedder.as_ref())?;
        let definition = json!([request.metric, request.chunkings, request.rerank]);
        let data = (&collection.digest(), collection.queries.len() as u64);
        self.create_and_queue(
            store,
            &NewRun {
                spec: job_spec(identity, SweepRequest::PROCEDURE, &definition, data),
                request: serde_json::to_value(&request).map_err(ApiError::internal)?,
                samples_total: 0,
                fork: false,
            },
        )
    }

    /// Sweeps. What was tried is not kept when that breaks off, but for the vectors of documents.
    pub(crate) async fn drive_tuning(
        self: &Arc<Self>,
        run: &ActiveRun,
        (store, stored): (&Store, &StoredRun),
        cancel: &Cancel,
    ) -> ApiResult<RunStatus> {
        let request: SweepRequest =
            serde_json::from_value(stored.request.clone()).map_err(ApiError::internal)?;
        let collection = self.collection(store, &request.beir)?;
        let embedder = self.embedder_named(&request.embedder).await?;
        let embedder = CachedEmbedder::across_sessions(embedder, store.clone())?;
        let meter = |model| self.metered_run((store, &run.id), model);
        let reranker =
            request.rerank.as_ref().map(|model| self.reranker(store, (model, &request.run), &meter));
        let reranker = reranker.transpose()?;
        // What is compared is ways of searching, which rank alike in any store.
        let directory = uploads::partial(&self.home)?;
        let vectors = EdgeStore::new(directory.path().to_owned());
        let sweep = request.of(reranker.as_ref());
        let steps = Steps::new(self, store, run, sweep.steps(&collection));
        let advance = |more| steps.advance(more);
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
