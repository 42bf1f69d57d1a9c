//! What `evalign critique` and `evalign pairs` take.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use evalign_bench::Limit;
use evalign_core::ModelRef;
use evalign_data::{FileKind, Layout, Style};
use evalign_judge::Strategy;

use super::values::{at_least_one, parse_seed};
use super::{DataArgs, EngineArgs, ServerArgs};

/// Who answers, and how.
#[derive(Debug, Args)]
pub(crate) struct AnswerArgs {
    /// Most tokens to generate per text [default: 256, or what the task says].
    #[arg(long, help_heading = "Generation", value_name = "N")]
    pub(crate) max_tokens: Option<u32>,

    /// How freely texts are sampled [default: 0.8 for answers, 1 for critiques].
    #[arg(long, help_heading = "Generation", value_name = "T")]
    pub(crate) temperature: Option<f64>,

    /// Sample among the likeliest tokens that together reach this probability.
    #[arg(long, help_heading = "Generation", value_name = "P")]
    pub(crate) top_p: Option<f64>,

    /// Send prompts as plain text, also to models that have a chat template.
    #[arg(long, help_heading = "Generation")]
    pub(crate) no_chat_template: bool,

    /// At most so many prompts, counted from the first.
    #[arg(long, short = 'L', value_name = "N|F")]
    pub(crate) limit: Option<Limit>,

    /// Seeds everything that is drawn.
    #[arg(long, value_parser = parse_seed, default_value_t = evalign_bench::DEFAULT_SEED, value_name = "S")]
    pub(crate) seed: u64,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,

    #[command(flatten)]
    pub(crate) data: DataArgs,

    #[command(flatten)]
    pub(crate) server: ServerArgs,

    /// Stop after this many prompt and generated tokens of models on servers, all of them together.
    #[arg(long, help_heading = "Limits", value_parser = at_least_one, value_name = "N")]
    pub(crate) budget_tokens: Option<u64>,

    /// Stop after this many requests to servers, those that fail included.
    #[arg(long, help_heading = "Limits", value_parser = at_least_one, value_name = "N")]
    pub(crate) budget_requests: Option<u64>,
}

/// How files are written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Files")]
pub(crate) struct FileArgs {
    /// TRL's layouts: preference, unpaired, prompt-only, prompt-completion, language-modeling.
    #[arg(long, default_value = "preference", value_name = "LAYOUT")]
    pub(crate) layout: Layout,

    /// conversational (lists of messages) or standard (plain text).
    #[arg(long, default_value = "conversational", value_name = "STYLE")]
    pub(crate) style: Style,

    /// jsonl or parquet.
    #[arg(long, value_parser = parse_kind, default_value = "jsonl", value_name = "FORMAT")]
    pub(crate) format: FileKind,
}

/// Which pairs are kept.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct FilterArgs {
    /// How two answers become a pair: best-vs-worst, best-vs-random, all-pairs, right-vs-wrong
    /// [default: right-vs-wrong with `--task`, best-vs-worst with `--prompts`].
    #[arg(long, value_name = "STRATEGY")]
    pub(crate) strategy: Option<Strategy>,

    /// Smallest difference of scores (probabilities of being preferred, 0 to 1).
    #[arg(long, default_value_t = 0.0, value_name = "M")]
    pub(crate) min_margin: f64,

    /// Smallest probability that the judge gives the chosen side, mean over both orders.
    #[arg(long, default_value_t = 0.5, value_name = "P")]
    pub(crate) min_probability: f64,

    /// Only pairs in which the judge prefers the chosen side in both orders.
    #[arg(long)]
    pub(crate) agreed: bool,

    /// Prompts whose similarity (MinHash, 3-word shingles) is at least this are one prompt.
    #[arg(long, default_value_t = 0.8, value_name = "S")]
    pub(crate) similarity: f64,

    /// At most so many pairs of one prompt.
    #[arg(long, value_name = "N")]
    pub(crate) per_prompt: Option<usize>,

    /// Leave out pairs until the chosen side is as often the longer one as the shorter one.
    #[arg(long)]
    pub(crate) balance_length: bool,

    /// Share of prompts that is held out, by a hash of the prompt.
    #[arg(long, default_value_t = 0.2, value_name = "F")]
    pub(crate) held_out: f64,

    /// Do not compare the pairs with the questions of every task on this machine.
    #[arg(long)]
    pub(crate) no_decontamination: bool,
}

impl FilterArgs {
    /// Whether all of it is as it is when nothing is said.
    pub(crate) fn untouched(&self) -> bool {
        self.strategy.is_none()
            && (self.min_margin, self.min_probability, self.similarity) == (0.0, 0.5, 0.8)
            && !(self.agreed || self.balance_length || self.no_decontamination)
            && self.per_prompt.is_none()
            && self.held_out == 0.2
    }
}

#[derive(Debug, Args)]
pub(crate) struct CritiqueArgs {
    /// Prompts, as JSONL or parquet with a column `prompt`.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: PathBuf,

