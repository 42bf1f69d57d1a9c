//! A few documents on their way into the index together.

use std::collections::BTreeSet;

use evalign_core::Digest;
use evalign_store::{IndexCommit, IndexedDocument};
use serde_json::{Map, Value, json};

use super::fields::{admitted, only, written};
use super::{IngestNote, Run, shown};
use crate::chunk::{STAGED_FIELD, context_of};
use crate::chunker::{ChunkPlace, chunks};
use crate::injection::orders_in;
use crate::load::{DocumentKind, LARGEST_DOCUMENT_BYTES, LoadedText, load};
use crate::metadata::{Fields, METADATA_FIELD, Untold, ValueKind};
use crate::records::{blocks, record_of};
use crate::sources::SourceFile;
use crate::{Analyzer, Chunk, Condition, DocumentId, Filter, Point, RagError, Scope, TextRole};

/// Chunks that are embedded and written together, and documents that are shown together: enough for full steps of
/// the encoder, few enough that a crash costs seconds.
const CHUNKS_TOGETHER: usize = 256;
const DOCUMENTS_TOGETHER: usize = 256;
/// How much of a suspicious sentence a report shows.
const SHOWN_CHARACTERS: usize = 80;

/// A document with the places of its chunks. A chunk itself repeats its text and much else: it is made when it is
/// written.
#[derive(Debug)]
pub(super) struct Prepared {
    record: IndexedDocument,
    kind: DocumentKind,
    loaded: LoadedText,
    places: Vec<ChunkPlace>,
    /// Of all chunks' searched texts.
    terms: u64,
    /// Of all chunks, special tokens not included.
    tokens: u64,
    /// What the chunks carry.
    fields: Fields,
    pub(super) notes: Vec<IngestNote>,
    /// What of its metadata filters do not find.
    pub(super) untold: Vec<Untold>,
}

#[derive(Debug, Default)]
pub(super) struct Batch {
    documents: Vec<Prepared>,
    chunks: usize,
}

impl Batch {
    pub(super) fn push(&mut self, document: Prepared) {
        self.chunks += document.places.len();
        self.documents.push(document);
    }

    pub(super) fn is_full(&self) -> bool {
        self.chunks >= CHUNKS_TOGETHER || self.documents.len() >= DOCUMENTS_TOGETHER
    }

    /// What documents of it carry.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&String, &BTreeSet<ValueKind>)> {
        self.documents.iter().flat_map(|document| &document.fields)
    }

    fn versions(&self) -> Vec<Value> {
        self.documents.iter().map(|document| json!(document.record.version)).collect()
    }
}

/// Reads and cuts a document. `original` has the same bytes.
pub(super) fn prepare(
    run: &Run<'_, '_>,
    (name, file): (&str, &SourceFile),
    version: &Digest,
    original: Option<&str>,
) -> Result<Prepared, RagError> {
    let length = fs_err::metadata(&file.path).map_err(|error| RagError::file(&file.path, error))?.len();
    if length > LARGEST_DOCUMENT_BYTES {
        return Err(RagError::file(&file.path, format!("larger than {LARGEST_DOCUMENT_BYTES} bytes")));
    }
    let bytes = fs_err::read(&file.path).map_err(|error| RagError::file(&file.path, error))?;
    if Digest::of(&bytes) != file.revision {
        return Err(RagError::file(&file.path, "it changed while it was being read"));
    }
    let loaded = load(&file.path, &bytes, file.kind, &run.ingest.pdf_reader)?;
    let embedder = &run.ingest.embedder;
    let special = embedder.count_tokens("");
    let count = |text: &str| embedder.count_tokens(text).saturating_sub(special);
    let places = chunks(&loaded, run.request.settings.chunking, &count);
    let text = (!loaded.text.is_empty()).then(|| Digest::of(&loaded.text));
    let record = IndexedDocument {
        document: name.to_owned(),
        root: file.root.clone(),
        revision: file.revision.clone(),
        version: version.clone(),
        text,
        chunks: places.len() as u64,
        duplicate_of: original.map(str::to_owned),
        details: json!({
            // Text for whatever was found; the place of an upload or of a page is held against nothing.
            "path": file.path.to_string_lossy(),
            "kind": file.kind,
            "title": loaded.title,
            "source_start": loaded.source_start,
            "has_places": !loaded.places.is_empty(),
        }),
    };
    let notes = notes(name, &loaded);
    let untold = loaded.carried.notes().collect();
    let (kind, fields) = (file.kind, Fields::new());
    let mut prepared = Prepared { record, kind, loaded, places, terms: 0, tokens: 0, fields, notes, untold };
    let analyzer = Analyzer::english();
    for place in &prepared.places {
        let chunk = prepared.chunk(run, place);
        prepared.terms += analyzer.terms(&chunk.searched_text()).len() as u64;
        prepared.tokens += count(&chunk.text) as u64;
    }
    prepared.record.details["terms"] = json!(prepared.terms);
    prepared.take_fields(&run.names);
    Ok(prepared)
}

