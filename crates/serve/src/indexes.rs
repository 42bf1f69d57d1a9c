//! Indexes of documents over REST. A tenant's index is one of the store's, under a name that says whose it is.

mod asked;
mod body;
mod kept;
mod names;
mod told;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use evalign_bench::{ActiveRun, Cancel, RunRequest, job_spec};
use evalign_core::{Digest, ModelIdentity, ModelRef, Provider, RunStatus};
use evalign_fetch::{Secret, silent};
use evalign_rag::embed::{CachedEmbedder, EmbedOptions, default_embedder, open_embedder};
use evalign_rag::ingest::{IndexSettings, Ingest, IngestProgress, IngestRequest, shown};
use evalign_rag::load::{PdfProcess, PdfReader};
use evalign_rag::{
    Chunk, Embedder, EmbedderIdentity, Filter, Scope, VectorStore, With, as_recorded, open_vector_store,
};
use evalign_store::{IndexedDocument, Store, StoredRun};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OnceCell};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code, shown as cut};
use crate::uploads;
use crate::work::{Notes, asked};
pub(crate) use body::{
    AnswerBody, DocumentObject, DocumentsBody, FoundObject, IndexObject, NewIndexBody, SearchBody,
};
use kept::{bytes_of, kept_as};
use names::{check_name, own_name, stored_name};
pub(crate) use told::{StreamedAnswer, answer_object};

/// Files of one request to add documents.
const MOST_FILES: usize = 1000;

/// Chunks that are read at a time.
const CHUNKS: usize = 256;

/// What retrieval needs beside the store: opened when it is first needed.
#[derive(Default)]
pub(crate) struct Retrieval {
    vectors: OnceCell<Arc<dyn VectorStore>>,
    /// By the name that indexes record. Held while one is opened.
    embedders: Arc<Mutex<BTreeMap<String, Arc<dyn Embedder>>>>,
    /// By the name in the store: held by who writes into the index.
    filling: std::sync::Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    /// Held by who makes an index.
    pub(crate) making: Arc<Mutex<()>>,
    /// Held by who removes one.
    pub(crate) removing: Arc<Mutex<()>>,
}

impl Retrieval {
    /// The lock of an index, by its name in the store.
    fn filling(&self, stored: &str) -> Arc<Mutex<()>> {
        let mut locks = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(stored.to_owned()).or_default().clone()
    }
}

/// What a run that fills an index is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct IndexRequest {
    procedure: String,
    /// Stands where a model's request does; its model is the embedder.
    run: RunRequest,
    index: String,
    files: Vec<String>,
}

impl IndexRequest {
    pub(crate) const PROCEDURE: &'static str = "index";
}

/// An index of a tenant that is there.
struct Found {
    stored: String,
    settings: Value,
}

fn found(store: &Store, id: &str) -> ApiResult<Found> {
    let none = || ApiError::not_found("index", id);
    let stored = stored_name(store.tenant(), id);
    if own_name(store.tenant(), &stored) != Some(id) {
        return Err(none());
    }
    let settings = store.index_settings(&stored)?.ok_or_else(none)?;
    Ok(Found { stored, settings })
}

impl App {
    pub(crate) async fn vectors(&self) -> ApiResult<&Arc<dyn VectorStore>> {
        let open = async || {
            let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            let key = variable("QDRANT_API_KEY").as_deref().and_then(Secret::new);
            let address = variable("QDRANT_URL");
            let server = address.as_deref().map(|address| (address, key));
            open_vector_store(&self.home.join("vectors"), server).await
        };
        Ok(self.retrieval.vectors.get_or_try_init(open).await?)
    }

