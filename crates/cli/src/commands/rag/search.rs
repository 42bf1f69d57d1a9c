use evalign_core::ModelRef;
use evalign_model::LoadOptions;
use evalign_rag::ingest::check_presence;
use evalign_rag::{Chunk, Expansion, Hit, LegKind, LegShare, QueryPlan, Scope, SearchMode, Searcher, rerank};

use super::open::{check_index, embedder, openai_options, reranker, vector_store};
use crate::Verdict;
use crate::args::RagSearchArgs;
use crate::commands::context::{load_model, open_store};
use crate::output::{Failure, Output};

/// Characters of a chunk that are shown.
const SNIPPET: usize = 200;

pub(super) async fn search(args: &RagSearchArgs, output: Output) -> Result<Verdict, Failure> {
    let scope = Scope::of(&args.place.tenant)
        .visible(evalign_rag::ingest::shown())
        .filter(Chunk::filters(&args.filters)?);
    let mut options = args.search.options(!args.expansions.is_empty())?;
    options.limit =
        if args.rerank.reranker.is_some() { args.rerank.rerank_depth.max(args.top_k) } else { args.top_k };
    options.mmr = args.mmr;
    options.explain = args.explain;
    let state = open_store()?;
    let vectors = vector_store(args.place.store).await?;
    let place = (args.place.index.as_str(), args.place.tenant.as_str());
    check_index(&state, vectors.as_ref(), place).await?;
    let embedder = match options.mode {
        SearchMode::Bm25 => None,
        SearchMode::Dense | SearchMode::Hybrid => {
            Some(embedder(&args.embedder, &args.place.index, None, &state, output).await?)
        }
    };
    let searcher = Searcher::new(vectors.as_ref(), embedder.as_deref());
    let plan = plan(args, output).await?;
    let mut hits = searcher.search(&args.place.index, &scope, &plan, &options).await?;
    if let Some(name) = &args.rerank.reranker {
        let load = |reference: &ModelRef| load_model(reference, &loading(args), output);
        let reranker = reranker(name, &args.embedder, load, output).await?;
        hits = rerank(place, &args.query, &reranker, hits, args.top_k).await?;
    }
    if hits.is_empty() {
        check_presence(&state, vectors.as_ref(), place).await?;
    }
    if args.json {
        output.json(&hits)?;
        return Ok(Verdict::Good);
    }
    if hits.is_empty() {
        output.note("nothing was found");
    }
    for hit in &hits {
        output.result(&hit_text(hit, args.explain))?;
    }
    Ok(Verdict::Good)
}

fn loading(args: &RagSearchArgs) -> LoadOptions {
    let openai = openai_options(args.server.base_url.clone());
    LoadOptions { offline: args.embedder.offline, openai, ..LoadOptions::default() }
}

async fn plan(args: &RagSearchArgs, output: Output) -> Result<QueryPlan, Failure> {
    let Some(model) = args.model.as_ref().filter(|_| !args.expansions.is_empty()) else {
        return Ok(QueryPlan::of(&args.query));
    };
    let model = load_model(model, &loading(args), output)?;
    let expansions: Vec<Expansion> = args.expansions.iter().map(|kind| kind.expansion()).collect();
    let (plan, notes) = QueryPlan::expanded(&args.query, &expansions, &model).await?;
    for note in notes {
        output.note(&format!("note: {note}"));
    }
    Ok(plan)
}

/// A hit with its place and the beginning of its text.
pub(super) fn hit_text(hit: &Hit, explain: bool) -> String {
    let field = |name: &str| hit.payload.get(name);
    let document = field("document").and_then(|value| value.as_str()).unwrap_or("?");
    let page = field("page").and_then(serde_json::Value::as_u64).map(|page| format!(", page {page}"));
    let chunk = field("text").and_then(|value| value.as_str()).unwrap_or_default();
    let words = chunk.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = words.chars().take(SNIPPET).collect();
    let more = if cut.len() < words.len() { "..." } else { "" };
    let mut text =
        format!("{}. {document}{}  {:.4}\n   {cut}{more}", hit.rank, page.unwrap_or_default(), hit.score);
    if explain {
        if let Some(rerank) = hit.rerank {
            text += &format!("\n   judged {:.4}, before: rank {}", rerank.relevance, rerank.rank_before);
        }
        for leg in &hit.legs {
            text += &format!("\n   {}", leg_text(leg));
        }
        for term in &hit.terms {
            text += &format!("\n     `{}` x{}: {:.4}", term.term, term.count, term.contribution);
        }
    }
    text
}

fn leg_text(leg: &LegShare) -> String {
    let name = match leg.leg {
        LegKind::Bm25 => "bm25",
        LegKind::Dense => "dense",
    };
    format!("{name}: rank {}, score {:.4}, gave {:.5}", leg.rank, leg.score, leg.share)
}