impl Prepared {
    fn chunk(&self, run: &Run<'_, '_>, place: &ChunkPlace) -> Chunk {
        let (request, record) = (run.request, &self.record);
        let text = &self.loaded.text[place.range.clone()];
        let (start_byte, end_byte) = (place.range.start as u64, place.range.end as u64);
        let mut metadata = Map::new();
        metadata.insert("kind".to_owned(), Value::from(self.kind.name()));
        Chunk {
            id: Chunk::point_id(&request.tenant, &request.index, &record.version, start_byte, text),
            tenant: request.tenant.clone(),
            document: DocumentId(record.document.clone()),
            revision: record.revision.clone(),
            start_byte,
            end_byte,
            record: record_of(&self.loaded.places, start_byte..end_byte),
            page: place.page,
            section: place.section.clone(),
            text: text.to_owned(),
            prefix: self.prefix(run, place, text),
            metadata,
        }
    }

    pub(super) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Finds what the chunks carry, as far as the index has room for names.
    fn take_fields(&mut self, known: &BTreeSet<String>) {
        let (mut fields, mut without) = (Fields::new(), 0);
        for place in &self.places {
            let Some(carried) = self.loaded.carried_by(&place.range) else {
                without += 1;
                continue;
            };
            for (name, value) in carried {
                fields.entry(name).or_default().extend(ValueKind::all_of(&value));
            }
        }
        let (fields, left_out) = admitted(fields, known);
        self.fields = fields;
        self.record.details["fields"] = Value::from(written(&self.fields));
        if without > 0 {
            let chunks = match without {
                1 => "1 chunk lies".to_owned(),
                several => format!("{several} chunks lie"),
            };
            let note =
                format!("{chunks} in several rows, which no filter finds by a column: cut it by structure");
            self.untold.push(("several rows", note));
        }
        if let Some(first) = left_out.first() {
            let fields = match left_out.len() {
                1 => "1 field is".to_owned(),
                several => format!("{several} fields are"),
            };
            let first = first.escape_debug();
            let note = format!(
                "{fields} not kept for filters, `{first}` first: the documents of the index have too many already"
            );
            self.untold.push(("too many names", note));
        }
    }

    /// A chunk as its point's payload.
    fn payload(&self, place: &ChunkPlace, chunk: &Chunk, staged: bool) -> Map<String, Value> {
        let mut payload = chunk.payload();
        payload.insert("version".to_owned(), json!(self.record.version));
        payload.insert("kind".to_owned(), chunk.metadata["kind"].clone());
        payload.insert(STAGED_FIELD.to_owned(), Value::Bool(staged));
        let carried = only(self.loaded.carried_by(&place.range).unwrap_or_default(), &self.fields);
        if !carried.is_empty() {
            payload.insert(METADATA_FIELD.to_owned(), Value::Object(carried));
        }
        payload
    }

    /// A document without a title is called by its name.
    fn prefix(&self, run: &Run<'_, '_>, place: &ChunkPlace, text: &str) -> Option<String> {
        if !run.request.settings.chunking.prefix {
            return None;
        }
        let title = self.loaded.title.as_deref().unwrap_or(&self.record.document);
        context_of(title, &place.section, text, run.ingest.embedder.as_ref())
    }
}

fn notes(name: &str, loaded: &LoadedText) -> Vec<IngestNote> {
    let note = |note: String, suspicious| IngestNote { document: name.to_owned(), note, suspicious };
    let mut notes: Vec<IngestNote> = loaded.notes.iter().map(|text| note(text.clone(), false)).collect();
    let orders = orders_in(&loaded.text);
    if let Some(first) = orders.first() {
        let quote: String = loaded.text[first.start..].chars().take(SHOWN_CHARACTERS).collect();
        let text = format!(
            "{} whoever reads it as a machine, first at byte {}: `{}`",
            match orders.len() {
                1 => "a place addresses".to_owned(),
                several => format!("{several} places address"),
            },
            first.start,
            quote.split_whitespace().collect::<Vec<_>>().join(" ")
        );
        notes.push(note(text, true));
    }
    notes
}

impl Run<'_, '_> {
    /// Writes, verifies and shows the documents, then records them. See the crate's drawing for the order.
    pub(super) async fn write(&mut self, batch: Batch) -> Result<(), RagError> {
        if batch.documents.is_empty() {
            return Ok(());
        }
        for document in &batch.documents {
            self.statistics.remove(self.known.get(&document.record.document));
            self.statistics.add(document.record.chunks, document.terms, &document.fields);
        }
        self.index_fields(Some(&batch)).await?;
        self.upsert(&batch).await?;
        self.verify(&batch, &self.scope()).await?;
        self.note(&batch)?;
        self.show(&batch).await?;
        self.verify(&batch, &self.scope().visible(shown())).await?;
        self.record(batch)?;
        // As for a run that starts here after a crash: both keep the same names.
        self.names = self.statistics.fields.names();
        Ok(())
    }

