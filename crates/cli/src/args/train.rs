//! What `evalign train` takes. Settings have TRL's names, with dashes or underscores.

use std::path::PathBuf;

use clap::{Arg, Args, Subcommand};
use serde::Serialize;

#[derive(Debug, Subcommand)]
pub(crate) enum TrainCommand {
    /// Supervised fine-tuning on texts, conversations, or prompts with completions.
    #[command(mut_args(|arg| shown_without(arg, &[OF_REWARDS, OF_PAIRS, OF_PREFERENCES])))]
    Sft(Box<TrainArgs>),
    /// A reward model on preference pairs (Bradley-Terry).
    #[command(mut_args(|arg| shown_without(arg, &[OF_SFT, OF_LOSSES, OF_PREFERENCES])))]
    Reward(Box<TrainArgs>),
    /// Preference losses: DPO and its family, ORPO, SimPO, KTO.
    #[command(mut_args(|arg| shown_without(arg, &[OF_SFT, OF_REWARDS])))]
    Dpo(Box<TrainArgs>),
    /// Merge an adapter into its model: `--model local/NAME+adapter=DIR`.
    Merge(MergeArgs),
    /// How often a reward model prefers the chosen side of pairs, by category.
    Score(ScoreArgs),
    /// Run a recorded case of TRL and compare every number.
    Verify(VerifyCaseArgs),
}

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// The model with its adapter: `local/NAME+adapter=DIR`.
    #[arg(long, value_name = "REF")]
    pub(crate) model: String,

    /// Where the merged model goes; must not exist yet.
    #[arg(long, value_name = "PATH")]
    pub(crate) out: PathBuf,

    /// `hf`: a directory with `model.safetensors` in f32. `gguf`: one file, of a base that is one.
    #[arg(long, default_value = "hf", value_name = "FORM")]
    pub(crate) form: String,

    /// What merged matrices of a GGUF file are held in: f32, f16, q8_0, q5_1, q5_0, q4_1 or q4_0.
    #[arg(long = "type", default_value = "f16", value_name = "TYPE")]
    pub(crate) kind: String,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,

    /// Ask neither hub nor package index.
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// A reward model: `local/NAME+adapter=DIR`, or a directory that has a `score` head.
    #[arg(long, value_name = "REF")]
    pub(crate) model: String,

    /// Preference pairs: a file, or a dataset in the data root or on the hub.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: String,

    /// Column that names a pair's category.
    #[arg(long, default_value = "category", value_name = "COLUMN")]
    pub(crate) category: String,

    /// Longer texts are left out, and said to be.
    #[arg(long, default_value_t = 1024, value_name = "TOKENS")]
    pub(crate) max_length: usize,

    /// `trl`: its tokenisation rules, and rewards read at the last token that is not the padding token.
    #[arg(long, value_name = "RULES")]
    pub(crate) compat: Option<String>,

    /// Exit with 1 where the accuracy over all pairs is lower.
    #[arg(long, value_name = "SHARE")]
    pub(crate) at_least: Option<f64>,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,

    /// Ask neither hub nor package index.
    #[arg(long)]
    pub(crate) offline: bool,

    /// Directory with datasets in the hub's layout.
    #[arg(long, env = "EVALIGN_DATA_ROOT", value_name = "DIR")]
    pub(crate) data_root: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyCaseArgs {
    /// Directory of the case (case.json, trace.json, ...); may be repeated.
    #[arg(long = "case", required = true, value_name = "DIR")]
    pub(crate) cases: Vec<PathBuf>,

    /// Where to compute: `cpu`, `cuda:N` or `metal`; in f32 everywhere.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(mut_args(with_underscores))]
pub(crate) struct TrainArgs {
    /// Settings in a YAML file, under TRL's names; flags win over it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Show what would be trained on, and the plan of memory and updates; train nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Show the first items as text, with what is trained between ⟦ and ⟧; train nothing.
    #[arg(long, num_args = 0..=1, default_missing_value = "3", value_name = "N")]
    pub(crate) preview: Option<usize>,

    /// Remove what an earlier run left in the output directory, instead of going on with it.
    #[arg(long)]
    pub(crate) fresh: bool,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,

    /// Ask neither hub nor package index.
    #[arg(long)]
    pub(crate) offline: bool,

    /// Directory with datasets in the hub's layout.
    #[arg(long, env = "EVALIGN_DATA_ROOT", value_name = "DIR")]
    pub(crate) data_root: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) settings: TrainSettings,
}

