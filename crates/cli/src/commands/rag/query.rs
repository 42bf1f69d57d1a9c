use evalign_core::ModelRef;
use evalign_model::LoadOptions;
use evalign_rag::answer::{Answer, AnswerOptions, Answerer, Claim};
use evalign_rag::{Chunk, Citation, QueryPlan, SearchOptions, Standing};

use super::open::{check_index, embedder, openai_options, reranker, vector_store};
use super::search::show;
use crate::Verdict;
use crate::args::RagQueryArgs;
use crate::commands::context::{load_model, open_store};
use crate::output::{Failure, Output};

pub(super) async fn query(args: &RagQueryArgs, output: Output) -> Result<Verdict, Failure> {
    let state = open_store()?;
    let evidence = &args.evidence;
    let search = SearchOptions { explain: args.explain, ..evidence.options()? };
    if evidence.expansions().is_empty() {
        QueryPlan::of(&args.question).check(search.mode)?;
    }
    let vectors = vector_store(args.place.store).await?;
    check_index(&state, vectors.as_ref(), (&args.place.index, &args.place.tenant), output).await?;
    let embedder = embedder(&args.embedder, &args.place.index, args.base_url.clone(), &state, output).await?;
    let openai = openai_options(args.base_url.clone());
    let loading = LoadOptions { offline: args.embedder.offline, openai, ..LoadOptions::default() };
    let load = |reference: &ModelRef| load_model(reference, &loading, output);
    let model = args.model.as_ref().map(load).transpose()?;
    let reranker = match &evidence.rerank {
        Some(name) => Some(reranker(name, &args.embedder, load, output).await?),
        None => None,
    };
    let mut options = AnswerOptions {
        search,
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
    if args.json {
        output.json(&answerer.answer(&args.question, &options).await?)?;
        return Ok(Verdict::Good);
    }
    let mut spoken = Spoken { output, text: String::new(), failure: None };
    let answer = answerer.answer_aloud(&args.question, &options, &mut |claim| spoken.hear(claim)).await?;
    tell(&answer, spoken, args.explain, output)?;
    Ok(Verdict::Good)
}

/// What was shown of an answer while it was written.
struct Spoken {
    output: Output,
    text: String,
    /// Why no more could be shown.
    failure: Option<Failure>,
}

impl Spoken {
    fn hear(&mut self, claim: &Claim) {
        let space = if self.text.is_empty() { "" } else { " " };
        let part = format!("{space}{}", claim.text);
        if self.failure.is_none() {
            self.failure = self.output.part(&part).err();
        }
        self.text.push_str(&part);
    }

    /// Shows what is missing of the whole, or all of it where it came out otherwise.
    fn finish(self, text: &str, is_answer: bool) -> Result<(), Failure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        match text.strip_prefix(&self.text) {
            Some(rest) if is_answer || self.text.is_empty() => self.output.result(rest),
            _ => {
                self.output.result("")?;
                self.output.note("note: the model went on otherwise than it began: this is its answer");
                self.output.result(text)
            }
        }
    }
}

fn tell(answer: &Answer, spoken: Spoken, explain: bool, output: Output) -> Result<(), Failure> {
    match (&answer.text, &answer.abstained) {
        (Some(text), _) => spoken.finish(text, true)?,
        (None, reason) => {
            let reason = reason.as_deref().unwrap_or("nothing was found");
            let text = format!(
                "No answer: {reason} (confidence {:.2}, {:.2} is needed).",
                answer.confidence, answer.threshold
            );
            spoken.finish(&text, false)?;
        }
    }
    for warning in &answer.warnings {
        output.note(&format!("warning: {}: `{}`", warning.message, warning.citation.quote));
    }
    for note in &answer.notes {
        output.note(&format!("note: {note}"));
    }
    for claim in answer.claims.iter().filter(|claim| !claim.supported) {
        output.result(&format!("unsupported: {}", claim.text))?;
    }
    for (index, citation) in answer.claims.iter().flat_map(|claim| &claim.citations).enumerate() {
        output.result(&format!("\n[{}] {}\n    \"{}\"", index + 1, place(citation), citation.quote))?;
        citation.copies.iter().try_for_each(|copy| output.result(&format!("    also in {}", place(copy))))?;
    }
    if explain {
        output.result("\nFound:")?;
        show(&answer.hits, true, output)?;
    }
    Ok(())
}

/// `handbook.md, Power > Replacing the battery, bytes 12 to 50`; of a table `prices.csv, line 3, bytes 40 to 52`, or the row
/// with what of it the quote holds as it is: `prices.csv, line 3, row at bytes 30 to 60 (as it stands: 40 to 52)`.
fn place(citation: &Citation) -> String {
    let mut parts = vec![citation.document.0.clone()];
    if let Some(page) = citation.page {
        parts.push(format!("page {page}"));
    }
    if !citation.section.is_empty() {
        parts.push(citation.section.join(" > "));
    }
    if let (Standing::Text, Some(record)) = (citation.stands_in, &citation.record) {
        parts.push(record.to_string());
        return parts.join(", ");
    }
    parts.extend(citation.record.as_ref().map(|record| format!("line {}", record.place.line)));
    let start = citation.file_start_byte.unwrap_or(citation.start_byte);
    let end = start + citation.end_byte - citation.start_byte;
    let of = match citation.stands_in {
        Standing::Text => " of its text",
        Standing::File => "",
        Standing::Unpacked => " of what it unpacks to",
    };
    parts.push(format!("bytes {start} to {end}{of}"));
    parts.join(", ")
}
