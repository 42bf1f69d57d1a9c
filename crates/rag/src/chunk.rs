use evalign_core::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::{Builder, Uuid};

use crate::{Embedder, RagError, RecordPlace};

/// A document's name within its tenant and index: its path or URL as it was given to `rag index`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DocumentId(pub String);

/// A piece of a document as it is stored and cited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    pub id: Uuid,
    pub tenant: String,
    pub document: DocumentId,
    /// Digest of the document's bytes: which version of the document this chunk is of.
    pub revision: Digest,
    /// Of `text` within the document's text, end exclusive.
    pub start_byte: u64,
    pub end_byte: u64,
    /// Of a table: where what the text was put together from stands in the file.
    pub record: Option<RecordPlace>,
    /// Counts from 1; only for paged formats.
    pub page: Option<u32>,
    /// Headings above the chunk, the outermost first.
    pub section: Vec<String>,
    pub text: String,
    /// Context put before the text for searching, never shown as a quote.
    pub prefix: Option<String>,
    pub metadata: Map<String, Value>,
}

/// Payload field that keeps a version out of searches until all of it is there.
pub const STAGED_FIELD: &str = "staged";

impl Chunk {
    /// The chunk as a point's payload; whose it is the store adds.
    pub(crate) fn payload(&self) -> Map<String, Value> {
        let fields = json!({
            "document": self.document,
            "revision": self.revision,
            "start_byte": self.start_byte,
            "end_byte": self.end_byte,
            "record": self.record,
            "page": self.page,
            "section": self.section,
            "text": self.text,
            "prefix": self.prefix,
            "metadata": self.metadata,
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    /// Reads [`Chunk::payload`] back.
    ///
    /// # Errors
    /// [`RagError::Index`] for a point that no indexer wrote.
    pub fn from_payload(
        index: &str,
        id: Uuid,
        tenant: &str,
        payload: &Map<String, Value>,
    ) -> Result<Self, RagError> {
        let mut fields = payload.clone();
        fields.insert("id".to_owned(), Value::from(id.to_string()));
        fields.insert("tenant".to_owned(), Value::from(tenant));
        serde_json::from_value(Value::Object(fields)).map_err(|error| {
            RagError::index(
                index,
                format!("point {id} is no chunk: {error}"),
                "another program wrote to this collection; index into one of its own",
            )
        })
    }

    /// What is embedded and weighed: the context before the text, where there is one.
    #[must_use]
    pub fn searched_text(&self) -> String {
        in_context(self.prefix.as_deref(), &self.text)
    }

    /// The same content, cut the same way, has the same ids (`version` is the digest of both), so indexing it
    /// again is idempotent; another tenant's never does, so no tenant can overwrite another's.
    #[must_use]
    pub fn point_id(tenant: &str, index: &str, version: &Digest, start_byte: u64, text: &str) -> Uuid {
        point_id(&[tenant, index, version.as_str(), &start_byte.to_string(), text])
    }
}

/// The title of a chunk's document and the headings above the chunk, `Title > Section > ...`, where the embedder can read
/// them together with its text.
pub(crate) fn context_of(
    title: &str,
    section: &[String],
    text: &str,
    embedder: &dyn Embedder,
) -> Option<String> {
    let above = section.iter().map(String::as_str).filter(|heading| *heading != title);
    let context = std::iter::once(title).chain(above).collect::<Vec<_>>().join(" > ");
    let tokens = embedder.count_tokens(&in_context(Some(&context), text));
    (tokens <= embedder.identity().max_tokens).then_some(context)
}

/// What is searched of a text.
pub(crate) fn in_context(context: Option<&str>, text: &str) -> String {
    match context {
        Some(context) => format!("{context} {text}"),
        None => text.to_owned(),
    }
}

/// A UUID (version 8, RFC 9562 section 5.8) of the SHA-256 of the parts, whose boundaries count.
pub(crate) fn point_id(parts: &[&str]) -> Uuid {
    let digest = Digest::of_json(&Value::from(parts));
    let mut bytes = [0u8; 16];
    for (byte, hex) in bytes.iter_mut().zip(digest.as_str().as_bytes().chunks_exact(2)) {
        *byte = hex.iter().fold(0, |value, digit| value << 4 | hex_value(*digit));
    }
    Builder::from_custom_bytes(bytes).into_uuid()
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.wrapping_sub(b'a').wrapping_add(10),
    }
}