    /// Notes in SQLite whose versions are about to be shown. The statistics stay those of what is recorded.
    fn note(&self, batch: &Batch) -> Result<(), RagError> {
        let mut recorded = self.ingest.statistics(self.request)?;
        let names = batch.documents.iter().map(|document| document.record.document.clone());
        recorded.unrecorded.extend(names);
        let commit = IndexCommit { statistics: json!(recorded), ..IndexCommit::default() };
        Ok(self.ingest.state.commit_documents(&self.request.index, &self.request.tenant, commit)?)
    }

    async fn upsert(&mut self, batch: &Batch) -> Result<(), RagError> {
        let (index, vectors) = (self.request.index.as_str(), self.ingest.vectors);
        let (analyzer, bm25) = (Analyzer::english(), self.statistics.bm25());
        let mut places = Vec::new();
        for document in &batch.documents {
            // A run that died after it had begun to show this version: hiding it again would make a gap.
            let version = self.scope().filter(Filter::equals("version", json!(document.record.version)));
            let staged = vectors.count(index, &version.visible(shown())).await? == 0;
            places.extend(document.places.iter().map(|place| (document, place, staged)));
        }
        self.report.chunks += places.len() as u64;
        self.report.tokens += batch.documents.iter().map(|document| document.tokens).sum::<u64>();
        // What a chunk becomes takes much more memory than the chunk: it is there for one group at a time.
        for group in places.chunks(CHUNKS_TOGETHER) {
            let chunks: Vec<Chunk> =
                group.iter().map(|(document, place, _)| document.chunk(self, place)).collect();
            let texts: Vec<String> = chunks.iter().map(Chunk::searched_text).collect();
            let dense = self.ingest.embedder.embed(&texts, TextRole::Passage).await?;
            let points = group.iter().zip(&chunks).zip(texts.iter().zip(dense)).map(
                |(((document, place, staged), chunk), (text, dense))| Point {
                    id: chunk.id,
                    tenant: self.request.tenant.clone(),
                    dense: Some(dense),
                    sparse: bm25.document(&analyzer.terms(text)),
                    payload: document.payload(place, chunk, *staged),
                },
            );
            vectors.upsert(index, points.collect()).await?;
        }
        vectors.flush(index).await
    }

    /// Nothing is shown before all of it is there, and nothing recorded before all of it is shown.
    async fn verify(&self, batch: &Batch, scope: &Scope) -> Result<(), RagError> {
        for document in &batch.documents {
            let version = scope.clone().filter(Filter::equals("version", json!(document.record.version)));
            let found = self.ingest.vectors.count(&self.request.index, &version).await?;
            if found != document.record.chunks {
                let message = format!(
                    "of the {} chunks of `{}` the vector store has {found}",
                    document.record.chunks, document.record.document
                );
                return Err(RagError::index(&self.request.index, message, "run the same command again"));
            }
        }
        Ok(())
    }

    async fn show(&self, batch: &Batch) -> Result<(), RagError> {
        let versions = || Condition::AnyOf { key: "version".to_owned(), values: batch.versions() };
        let new = self.scope().filter(Filter { must: vec![versions()], must_not: Vec::new() });
        self.stage(&new, false).await?;
        // Whatever else there is of these documents, recorded or shown by a run that died before it recorded it.
        let names = batch.documents.iter().map(|document| Value::from(document.record.document.as_str()));
        let documents = Condition::AnyOf { key: "document".to_owned(), values: names.collect() };
        let old = self.scope().filter(Filter { must: vec![documents], must_not: vec![versions()] });
        if self.ingest.vectors.count(&self.request.index, &old).await? == 0 {
            return Ok(());
        }
        self.stage(&old, true).await
    }

    /// On disk before anything else happens: the order of these steps is what leaves no gap.
    pub(super) async fn stage(&self, scope: &Scope, staged: bool) -> Result<(), RagError> {
        let mut payload = Map::new();
        payload.insert(STAGED_FIELD.to_owned(), Value::Bool(staged));
        self.ingest.vectors.set_payload(&self.request.index, scope, payload).await?;
        self.ingest.vectors.flush(&self.request.index).await
    }

    fn record(&mut self, batch: Batch) -> Result<(), RagError> {
        let mut commit = IndexCommit { statistics: json!(self.statistics), ..IndexCommit::default() };
        for document in batch.documents {
            let Prepared { record, loaded, .. } = &document;
            commit.places.extend(blocks(&record.document, &record.version, &loaded.places));
            commit.texts.extend(document.record.text.clone().map(|digest| (digest, document.loaded.text)));
            commit.indexed.push(document.record);
        }
        Ok(self.ingest.state.commit_documents(&self.request.index, &self.request.tenant, commit)?)
    }
}