/// Settings that one purpose alone reads. One file may serve several commands, so all take all; help shows what counts.
const OF_SFT: &[&str] = &["dataset_text_field", "completion_only_loss", "assistant_only_loss"];
const OF_REWARDS: &[&str] = &["center_rewards_coefficient"];
const OF_PAIRS: &[&str] = &["soft_labels"];
const OF_LOSSES: &[&str] = &["loss_type", "truncation_mode"];
const OF_PREFERENCES: &[&str] = &[
    "loss_weights",
    "beta",
    "label_smoothing",
    "f_divergence_type",
    "f_alpha_divergence_coef",
    "ld_alpha",
    "use_weighting",
    "discopop_tau",
    "simpo_gamma",
    "desirable_weight",
    "undesirable_weight",
    "ref_model",
    "precompute_ref_log_probs",
];

fn shown_without(arg: Arg, others: &[&[&str]]) -> Arg {
    let is_of_others = others.iter().any(|names| names.contains(&arg.get_id().as_str()));
    if is_of_others { arg.hide(true) } else { arg }
}

/// TRL's users type underscores. A negative number is a value: what is wrong with it is said under the setting's name.
fn with_underscores(arg: Arg) -> Arg {
    let takes_values = arg.get_action().takes_values();
    let arg = if takes_values { arg.allow_negative_numbers(true) } else { arg };
    let names = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
    let names: Vec<String> =
        names.filter(|name| name.contains('-')).map(|name| name.replace('-', "_")).collect();
    arg.aliases(names)
}

/// Settings, under the names of [`evalign_train::Settings`]; what is not said is left to the file, then to TRL's
/// default.
#[derive(Debug, Default, Args, Serialize)]
pub(crate) struct TrainSettings {
    /// The model: `local/PATH`, `local/ORG/REPO[@REVISION]`, `local/smollm2-135m-instruct`; `+adapter=DIR` to go on with
    /// an adapter.
    #[arg(long, short = 'M', env = "EVALIGN_MODEL", alias = "model-name-or-path", value_name = "REF")]
    pub(crate) model: Option<String>,

    /// A file (JSONL, parquet, CSV) in any of TRL's layouts, or a dataset of the hub.
    #[arg(long, alias = "dataset-name", value_name = "FILE")]
    pub(crate) data: Option<String>,

    /// Rows to evaluate on.
    #[arg(long, value_name = "FILE")]
    pub(crate) eval_data: Option<String>,

    /// Without --eval-data: keep this share of the prompts back to evaluate on.
    #[arg(long, value_name = "F")]
    pub(crate) eval_fraction: Option<f64>,

    /// Directory for checkpoints, metrics, report and the trained weights.
    #[arg(long, short = 'o', alias = "output-dir", value_name = "DIR")]
    pub(crate) out: Option<String>,

    /// `trl`: batch order, mean of means, masks and rewards by TRL 1.16's rules to the letter.
    #[arg(long, value_name = "trl")]
    pub(crate) compat: Option<String>,

    /// Keep activations as far as memory reaches (auto), or compute them again (always).
    #[arg(long, value_name = "auto|always|never")]
    pub(crate) recompute: Option<String>,

    /// `cpu`, `cuda:N` or `metal`.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// How frozen weights are held [default: f32 on a CPU, bf16 on a GPU]; what is trained is f32.
    #[arg(long, value_name = "f32|bf16|f16|q")]
    pub(crate) dtype: Option<String>,

    /// Memory that training may take, beside the model [default: what is free].
    #[arg(long, value_name = "GIB")]
    pub(crate) memory_gib: Option<f64>,

    /// Chat template to use instead of the model's own.
    #[arg(long, value_name = "FILE")]
    pub(crate) chat_template_path: Option<String>,

    /// Tokens of a text, at most [default: 1024].
    #[arg(long, help_heading = "Data", value_name = "N")]
    pub(crate) max_length: Option<u64>,

    /// Which end of too long a text is kept.
    #[arg(long, help_heading = "Data", value_name = "keep_start|keep_end")]
    pub(crate) truncation_mode: Option<String>,

    /// SFT: the column with texts [default: text].
    #[arg(long, help_heading = "Data", value_name = "NAME")]
    pub(crate) dataset_text_field: Option<String>,

    /// SFT: train on completions, not on prompts [default: true where rows have prompts].
    #[arg(long, help_heading = "Data", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) completion_only_loss: Option<bool>,

    /// SFT: train on what the assistant says.
    #[arg(long, help_heading = "Data", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) assistant_only_loss: Option<bool>,

    /// Believe pairs as far as the judge did that made them (`probability_first`, `probability_second`).
    #[arg(long, help_heading = "Data", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) soft_labels: Option<bool>,

    /// Items of a micro-batch [default: 8].
    #[arg(long, help_heading = "Batches", alias = "batch-size", value_name = "N")]
    pub(crate) per_device_train_batch_size: Option<u64>,

