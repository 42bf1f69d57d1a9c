//! Indexes of documents: what is in them, and a place to ask them.

use std::sync::Arc;

use axum::extract::State;
use evalign_rag::answer::{Answer, Claim};
use evalign_rag::{Chunk, Citation, Hit, LegKind, NamedWay};
use evalign_store::{KeyScope, Store};
use http::StatusCode;
use minijinja::context;
use serde::{Deserialize, Serialize};

use super::{ON_A_PAGE, Page, first, given, page, serialized};
use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{IdPath, Query, Tenanted};
use crate::indexes::{AnswerBody, DocumentObject, SearchBody};

/// Hits of a question, unless another number is asked for.
const HITS: usize = 5;

pub(super) async fn list(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<IndexPage>,
) -> Page {
    let (caller, after) = (tenanted.caller.clone(), query.after.unwrap_or_default());
    let indexes = app.blocking(move |app| app.list_indexes(&tenanted.store, &after, ON_A_PAGE + 1)).await?;
    let (indexes, next) = first(indexes, |index| &index.id);
    let content = context! { title => "Indexes", indexes => serialized(&indexes), next };
    Ok(page(StatusCode::OK, "indexes", Some(&caller), content))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IndexPage {
    /// The last document, or index, of the page before.
    after: Option<String>,
}

pub(super) async fn index(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
    Query(query): Query<IndexPage>,
) -> Page {
    let caller = tenanted.caller.clone();
    let (name, after) = (id.clone(), query.after.unwrap_or_default());
    let (index, documents) = app
        .blocking(move |app| {
            let documents = app.index_documents(&tenanted.store, &id, &after, ON_A_PAGE + 1)?;
            Ok((app.index(&tenanted.store, &id)?, documents))
        })
        .await?;
    let documents = documents.into_iter().map(DocumentObject::from).collect();
    let (shown, next) = first(documents, |document| &document.id);
    let title = format!("Index {name}");
    let content = context! {
        title, index => serialized(&index), documents => serialized(&shown), next,
    };
    Ok(page(StatusCode::OK, "index", Some(&caller), content))
}

/// A document, and a place in it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DocumentPage {
    name: String,
    /// Bytes of the document's text to be marked, end exclusive.
    from: Option<u64>,
    to: Option<u64>,
}

/// A part of a text, cited or not.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Piece {
    text: String,
    is_cited: bool,
}

#[derive(Serialize)]
struct ChunkView {
    section: Vec<String>,
    page: Option<u32>,
    record: Option<String>,
    start_byte: u64,
    end_byte: u64,
    pieces: Vec<Piece>,
    /// What an address with a place in the document leads to.
    is_target: bool,
}

impl ChunkView {
    /// `cited`: bytes of the document's text.
    fn of(chunk: &Chunk, cited: &[(u64, u64)]) -> Self {
        Self {
            section: chunk.section.clone(),
            page: chunk.page,
            record: chunk.record.map(|record| record.to_string()),
            start_byte: chunk.start_byte,
            end_byte: chunk.end_byte,
            pieces: pieces(&chunk.text, chunk.start_byte, cited),
            is_target: false,
        }
    }
}

/// A text that begins at a byte of its document, cut where what is cited of the document begins and ends.
fn pieces(text: &str, start: u64, cited: &[(u64, u64)]) -> Vec<Piece> {
    let within =
        |byte: u64| usize::try_from(byte.saturating_sub(start)).unwrap_or(usize::MAX).min(text.len());
    let mut ranges: Vec<(usize, usize)> =
        cited.iter().map(|(from, to)| (within(*from), within(*to))).collect();
    // Whatever an address says, no character is cut.
    ranges.retain(|(from, to)| from < to && text.is_char_boundary(*from) && text.is_char_boundary(*to));
    ranges.sort_unstable();
    let mut pieces = Vec::new();
    let mut push = |text: &str, is_cited| {
        if !text.is_empty() {
            pieces.push(Piece { text: text.to_owned(), is_cited });
        }
    };
    let mut at = 0;
    for (from, to) in ranges {
        // Citations may overlap.
        let from = from.max(at);
        if from < to {
            push(&text[at..from], false);
            push(&text[from..to], true);
            at = to;
        }
    }
    push(&text[at..], false);
    pieces
}

