mod apart;
mod limits;

use std::path::Path;

use evalign_data::guarded;
use pdf_extract::{Document, OutputError, PlainTextOutput, output_doc_page};
use serde::{Deserialize, Serialize};

use super::{DocumentKind, LARGEST_DOCUMENT_BYTES, LoadedText};
use crate::RagError;
pub use apart::{PdfProcess, PdfReader};

/// What a PDF says. Another process may have read it, so all of it can be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PdfText {
    text: String,
    /// Where pages begin, in bytes of the text.
    pages: Vec<usize>,
    notes: Vec<String>,
}

/// Why a PDF is not read, and what could be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PdfRefusal {
    message: String,
    hint: String,
}

impl PdfRefusal {
    fn broken(message: &str) -> Self {
        Self {
            message: format!("not a readable PDF: {message}"),
            hint: "open it and save it anew, or take it out of what is indexed".to_owned(),
        }
    }
}

pub(super) fn load(path: &Path, bytes: &[u8], reader: &PdfReader) -> Result<LoadedText, RagError> {
    let read = match reader {
        PdfReader::Here => read_pdf(bytes),
        PdfReader::Apart(process) => process.read(bytes),
    };
    let PdfText { text, pages, notes } = read.map_err(|refusal| RagError::File {
        path: path.to_owned(),
        message: refusal.message,
        hint: Some(refusal.hint),
    })?;
    let mut loaded = LoadedText::new(text, DocumentKind::Pdf, None);
    (loaded.pages, loaded.notes) = (pages, notes);
    Ok(loaded)
}

/// Text page by page, read in this process. A page that cannot be read is said to be so; the others count.
///
/// # Errors
/// A file that is damaged, encrypted, or known to be made against its reader. One that is made so in another way can
/// take the process down: see [`PdfProcess`].
pub fn read_pdf(bytes: &[u8]) -> Result<PdfText, PdfRefusal> {
    let broken = PdfRefusal::broken;
    limits::check_bytes(bytes).map_err(|error| broken(&error))?;
    // The parser panics on some broken files; that must cost the document and nothing else.
    let document = guarded(|| Document::load_mem(bytes))
        .ok_or_else(|| broken("its structure is damaged"))?
        .map_err(|error| broken(&error.to_string()))?;
    let document = decrypted(document)?;
    let nesting = guarded(|| limits::check_nesting(&document));
    nesting.unwrap_or_else(|| Err("its structure is damaged".to_owned())).map_err(|error| broken(&error))?;
    let mut read = PdfText { text: String::new(), pages: Vec::new(), notes: Vec::new() };
    let pages = guarded(|| document.get_pages()).unwrap_or_default();
    if pages.is_empty() {
        return Err(broken("it has no pages"));
    }
    let mut unread = Vec::new();
    for page in pages.keys() {
        let text = guarded(|| page_text(&document, *page)).and_then(Result::ok);
        if text.is_none() {
            unread.push(page.to_string());
        }
        read.pages.push(read.text.len());
        read.text.push_str(&joined(&text.unwrap_or_default()));
        read.text.push('\n');
        if read.text.len() as u64 > LARGEST_DOCUMENT_BYTES {
            return Err(broken(&format!("it holds more than {LARGEST_DOCUMENT_BYTES} bytes of text")));
        }
    }
    if unread.len() == pages.len() {
        return Err(broken("no page of it could be read"));
    }
    if !unread.is_empty() {
        read.notes.push(format!("pages that could not be read: {}", unread.join(", ")));
    }
    if read.text.trim().is_empty() {
        read.notes.push("no text: its pages may be pictures".to_owned());
    }
    Ok(read)
}

/// Many files are encrypted with an empty password, which every reader tries.
fn decrypted(mut document: Document) -> Result<Document, PdfRefusal> {
    if !document.is_encrypted() {
        return Ok(document);
    }
    match guarded(|| document.decrypt("").map(|()| document)) {
        Some(Ok(document)) => Ok(document),
        _ => Err(PdfRefusal {
            message: "the PDF is encrypted".to_owned(),
            hint: "remove its password first".to_owned(),
        }),
    }
}

fn page_text(document: &Document, page: u32) -> Result<String, OutputError> {
    let mut text = String::new();
    output_doc_page(document, &mut PlainTextOutput::new(&mut text), page)?;
    Ok(text)
}

/// Words that were cut at the end of a line become whole; lines lose the space around them.
fn joined(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    for line in page.trim().lines().map(str::trim) {
        let cut = text.strip_suffix("-\n").is_some_and(|before| before.ends_with(char::is_lowercase));
        if cut && line.starts_with(char::is_lowercase) {
            text.truncate(text.len() - 2);
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}
