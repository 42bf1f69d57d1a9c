//! How well search and answers do, measured over REST: collections with judged queries, ways of searching tuned on
//! them, questions that an index is asked.

mod answers;
mod body;
mod tuning;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use evalign_bench::{
    ActiveRun, Cancel, RerankRequest, Retrieval, RetrievalRequest, RetrievalTools, RunError, RunRequest,
    retrieval_difference, retrieval_metrics, way_of_searching,
};
use evalign_core::{ModelRef, RunId, RunSpec, RunStatus};
use evalign_fetch::silent;
use evalign_model::{LoadOptions, Model};
use evalign_rag::embed::{CachedEmbedder, open_embedder};
use evalign_rag::{BeirCollection, Embedder, MetricDifference, Reranker, SearchMode, SearchWay, VectorStore};
use evalign_store::{NewRun, Store, StoredRun};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::uploads;
use crate::work::{Notes, asked};
pub(crate) use answers::TestsRequest;
use body::CollectionBody;
pub(crate) use body::{AnswersBody, EvaluationBody, TestsBody, TuningBody};
pub(crate) use tuning::SweepRequest;

/// Bytes of a collection's files together: they are read into memory.
const MOST_BYTES: u64 = 256 << 20;

/// The file of `qrels` that a collection of uploaded files has.
const SPLIT: &str = "test";

fn of_field(field: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidRequest, message).about(field)
}

/// Makes of a model one of which what it reads and writes is counted.
type Meter<'a> = &'a (dyn Fn(Arc<dyn Model>) -> Arc<dyn Model> + Sync);

/// What a stored request of a client names instead of a place: ids of files, and what they are called together.
struct Uploaded {
    ids: Vec<String>,
    name: String,
}

impl Uploaded {
    /// As one field of a request, which on the command line is a path: absolute there, and never here.
    fn as_place(&self) -> PathBuf {
        Path::new(&self.ids.join(",")).join(&self.name)
    }

    fn of_place(place: &Path) -> ApiResult<Self> {
        let ids = place.parent().and_then(Path::to_str).filter(|_| place.is_relative());
        let name = place.file_name().and_then(|name| name.to_str());
        let (Some(ids), Some(name)) = (ids, name) else {
            return Err(ApiError::internal("the run is not of uploaded files"));
        };
        Ok(Self { ids: ids.split(',').map(str::to_owned).collect(), name: name.to_owned() })
    }
}

/// Tells whoever watches a run how many of so many steps are done.
pub(super) struct Steps<'a> {
    notes: Notes<'a>,
    done: AtomicU64,
    of: u64,
}

impl<'a> Steps<'a> {
    fn new(app: &'a App, store: &'a Store, run: &'a ActiveRun, of: u64) -> Self {
        Self { notes: Notes::new(app, store, run), done: AtomicU64::new(0), of }
    }

    fn advance(&self, more: u64) {
        let done = self.done.fetch_add(more, Ordering::Relaxed) + more;
        self.notes.note(&json!({"done": done, "of": self.of}));
    }

    fn end(&self) -> ApiResult<()> {
        self.notes.last()
    }
}

/// A run goes on as what it was started as.
fn check_spec(stored: &StoredRun, now: &RunSpec) -> ApiResult<()> {
    if stored.spec == *now {
        return Ok(());
    }
    let message = "what would be run now is not what was started: models or documents have changed";
    Err(ApiError::new(Code::SpecChanged, message))
}

impl App {
    /// The files of a collection, which have to be the tenant's.
    fn uploaded(&self, store: &Store, body: &CollectionBody) -> ApiResult<Uploaded> {
        if !evalign_core::is_name(&body.name) {
            return Err(of_field("collection.name", evalign_core::NAME_FORM));
        }
        let parts = [("corpus", &body.corpus), ("queries", &body.queries), ("qrels", &body.qrels)];
        let mut bytes = 0;
        for (field, id) in parts {
            bytes += uploads::found(store, id, &format!("collection.{field}"))?.bytes;
        }
        if bytes > MOST_BYTES {
            let message = format!("the files of a collection together have at most {MOST_BYTES} bytes");
            return Err(ApiError::new(Code::TooLarge, message).about("collection"));
        }
        Ok(Uploaded { ids: parts.map(|(_, id)| id.clone()).into(), name: body.name.clone() })
    }

