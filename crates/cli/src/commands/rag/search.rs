use evalign_core::ModelRef;
use evalign_model::LoadOptions;
use evalign_rag::{
    Chunk, Expansion, Hit, LegKind, LegShare, LookedUp, Lookup, QueryPlan, RecordPlace, SearchMode,
    SearchOptions, Searcher,
};
use serde::Deserialize as _;

use super::open::{check_index, embedder, openai_options, reranker, vector_store};
use crate::Verdict;
use crate::args::RagSearchArgs;
use crate::commands::context::{load_model, open_store};
use crate::output::{Failure, Output};

/// Characters of a chunk that are shown.
const SNIPPET: usize = 200;

pub(super) async fn search(args: &RagSearchArgs, output: Output) -> Result<Verdict, Failure> {
    let filter = Chunk::filters(&args.filters)?;
    let options = SearchOptions {
        limit: args.top_k,
        mmr: args.mmr,
        explain: args.explain,
        ..args.search.options(!args.expansions.is_empty())?
    };
    let state = open_store()?;
    let vectors = vector_store(args.place.store).await?;
    let (index, tenant) = (args.place.index.as_str(), args.place.tenant.as_str());
    check_index(&state, vectors.as_ref(), (index, tenant), output).await?;
    if args.expansions.is_empty() {
        QueryPlan::of(&args.query).check(options.mode)?;
    }
    let embedder = match options.mode {
        SearchMode::Bm25 => None,
        SearchMode::Dense | SearchMode::Hybrid => {
            Some(embedder(&args.embedder, &args.place.index, None, &state, output).await?)
        }
    };
    let load = |reference: &ModelRef| load_model(reference, &loading(args), output);
    let expansions: Vec<Expansion> = args.expansions.iter().map(|kind| kind.expansion()).collect();
    let model = args.model.as_ref().filter(|_| !expansions.is_empty()).map(load).transpose()?;
    let reranker = match &args.rerank.reranker {
        Some(name) => Some(reranker(name, &args.embedder, load, output).await?),
        None => None,
    };
    let lookup = Lookup {
        state: &state,
        searcher: Searcher::new(vectors.as_ref(), embedder.as_deref()),
        index,
        tenant,
        filter,
        expansions: &expansions,
        model: model.as_ref(),
        rerank: reranker.as_ref().map(|reranker| (reranker, args.rerank.rerank_depth)),
    };
    let LookedUp { hits, added, notes } = lookup.hits(&args.query, &options).await?;
    let added = added.into_iter().filter(|_| args.explain);
    for note in notes.into_iter().chain(added) {
        output.note(&format!("note: {note}"));
    }
    if args.json {
        output.json(&hits)?;
        return Ok(Verdict::Good);
    }
    if hits.is_empty() {
        output.note("nothing was found");
    }
    show(&hits, args.explain, output)?;
    Ok(Verdict::Good)
}

fn loading(args: &RagSearchArgs) -> LoadOptions {
    let openai = openai_options(args.server.base_url.clone());
    LoadOptions { offline: args.embedder.offline, openai, ..LoadOptions::default() }
}

/// Hits in their order, with `explain` why each is where it is.
pub(super) fn show(hits: &[Hit], explain: bool, output: Output) -> Result<(), Failure> {
    let several = hits.iter().flat_map(|hit| &hit.legs).any(|leg| leg.query > 0);
    hits.iter().try_for_each(|hit| {
        let mut text = hit_text(hit);
        if explain {
            text += &reasons(hit, several);
        }
        output.result(&text)
    })
}

/// A hit with its place and the beginning of its text.
fn hit_text(hit: &Hit) -> String {
    let field = |name: &str| hit.payload.get(name);
    let document = field("document").and_then(|value| value.as_str()).unwrap_or("?");
    let page = field("page").and_then(|page| u32::deserialize(page).ok());
    let record = field("record").and_then(|record| RecordPlace::deserialize(record).ok());
    let chunk = field("text").and_then(|value| value.as_str()).unwrap_or_default();
    let words = chunk.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = words.chars().take(SNIPPET).collect();
    let more = if cut.len() < words.len() { "..." } else { "" };
    let place = within(page, record);
    let mut text = format!("{}. {document}{place}  {:.4}\n   {cut}{more}", hit.rank, hit.score);
    for copy in &hit.copies {
        text += &format!("\n   also in {}{}", copy.document.0, within(copy.page, copy.record));
    }
    text
}

/// Where in its document, as far as the document has pages or records.
fn within(page: Option<u32>, record: Option<RecordPlace>) -> String {
    let page = page.map(|page| format!(", page {page}"));
    let record = record.map(|record| format!(", {record}"));
    page.or(record).unwrap_or_default()
}

/// Why a hit is where it is, a line each.
fn reasons(hit: &Hit, several: bool) -> String {
    let mut text = String::new();
    if let Some(rerank) = hit.rerank {
        text += &format!("\n   judged {:.4}, before: rank {}", rerank.relevance, rerank.rank_before);
    }
    for leg in &hit.legs {
        text += &format!("\n   {}", leg_text(leg, several));
    }
    for term in &hit.terms {
        text += &format!("\n     `{}` x{}: {:.4}", term.term, term.count, term.contribution);
    }
    text
}

/// `several`: queries were looked for, of which 0 is the question.
fn leg_text(leg: &LegShare, several: bool) -> String {
    let name = match leg.leg {
        LegKind::Bm25 => "bm25",
        LegKind::Dense => "dense",
    };
    let query = if several { format!(", query {}", leg.query) } else { String::new() };
    let moved = if leg.moved { " (of a vector moved towards the first hits)" } else { "" };
    format!("{name}{query}: rank {}, score {:.4}{moved}, gave {:.5}", leg.rank, leg.score, leg.share)
}
