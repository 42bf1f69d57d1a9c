//! What `evalign judge` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use evalign_core::ModelRef;
use evalign_judge::Aggregation;

use super::{AnswerArgs, InjectionsArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum JudgeCommand {
    /// Have judges score answers, or compare two answers a row, by a rubric.
    Score(Box<JudgeScoreArgs>),
    /// Have models answer the same prompts and judges compare them: win rates, ratings, ranks.
    Compare(Box<JudgeCompareArgs>),
    /// Hold judges against people's labels, and correct their means by them.
    Calibrate(Box<JudgeCalibrateArgs>),
    /// Compare the answers of an arena yourself, without knowing whose they are.
    Vote(JudgeVoteArgs),
    /// Measure how often a judge is talked round by an answer that tries to grade itself.
    Injections(Box<InjectionsArgs>),
    /// List the rubrics that ship, or print the JSON Schema of rubric files.
    Rubrics {
        /// Print the JSON Schema instead.
        #[arg(long)]
        schema: bool,
    },
}

/// Who judges, and how.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Judge")]
pub(crate) struct JudgeArgs {
    /// The model that judges; several are a jury. Only `judge compare` does without: people vote then.
    #[arg(long, env = "EVALIGN_JUDGE", value_delimiter = ',', value_name = "REF")]
    pub(crate) judge: Vec<ModelRef>,

    /// What the judge goes by: the name of a rubric, or a file.
    #[arg(long, default_value = "helpfulness", value_name = "NAME")]
    pub(crate) rubric: String,

    /// Longest explanation before a verdict, in tokens; 0 for none [default: what the rubric says].
    #[arg(long, value_name = "N")]
    pub(crate) explanation_tokens: Option<u32>,

    /// How freely verdicts are sampled; 0 takes the judge's likeliest one.
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub(crate) judge_temperature: f64,

    /// How often an answer that is no verdict is asked for again.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub(crate) verdict_retries: u32,

    /// Only tell the judge the form of a verdict, instead of holding it to that.
    #[arg(long)]
    pub(crate) free_form: bool,

    /// How several verdicts become one: mean, median, majority, dawid-skene.
    #[arg(long, value_parser = parse_aggregation, default_value = "mean", value_name = "HOW")]
    pub(crate) aggregate: Aggregation,
}

#[derive(Debug, Args)]
pub(crate) struct JudgeScoreArgs {
    /// JSONL or parquet with columns `prompt` and `answer` (or `a` and `b`), and `reference`, `context` and `label`
    /// where there are such; or a run whose model wrote texts (its id, the beginning of it, or `last`).
    #[arg(value_name = "FILE|RUN")]
    pub(crate) source: String,

    #[command(flatten)]
    pub(crate) judge: JudgeArgs,

    /// How often each judge is asked about each row, up to 64; needs `--judge-temperature`.
    #[arg(long, default_value_t = 1, value_name = "K")]
    pub(crate) repeats: u32,

    #[command(flatten)]
    pub(crate) answers: AnswerArgs,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct JudgeCompareArgs {
    /// The models that are compared, two or more.
    #[arg(required = true, num_args = 2.., value_name = "MODEL")]
    pub(crate) models: Vec<ModelRef>,

    /// Prompts, as JSONL or parquet with a column `prompt` (and `reference`, where the rubric wants one).
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: PathBuf,

    #[command(flatten)]
    pub(crate) judge: JudgeArgs,

    #[command(flatten)]
    pub(crate) answers: AnswerArgs,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct JudgeCalibrateArgs {
    /// As for `judge score`, with a column `label`: A, B or tie for two answers, a score or true or false for one. Rows
    /// without a label make the corrected mean more certain.
    #[arg(long, value_name = "FILE")]
    pub(crate) labels: PathBuf,

    #[command(flatten)]
    pub(crate) judge: JudgeArgs,

    /// Write the reliability diagram into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub(crate) diagram: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) answers: AnswerArgs,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct JudgeVoteArgs {
    /// A run of `judge compare`: its id, the beginning of it, or `last` for the newest one.
    #[arg(default_value = "last")]
    pub(crate) run: String,

    /// Whose votes these are; everybody sees the pairs in an order of their own.
    #[arg(long, env = "USER", default_value = "me", value_name = "NAME")]
    pub(crate) voter: String,
}

fn parse_aggregation(text: &str) -> Result<Aggregation, String> {
    Aggregation::ALL
        .into_iter()
        .find(|how| how.name() == text)
        .ok_or_else(|| "use mean, median, majority or dawid-skene".to_owned())
}
