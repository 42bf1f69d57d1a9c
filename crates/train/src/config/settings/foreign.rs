//! Names of TRL 1.16's settings that are none here: all fields of its `DPOConfig`, `RewardConfig`, `SFTConfig`,
//! `KTOConfig`, `ModelConfig` and `ScriptArguments`.

use serde_json::{Map, Value};

/// Those that say nothing here: why.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("accelerator_config", "there is one device"),
    ("activation_checkpointing", "`recompute` says it"),
    ("activation_checkpointing_kwargs", "`recompute` says it"),
    ("activation_offloading", "`recompute` says it"),
    ("attn_implementation", "there is one"),
    ("auto_find_batch_size", "the plan of memory says what fits"),
    ("average_tokens_across_devices", "there is one device"),
    ("batch_eval_metrics", "evaluation has metrics of its own"),
    ("bf16", "`dtype` says it"),
    ("bf16_full_eval", "`dtype` says it"),
    ("bnb_4bit_quant_storage", "a quantised base is a GGUF file"),
    ("bnb_4bit_quant_type", "a quantised base is a GGUF file"),
    ("data_seed", "`seed` says it"),
    ("dataloader_drop_last", "short batches are kept"),
    ("dataloader_in_order", "rows are tokenised beforehand"),
    ("dataloader_multiprocessing_context", "rows are tokenised beforehand"),
    ("dataloader_num_workers", "rows are tokenised beforehand"),
    ("dataloader_persistent_workers", "rows are tokenised beforehand"),
    ("dataloader_pin_memory", "rows are tokenised beforehand"),
    ("dataloader_prefetch_factor", "rows are tokenised beforehand"),
    ("dataset_kwargs", "rows are tokenised beforehand"),
    ("dataset_num_proc", "rows are tokenised beforehand"),
    ("dataset_streaming", "rows are tokenised beforehand"),
    ("dataset_test_split", "`eval_data` says it"),
    ("dataset_train_split", "a dataset's `train` split is read; `data` may name a file"),
    ("ddp_backend", "there is one device"),
    ("ddp_broadcast_buffers", "there is one device"),
    ("ddp_bucket_cap_mb", "there is one device"),
    ("ddp_find_unused_parameters", "there is one device"),
    ("ddp_static_graph", "there is one device"),
    ("ddp_timeout", "there is one device"),
    ("debug", "there is no torch"),
    ("deepspeed", "there is one device"),
    ("disable_tqdm", "`--no-progress` says it"),
    ("do_eval", "`eval_data` says it"),
    ("do_predict", "evaluation has metrics of its own"),
    ("do_train", "that is the command"),
    ("enable_jit_checkpoint", "a run can always be gone on with"),
    ("eval_accumulation_steps", "evaluation has metrics of its own"),
    ("eval_do_concat_batches", "evaluation has metrics of its own"),
    ("eval_use_gather_object", "there is one device"),
    ("fp16", "`dtype` says it"),
    ("fp16_full_eval", "`dtype` says it"),
    ("fsdp", "there is one device"),
    ("fsdp_config", "there is one device"),
    ("full_determinism", "runs always repeat, for a number of threads"),
    ("gradient_checkpointing", "`recompute` says it"),
    ("gradient_checkpointing_kwargs", "`recompute` says it"),
    ("hub_always_push", "nothing is uploaded"),
    ("hub_model_id", "nothing is uploaded"),
    ("hub_private_repo", "nothing is uploaded"),
    ("hub_revision", "nothing is uploaded"),
    ("hub_strategy", "nothing is uploaded"),
    ("hub_token", "nothing is uploaded"),
    ("ignore_bias_buffers", "there are no such buffers"),
    ("ignore_data_skip", "a run can always be gone on with"),
    ("include_for_metrics", "evaluation has metrics of its own"),
    ("include_num_input_tokens_seen", "`num_tokens` is always logged"),
    ("label_names", "evaluation has metrics of its own"),
    ("length_column_name", "tokens are counted"),
    ("liger_kernel_config", "there is one implementation"),
    ("local_rank", "there is one device"),
    ("log_level", "`-v` says it"),
    ("log_level_replica", "there is one device"),
    ("log_on_each_node", "there is one device"),
    ("logging_dir", "event files lie in the output directory"),
    ("logging_first_step", "`logging_steps` says it"),
    ("logging_nan_inf_filter", "a loss that is no number stops the run"),
    ("logging_strategy", "`logging_steps` says it"),
    ("lora_task_type", "the command says it"),
    ("model_revision", "`model` says it: `local/ORG/REPO@REVISION`"),
    ("overwrite_output_dir", "`--fresh` says it"),
    ("packing_strategy", "nothing is ever padded"),
    ("pad_to_multiple_of", "nothing is ever padded"),
    ("padding_free", "nothing is ever padded"),
    ("parallelism_config", "there is one device"),
    ("precompute_ref_batch_size", "batches are those of training"),
    ("prediction_loss_only", "evaluation has metrics of its own"),
    ("project", "nothing is uploaded"),
    ("push_to_hub", "nothing is uploaded"),
    ("ref_model_mixup_alpha", "`sync_ref_model` is not there"),
    ("ref_model_sync_steps", "`sync_ref_model` is not there"),
    ("remove_unused_columns", "columns that are not used are not read"),
    ("report_to", "every report is always written"),
    ("restore_callback_states_from_checkpoint", "a run can always be gone on with"),
    ("resume_from_checkpoint", "a run can always be gone on with"),
    ("router_aux_loss_coef", "there are no experts"),
    ("run_name", "the output directory is its name"),
    ("save_on_each_node", "there is one device"),
    ("save_only_model", "checkpoints can always be gone on with"),
    ("save_safetensors", "there is no other format"),
    ("skip_memory_metrics", "the plan of memory says what fits"),
    ("tf32", "`dtype` says it"),
    ("torch_compile", "there is nothing to compile"),
    ("torch_compile_backend", "there is nothing to compile"),
    ("torch_compile_mode", "there is nothing to compile"),
    ("torch_empty_cache_steps", "the plan of memory says what fits"),
    ("trackio_bucket_id", "nothing is uploaded"),
    ("trackio_space_id", "nothing is uploaded"),
    ("trackio_static_space_id", "nothing is uploaded"),
    ("trust_remote_code", "no remote code is ever run"),
    ("use_cache", "there is no torch"),
    ("use_cpu", "`device` says it"),
    ("use_liger_kernel", "there is one implementation"),
];

