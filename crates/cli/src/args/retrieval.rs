use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use evalign_core::ModelRef;
use evalign_rag::{Expansion, NamedFusion, NamedWay, SearchChoices, SearchOptions};

use super::{EmbedderArgs, RagStoreArgs, ServerArgs, StoreKind};
use crate::output::Failure;

/// How chunks are found.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Search")]
pub(crate) struct SearchArgs {
    /// By words, by meaning, or both.
    #[arg(long, value_enum, default_value_t = Mode::Feedback)]
    pub(crate) mode: Mode,

    /// How the lists of words and of meaning become one [default: rrf, and dbsf with `--mode feedback`].
    #[arg(long, value_enum)]
    pub(crate) fusion: Option<FusionKind>,

    /// Constant of reciprocal rank fusion: the greater, the less the first ranks stand out [default: 60].
    #[arg(long, value_name = "K", value_parser = not_negative)]
    pub(crate) rrf_k: Option<f64>,

    /// What a hit by words counts against one by meaning [default: 1].
    #[arg(long, value_name = "W", value_parser = not_negative)]
    pub(crate) bm25_weight: Option<f64>,

    /// Hits of each list that are fused.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = hits)]
    pub(crate) depth: usize,

    /// Scan all vectors instead of using an approximate index.
    #[arg(long)]
    pub(crate) exact: bool,

    /// First hits that `--mode feedback` looks for more like [default: 5].
    #[arg(long, value_name = "N", value_parser = hits)]
    pub(crate) feedback_hits: Option<usize>,

    /// What these hits count against the question itself [default: 0.3].
    #[arg(long, value_name = "W", value_parser = not_negative)]
    pub(crate) feedback_weight: Option<f64>,
}

impl SearchArgs {
    /// `expanded`: a question is looked for in several ways, whose lists are fused also in modes of one leg.
    ///
    /// # Errors
    /// Options that change nothing in the mode that is asked for.
    pub(crate) fn options(&self, expanded: bool) -> Result<SearchOptions, Failure> {
        let choices = SearchChoices {
            way: self.mode.way(),
            fusion: self.fusion.map(FusionKind::fusion),
            rrf_k: self.rrf_k,
            bm25_weight: self.bm25_weight,
            depth: Some(self.depth),
            exact: self.exact,
            feedback_hits: self.feedback_hits,
            feedback_weight: self.feedback_weight,
        };
        choices.options(expanded).map_err(|error| {
            let message = format!("`--{}` {error}", error.option.replace('_', "-"));
            Failure::new(message, format!("leave it out, or search with {}", error.needed))
        })
    }
}

/// More hits than this are no longer a search.
const MOST_HITS: usize = 10_000;

pub(crate) fn hits(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=MOST_HITS).contains(count));
    count.ok_or_else(|| format!("must be a number from 1 to {MOST_HITS}"))
}

/// A number from 0 to 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number >= 0.0 && number.is_finite());
    number.ok_or_else(|| "must be a number of 0 or more".to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// By words.
    Bm25,
    /// By meaning.
    Dense,
    /// Both, fused by ranks.
    Hybrid,
    /// Both, fused by scores, and by meaning once more from nearer to the first hits.
    Feedback,
}

