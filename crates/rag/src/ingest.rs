//! Documents into an index: incremental, and whole after any crash.
//!
//! ```text
//! file -> unchanged?  -> nothing
//!      -> chunks -> vectors -> points, staged -> flush, count
//!         -> the new version shown -> flush -> the old one hidden -> flush -> recorded in SQLite
//! end of the run: what is gone and what is hidden is deleted, BM25 weights made again if lengths drifted
//! ```
//!
//! The one decision: SQLite says what is indexed, and says it last. A crash anywhere leaves points that the next
//! run writes again under the same ids; a document that is being replaced is found in its old or its new
//! version at every moment.

mod batch;
mod fields;
mod presence;
mod report;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use evalign_core::Digest;
use evalign_store::{IndexCommit, IndexedDocument, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::chunk::STAGED_FIELD;
use crate::chunker::ChunkSettings;
use crate::load::PdfReader;
use crate::sources::{SourceFile, Sources, UPLOADED};
use crate::{
    CollectionSpec, Condition, Embedder, EmbedderIdentity, FieldKind, Filter, RagError, Scope, VectorStore,
};
use batch::Batch;
pub use fields::check_metadata;
pub use presence::check_presence;
use report::NotesByReason;
pub use report::{IngestFailure, IngestNote, IngestReport};
use weights::TenantStatistics;

/// Part of every version: raised when the same bytes become other chunks, or chunks that carry something else.
const LOADER_VERSION: u32 = 3;

/// How an index is made. What is recorded with the first document stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexSettings {
    pub embedder: EmbedderIdentity,
    pub chunking: ChunkSettings,
    pub scalar_quantisation: bool,
}

impl IndexSettings {
    /// What the collection is made for. What documents carry is indexed as they come.
    fn collection(&self) -> CollectionSpec {
        CollectionSpec {
            dimension: Some(self.embedder.dimension),
            indexed_fields: ["document", "version", "kind"]
                .map(|field| (field, FieldKind::Keyword))
                .into_iter()
                .chain([(STAGED_FIELD, FieldKind::Bool)])
                .map(|(field, kind)| (field.to_owned(), kind))
                .collect(),
            scalar_quantisation: self.scalar_quantisation,
        }
    }
}

/// What to index, where.
#[derive(Clone, Debug, PartialEq)]
pub struct IngestRequest {
    pub index: String,
    pub tenant: String,
    /// Files, directories, patterns, addresses.
    pub inputs: Vec<String>,
    /// Files under names of their own, which are the documents' names: what was uploaded. A file takes the place of
    /// an earlier one of its name.
    pub named: Vec<(String, PathBuf)>,
    /// Addresses may be fetched, on the public internet only.
    pub allow_urls: bool,
    pub settings: IndexSettings,
    /// Documents under the inputs that are no longer there are deleted.
    pub delete_missing: bool,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngestProgress {
    pub documents: usize,
    pub of_documents: usize,
    pub chunks: u64,
}

/// Writes documents into one store.
pub struct Ingest<'a> {
    pub(crate) state: &'a Store,
    pub(crate) vectors: &'a dyn VectorStore,
    pub(crate) embedder: Arc<dyn Embedder>,
    progress: &'a (dyn Fn(IngestProgress) + Sync),
    pdf_reader: PdfReader,
}

impl std::fmt::Debug for Ingest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").field("vectors", &self.vectors.place()).finish_non_exhaustive()
    }
}

/// What is only true of shown points.
#[must_use]
pub fn shown() -> Filter {
    Filter::default().and_not(Condition::Equals { key: STAGED_FIELD.to_owned(), value: Value::Bool(true) })
}

impl<'a> Ingest<'a> {
    #[must_use]
    pub fn new(
        state: &'a Store,
        vectors: &'a dyn VectorStore,
        embedder: Arc<dyn Embedder>,
        progress: &'a (dyn Fn(IngestProgress) + Sync),
    ) -> Self {
        Self { state, vectors, embedder, progress, pdf_reader: PdfReader::default() }
    }

    /// Who reads PDFs; without this, this process does.
    #[must_use]
    pub fn with_pdf_reader(mut self, pdf_reader: PdfReader) -> Self {
        self.pdf_reader = pdf_reader;
        self
    }

