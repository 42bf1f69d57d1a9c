//! What `evalign eval` takes.

use std::path::PathBuf;

use clap::Args;
use evalign_bench::{DEFAULT_MAX_RETRIES, DocRange};
use evalign_core::{ModelRef, ScoringMode};
use evalign_model::ServerKind;

use super::values::{
    Concurrency, Extent, Tolerance, at_least_one, parse_concurrency, parse_extent, parse_mode, parse_seed,
    parse_server, parse_tolerance, positive,
};
use super::{DataArgs, EngineArgs, VariantArgs};

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Tasks or groups of tasks; `evalign tasks list` shows them.
    #[arg(value_name = "TASK", value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,

    #[arg(long = "tasks", short = 't', value_delimiter = ',', hide = true)]
    pub(crate) tasks_flag: Vec<String>,

    /// The model: `local/PATH`, `local/ORG/REPO[@REVISION]`, `local/smollm2-135m-instruct`, `openai/NAME`.
    #[arg(long, short = 'M', env = "EVALIGN_MODEL", value_name = "REF")]
    pub(crate) model: Option<String>,

    /// lm-evaluation-harness's `--model hf --model_args pretrained=...`.
    #[arg(long, alias = "model_args", short = 'a', hide = true)]
    pub(crate) model_args: Option<String>,

    /// Worked examples per prompt.
    #[arg(long, short = 'f', visible_alias = "num-fewshot", alias = "num_fewshot", value_name = "N")]
    pub(crate) shots: Option<u32>,

    /// Documents per leaf task: a number, a share below 1, or a range as for `--samples`.
    #[arg(long, short = 'L', value_parser = parse_extent, allow_negative_numbers = true, value_name = "N|F|a..b")]
    pub(crate) limit: Option<Extent>,

    /// Documents `a` up to, not including, `b` of each leaf task.
    #[arg(long, conflicts_with = "limit", value_name = "a..b")]
    pub(crate) samples: Option<DocRange>,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// Wrap prompts in the model's chat template.
    #[arg(
        long,
        help_heading = "Prompt",
        alias = "apply_chat_template",
        alias = "apply-chat-template",
        overrides_with = "no_chat_template"
    )]
    pub(crate) chat_template: bool,

    /// Send prompts as they are, also to models that have a chat template.
    #[arg(long, help_heading = "Prompt")]
    pub(crate) no_chat_template: bool,

    /// With a chat template: every worked example is a turn of its own.
    #[arg(long, help_heading = "Prompt", alias = "fewshot_as_multiturn", alias = "fewshot-as-multiturn")]
    pub(crate) multiturn: bool,

    /// The system message in front of the conversation; without a chat template, text in front of the prompt.
    #[arg(long, help_heading = "Prompt", alias = "system_instruction", value_name = "TEXT")]
    pub(crate) system_instruction: Option<String>,

    /// The rule book: `lm-eval` reproduces lm-evaluation-harness 0.4.13 bug for bug.
    #[arg(long, help_heading = "Options", value_parser = parse_mode, default_value = "default", value_name = "MODE")]
    pub(crate) compat: ScoringMode,

    /// Ask multiple choice for the letter or text of the answer instead of comparing likelihoods: for
    /// servers that give none. Another measurement; its metrics are named `..._generated`.
    #[arg(long, help_heading = "Options", alias = "generated_choices")]
    pub(crate) generated_choices: bool,

    /// The judge of tasks that ask for one (`judge` in their files): its scores stand beside those of the rules.
    /// Several, with commas between them, are a jury.
    #[arg(long, help_heading = "Options", value_delimiter = ',', value_name = "REF")]
    pub(crate) judge: Vec<ModelRef>,

    /// Seeds the choice of worked examples and sampling.
    #[arg(long, help_heading = "Options", value_parser = parse_seed, default_value_t = evalign_bench::DEFAULT_SEED, value_name = "S")]
    pub(crate) seed: u64,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,

    #[command(flatten)]
    pub(crate) data: DataArgs,

    #[command(flatten)]
    pub(crate) variants: VariantArgs,

    #[command(flatten)]
    pub(crate) server: ServerArgs,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,

    /// Print one JSON document.
    #[arg(long, help_heading = "Options")]
    pub(crate) json: bool,

    /// Show the plan, the first prompt and what it would cost, and stop.
    #[arg(long, help_heading = "Options", alias = "dry_run")]
    pub(crate) dry_run: bool,

    /// Start a new run although one with the same specification exists.
    #[arg(long, help_heading = "Options")]
    pub(crate) fork: bool,

    /// Ask the model even where its answer to the same request is known from an earlier run: a server may
    /// have changed behind its name.
    #[arg(long, alias = "no_cache", help_heading = "Options")]
    pub(crate) no_cache: bool,

    /// Also export the run in lm-evaluation-harness's layout into this directory.
    #[arg(long, short = 'o', alias = "output_path", value_name = "DIR", hide = true)]
    pub(crate) output_path: Option<PathBuf>,

    /// lm-evaluation-harness's spellings that have nothing to switch here.
    #[command(flatten)]
    pub(crate) without_effect: WithoutEffect,
}

