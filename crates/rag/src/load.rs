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

use crate::RagError;
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
            notes: Vec::new(),
        }
    }

    /// The page that a place in the text is on, counted from 1.
    pub(crate) fn page_of(&self, byte: usize) -> Option<u32> {
        let before = self.pages.iter().take_while(|start| **start <= byte).count();
        u32::try_from(before).ok().filter(|page| *page > 0)
    }
}

impl DocumentKind {
    pub(crate) const ALL: [Self; 11] = [
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
        Self::Jsonl,
    ];

    /// By the name's extension; `None` for one that is not known.
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
            "csv" | "tsv" => Self::Csv,
            "jsonl" | "ndjson" => Self::Jsonl,
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
            Self::Jsonl => "jsonl",
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
    match kind {
        DocumentKind::Text
        | DocumentKind::Rust
        | DocumentKind::Python
        | DocumentKind::Javascript
        | DocumentKind::Go => plain::load(path, bytes, kind),
        DocumentKind::Markdown => plain::load_markdown(path, bytes),
        DocumentKind::Html => html::load(path, &plain::load(path, bytes, kind)?),
        DocumentKind::Pdf => pdf::load(path, bytes, pdf_reader),
        DocumentKind::Docx => docx::load(path, bytes),
        DocumentKind::Csv | DocumentKind::Jsonl => rows::load(path, kind),
    }
}

/// Whether bytes of an unknown kind look like text: no NUL in the first ones.
#[must_use]
pub fn looks_like_text(bytes: &[u8]) -> bool {
    !bytes[..bytes.len().min(8192)].contains(&0)
}

#[cfg(test)]
mod tests;
