use evalign_core::ModelRef;
use evalign_model::{LoadOptions, OpenAiOptions};
use evalign_rag::answer::{Answer, AnswerOptions, Answerer};
use evalign_rag::{Chunk, Citation, RagError, SearchOptions};

use super::open::{embedder, reranker, vector_store};
use crate::Verdict;
use crate::args::RagQueryArgs;
use crate::commands::context::{load_model, open_store};
use crate::output::{Failure, Output};

pub(super) async fn query(args: &RagQueryArgs, output: Output) -> Result<Verdict, Failure> {
    let state = open_store()?;
    if state.index_settings(&args.place.index)?.is_none() {
        return Err(RagError::Index {
            index: args.place.index.clone(),
            message: "there is no such index".to_owned(),
            hint: Some(format!("`evalign rag index DIR --index {}` makes it", args.place.index)),
        }
        .into());
    }
    let vectors = vector_store(args.place.store).await?;
    let embedder = embedder(&args.embedder, &args.place.index, args.base_url.clone(), &state, output).await?;
    let openai = OpenAiOptions { base_url: args.base_url.clone(), ..OpenAiOptions::default() };
    let loading = LoadOptions { offline: args.embedder.offline, openai, ..LoadOptions::default() };
    let load = |reference: &ModelRef| load_model(reference, &loading, output);
    let model = args.model.as_ref().map(load).transpose()?;
    let evidence = &args.evidence;
    let reranker = match &evidence.rerank {
        Some(name) => Some(reranker(name, &args.embedder, load, output).await?),
        None => None,
    };
    let mut options = AnswerOptions {
        search: SearchOptions { explain: args.explain, ..evidence.options() },
        filter: Chunk::filters(&evidence.filters)?,
        expansions: evidence.expansions(),
        ..AnswerOptions::default()
    };
    options.threshold = evidence.min_confidence.unwrap_or(options.threshold);
    let answerer = Answerer {
        state: &state,
        vectors: vectors.as_ref(),
        embedder: embedder.as_ref(),
        model,
        reranker,
        index: &args.place.index,
        tenant: &args.place.tenant,
    };
    let answer = answerer.answer(&args.question, &options).await?;
    if args.json {
        output.json(&answer)?;
    } else {
        tell(&answer, args.explain, output)?;
    }
    Ok(Verdict::Good)
}

fn tell(answer: &Answer, explain: bool, output: Output) -> Result<(), Failure> {
    for warning in &answer.warnings {
        output.note(&format!("warning: {}: `{}`", warning.message, warning.citation.quote));
    }
    for note in &answer.notes {
        output.note(&format!("note: {note}"));
    }
    match (&answer.text, &answer.abstained) {
        (Some(text), _) => output.result(text)?,
        (None, reason) => {
            let reason = reason.as_deref().unwrap_or("nothing was found");
            output.result(&format!(
                "No answer: {reason} (confidence {:.2}, {:.2} is needed).",
                answer.confidence, answer.threshold
            ))?;
        }
    }
    for claim in answer.claims.iter().filter(|claim| !claim.supported) {
        output.result(&format!("unsupported: {}", claim.text))?;
    }
    for (index, citation) in answer.claims.iter().flat_map(|claim| &claim.citations).enumerate() {
        output.result(&format!("\n[{}] {}\n    \"{}\"", index + 1, place(citation), citation.quote))?;
    }
    if explain {
        output.json(&answer.hits)?;
    }
    Ok(())
}

/// `handbook.md, Power > Replacing the battery, bytes 12 to 50`.
fn place(citation: &Citation) -> String {
    let mut parts = vec![citation.document.0.clone()];
    if let Some(page) = citation.page {
        parts.push(format!("page {page}"));
    }
    if !citation.section.is_empty() {
        parts.push(citation.section.join(" > "));
    }
    let (start, length) = (citation.start_byte, citation.end_byte - citation.start_byte);
    match citation.file_start_byte {
        Some(start) => parts.push(format!("bytes {start} to {}", start + length)),
        None => parts.push(format!("bytes {start} to {} of its text", start + length)),
    }
    parts.join(", ")
}
