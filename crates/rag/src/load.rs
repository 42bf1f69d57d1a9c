//! Files to texts, with what the chunker wants to know of their structure.
//!
//! The one decision: a text is either the file's own bytes, so that an offset in the text is one in the file, or
//! it is extracted, and then [`LoadedText::source_start`] is absent and offsets are those of the extracted text.
//! Nothing here is trusted: a document is data, whatever it says of itself.

mod docx;
mod html;
mod pdf;
mod plain;
mod rows;

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use evalign_data::TextKind;

use crate::RagError;
use crate::metadata::Carried;
use crate::records::RowPlace;
pub use pdf::{PdfProcess, PdfReader, PdfRefusal, PdfText, read_pdf};

/// Most bytes of one document. Larger ones are reported as failed.
pub const LARGEST_DOCUMENT_BYTES: u64 = 256 << 20;

/// How a document is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentKind {
    Text,
    Markdown,
    Html,
    Pdf,
    Docx,
    Rust,
    Python,
    Javascript,
    Go,
    Csv,
    Tsv,
    Jsonl,
}

/// A heading and where the text below it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heading {
    pub(crate) start: usize,
    /// 1 is the outermost.
    pub(crate) level: u8,
    pub(crate) title: String,
}

/// A document as text.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedText {
    pub text: String,
    pub kind: DocumentKind,
    /// Where the text begins in the file, if it is a part of the file's bytes.
    pub source_start: Option<u64>,
    pub title: Option<String>,
    /// Where pages begin; the first begins at 0. Empty for formats without pages.
    pub(crate) pages: Vec<usize>,
    pub(crate) headings: Vec<Heading>,
    /// Where the rows of a table are. Empty for everything else.
    pub(crate) rows: Vec<Range<usize>>,
    /// Where each of them is in the file.
    pub(crate) places: Vec<RowPlace>,
    /// What filters go by.
    pub(crate) carried: Carried,
    /// What the user should know: bytes that are no text, pages without any.
    pub notes: Vec<String>,
}

impl LoadedText {
    pub(crate) fn new(text: String, kind: DocumentKind, source_start: Option<u64>) -> Self {
        Self {
            text,
            kind,
            source_start,
            title: None,
            pages: Vec::new(),
            headings: Vec::new(),
            rows: Vec::new(),
            places: Vec::new(),
            carried: Carried::default(),
            notes: Vec::new(),
        }
    }

    /// What filters of a chunk go by: what its document carries, or the row that it lies in; `None` for one that lies in
    /// several.
    pub(crate) fn carried_by(&self, range: &Range<usize>) -> Option<Map<String, Value>> {
        if self.rows.is_empty() {
            return Some(self.carried.of_document().clone());
        }
        let number = self.rows.partition_point(|row| row.end <= range.start);
        let row = self.rows.get(number)?;
        let behind = &self.text[row.end.min(range.end)..range.end];
        behind.trim().is_empty().then(|| self.carried.of_row(number))
    }

    /// The page that a place in the text is on, counted from 1.
    pub(crate) fn page_of(&self, byte: usize) -> Option<u32> {
        let before = self.pages.iter().take_while(|start| **start <= byte).count();
        u32::try_from(before).ok().filter(|page| *page > 0)
    }
}

impl DocumentKind {
    pub(crate) const ALL: [Self; 12] = [
        Self::Text,
        Self::Markdown,
        Self::Html,
        Self::Pdf,
        Self::Docx,
        Self::Rust,
        Self::Python,
        Self::Javascript,
        Self::Go,
        Self::Csv,
        Self::Tsv,
        Self::Jsonl,
    ];

    /// By the name's extension, of a packed table by the one before; `None` for one that is not known.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let extension = Path::new(name).extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "txt" | "text" | "log" | "rst" | "adoc" | "org" | "tex" => Self::Text,
            "md" | "markdown" | "mdx" => Self::Markdown,
            "html" | "htm" | "xhtml" => Self::Html,
            "pdf" => Self::Pdf,
            "docx" => Self::Docx,
            "rs" => Self::Rust,
            "py" | "pyi" => Self::Python,
            "js" | "mjs" | "cjs" | "jsx" => Self::Javascript,
            "go" => Self::Go,
            // Kinds of source without a grammar here are cut at blank lines.
            "c" | "h" | "cc" | "cpp" | "hpp" | "java" | "kt" | "swift" | "rb" | "php" | "cs" | "scala"
            | "sh" | "bash" | "sql" | "lua" | "r" | "jl" | "ts" | "tsx" | "toml" | "yaml" | "yml"
            | "json" | "xml" | "ini" | "cfg" | "css" => Self::Text,
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "jsonl" | "ndjson" => Self::Jsonl,
            "gz" | "zst" => {
                let table = Self::of_name(Path::new(name).file_stem()?.to_str()?)?;
                return table.layout().map(|_| table);
            }
            _ => return None,
        })
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Markdown => "markdown",
            Self::Html => "html",
            Self::Pdf => "pdf",
            Self::Docx => "docx",
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Javascript => "javascript",
            Self::Go => "go",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Jsonl => "jsonl",
        }
    }

    /// How the rows of a table lie in its text; `None` for what is no table.
    pub(crate) fn layout(self) -> Option<TextKind> {
        match self {
            Self::Csv => Some(TextKind::Csv),
            Self::Tsv => Some(TextKind::Tsv),
            Self::Jsonl => Some(TextKind::Jsonl),
            Self::Text
            | Self::Markdown
            | Self::Html
            | Self::Pdf
            | Self::Docx
            | Self::Rust
            | Self::Python
            | Self::Javascript
            | Self::Go => None,
        }
    }
}

/// Reads a document. `path` is where its bytes are on this machine, `pdf_reader` who reads it if it is a PDF.
///
/// # Errors
/// [`RagError::File`] or [`RagError::Row`] for what cannot be read as its kind: encrypted, broken, too large, no text.
pub fn load(
    path: &Path,
    bytes: &[u8],
    kind: DocumentKind,
    pdf_reader: &PdfReader,
) -> Result<LoadedText, RagError> {
    if bytes.len() as u64 > LARGEST_DOCUMENT_BYTES {
        return Err(RagError::file(path, format!("larger than {LARGEST_DOCUMENT_BYTES} bytes")));
    }
    if bytes.is_empty() {
        return Ok(LoadedText::new(String::new(), kind, Some(0)));
    }
    if let Some(layout) = kind.layout() {
        return rows::load(path, bytes, kind, layout);
    }
    match kind {
        DocumentKind::Markdown => plain::load_markdown(path, bytes),
        DocumentKind::Html => html::load(path, &plain::load(path, bytes, kind)?),
        DocumentKind::Pdf => pdf::load(path, bytes, pdf_reader),
        DocumentKind::Docx => docx::load(path, bytes),
        _ => plain::load(path, bytes, kind),
    }
}

/// Whether bytes of an unknown kind look like text: no NUL in the first ones.
#[must_use]
pub fn looks_like_text(bytes: &[u8]) -> bool {
    !bytes[..bytes.len().min(8192)].contains(&0)
}

#[cfg(test)]
mod tests;