    /// Items of a micro-batch of evaluation.
    #[arg(long, help_heading = "Batches", value_name = "N")]
    pub(crate) per_device_eval_batch_size: Option<u64>,

    /// Micro-batches of an update [default: 1].
    #[arg(long, help_heading = "Batches", value_name = "N")]
    pub(crate) gradient_accumulation_steps: Option<u64>,

    /// Order of the items [default: group_by_length].
    #[arg(long, help_heading = "Batches", value_name = "random|sequential|group_by_length")]
    pub(crate) train_sampling_strategy: Option<String>,

    /// Seeds order, first adapter weights and dropout [default: 42].
    #[arg(long, help_heading = "Batches", value_name = "S")]
    pub(crate) seed: Option<u64>,

    /// Times that everything is seen [default: 3].
    #[arg(long, help_heading = "Length", alias = "epochs", value_name = "F")]
    pub(crate) num_train_epochs: Option<f64>,

    /// Updates in all, whatever the epochs.
    #[arg(long, help_heading = "Length", value_name = "N")]
    pub(crate) max_steps: Option<i64>,

    /// Updates between two lines of the log [default: 1].
    #[arg(long, help_heading = "Length", value_name = "N")]
    pub(crate) logging_steps: Option<f64>,

    /// When to evaluate [default: epoch, where there is something to evaluate on].
    #[arg(long, help_heading = "Length", value_name = "no|steps|epoch")]
    pub(crate) eval_strategy: Option<String>,

    /// Evaluate before the first update too [default: true].
    #[arg(long, help_heading = "Length", value_name = "BOOL")]
    pub(crate) eval_on_start: Option<bool>,

    /// Updates between two evaluations, or a share of all updates below 1.
    #[arg(long, help_heading = "Length", value_name = "N")]
    pub(crate) eval_steps: Option<f64>,

    /// When to write a checkpoint [default: steps].
    #[arg(long, help_heading = "Length", value_name = "no|steps|epoch")]
    pub(crate) save_strategy: Option<String>,

    /// Updates between two checkpoints [default: 500].
    #[arg(long, help_heading = "Length", value_name = "N")]
    pub(crate) save_steps: Option<f64>,

    /// Checkpoints that are kept.
    #[arg(long, help_heading = "Length", value_name = "N")]
    pub(crate) save_total_limit: Option<u64>,

    /// End with the weights of the best evaluation.
    #[arg(long, help_heading = "Length", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) load_best_model_at_end: Option<bool>,

    /// What the best is told by [default: loss].
    #[arg(long, help_heading = "Length", value_name = "NAME")]
    pub(crate) metric_for_best_model: Option<String>,

    /// Whether more of it is better [default: not of a loss].
    #[arg(long, help_heading = "Length", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) greater_is_better: Option<bool>,

    /// Stop after so many evaluations without improvement.
    #[arg(long, help_heading = "Length", value_name = "N")]
    pub(crate) early_stopping_patience: Option<u32>,

    /// By how much the metric has to improve.
    #[arg(long, help_heading = "Length", value_name = "F")]
    pub(crate) early_stopping_threshold: Option<f64>,

    /// Prompts answered before and after training, for the report [default: 4].
    #[arg(long, help_heading = "Length", value_name = "N")]
    pub(crate) samples: Option<u64>,

    /// Highest rate [default: 2e-5 for SFT, 1e-4 for reward models, 1e-6 for preferences].
    #[arg(long, help_heading = "Optimiser", alias = "lr", value_name = "F")]
    pub(crate) learning_rate: Option<f64>,