    /// What [`App::vectors`] opens, in a word.
    pub(crate) fn vector_store_name(&self) -> &'static str {
        if std::env::var("QDRANT_URL").is_ok_and(|address| !address.is_empty()) { "qdrant" } else { "edge" }
    }

    /// The name in the store of an index of the tenant, and its settings.
    pub(crate) fn index_settings(&self, store: &Store, id: &str) -> ApiResult<(String, Value)> {
        found(store, id).map(|found| (found.stored, found.settings))
    }

    pub(crate) fn embed_options(&self) -> EmbedOptions {
        EmbedOptions { offline: self.settings.offline, ..EmbedOptions::default() }
    }

    /// The embedder that an index records under this name.
    pub(crate) async fn embedder_named(&self, name: &str) -> ApiResult<Arc<dyn Embedder>> {
        let mut opened = self.retrieval.embedders.clone().lock_owned().await;
        if let Some(embedder) = opened.get(name) {
            return Ok(embedder.clone());
        }
        let (name, options) = (name.to_owned(), self.embed_options());
        let open = async move {
            let embedder = open_embedder(&name, &options, None, &silent).await?;
            opened.insert(name, embedder.clone());
            Ok(embedder)
        };
        // Loading blocks. It keeps the lock when its client leaves: only one waits for others' threads on one of the pool.
        tokio::task::spawn_blocking(move || Handle::current().block_on(open)).await?
    }

    /// Awaits on the runtime's threads what searches. As with [`App::blocking`], a refusal names no place on this machine.
    async fn placeless<T>(&self, work: impl Future<Output = ApiResult<T>>) -> ApiResult<T> {
        work.await.map_err(|error| self.placeless_error(error))
    }

    /// An index of the tenant, read on a thread that may block.
    async fn found(self: &Arc<Self>, store: &Store, id: &str) -> ApiResult<Found> {
        let (store, id) = (store.clone(), id.to_owned());
        self.blocking(move |_| found(&store, &id)).await
    }

    /// The embedder of an index, which has to be the one that it was made with.
    pub(crate) async fn embedder_of(&self, index: &str, settings: &Value) -> ApiResult<Arc<dyn Embedder>> {
        let name = settings.pointer("/embedder/name").and_then(Value::as_str).unwrap_or_default();
        Ok(as_recorded(self.embedder_named(name).await?, index, settings)?)
    }

    /// What the client's name of an embedder stands for, as indexes record it.
    pub(crate) async fn embedder_name(&self, served: Option<&str>) -> ApiResult<String> {
        let Some(served) = served else { return Ok(default_embedder(&self.embed_options()).await) };
        let reference = self.settings.embedders.0.get(served).ok_or_else(|| {
            let message = format!("no embedding model `{}` is served here", cut(served));
            ApiError::new(Code::ModelNotFound, message).about("embedder")
        })?;
        Ok(match reference.provider {
            Provider::Openai => format!("openai/{}", reference.name),
            Provider::Local | Provider::Scripted => reference.name.clone(),
        })
    }

    /// How clients are told of an embedder: as it is served, else without where it lies.
    fn shown_embedder(&self, recorded: &str) -> String {
        let of_settings = |reference: &ModelRef| {
            recorded == reference.name || recorded.strip_prefix("openai/") == Some(reference.name.as_str())
        };
        let served = self.settings.embedders.0.iter().find(|(_, reference)| of_settings(reference));
        match served {
            Some((name, _)) => name.clone(),
            None => recorded.rsplit('/').next().unwrap_or(recorded).to_owned(),
        }
    }

    /// Makes an index, empty.
    pub(crate) async fn create_index(&self, store: &Store, body: &NewIndexBody) -> ApiResult<IndexObject> {
        check_name(store.tenant(), &body.name)?;
        let stored = stored_name(store.tenant(), &body.name);
        if store.index_settings(&stored)?.is_some() {
            let message = format!("there is an index `{}` already", body.name);
            return Err(ApiError::new(Code::IndexExists, message).about("name"));
        }
        let embedder = self.embedder_named(&self.embedder_name(body.embedder.as_deref()).await?).await?;
        let settings = body.settings(embedder.identity());
        let quiet = |_: IngestProgress| {};
        let vectors = self.vectors().await?;
        Ingest::new(store, vectors.as_ref(), embedder, &quiet).create(&stored, &settings).await?;
        self.index(store, &body.name)
    }

    /// One index.
    pub(crate) fn index(&self, store: &Store, id: &str) -> ApiResult<IndexObject> {
        let Found { stored, settings } = found(store, id)?;
        let settings: IndexSettings = serde_json::from_value(settings).map_err(ApiError::internal)?;
        let size = store.index_size(&stored, store.tenant().as_str())?;
        Ok(IndexObject {
            object: "index",
            id: id.to_owned(),
            documents: size.documents,
            chunks: size.chunks,
            bytes: bytes_of(&settings, &size),
            embedder: self.shown_embedder(&settings.embedder.name),
            chunk_tokens: settings.chunking.max_tokens as u64,
        })
    }

    /// The tenant's indexes, by name: so many after the name `after`.
    pub(crate) fn list_indexes(&self, store: &Store, after: &str, limit: u32) -> ApiResult<Vec<IndexObject>> {
        let stored = store.indexes()?;
        let mut own: Vec<&str> =
            stored.iter().filter_map(|stored| own_name(store.tenant(), stored)).collect();
        own.sort_unstable();
        own.into_iter()
            .filter(|id| *id > after)
            .take(limit as usize)
            .map(|id| self.index(store, id))
            .collect()
    }

    /// Documents of an index, by name: so many after the name `after`.
    pub(crate) fn index_documents(
        &self,
        store: &Store,
        id: &str,
        after: &str,
        limit: u32,
    ) -> ApiResult<Vec<IndexedDocument>> {
        let stored = found(store, id)?.stored;
        Ok(store.indexed_documents_after(&stored, store.tenant().as_str(), after, limit)?)
    }

    /// The chunks of a document, in its order.
    pub(crate) async fn document_chunks(
        self: &Arc<Self>,
        store: &Store,
        id: &str,
        document: &str,
    ) -> ApiResult<Vec<Chunk>> {
        let (owned, id, name) = (store.clone(), id.to_owned(), document.to_owned());
        let stored = self.blocking(move |_| {
            let stored = found(&owned, &id)?.stored;
            match owned.indexed_document(&stored, owned.tenant().as_str(), &name)? {
                Some(_) => Ok(stored),
                None => Err(ApiError::not_found("document", &name)),
            }
        });
        let stored = stored.await?;
        self.placeless(self.chunks(store, &stored, document)).await
    }

    async fn chunks(&self, store: &Store, stored: &str, document: &str) -> ApiResult<Vec<Chunk>> {
        let tenant = store.tenant().as_str();
        let scope = Scope::of(tenant).visible(shown()).filter(Filter::equals("document", document));
        let (vectors, with) = (self.vectors().await?, With { payload: true, vectors: false });
        let (mut chunks, mut from) = (Vec::new(), None);
        loop {
            let page = vectors.scroll(stored, &scope, from, CHUNKS, with).await?;
            for record in page.records {
                chunks.push(Chunk::from_payload(stored, record.id, tenant, &record.payload)?);
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        chunks.sort_by_key(|chunk| (chunk.start_byte, chunk.end_byte));
        Ok(chunks)
    }

    /// Removes an index. One into which the command line has put documents of others stays.
    pub(crate) async fn remove_index(&self, store: &Store, id: &str) -> ApiResult<()> {
        let stored = found(store, id)?.stored;
        if store.index_tenants(&stored)?.iter().any(|tenant| tenant != store.tenant().as_str()) {
            let message = "others have documents in this index; `evalign rag gc --drop` removes it for all";
            return Err(ApiError::new(Code::IndexExists, message));
        }
        let _only = self.only_writer(&stored)?;
        // The record goes last: whatever stops this, the index is there to be removed again, and no later one of its name
        // finds what is left of it.
        self.vectors().await?.drop_collection(&stored).await?;
        store.keep_bytes(&kept_as(&stored), 0)?;
        store.drop_index(&stored)?;
        Ok(())
    }

    /// Creates the run that adds files to an index.
    pub(crate) fn fill_index(&self, store: &Store, id: &str, body: &DocumentsBody) -> ApiResult<StoredRun> {
        let Found { settings, .. } = found(store, id)?;
        let wrong = |message: &str| Err(ApiError::new(Code::InvalidRequest, message).about("files"));
        if body.files.is_empty() || body.files.len() > MOST_FILES {
            return wrong("name 1 to 1000 files");
        }
        let files: Vec<_> =
            body.files.iter().map(|id| uploads::found(store, id, "files")).collect::<ApiResult<_>>()?;
        uploads::check_room(self, store, files.iter().map(|file| file.bytes).sum())?;
        let mut names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return wrong("two of the files have the same name: documents are known by their names");
        }
        let settings: IndexSettings = serde_json::from_value(settings).map_err(ApiError::internal)?;
        let identity = embedder_identity(&settings.embedder);
        let digests: Vec<_> = files.iter().map(|file| (&file.name, &file.digest)).collect();
        let data = Digest::of_json(&json!(digests));
        let definition = json!({"index": id, "settings": settings});
        let request = IndexRequest {
            procedure: IndexRequest::PROCEDURE.to_owned(),
            run: RunRequest::new(identity.reference.clone(), Vec::new()),
            index: id.to_owned(),
            files: body.files.clone(),
        };
        let spec = job_spec(identity, IndexRequest::PROCEDURE, &definition, (&data, files.len() as u64));
        // The same files again are not the same work: others may have come between.
        self.start_work(store, spec, &request, true)
    }

    /// Adds the files of a run to its index.
    pub(crate) async fn drive_index(
        &self,
        run: &ActiveRun,
        (store, stored): (&Store, &StoredRun),
        cancel: &Cancel,
    ) -> ApiResult<RunStatus> {
        let request: IndexRequest = asked(stored)?;
        let Found { stored: index, settings } = found(store, &request.index)?;
        let mut named = Vec::new();
        for id in &request.files {
            let file = uploads::found(store, id, "files")?;
            named.push((file.name.clone(), uploads::named_place(&self.home, &file)?));
        }
        let embedder = self.embedder_of(&index, &settings).await?;
        let embedder: Arc<dyn Embedder> = Arc::new(CachedEmbedder::new(embedder, store.clone()));
        let ingest_request = IngestRequest {
            index,
            tenant: store.tenant().to_string(),
            inputs: Vec::new(),
            named,
            allow_urls: false,
            settings: serde_json::from_value(settings).map_err(ApiError::internal)?,
            delete_missing: false,
        };
        let notes = Notes::new(self, store, run);
        let progress = |progress: IngestProgress| {
            let note = json!({"documents": progress.documents, "of_documents": progress.of_documents,
                              "chunks": progress.chunks});
            notes.note(&note);
        };
        let vectors = self.vectors().await?;
        let ingest = Ingest::new(store, vectors.as_ref(), embedder, &progress).with_pdf_reader(pdf_reader()?);
        let filling = self.retrieval.filling(&ingest_request.index);
        let work = async {
            let _only = filling.lock().await;
            // What was removed while this waited is not made again.
            found(store, &request.index)?;
            Ok::<_, ApiError>(ingest.run(&ingest_request).await?)
        };
        // Also what a run has written that then failed or was cancelled counts.
        let worked = run.attended(cancel, work).await;
        self.note_bytes(store, &request.index)?;
        let Some(report) = worked? else {
            return Ok(RunStatus::Cancelled);
        };
        notes.last()?;
        let report = self.placeless_document(&json!(report?));
        run.complete(&report)?;
        Ok(RunStatus::Completed)
    }
}

/// The embedder, where a run's specification names a model.
pub(crate) fn embedder_identity(embedder: &EmbedderIdentity) -> ModelIdentity {
    let digest = embedder.digest.clone().unwrap_or_else(|| Digest::of(&embedder.name));
    ModelIdentity {
        reference: ModelRef { provider: Provider::Local, name: embedder.name.clone(), adapter: None },
        weights: digest.clone(),
        tokenizer: digest,
        chat_template: None,
        adapter: None,
        trained_on: None,
        dtype: "none".to_owned(),
        device: "none".to_owned(),
    }
}

/// This program again, for each PDF: a file that breaks its reader costs that file.
fn pdf_reader() -> ApiResult<PdfReader> {
    let program = std::env::current_exe().map_err(ApiError::internal)?;
    Ok(PdfReader::Apart(PdfProcess::new(program, &["rag", "read-pdf"])))
}

#[cfg(test)]
mod tests;
