use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use evalign_core::ModelRef;

use super::retrieval::{
    EvidenceArgs, RagDiffArgs, RagEvalArgs, RagGcArgs, RagListArgs, RagSearchArgs, RagTuneArgs,
    ServeQdrantArgs,
};

#[derive(Debug, Subcommand)]
pub(crate) enum RagCommand {
    /// Bring documents into an index: what is new or changed is read, what is gone is deleted.
    Index(RagIndexArgs),
    /// Answer a question from an index, with quotes that were verified against their documents.
    Query(RagQueryArgs),
    /// Show the chunks that are found for a query, and why.
    Search(RagSearchArgs),
    /// Measure search on a collection with judged queries, in the layout of BEIR.
    Eval(RagEvalArgs),
    /// Measure answers from an index on questions whose answers are known, by rules and by a judge.
    EvalAnswers(RagEvalAnswersArgs),
    /// Let a model write questions about the documents of an index, each with its place, verified.
    GenerateTests(RagGenerateTestsArgs),
    /// Compare two evaluations query by query: is the difference real? Exit code 1 where B is worse.
    Diff(RagDiffArgs),
    /// Find the way of searching that suits a collection, on half of its queries, and show it on the other.
    Tune(RagTuneArgs),
    /// List indexes.
    List(RagListArgs),
    /// Remove what nothing needs any more, and whole indexes by name.
    Gc(RagGcArgs),
    /// Serve the embedded store to Qdrant's SDKs (a subset of its gRPC interface).
    ServeQdrant(ServeQdrantArgs),
    /// Read a PDF from standard input for `index`, which starts it with bounded memory and time.
    #[command(hide = true)]
    ReadPdf,
}

/// Which index, and where it lies.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Index")]
pub(crate) struct RagStoreArgs {
    /// Name of the index.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub(crate) index: String,

    /// Whose documents: tenants of one index never see each other's.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub(crate) tenant: String,

    /// Where vectors lie [default: qdrant where QDRANT_URL is set, else edge].
    #[arg(long, value_enum)]
    pub(crate) store: Option<StoreKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreKind {
    /// In this process, under EVALIGN_HOME.
    Edge,
    /// On the server or cluster at QDRANT_URL (with QDRANT_API_KEY).
    Qdrant,
}

/// What turns texts into vectors.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Embedder")]
pub(crate) struct EmbedderArgs {
    /// A built-in (`all-minilm-l6-v2`), a model directory, `ORG/REPO`, `onnx/NAME` on ONNX Runtime, or `openai/NAME` on
    /// a server [default: the index's own, else all-minilm-l6-v2].
    #[arg(long, value_name = "REF")]
    pub(crate) embedder: Option<String>,

