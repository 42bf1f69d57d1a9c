use std::collections::BTreeMap;

use evalign_data::DataError;
use serde::Serialize;

use crate::RagError;
use crate::metadata::Untold;
use crate::sources::Sources;

/// What became of every document of a run. One that is recorded, and whose chunks are not in this store, is added.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct IngestReport {
    pub added: usize,
    pub updated: usize,
    pub unchanged: usize,
    pub deleted: Vec<String>,
    pub failed: Vec<IngestFailure>,
    /// Documents with the bytes of another one, and that one.
    pub duplicates: Vec<(String, String)>,
    /// Documents of other inputs that are recorded, and not in this store.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<String>,
    /// Files that hold no text.
    pub skipped: Vec<String>,
    pub notes: Vec<IngestNote>,
    /// Written in this run.
    pub chunks: u64,
    /// Of these chunks, special tokens not included.
    pub tokens: u64,
    pub seconds: f64,
}

/// A document that could not be read. Its last good version, if there is one, stays in the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IngestFailure {
    pub document: String,
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What the user should know of a document that was indexed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IngestNote {
    pub document: String,
    pub note: String,
    /// The document gives orders to whoever reads it. They are not followed.
    pub suspicious: bool,
}

/// What filters do not find, a note for each reason: one for each of ten thousand documents would bury the others.
#[derive(Debug, Default)]
pub(super) struct NotesByReason(BTreeMap<&'static str, (IngestNote, usize)>);

impl NotesByReason {
    pub(super) fn add(&mut self, document: &str, untold: &[Untold]) {
        for (reason, note) in untold {
            let first =
                || IngestNote { document: document.to_owned(), note: note.clone(), suspicious: false };
            self.0.entry(reason).or_insert_with(|| (first(), 0)).1 += 1;
        }
    }

    /// The first document's note, with the number of the others.
    pub(super) fn notes(self) -> impl Iterator<Item = IngestNote> {
        self.0.into_values().map(|(mut note, documents)| {
            note.note += &match documents.saturating_sub(1) {
                0 => String::new(),
                1 => "; 1 other document is like it".to_owned(),
                others => format!("; {others} other documents are like it"),
            };
            note
        })
    }
}

impl IngestFailure {
    /// The reason, with the document's name where it does not say it.
    #[must_use]
    pub fn reason_with_name(&self) -> String {
        match self.reason.contains(&self.document) {
            true => self.reason.clone(),
            false => format!("{}: {}", self.document, self.reason),
        }
    }
}

impl IngestReport {
    pub(super) fn of(sources: &Sources) -> Self {
        let failure = |(document, reason): &(String, String)| IngestFailure {
            document: document.clone(),
            reason: reason.clone(),
            hint: None,
        };
        let link = |(document, reason): &(String, String)| IngestNote {
            document: document.clone(),
            note: reason.clone(),
            suspicious: false,
        };
        Self {
            failed: sources.failed.iter().map(failure).collect(),
            notes: sources.not_followed.iter().map(link).collect(),
            skipped: sources.skipped.clone(),
            ..Self::default()
        }
    }

    /// Under the name that the document was given, wherever its bytes lie.
    pub(super) fn fail(&mut self, document: &str, mut error: RagError) {
        if let RagError::File { path, .. }
        | RagError::Data(DataError::File { path, .. } | DataError::Row { path, .. }) = &mut error
        {
            *path = document.into();
        }
        self.failed.push(IngestFailure {
            document: document.to_owned(),
            reason: error.to_string(),
            hint: evalign_core::Hint::hint(&error),
        });
    }
}