pub(super) async fn document(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
    Query(query): Query<DocumentPage>,
) -> Page {
    let caller = tenanted.caller;
    let DocumentPage { name, from, to } = query;
    let chunks = app.document_chunks(&tenanted.store, &id, &name).await?;
    let cited: Vec<(u64, u64)> = from.zip(to).into_iter().collect();
    let mut chunks: Vec<ChunkView> = chunks.iter().map(|chunk| ChunkView::of(chunk, &cited)).collect();
    // Chunks may overlap.
    if let Some(first) = chunks.iter_mut().find(|chunk| chunk.pieces.iter().any(|piece| piece.is_cited)) {
        first.is_target = true;
    }
    let content = context! { title => name, index => id, chunks => serialized(&chunks) };
    Ok(page(StatusCode::OK, "document", Some(&caller), content))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskPage {
    question: Option<String>,
    mode: Option<NamedWay>,
    limit: Option<usize>,
    model: Option<String>,
}

#[derive(Serialize)]
struct HitView {
    rank: usize,
    document: String,
    /// Other documents with the same text.
    copies: Vec<String>,
    chunk: ChunkView,
    score: f64,
    legs: Vec<LegView>,
    terms: Vec<(String, f64)>,
}

#[derive(Serialize)]
struct LegView {
    leg: &'static str,
    rank: usize,
    score: f64,
}

#[derive(Serialize)]
struct AnswerView {
    text: Option<String>,
    abstained: Option<String>,
    confidence: f64,
    threshold: f64,
    claims: Vec<ClaimView>,
    warnings: Vec<(String, CitationView)>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct ClaimView {
    text: String,
    is_supported: bool,
    citations: Vec<CitationView>,
}

#[derive(Serialize)]
struct CitationView {
    document: String,
    quote: String,
    section: Vec<String>,
    page: Option<u32>,
    /// Of the document's text, as [`DocumentPage`] has them.
    from: u64,
    to: u64,
    record: Option<String>,
    copies: Vec<Self>,
}

impl From<&Citation> for CitationView {
    fn from(citation: &Citation) -> Self {
        Self {
            document: citation.document.0.clone(),
            quote: citation.quote.clone(),
            section: citation.section.clone(),
            page: citation.page,
            from: citation.start_byte,
            to: citation.end_byte,
            record: citation.record.as_ref().map(|record| record.place.to_string()),
            copies: citation.copies.iter().map(Self::from).collect(),
        }
    }
}

impl From<&Answer> for AnswerView {
    fn from(answer: &Answer) -> Self {
        let claim = |claim: &Claim| ClaimView {
            text: claim.text.clone(),
            is_supported: claim.supported,
            citations: claim.citations.iter().map(CitationView::from).collect(),
        };
        Self {
            text: answer.text.clone(),
            abstained: answer.abstained.clone(),
            confidence: answer.confidence,
            threshold: answer.threshold,
            claims: answer.claims.iter().map(claim).collect(),
            warnings: answer.warnings.iter().map(|w| (w.message.clone(), (&w.citation).into())).collect(),
            notes: answer.notes.clone(),
        }
    }
}

/// A hit with what the answer quotes of it marked.
fn hit_view(store: &Store, index: &str, hit: &Hit, answer: &Answer) -> ApiResult<HitView> {
    let chunk = Chunk::from_payload(index, hit.id, store.tenant().as_str(), &hit.payload)?;
    let quotes = answer.claims.iter().flat_map(|claim| &claim.citations);
    // What is cited in a copy is cited here too.
    let quotes = quotes.flat_map(|quote| std::iter::once(quote).chain(&quote.copies));
    let of_document = quotes.filter(|citation| citation.document == chunk.document);
    let cited: Vec<(u64, u64)> = of_document.map(|quote| (quote.start_byte, quote.end_byte)).collect();
    let leg = |leg: &evalign_rag::LegShare| LegView {
        leg: match leg.leg {
            LegKind::Bm25 => "words",
            LegKind::Dense => "vectors",
        },
        rank: leg.rank,
        score: leg.score,
    };
    Ok(HitView {
        rank: hit.rank,
        document: chunk.document.0.clone(),
        copies: hit.copies.iter().map(|copy| copy.document.0.clone()).collect(),
        chunk: ChunkView::of(&chunk, &cited),
        score: hit.score,
        legs: hit.legs.iter().map(leg).collect(),
        terms: hit.terms.iter().map(|term| (term.term.clone(), term.contribution)).collect(),
    })
}

/// A question and what became of it. It changes nothing, so that it has an address of its own; asking costs as much as
/// over REST and needs the same scope.
pub(super) async fn ask(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
    Query(query): Query<AskPage>,
) -> Page {
    let Tenanted { caller, store } = tenanted;
    let AskPage { question, mode, limit, model } = query;
    let (question, model) = (given(question), given(model));
    let (mode, limit) = (mode.unwrap_or_default(), limit.unwrap_or(HITS));
    let (owned, name) = (store.clone(), id.clone());
    let index = app.blocking(move |app| app.index(&owned, &name)).await?;
    let mut found = None;
    if let Some(question) = &question {
        if caller.scope < KeyScope::Run {
            return Err(ApiError::new(Code::Forbidden, "asking needs a key of scope `run`"));
        }
        let body = SearchBody { explain: true, ..SearchBody::of(question.clone(), limit, mode) };
        let hits = app.search_index(&store, &id, &body).await?.hits;
        let body = AnswerBody::of(question.clone(), model.clone(), limit);
        let answer = app.answer_from_index(&store, &id, &body).await?;
        let hits: Vec<HitView> =
            hits.iter().map(|hit| hit_view(&store, &id, hit, &answer)).collect::<ApiResult<_>>()?;
        found = Some((AnswerView::from(&answer), hits));
    }
    let (answer, hits) = found.unzip();
    let models: Vec<String> = app.models.names().map(str::to_owned).collect();
    let content = context! {
        title => format!("Ask {}", index.id),
        index => index.id,
        question,
        mode => serialized(mode),
        limit,
        model,
        models,
        answer => serialized(answer),
        hits => serialized(hits.unwrap_or_default()),
    };
    Ok(page(StatusCode::OK, "ask", Some(&caller), content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cited_is_marked_and_nothing_else() {
        let text = "The battery lasts. It is grün.";
        let marked = |cited: &[(u64, u64)]| -> Vec<(String, bool)> {
            pieces(text, 100, cited).into_iter().map(|piece| (piece.text, piece.is_cited)).collect()
        };
        let whole = vec![(text.to_owned(), false)];
        assert_eq!(marked(&[]), whole);
        assert_eq!(marked(&[(0, 50), (500, 600), (120, 110)]), whole, "of other chunks, or of nothing");
        let battery = [("The ", false), ("battery", true), (" lasts. It is grün.", false)];
        assert_eq!(marked(&[(104, 111)]), battery.map(|(text, cited)| (text.to_owned(), cited)));
        let overlapping = [("The battery", true), (" lasts", true), (". It is grün.", false)];
        assert_eq!(
            marked(&[(90, 111), (104, 117)]),
            overlapping.map(|(text, cited)| (text.to_owned(), cited))
        );
        assert_eq!(marked(&[(126, 128)]), whole, "not within a character");
        assert_eq!(pieces("", 0, &[(0, 9)]), []);
    }
}