    /// Reads a collection of uploaded files.
    fn collection(&self, store: &Store, place: &Path) -> ApiResult<BeirCollection> {
        let Uploaded { ids, name } = Uploaded::of_place(place)?;
        let [corpus, queries, qrels] = ids.as_slice() else {
            return Err(ApiError::internal("a collection has three files"));
        };
        let partial = uploads::partial(&self.home)?;
        let dir = partial.path().join(name);
        for (id, file) in [
            (corpus, "corpus.jsonl".to_owned()),
            (queries, "queries.jsonl".to_owned()),
            (qrels, format!("qrels/{SPLIT}.tsv")),
        ] {
            uploads::link(&self.home, &uploads::found(store, id, "collection")?, &dir.join(file))?;
        }
        BeirCollection::open(&dir, SPLIT).map_err(|error| ApiError::from(error).about("collection"))
    }

    /// Loads what judges hits again.
    fn reranker(
        &self,
        store: &Store,
        (reference, run): (&str, &RunRequest),
        meter: Meter<'_>,
    ) -> ApiResult<Reranker> {
        let reference: ModelRef = reference.parse().map_err(ApiError::internal)?;
        let options = LoadOptions { offline: self.settings.offline, ..LoadOptions::default() };
        let model = self.measured_for(store, (&reference, run), &options)?;
        Ok(Reranker::language_model(meter(model))?)
    }

    /// How a stored request names the model that judges hits again, which a client names in this field.
    fn rerank_reference(&self, store: &Store, name: &str, field: &str) -> ApiResult<String> {
        let reference = self.reference(store, name).map_err(|error| error.about(field))?;
        Ok(reference.to_string())
    }

    /// What a client wants measured of search.
    async fn retrieval_request(&self, store: &Store, body: &EvaluationBody) -> ApiResult<RetrievalRequest> {
        let options = RetrievalRequest::measured(body.options()?);
        let chunking =
            body.chunk_tokens.map(|tokens| BeirCollection::chunks(tokens, body.chunk_overlap, body.prefix));
        // Chunks are counted by an embedder also where words alone are searched.
        let embedder = match (options.mode, chunking) {
            (SearchMode::Bm25, None) => None,
            _ => Some(self.embedder_name(body.embedder.as_deref()).await?),
        };
        let rerank = body.rerank.as_ref().map(|rerank| -> ApiResult<_> {
            let reference = self.rerank_reference(store, &rerank.model, "rerank.model")?;
            Ok(RerankRequest { reference, depth: rerank.depth()? })
        });
        let rerank = rerank.transpose()?;
        let rerank_depth = rerank.as_ref().map(|rerank| rerank.depth);
        let way = SearchWay { chunking, options: options.clone(), rerank_depth };
        let name = embedder.as_deref().map(|name| name.rsplit('/').next().unwrap_or(name));
        Ok(RetrievalRequest {
            procedure: RetrievalRequest::PROCEDURE.to_owned(),
            run: RunRequest::new(way_of_searching(&way, name), Vec::new()),
            beir: self.uploaded(store, &body.collection)?.as_place(),
            split: SPLIT.to_owned(),
            store: self.vector_store_name().to_owned(),
            embedder,
            probe: None,
            threads: None,
            offline: self.settings.offline,
            reuse_vectors: body.reuse_vectors,
            options,
            chunking,
            rerank,
        })
    }

    /// Creates the run that measures a way of searching.
    pub(crate) async fn start_evaluation(
        &self,
        store: &Store,
        body: &EvaluationBody,
    ) -> ApiResult<StoredRun> {
        let request = self.retrieval_request(store, body).await?;
        let collection = self.collection(store, &request.beir)?;
        let tools = self.search_tools(store, &request, &|model| model).await?;
        if let (Some(chunking), Some(embedder)) = (request.chunking, &tools.embedder) {
            collection.check_cut(chunking, embedder.identity().max_tokens)?;
        }
        let retrieval = Retrieval::new(&request, &collection, tools.of());
        let new = NewRun { fork: body.fork, ..retrieval.new_run().clone() };
        self.create_and_queue_if(store, &new, |run| Ok(retrieval.check_model(run)?))
    }