    /// Brings the index to what the inputs hold. Running it again after a crash goes on where it stopped.
    ///
    /// # Errors
    /// An input that names nothing, settings that contradict the index, a store or embedder that fails. A document
    /// that cannot be read is none: it is in the report, and its last good version stays.
    pub async fn run(&self, request: &IngestRequest) -> Result<IngestReport, RagError> {
        let started = std::time::Instant::now();
        request.settings.chunking.check(request.settings.embedder.max_tokens)?;
        let mut sources = Sources::find(&request.inputs)?;
        sources.add_named(&request.named);
        // Kept until the pages have been read.
        let pages = sources.fetch(&request.inputs, request.allow_urls).await?;
        let known = self.known(request)?;
        if sources.is_empty() && known.is_empty() && !request.inputs.is_empty() {
            return Err(RagError::invalid(
                request.inputs.join(", "),
                "there is nothing to read",
                "name a directory with documents; files whose names begin with a dot are left out",
            ));
        }
        self.create(&request.index, &request.settings).await?;
        let mut report = IngestReport::of(&sources);
        let mut run = Run::new(self, request, &known, &mut report)?;
        run.all(&sources).await?;
        let gone = if request.delete_missing { run.gone(&sources) } else { Vec::new() };
        run.note_absent(&sources, &gone);
        run.finish(gone).await?;
        drop(pages);
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Removes documents of the tenant from the index by their names, and tells which were there. Doing it again after a
    /// crash goes on where it stopped.
    ///
    /// # Errors
    /// A store or embedder that fails.
    pub async fn remove(&self, request: &IngestRequest, names: &[String]) -> Result<IngestReport, RagError> {
        let known = self.known(request)?;
        let mut report = IngestReport::of(&Sources::default());
        let mut run = Run::new(self, request, &known, &mut report)?;
        // A run that died may have hidden what is recorded: `finish` takes away what is hidden.
        run.show_recorded().await?;
        run.finish(names.iter().filter(|name| known.contains_key(*name)).cloned().collect()).await?;
        Ok(report)
    }

    /// Makes the collection and holds the settings against the recorded ones.
    ///
    /// # Errors
    /// Settings that make no sense or contradict the recorded ones, a store that fails.
    pub async fn create(&self, index: &str, settings: &IndexSettings) -> Result<(), RagError> {
        settings.chunking.check(settings.embedder.max_tokens)?;
        let given = json!(settings);
        if let Some(recorded) = self.state.index_settings(index)?
            && recorded != given
        {
            return Err(RagError::index(
                index,
                format!("it was made otherwise: {}", differences(&recorded, &given)),
                "leave these options out or give them as they were, or make a new index",
            ));
        }
        self.vectors.ensure(index, &settings.collection()).await?;
        Ok(self.state.put_index(index, &given)?)
    }

    fn known(&self, request: &IngestRequest) -> Result<BTreeMap<String, IndexedDocument>, RagError> {
        let documents = self.state.indexed_documents(&request.index, &request.tenant)?;
        Ok(documents.into_iter().map(|document| (document.document.clone(), document)).collect())
    }

    fn statistics(&self, request: &IngestRequest) -> Result<TenantStatistics, RagError> {
        TenantStatistics::recorded(self.state, (&request.index, &request.tenant))
    }
}

/// Field names whose recorded and given values differ.
fn differences(recorded: &Value, given: &Value) -> String {
    let mut found = Vec::new();
    let part = |value: &Value, path: &str| value.pointer(path).cloned().unwrap_or_default();
    for (path, name) in [
        ("/embedder/name", "embedder"),
        ("/embedder/digest", "embedder's weights"),
        ("/embedder/dimension", "vector length"),
        ("/chunking/strategy", "--chunk-by"),
        ("/chunking/max_tokens", "--chunk-tokens"),
        ("/chunking/overlap_tokens", "--chunk-overlap"),
        ("/chunking/prefix", "--prefix"),
        ("/scalar_quantisation", "--scalar-quantisation"),
    ] {
        let (was, is) = (part(recorded, path), part(given, path));
        if was != is {
            found.push(format!("{name} was {was}, not {is}"));
        }
    }
    if found.is_empty() { "its embedder reads texts differently".to_owned() } else { found.join(", ") }
}

/// One run under way.
struct Run<'r, 'a> {
    ingest: &'r Ingest<'a>,
    request: &'r IngestRequest,
    statistics: TenantStatistics,
    known: &'r BTreeMap<String, IndexedDocument>,
    /// Recorded, and not in this store.
    absent: BTreeSet<String>,
    /// Of the fields that documents carry: recorded, and of documents of the batch.
    names: BTreeSet<String>,
    untold: NotesByReason,
    report: &'r mut IngestReport,
}

impl<'r, 'a> Run<'r, 'a> {
    fn new(
        ingest: &'r Ingest<'a>,
        request: &'r IngestRequest,
        known: &'r BTreeMap<String, IndexedDocument>,
        report: &'r mut IngestReport,
    ) -> Result<Self, RagError> {
        let statistics = ingest.statistics(request)?;
        let names = statistics.fields.names();
        let (absent, untold) = (BTreeSet::new(), NotesByReason::default());
        Ok(Self { ingest, request, statistics, known, absent, names, untold, report })
    }
}

impl Run<'_, '_> {
    fn scope(&self) -> Scope {
        Scope::of(&self.request.tenant)
    }