/// How answers are generated.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct SamplingArgs {
    /// Answers per document.
    #[arg(long, visible_alias = "epochs", value_name = "K")]
    pub(crate) repeats: Option<u32>,

    /// How freely answers are sampled; 0 takes the likeliest token each time.
    #[arg(long, allow_negative_numbers = true, value_name = "T")]
    pub(crate) temperature: Option<f64>,

    /// Sample among the likeliest tokens that together reach this probability.
    #[arg(long, alias = "top_p", allow_negative_numbers = true, value_name = "P")]
    pub(crate) top_p: Option<f64>,

    /// Sample among so many of the likeliest tokens.
    #[arg(long, alias = "top_k", value_name = "N")]
    pub(crate) top_k: Option<u32>,

    /// Sample among tokens at least this fraction as likely as the likeliest.
    #[arg(long, alias = "min_p", allow_negative_numbers = true, value_name = "P")]
    pub(crate) min_p: Option<f64>,

    /// Most tokens to generate per answer.
    #[arg(long, alias = "max_gen_toks", alias = "max_tokens", value_name = "N")]
    pub(crate) max_tokens: Option<u32>,

    /// lm-evaluation-harness's `temperature=0.7,top_p=0.9,max_gen_toks=64`.
    #[arg(long, alias = "gen_kwargs", hide = true)]
    pub(crate) gen_kwargs: Option<String>,
}

/// How a model on a server (`openai/NAME`) is reached. The key is in OPENAI_API_KEY, organisation and
/// project in OPENAI_ORG_ID and OPENAI_PROJECT_ID.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model servers")]
pub(crate) struct ServerArgs {
    /// Address of an OpenAI-compatible server, up to and including `/v1` [default: OPENAI_BASE_URL, or the
    /// server's own].
    #[arg(long, alias = "base_url", overrides_with = "base_url", value_name = "URL")]
    pub(crate) base_url: Option<String>,

    /// What runs there: openai, azure, openrouter, vllm, sglang, tgi, ollama, llama.cpp, other. Gives its usual
    /// address, its key's variable, and what it takes beyond OpenAI's fields.
    #[arg(long, value_parser = parse_server, value_name = "NAME")]
    pub(crate) server: Option<ServerKind>,

    /// YAML file with what this model needs: address, variable of the key, headers, reasoning, timeouts, ...
    #[arg(long, alias = "model_settings", value_name = "FILE")]
    pub(crate) model_settings: Option<PathBuf>,

    /// Take answers as streams: shows the time to the first token, and lets slow answers take their time.
    #[arg(long)]
    pub(crate) stream: bool,
}

/// How much a run may use, and how many failures are accepted.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Requests in flight.
    #[arg(long, alias = "max_concurrency", alias = "max-connections", alias = "max-samples", value_parser = parse_concurrency, default_value = "auto", value_name = "N|auto")]
    pub(crate) max_concurrency: Concurrency,

    /// How often a request that fails in passing (429, 5xx, timeouts, broken connections) is asked again.
    #[arg(long, alias = "max_retries", default_value_t = DEFAULT_MAX_RETRIES, value_name = "N")]
    pub(crate) max_retries: u32,

    #[command(flatten)]
    pub(crate) budget: BudgetArgs,

    /// Samples whose call may fail for good before the exit status is 1: a number, a share below 1, `true`
    /// (none) or `false` (all).
    #[arg(long, alias = "fail_on_error", value_parser = parse_tolerance, default_value = "0", value_name = "N|F|true|false")]
    pub(crate) fail_on_error: Tolerance,
}

/// What may be spent on a server, over all sessions of a run.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct BudgetArgs {
    /// Stop after this many prompt and generated tokens.
    #[arg(long, alias = "budget_tokens", value_parser = at_least_one, value_name = "N")]
    pub(crate) budget_tokens: Option<u64>,

    /// Stop after this many US dollars; needs `--prices`.
    #[arg(long, alias = "budget_usd", value_parser = positive, value_name = "X")]
    pub(crate) budget_usd: Option<f64>,

    /// Stop after this many requests, those that fail included.
    #[arg(long, alias = "budget_requests", value_parser = at_least_one, value_name = "N")]
    pub(crate) budget_requests: Option<u64>,

    /// YAML or JSON file with what models cost, in USD per million tokens:
    /// `models: {NAME: {input: 0.15, cached_input: 0.075, output: 0.60}}`.
    #[arg(long, env = "EVALIGN_PRICES", value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
}

/// Accepted, so that habits work, and said to have no effect.
#[derive(Clone, Debug, Args)]
pub(crate) struct WithoutEffect {
    #[arg(long, alias = "batch_size", short = 'b', hide = true)]
    pub(crate) batch_size: Option<String>,

    #[arg(long, alias = "max_batch_size", hide = true)]
    pub(crate) max_batch_size: Option<String>,

    #[arg(long, alias = "log_samples", short = 's', hide = true)]
    pub(crate) log_samples: bool,

    #[arg(long, alias = "use_cache", hide = true)]
    pub(crate) use_cache: Option<String>,

    #[arg(long, alias = "predict_only", alias = "no-score", hide = true)]
    pub(crate) predict_only: bool,
}