    /// Computing threads [default: one for each core].
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    /// Ask neither hub nor package index.
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RagIndexArgs {
    /// Files, directories and patterns (`'docs/**/*.md'`).
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,

    #[command(flatten)]
    pub(crate) place: RagStoreArgs,

    #[command(flatten)]
    pub(crate) embedder: EmbedderArgs,

    /// How documents are cut: by their own structure, at blank lines and lines, or into whole sentences.
    #[arg(long, value_enum, default_value_t = ChunkBy::Structure, help_heading = "Chunks")]
    pub(crate) chunk_by: ChunkBy,

    /// Most tokens of a chunk, counted by the embedder.
    #[arg(long, default_value_t = 200, help_heading = "Chunks", value_name = "N")]
    pub(crate) chunk_tokens: usize,

    /// Tokens at the end of a chunk that the next one repeats.
    #[arg(long, default_value_t = 0, help_heading = "Chunks", value_name = "N")]
    pub(crate) chunk_overlap: usize,

    /// Search each chunk together with its document's title and the headings above it.
    #[arg(long, help_heading = "Chunks")]
    pub(crate) prefix: bool,

    /// Keep one byte per number of a vector for the search; the first hits are scored again in full.
    #[arg(long, alias = "scalar-quantization", help_heading = "Index")]
    pub(crate) scalar_quantisation: bool,

    /// Fetch inputs that are http or https addresses on the public internet.
    #[arg(long)]
    pub(crate) allow_urls: bool,

    /// Leave documents in the index that are no longer there.
    #[arg(long)]
    pub(crate) keep_missing: bool,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChunkBy {
    /// Sections, pages, rows, items of source code.
    Structure,
    /// Blank lines, lines, sentences, words, whatever the document is.
    Lines,
    /// Whole sentences.
    Sentences,
}

#[derive(Debug, Args)]
pub(crate) struct RagQueryArgs {
    /// The question.
    pub(crate) question: String,

    #[command(flatten)]
    pub(crate) place: RagStoreArgs,

    #[command(flatten)]
    pub(crate) embedder: EmbedderArgs,

    /// Let a model write the answer; what it writes is held against the documents [default: quotes only].
    #[arg(long, short = 'M', env = "EVALIGN_RAG_MODEL", value_name = "REF", help_heading = "Model")]
    pub(crate) model: Option<ModelRef>,

    /// Address of the server of `openai/NAME`, up to and including `/v1` [default: OPENAI_BASE_URL].
    #[arg(long, value_name = "URL", help_heading = "Model")]
    pub(crate) base_url: Option<String>,

    #[command(flatten)]
    pub(crate) evidence: EvidenceArgs,

    /// Show where each hit's score comes from.
    #[arg(long)]
    pub(crate) explain: bool,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RagEvalAnswersArgs {
    /// JSONL with `id`, `question`, `answers` (none: the documents do not answer it) and `evidence` (`document`, and
    /// `bytes` or `page`).
    #[arg(value_name = "FILE")]
    pub(crate) questions: PathBuf,

    #[command(flatten)]
    pub(crate) place: RagStoreArgs,

    #[command(flatten)]
    pub(crate) embedder: EmbedderArgs,

    /// The model that writes the answers [default: quotes only].
    #[arg(long, short = 'M', env = "EVALIGN_RAG_MODEL", value_name = "REF", help_heading = "Model")]
    pub(crate) model: Option<ModelRef>,

    /// The model that judges faithfulness, correctness and relevance [default: rules only].
    #[arg(long, env = "EVALIGN_JUDGE", value_name = "REF", help_heading = "Model")]
    pub(crate) judge: Option<ModelRef>,

    /// Address of the server of `openai/NAME`, up to and including `/v1` [default: OPENAI_BASE_URL].
    #[arg(long, value_name = "URL", help_heading = "Model")]
    pub(crate) base_url: Option<String>,

    #[command(flatten)]
    pub(crate) evidence: EvidenceArgs,

    /// Measure anew, even where the same was measured before.
    #[arg(long)]
    pub(crate) again: bool,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RagGenerateTestsArgs {
    #[command(flatten)]
    pub(crate) place: RagStoreArgs,

    /// The model that writes the questions.
    #[arg(long, short = 'M', env = "EVALIGN_RAG_MODEL", value_name = "REF", help_heading = "Model")]
    pub(crate) model: ModelRef,

    /// Address of the server of `openai/NAME`, up to and including `/v1` [default: OPENAI_BASE_URL].
    #[arg(long, value_name = "URL", help_heading = "Model")]
    pub(crate) base_url: Option<String>,

    /// Ask neither hub nor package index.
    #[arg(long)]
    pub(crate) offline: bool,

    /// Questions to make.
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub(crate) count: usize,

    /// Of these, copies that ask about something else, whose name stands in no document: not answering them is right.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) unanswerable: usize,

    /// Which chunks are asked about, and in which order.
    #[arg(long, default_value_t = 1234)]
    pub(crate) seed: u64,

    /// File to write: JSONL, as `rag eval-answers` reads it.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}