    /// Does what is open of it.
    pub(crate) async fn drive_evaluation(
        self: &Arc<Self>,
        run: &ActiveRun,
        (store, stored): (&Store, &StoredRun),
        cancel: &Cancel,
    ) -> ApiResult<RunStatus> {
        let request: RetrievalRequest = asked(stored)?;
        let collection = self.collection(store, &request.beir)?;
        let meter = |model| self.metered_run((store, &run.id), model);
        let tools = self.search_tools(store, &request, &meter).await?;
        let retrieval = Retrieval::new(&request, &collection, tools.of());
        check_spec(stored, &retrieval.new_run().spec)?;
        let steps = Steps::new(self, store, run, retrieval.total());
        let status = retrieval.drive(run, store, cancel, &|more| steps.advance(more)).await?;
        steps.end()?;
        Ok(self.ended(store, status))
    }

    async fn search_tools(
        &self,
        store: &Store,
        request: &RetrievalRequest,
        meter: Meter<'_>,
    ) -> ApiResult<Tools> {
        let embedder = match &request.embedder {
            None => None,
            // Its model may have changed since the service began to use it.
            Some(name) if name.starts_with("openai/") => {
                Some(open_embedder(name, &self.embed_options(), None, &silent).await?)
            }
            Some(name) => Some(self.embedder_named(name).await?),
        };
        let embedder: Option<Arc<dyn Embedder>> = match embedder {
            Some(embedder) if request.reuse_vectors => {
                Some(Arc::new(CachedEmbedder::across_sessions(embedder, store.clone())?))
            }
            embedder => embedder,
        };
        let reranker = request.rerank.as_ref();
        let reranker = reranker.map(|rerank| self.reranker(store, (&rerank.reference, &request.run), meter));
        Ok(Tools { vectors: self.vectors().await?.clone(), embedder, reranker: reranker.transpose()? })
    }

    /// Every metric of one evaluation of search against another, query by query.
    pub(crate) fn search_difference(
        &self,
        store: &Store,
        [a, b]: [&RunId; 2],
    ) -> ApiResult<Vec<MetricDifference>> {
        let measured = |run: &RunId, field: &str| {
            retrieval_metrics(store, &store.run(run)?).map_err(|error| match error {
                RunError::Malformed { .. } => of_field(field, error.to_string()),
                error => error.into(),
            })
        };
        Ok(retrieval_difference(&measured(a, "a")?, &measured(b, "b")?)?)
    }
}

/// What searches, as a run holds it.
struct Tools {
    vectors: Arc<dyn VectorStore>,
    embedder: Option<Arc<dyn Embedder>>,
    reranker: Option<Reranker>,
}

impl Tools {
    fn of(&self) -> RetrievalTools<'_> {
        RetrievalTools {
            vectors: self.vectors.as_ref(),
            embedder: self.embedder.as_deref(),
            reranker: self.reranker.as_ref(),
        }
    }
}

/// Whether a stored run is of uploaded files: one of the command line names a place of its own.
pub(crate) fn is_of_uploads(request: &Value) -> bool {
    let place = ["beir", "questions"].into_iter().find_map(|field| request.get(field)?.as_str());
    place.is_none_or(|place| Path::new(place).is_relative())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_as_they_went_and_no_path_is_taken_for_them() {
        let files =
            Uploaded { ids: vec!["file_1".to_owned(), "file_2".to_owned()], name: "quick".to_owned() };
        let place = files.as_place();
        let back = Uploaded::of_place(&place).unwrap();
        assert_eq!((back.ids, back.name), (files.ids, files.name));
        assert!(is_of_uploads(&json!({"beir": place})));
        for path in ["/data/cranfield", "/"] {
            assert!(Uploaded::of_place(Path::new(path)).is_err(), "{path}");
            assert!(!is_of_uploads(&json!({"beir": path})), "{path}");
        }
    }
}