    /// How the rate goes on after the warm-up [default: linear].
    #[arg(
        long,
        help_heading = "Optimiser",
        value_name = "linear|cosine|constant|constant_with_warmup|warmup_stable_decay"
    )]
    pub(crate) lr_scheduler_type: Option<String>,

    /// Updates until the rate is at its highest; below 1, a share of all.
    #[arg(long, help_heading = "Optimiser", value_name = "N|F")]
    pub(crate) warmup_steps: Option<f64>,

    /// The same as a share of all updates.
    #[arg(long, help_heading = "Optimiser", value_name = "F")]
    pub(crate) warmup_ratio: Option<f64>,

    /// Decay of weight matrices, decoupled from the gradient [default: 0].
    #[arg(long, help_heading = "Optimiser", value_name = "F")]
    pub(crate) weight_decay: Option<f64>,

    /// How long AdamW remembers gradients [default: 0.9].
    #[arg(long, help_heading = "Optimiser", value_name = "F")]
    pub(crate) adam_beta1: Option<f64>,

    /// How long AdamW remembers their squares [default: 0.999].
    #[arg(long, help_heading = "Optimiser", value_name = "F")]
    pub(crate) adam_beta2: Option<f64>,

    /// What AdamW adds to their root [default: 1e-8].
    #[arg(long, help_heading = "Optimiser", value_name = "F")]
    pub(crate) adam_epsilon: Option<f64>,

    /// Norm that gradients are clipped to [default: 1]; 0: not at all.
    #[arg(long, help_heading = "Optimiser", value_name = "F")]
    pub(crate) max_grad_norm: Option<f64>,

    /// One or more losses with commas, such as `sigmoid,sft` [default: sigmoid; SFT: nll].
    #[arg(long, help_heading = "Loss", value_name = "NAME,...")]
    pub(crate) loss_type: Option<String>,

    /// A weight for each.
    #[arg(long, help_heading = "Loss", value_delimiter = ',', value_name = "F,...")]
    pub(crate) loss_weights: Option<Vec<f32>>,

    /// How strongly the policy is held to the reference [default: 0.1].
    #[arg(long, help_heading = "Loss", value_name = "F")]
    pub(crate) beta: Option<f32>,

    /// Share of labels taken to be wrong.
    #[arg(long, help_heading = "Loss", value_name = "F")]
    pub(crate) label_smoothing: Option<f32>,

    /// Divergence from the reference: reverse_kl, forward_kl, js_divergence or alpha_divergence [default: reverse_kl].
    #[arg(long, help_heading = "Loss", value_name = "NAME")]
    pub(crate) f_divergence_type: Option<String>,

    /// Alpha of the alpha divergence.
    #[arg(long, help_heading = "Loss", value_name = "F")]
    pub(crate) f_alpha_divergence_coef: Option<f32>,

    /// LD-DPO: weight of the part by which one answer is longer.
    #[arg(long, help_heading = "Loss", value_name = "F")]
    pub(crate) ld_alpha: Option<f32>,

    /// WPO: weigh pairs by how likely they are.
    #[arg(long, help_heading = "Loss", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) use_weighting: Option<bool>,

    /// DiscoPOP: temperature of its mix of losses.
    #[arg(long, help_heading = "Loss", value_name = "F")]
    pub(crate) discopop_tau: Option<f32>,

    /// SimPO: margin that the difference of rewards should have.
    #[arg(long, help_heading = "Loss", value_name = "F")]
    pub(crate) simpo_gamma: Option<f32>,

    /// KTO: weight of wanted texts [default: 1].
    #[arg(long, help_heading = "Loss", value_name = "F")]
    pub(crate) desirable_weight: Option<f32>,

    /// KTO: weight of unwanted texts [default: 1].
    #[arg(long, help_heading = "Loss", value_name = "F")]
    pub(crate) undesirable_weight: Option<f32>,

    /// Reward models: keeps rewards around 0.
    #[arg(long, help_heading = "Loss", value_name = "F")]
    pub(crate) center_rewards_coefficient: Option<f32>,

    /// Another model as the reference [default: the model before training].
    #[arg(long, help_heading = "Loss", value_name = "REF")]
    pub(crate) ref_model: Option<String>,

    /// Compute the reference's log-probabilities before the first update.
    #[arg(long, help_heading = "Loss", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) precompute_ref_log_probs: Option<bool>,

    /// `false`: train all weights instead of an adapter.
    #[arg(long, help_heading = "Adapter", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) use_peft: Option<bool>,

    /// Adapters drop none of their inputs, whatever `--lora-dropout` says [default: true, for SFT false].
    #[arg(long, help_heading = "Adapter", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) disable_dropout: Option<bool>,

    /// Go on with this adapter.
    #[arg(long, help_heading = "Adapter", value_name = "DIR")]
    pub(crate) adapter: Option<String>,

    /// Rank [default: 16].
    #[arg(long, help_heading = "Adapter", value_name = "N")]
    pub(crate) lora_r: Option<u64>,

    /// The adapter counts alpha / rank [default: 32].
    #[arg(long, help_heading = "Adapter", value_name = "F")]
    pub(crate) lora_alpha: Option<f32>,

    /// Share of the adapter's inputs that is dropped while training [default: 0].
    #[arg(long, help_heading = "Adapter", value_name = "F")]
    pub(crate) lora_dropout: Option<f32>,

    /// Names of linear layers with commas, or `all-linear` [default].
    #[arg(long, help_heading = "Adapter", value_name = "NAME,...")]
    pub(crate) lora_target_modules: Option<String>,

    /// Rank-stabilised scale.
    #[arg(long, help_heading = "Adapter", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) use_rslora: Option<bool>,

    /// Weight-decomposed adapters.
    #[arg(long, help_heading = "Adapter", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) use_dora: Option<bool>,
}