    /// The model that answers, criticises and revises.
    #[arg(long, short = 'M', env = "EVALIGN_MODEL", value_name = "REF")]
    pub(crate) model: ModelRef,

    /// The judge that compares each revision with what it revises [default: the model itself].
    #[arg(long, value_name = "REF")]
    pub(crate) judge: Option<ModelRef>,

    /// What the judge goes by: the name of a rubric, or a file.
    #[arg(long, default_value = "helpfulness", value_name = "NAME")]
    pub(crate) rubric: String,

    /// Principles: the name of a constitution, or a file.
    #[arg(long, default_value = "everyday", value_name = "NAME")]
    pub(crate) constitution: String,

    /// Critiques and revisions of each answer, up to 32, each by a fresh principle.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub(crate) rounds: u32,

    /// Directory for the pairs, the hard negatives and the texts to imitate.
    #[arg(long, short = 'o', value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) answers: AnswerArgs,

    /// jsonl or parquet.
    #[arg(long, value_parser = parse_kind, default_value = "jsonl", value_name = "FORMAT")]
    pub(crate) format: FileKind,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InjectionsArgs {
    /// The judge.
    #[arg(long, value_name = "REF")]
    pub(crate) judge: ModelRef,

    /// What it goes by: the name of a rubric, or a file.
    #[arg(long, default_value = "helpfulness", value_name = "NAME")]
    pub(crate) rubric: String,

    #[command(flatten)]
    pub(crate) answers: AnswerArgs,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PairsCommand {
    /// Draw answers, have them judged or scored, and write preference pairs.
    Build(Box<PairsBuildArgs>),
    /// Look for what is wrong with a file of preferences, line by line.
    Check(PairsCheckArgs),
    /// Write the pairs of a run, or the rows of a file, in another layout or format.
    Export(Box<PairsExportArgs>),
}

#[derive(Debug, Args)]
pub(crate) struct PairsBuildArgs {
    /// Prompts, as JSONL or parquet with a column `prompt`; answers are compared by a judge.
    #[arg(long, value_name = "FILE", conflicts_with = "task")]
    pub(crate) prompts: Option<PathBuf>,

    /// Tasks whose training rows are asked; answers are right or wrong by the task's own scoring.
    #[arg(long, value_delimiter = ',', value_name = "TASK")]
    pub(crate) task: Vec<String>,

    /// The models that answer.
    #[arg(
        long,
        short = 'M',
        env = "EVALIGN_MODEL",
        value_delimiter = ',',
        required = true,
        value_name = "REF"
    )]
    pub(crate) model: Vec<ModelRef>,

    /// Answers of each model to each prompt.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub(crate) samples: u32,

    /// Worked examples shown before each question of a task when it is answered; the pairs carry the question alone.
    /// Turns of a chat, so the model needs a chat template.
    #[arg(long, default_value_t = 0, conflicts_with = "prompts", value_name = "N")]
    pub(crate) shots: u32,

    /// The model that compares answers.
    #[arg(long, value_name = "REF")]
    pub(crate) judge: Option<ModelRef>,

    /// What the judge goes by: the name of a rubric, or a file.
    #[arg(long, default_value = "helpfulness", value_name = "NAME")]
    pub(crate) rubric: String,

    /// Instead of the rubric: each pair of answers is compared by a principle drawn from this constitution, which
    /// gives the soft labels of reinforcement learning from AI feedback.
    #[arg(long, conflicts_with = "task", value_name = "NAME")]
    pub(crate) constitution: Option<String>,

    /// Directory for `train` and `held_out`.
    #[arg(long, short = 'o', value_name = "DIR")]
    pub(crate) out: PathBuf,

    #[command(flatten)]
    pub(crate) filters: FilterArgs,

    #[command(flatten)]
    pub(crate) files: FileArgs,

    #[command(flatten)]
    pub(crate) answers: AnswerArgs,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PairsCheckArgs {
    /// JSONL (also .gz and .zst) or parquet, in any of TRL's layouts.
    pub(crate) file: PathBuf,

    /// At most so many findings of a kind are shown; all are counted.
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    pub(crate) limit: u64,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PairsExportArgs {
    /// A run of `pairs build` or `critique` (its id, the beginning of it, or `last`), or a file.
    pub(crate) what: String,

    /// Directory to write into.
    #[arg(long, short = 'o', value_name = "DIR")]
    pub(crate) out: PathBuf,

    #[command(flatten)]
    pub(crate) filters: FilterArgs,

    #[command(flatten)]
    pub(crate) files: FileArgs,

    #[command(flatten)]
    pub(crate) data: DataArgs,
}

fn parse_kind(text: &str) -> Result<FileKind, String> {
    [FileKind::Jsonl, FileKind::Parquet]
        .into_iter()
        .find(|kind| kind.extension() == text)
        .ok_or_else(|| "use jsonl or parquet".to_owned())
}