    /// Digest of everything that decides a document's chunks.
    fn version(&self, name: &str, revision: &Digest) -> Digest {
        Digest::of_json(&json!([LOADER_VERSION, name, revision, self.request.settings]))
    }

    async fn all(&mut self, sources: &Sources) -> Result<(), RagError> {
        self.show_recorded().await?;
        self.absent = self.absent().await?;
        self.index_fields(None).await?;
        let originals = originals(sources);
        let mut batch = Batch::default();
        for (done, (name, file)) in sources.files.iter().enumerate() {
            self.one(name, file, &originals, &mut batch);
            if batch.is_full() {
                self.write(std::mem::take(&mut batch)).await?;
            }
            (self.ingest.progress)(IngestProgress {
                documents: done + 1,
                of_documents: sources.files.len(),
                chunks: self.report.chunks,
            });
        }
        self.write(batch).await?;
        self.report.notes.extend(std::mem::take(&mut self.untold).notes());
        Ok(())
    }

    /// Shows the recorded versions of documents of which a run died after it had hidden them: whatever becomes of their
    /// files meanwhile, these count until others are recorded.
    async fn show_recorded(&self) -> Result<(), RagError> {
        let recorded = self.statistics.unrecorded.iter().filter_map(|name| self.known.get(name));
        let versions: Vec<Value> = recorded.map(|document| json!(document.version)).collect();
        if versions.is_empty() {
            return Ok(());
        }
        let condition = Condition::AnyOf { key: "version".to_owned(), values: versions };
        let recorded = self.scope().filter(Filter { must: vec![condition], must_not: Vec::new() });
        self.stage(&recorded, false).await
    }

    /// Decides what has to be done for a file, and puts that into the batch.
    fn one(&mut self, name: &str, file: &SourceFile, originals: &BTreeMap<&Digest, &str>, batch: &mut Batch) {
        let version = self.version(name, &file.revision);
        let known = self.known.get(name);
        let original = originals.get(&file.revision).copied().filter(|original| *original != name);
        if let Some(original) = original {
            self.report.duplicates.push((name.to_owned(), original.to_owned()));
        }
        if let Some(other) = known.and_then(|known| another_file(known, file)) {
            let message = format!("`{name}` is indexed from {other}");
            let hint = "give absolute paths, or use an index for each of them".to_owned();
            let error = RagError::File { path: file.path.clone(), message, hint: Some(hint) };
            return self.report.fail(name, error);
        }
        let is_here = known.is_some() && !self.absent.contains(name);
        let is_recorded = !self.statistics.unrecorded.contains(name);
        if known.is_some_and(|known| known.version == version) && is_here && is_recorded {
            self.report.unchanged += 1;
            return;
        }
        match batch::prepare(self, (name, file), &version, original) {
            Ok(document) => {
                self.report.notes.extend(document.notes.iter().cloned());
                self.untold.add(name, &document.untold);
                self.names.extend(document.fields().keys().cloned());
                match is_here {
                    true => self.report.updated += 1,
                    false => self.report.added += 1,
                }
                batch.push(document);
            }
            Err(error) => self.report.fail(name, error),
        }
    }