/// Those of what is not there, and what to do instead. Switched off they say nothing.
const NOT_THERE: &[(&str, &str)] = &[
    ("bnb_4bit_use_double_quant", "train on a quantised GGUF base instead: `--dtype q`"),
    ("dataset_config", "name a file of that configuration as `data`"),
    ("eos_token", "it is the tokeniser's: set it in the model's tokenizer_config.json"),
    ("eval_delay", "leave it out: the first evaluation is `eval_on_start`, the others `eval_steps` apart"),
    ("eval_packing", "leave it out: texts are never padded, so there is nothing to gain"),
    ("label_smoothing_factor", "leave it out: labels of tokens are not smoothed"),
    ("load_in_4bit", "train on a quantised GGUF base instead: `--dtype q`"),
    ("load_in_8bit", "train on a quantised GGUF base instead: `--dtype q`"),
    ("lora_target_parameters", "name linear layers in `lora_target_modules`"),
    (
        "max_prompt_length",
        "leave it out, as TRL did: a row is left out where its prompt alone fills `max_length`",
    ),
    ("model_init_kwargs", "say it with `dtype` and `device`"),
    ("neftune_noise_alpha", "leave it out: embeddings get no noise"),
    ("optim_args", "AdamW is set by `adam_beta1`, `adam_beta2`, `adam_epsilon` and `weight_decay`"),
    ("optim_target_modules", "leave it out: what is trained is `lora_target_modules`, or everything"),
    ("packing", "leave it out: texts are never padded, so there is nothing to gain"),
    ("pad_token", "it is the tokeniser's: set it in the model's tokenizer_config.json"),
    ("ref_model_init_kwargs", "say it with `dtype` and `device`"),
    ("shuffle_dataset", "leave it out: `train_sampling_strategy` is the order"),
    ("sync_ref_model", "leave it out: the reference stays what it is"),
    ("use_bnb_nested_quant", "train on a quantised GGUF base instead: `--dtype q`"),
];

/// A setting of what is not there.
pub(super) struct Refused {
    pub(super) name: &'static str,
    pub(super) problem: String,
    /// What to do instead.
    pub(super) hint: &'static str,
}

/// Whether a setting of something that is not there says so itself.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::Bool(true) => false,
    }
}

/// Takes out what says nothing here: names and why.
///
/// # Errors
/// One that is not there is asked for.
pub(super) fn take_out(
    values: &mut Map<String, Value>,
) -> Result<Vec<(&'static str, &'static str)>, Refused> {
    let notes = WITHOUT_EFFECT.iter().filter(|(name, _)| values.remove(*name).is_some()).copied().collect();
    for (name, hint) in NOT_THERE {
        if values.remove(*name).is_some_and(|value| !is_off(&value)) {
            return Err(Refused { name, problem: "is not there".to_owned(), hint });
        }
    }
    check_optimizer(values)?;
    check_modules(values)?;
    Ok(notes)
}

/// Whether a recorded argument may mean something that is not read here.
pub(super) fn may_mean_something(name: &str, value: &Value) -> bool {
    let known = |names: &[(&str, &str)]| names.iter().any(|(known, _)| *known == name);
    name != "optim" && !known(WITHOUT_EFFECT) && !is_off(value)
}

/// AdamW by transformers' names is what there is.
fn check_optimizer(values: &mut Map<String, Value>) -> Result<(), Refused> {
    match values.remove("optim") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(name)) if name.starts_with("adamw_torch") => Ok(()),
        Some(other) => Err(Refused {
            name: "optim",
            problem: format!("{other} is not there"),
            hint: "leave it out, or write `adamw_torch`: AdamW is the one there is",
        }),
    }
}

/// A reward model's head is always trained and saved with its adapter; no other module is.
fn check_modules(values: &mut Map<String, Value>) -> Result<(), Refused> {
    let is_head = |name: &Value| matches!(name.as_str(), Some("score" | "classifier"));
    match values.remove("lora_modules_to_save") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(names)) if names.iter().all(is_head) => Ok(()),
        Some(name) if is_head(&name) => Ok(()),
        Some(other) => Err(Refused {
            name: "lora_modules_to_save",
            problem: format!("{other} cannot be trained beside an adapter"),
            hint: "leave it out: a reward model's `score` is always saved; `--use-peft false` trains everything",
        }),
    }
}