impl Mode {
    fn way(self) -> NamedWay {
        match self {
            Self::Bm25 => NamedWay::Bm25,
            Self::Dense => NamedWay::Dense,
            Self::Hybrid => NamedWay::Hybrid,
            Self::Feedback => NamedWay::Feedback,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FusionKind {
    /// Reciprocal ranks.
    Rrf,
    /// Scores, scaled by the least and the greatest of each list.
    MinMax,
    /// Scores, scaled by mean and deviation of each list.
    Dbsf,
}

impl FusionKind {
    fn fusion(self) -> NamedFusion {
        match self {
            Self::Rrf => NamedFusion::Rrf,
            Self::MinMax => NamedFusion::MinMax,
            Self::Dbsf => NamedFusion::Dbsf,
        }
    }
}

/// A second look at the first hits.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Search")]
pub(crate) struct RerankArgs {
    /// Let a local model (`local/NAME`) or a cross-encoder (`onnx/DIR`) judge the hits, and order them by that.
    #[arg(long = "rerank", value_name = "REF")]
    pub(crate) reranker: Option<String>,

    /// Hits that are judged.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = hits, requires = "reranker")]
    pub(crate) rerank_depth: usize,
}

#[derive(Debug, Args)]
pub(crate) struct RagSearchArgs {
    /// What to look for.
    pub(crate) query: String,

    #[command(flatten)]
    pub(crate) place: RagStoreArgs,

    #[command(flatten)]
    pub(crate) embedder: EmbedderArgs,

    #[command(flatten)]
    pub(crate) search: SearchArgs,

    /// Hits to show.
    #[arg(long, short = 'k', default_value_t = 10, value_name = "N", value_parser = hits)]
    pub(crate) top_k: usize,

    /// Only chunks whose fields are so (`kind=markdown`, `page>=3`, `document!=old.md`, or metadata of the documents' own:
    /// `meta.author="Jane Doe"`); may be repeated.
    #[arg(long = "filter", value_name = "CONDITION")]
    pub(crate) filters: Vec<String>,

    /// Prefer hits that differ from those above them: 1 is relevance alone, 0 difference alone.
    #[arg(long, value_name = "LAMBDA", value_parser = share)]
    pub(crate) mmr: Option<f64>,

    #[command(flatten)]
    pub(crate) rerank: RerankArgs,

    /// Let `--model` think up other ways to look for it; may be repeated.
    #[arg(long = "expand", value_enum, requires = "model")]
    pub(crate) expansions: Vec<ExpansionKind>,

    /// The model that thinks them up.
    #[arg(long, short = 'M', env = "EVALIGN_RAG_MODEL", value_name = "REF")]
    pub(crate) model: Option<ModelRef>,

    #[command(flatten)]
    pub(crate) server: ServerArgs,

    /// Show what each list and each term gave to a hit.
    #[arg(long)]
    pub(crate) explain: bool,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExpansionKind {
    /// The same in other words.
    MultiQuery,
    /// The simple questions that it is made of.
    Decompose,
    /// A made-up answer, whose vector is looked for.
    Hyde,
}

impl ExpansionKind {
    pub(crate) fn expansion(self) -> Expansion {
        match self {
            Self::MultiQuery => Expansion::MultiQuery(Expansion::QUERIES),
            Self::Decompose => Expansion::Decompose(Expansion::QUERIES),
            Self::Hyde => Expansion::Hyde,
        }
    }
}

/// What an answer is made of.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Search")]
pub(crate) struct EvidenceArgs {
    #[command(flatten)]
    pub(crate) search: SearchArgs,

    /// Chunks that are looked at.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = hits)]
    pub(crate) top_k: usize,

    /// Only chunks whose fields are so (`kind=markdown`, `page>=3`, `document!=old.md`, or metadata of the documents' own:
    /// `meta.author="Jane Doe"`); may be repeated.
    #[arg(long = "filter", value_name = "CONDITION")]
    pub(crate) filters: Vec<String>,

    /// Prefer chunks that differ from those found before: 1 is relevance alone, 0 difference alone.
    #[arg(long, value_name = "LAMBDA", value_parser = share)]
    pub(crate) mmr: Option<f64>,

    /// Let `--model` think up other ways to look for it; may be repeated.
    #[arg(long = "expand", value_enum, requires = "model")]
    pub(crate) expansions: Vec<ExpansionKind>,

    /// Judge the hits first and answer from the better half: a local model, or `onnx/NAME`, a cross-encoder (a
    /// directory, or one that fastembed knows).
    #[arg(long, value_name = "REF")]
    pub(crate) rerank: Option<String>,

    /// Answer only where the best evidence scores at least this much (0 to 1).
    #[arg(long, value_name = "X", value_parser = share)]
    pub(crate) min_confidence: Option<f64>,
}

impl EvidenceArgs {
    /// # Errors
    /// As [`SearchArgs::options`].
    pub(crate) fn options(&self) -> Result<SearchOptions, Failure> {
        let start = self.search.options(!self.expansions.is_empty())?;
        Ok(SearchOptions { limit: self.top_k, mmr: self.mmr, ..start })
    }

    pub(crate) fn expansions(&self) -> Vec<Expansion> {
        self.expansions.iter().map(|kind| kind.expansion()).collect()
    }
}

/// A collection with judged queries.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Collection")]
pub(crate) struct BeirArgs {
    /// Directory with `corpus.jsonl`, `queries.jsonl` and `qrels/`.
    #[arg(long, value_name = "DIR")]
    pub(crate) beir: PathBuf,

    /// Which file of `qrels/`.
    #[arg(long, default_value = "test", value_name = "NAME")]
    pub(crate) split: String,
}

#[derive(Debug, Args)]
pub(crate) struct RagEvalArgs {
    #[command(flatten)]
    pub(crate) collection: BeirArgs,

    /// Where vectors lie [default: qdrant where QDRANT_URL is set, else edge].
    #[arg(long, value_enum)]
    pub(crate) store: Option<StoreKind>,

    #[command(flatten)]
    pub(crate) embedder: EmbedderArgs,

    #[command(flatten)]
    pub(crate) search: SearchArgs,

    /// Take vectors of documents that were computed before; the time of the ingest then leaves them out.
    #[arg(long, help_heading = "Embedder")]
    pub(crate) reuse_vectors: bool,

    /// Cut documents into chunks of so many of the embedder's tokens; each counts by its best chunk [default: whole].
    #[arg(long, help_heading = "Collection", value_name = "N")]
    pub(crate) chunk_tokens: Option<usize>,

    /// Tokens at the end of a chunk that the next one repeats.
    #[arg(
        long,
        help_heading = "Collection",
        value_name = "N",
        default_value_t = 0,
        requires = "chunk_tokens"
    )]
    pub(crate) chunk_overlap: usize,

    /// Search each chunk together with its document's title, as `rag index --prefix` does.
    #[arg(long, help_heading = "Collection", requires = "chunk_tokens")]
    pub(crate) prefix: bool,

    #[command(flatten)]
    pub(crate) rerank: RerankArgs,

    /// Measure anew, even where the same was begun before and is not finished.
    #[arg(long)]
    pub(crate) again: bool,

    /// Print one JSON document, with the metrics of each query.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RagDiffArgs {
    /// What there was: a run of `evalign rag eval`, or a file with the output of `evalign rag eval --json`.
    pub(crate) a: String,

    /// The same of what is new.
    pub(crate) b: String,

    /// The metric that decides the exit code: 1 where it is worse in B beyond chance.
    #[arg(long, default_value = "ndcg@10")]
    pub(crate) metric: String,

    /// What counts as beyond chance.
    #[arg(long, default_value_t = 0.05, value_name = "P", value_parser = share)]
    pub(crate) alpha: f64,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RagTuneArgs {
    #[command(flatten)]
    pub(crate) collection: BeirArgs,

    #[command(flatten)]
    pub(crate) embedder: EmbedderArgs,

    /// What is to become better.
    #[arg(long, default_value = "ndcg@10")]
    pub(crate) metric: String,

    /// Also cut documents into chunks of so many of the embedder's tokens; a list. 0: leave them whole only.
    #[arg(long, default_value = "100,200", value_delimiter = ',', value_name = "N")]
    pub(crate) chunk_tokens: Vec<usize>,

    /// Tokens at the end of a chunk that the next one repeats; a list.
    #[arg(long, default_value = "0", value_delimiter = ',', value_name = "N")]
    pub(crate) chunk_overlap: Vec<usize>,

    /// Also search each way of cutting with the document's title before every chunk.
    #[arg(long)]
    pub(crate) prefix: bool,

    /// Also let a local model (`local/NAME`) or a cross-encoder (`onnx/DIR`) judge the first hits.
    #[arg(long, value_name = "REF")]
    pub(crate) rerank: Option<String>,

    /// Hits that are judged; a list, of which each is tried [default: 10,20,50].
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = hits, requires = "rerank")]
    pub(crate) rerank_depth: Vec<usize>,

    /// Ask only so many of the queries, chosen by the digests of their ids [default: all].
    #[arg(long, value_name = "N", value_parser = hits)]
    pub(crate) queries: Option<usize>,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RagListArgs {
    /// Where vectors lie [default: qdrant where QDRANT_URL is set, else edge].
    #[arg(long, value_enum)]
    pub(crate) store: Option<StoreKind>,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RagGcArgs {
    /// Where vectors lie [default: qdrant where QDRANT_URL is set, else edge].
    #[arg(long, value_enum)]
    pub(crate) store: Option<StoreKind>,

    /// Also remove these indexes, whole.
    #[arg(long = "drop", value_name = "NAME")]
    pub(crate) drop: Vec<String>,

    /// Only say what would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeQdrantArgs {
    /// Address to listen at (gRPC). Others than this machine's need QDRANT_API_KEY to be set.
    #[arg(long, default_value = "127.0.0.1:6334", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
}