    /// What is gone is deleted, and with it everything hidden; nothing before this deletes anything.
    async fn finish(&mut self, gone: Vec<String>) -> Result<(), RagError> {
        let (index, vectors) = (self.request.index.as_str(), self.ingest.vectors);
        for name in &gone {
            let document = self.scope().filter(Filter::equals("document", name.as_str()));
            vectors.delete(index, &document).await?;
            if vectors.count(index, &document).await? > 0 {
                let message = format!("`{name}` could not be deleted from the vector store");
                return Err(RagError::index(index, message, "run the same command again"));
            }
        }
        let hidden = self.scope().filter(Filter::equals(STAGED_FIELD, true));
        vectors.delete(index, &hidden).await?;
        vectors.flush(index).await?;
        for name in &gone {
            self.statistics.remove(self.known.get(name));
        }
        self.statistics.fields.forget_gone();
        let commit = IndexCommit {
            deleted: gone.clone(),
            statistics: json!(self.statistics),
            ..IndexCommit::default()
        };
        self.ingest.state.commit_documents(index, &self.request.tenant, commit)?;
        self.report.deleted = gone;
        self.delete_unrecorded().await?;
        self.weigh_again().await?;
        vectors.optimise(index).await
    }

    /// Deletes versions that a run showed and died before it recorded them. Which documents these can be of was noted
    /// before they were shown; points of documents that this store knows nothing of are somebody else's.
    async fn delete_unrecorded(&mut self) -> Result<(), RagError> {
        let (index, vectors) = (self.request.index.as_str(), self.ingest.vectors);
        let noted = std::mem::take(&mut self.statistics.unrecorded);
        if noted.is_empty() {
            return Ok(());
        }
        let recorded = self.ingest.known(self.request)?;
        for name in &noted {
            let version = recorded.get(name).map(|document| Condition::Equals {
                key: "version".to_owned(),
                value: json!(document.version),
            });
            let mut others = Filter::equals("document", name.as_str());
            others.must_not.extend(version);
            vectors.delete(index, &self.scope().filter(others)).await?;
        }
        vectors.flush(index).await?;
        let commit = IndexCommit { statistics: json!(self.statistics), ..IndexCommit::default() };
        Ok(self.ingest.state.commit_documents(index, &self.request.tenant, commit)?)
    }

    /// What this store lacks and this run was not given.
    fn note_absent(&mut self, sources: &Sources, gone: &[String]) {
        let given = |name: &String| sources.files.contains_key(name) || gone.contains(name);
        self.report.absent = self.absent.iter().filter(|name| !given(name)).cloned().collect();
    }

    /// Documents found through the same inputs before and not now. One that could not be read is not gone, and
    /// neither is what lies below a directory that could not be read.
    fn gone(&self, sources: &Sources) -> Vec<String> {
        let unread = || sources.failed.iter().map(|(name, _)| name).chain(&sources.dangling);
        let under = |document: &IndexedDocument| {
            let below = |path: &str| sources.roots.iter().any(|root| is_at_or_below(path, root));
            // Found through another name of the same place, and no longer there.
            let path = document.details["path"].as_str().filter(|path| below(path));
            sources.roots.contains(&document.root) || path.is_some_and(|path| !Path::new(path).exists())
        };
        self.known
            .values()
            .filter(|document| under(document) && !sources.files.contains_key(&document.document))
            .map(|document| document.document.clone())
            .filter(|name| !unread().any(|unread| is_at_or_below(name, unread)))
            .collect()
    }
}

/// The file that a document was indexed from, where that is another one: names are as they were typed, and two
/// directories may have the same. Pages have a file for as long as the run.
fn another_file(known: &IndexedDocument, file: &SourceFile) -> Option<String> {
    let path = known.details["path"].as_str()?;
    let is_address = known.document.contains("://");
    let is_upload = known.root == UPLOADED && file.root == UPLOADED;
    (!is_address && !is_upload && Path::new(path) != file.path).then(|| path.to_owned())
}

/// Whether a document is what a name means, or lies in the directory that it means. An empty name means everything.
fn is_at_or_below(document: &str, name: &str) -> bool {
    let name = name.trim_end_matches('/');
    document
        .strip_prefix(name)
        .is_some_and(|rest| name.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// For each content the first document that has it, by name.
fn originals(sources: &Sources) -> BTreeMap<&Digest, &str> {
    let mut originals: BTreeMap<&Digest, &str> = BTreeMap::new();
    for (name, file) in &sources.files {
        originals.entry(&file.revision).or_insert(name);
    }
    originals
}

#[cfg(test)]
mod tests;
