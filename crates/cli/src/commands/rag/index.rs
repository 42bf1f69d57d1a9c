use std::io::Read;
use std::sync::Arc;

use evalign_rag::Embedder as _;
use evalign_rag::chunker::{ChunkSettings, Strategy};
use evalign_rag::embed::CachedEmbedder;
use evalign_rag::ingest::{IndexSettings, Ingest, IngestProgress, IngestReport, IngestRequest};
use evalign_rag::load::{self, PdfProcess, PdfReader};

use super::open::{embedder, vector_store};
use crate::Verdict;
use crate::args::{ChunkBy, RagIndexArgs};
use crate::commands::context::open_store;
use crate::commands::procedure::interrupted;
use crate::commands::progress::IngestBar;
use crate::output::{Failure, Output};

pub(super) async fn index(args: &RagIndexArgs, output: Output) -> Result<Verdict, Failure> {
    let state = open_store()?;
    let vectors = vector_store(args.place.store).await?;
    let embedder = embedder(&args.embedder, &args.place.index, None, &state, output).await?;
    // Chunks come again, with every new version of a document; questions and statements do not.
    let embedder = Arc::new(CachedEmbedder::new(embedder, state.clone()));
    output.note(&format!("embedding with {}, vectors {}", embedder.identity().name, vectors.place()));
    let request = IngestRequest {
        index: args.place.index.clone(),
        tenant: args.place.tenant.clone(),
        inputs: args.paths.clone(),
        named: Vec::new(),
        allow_urls: args.allow_urls,
        settings: IndexSettings {
            embedder: embedder.identity().clone(),
            chunking: ChunkSettings {
                strategy: match args.chunk_by {
                    ChunkBy::Structure => Strategy::Auto,
                    ChunkBy::Lines => Strategy::Recursive,
                    ChunkBy::Sentences => Strategy::Sentence,
                },
                max_tokens: args.chunk_tokens,
                overlap_tokens: args.chunk_overlap,
                prefix: args.prefix,
            },
            scalar_quantisation: args.scalar_quantisation,
        },
        delete_missing: !args.keep_missing,
    };
    let bar = IngestBar::new(output);
    let progress = |progress: IngestProgress| bar.show(progress);
    let ingest = Ingest::new(&state, vectors.as_ref(), embedder, &progress).with_pdf_reader(pdf_reader()?);
    let report = tokio::select! {
        report = ingest.run(&request) => Some(report),
        _ = interrupted() => None,
    };
    bar.finish();
    let Some(report) = report.transpose()? else {
        output.note(
            "interrupted; what is written stays\nhint: the same command goes on where this one stopped",
        );
        return Ok(Verdict::Interrupted);
    };
    if args.json {
        output.json(&report)?;
    } else {
        tell(&report, output)?;
    }
    Ok(if report.failed.is_empty() { Verdict::Good } else { Verdict::Failed })
}

/// This program again, for each PDF: a file that breaks its reader costs that file.
fn pdf_reader() -> Result<PdfReader, Failure> {
    let program = std::env::current_exe().map_err(anyhow::Error::from)?;
    Ok(PdfReader::Apart(PdfProcess::new(program, &["rag", "read-pdf"])))
}

/// What a process of [`pdf_reader`] does.
pub(super) fn read_pdf(output: Output) -> Result<Verdict, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(anyhow::Error::from)?;
    output.json(&load::read_pdf(&bytes))?;
    Ok(Verdict::Good)
}

fn tell(report: &IngestReport, output: Output) -> Result<(), Failure> {
    for failure in &report.failed {
        output.note(&format!("failed: {}", failure.reason_with_name()));
        if let Some(hint) = &failure.hint {
            output.note(&format!("hint: {hint}"));
        }
    }
    for note in &report.notes {
        let kind = if note.suspicious { "warning" } else { "note" };
        output.note(&format!("{kind}: {}: {}", note.document, note.note));
    }
    for (document, original) in &report.duplicates {
        output.note(&format!("note: {document} has the same content as {original}"));
    }
    if let Some(first) = report.absent.first() {
        let count = report.absent.len();
        output.note(&format!(
            "note: {count} documents of other inputs are recorded and not in this store, `{first}` first: index those \
             inputs too"
        ));
    }
    for name in &report.skipped {
        output.note(&format!("note: {name} holds no text that can be read"));
    }
    output.result(&format!(
        "{} added, {} updated, {} unchanged, {} deleted, {} failed; {} chunks with {} tokens written in {:.1} s",
        report.added,
        report.updated,
        report.unchanged,
        report.deleted.len(),
        report.failed.len(),
        report.chunks,
        report.tokens,
        report.seconds
    ))
}
