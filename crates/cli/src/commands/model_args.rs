//! lm-evaluation-harness's `--model_args NAME=VALUE,...`: what evalign can do about each is done or said,
//! and nothing is dropped in silence.

use evalign_core::Dtype;

use crate::args::parse_dtype;
use crate::output::{Failure, Output};

/// What `--model_args` says, as far as evalign has it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelArgs {
    /// Without `local/`, with `@REVISION` where one is given.
    pub(super) name: String,
    pub(super) dtype: Option<Dtype>,
}

/// Arguments that make no difference to the numbers here, and why.
const WITHOUT_EFFECT: [(&str, &str); 13] = [
    ("device", "say it with `--device`"),
    ("batch_size", "batches are planned from the memory there is"),
    ("max_batch_size", "batches are planned from the memory there is"),
    ("trust_remote_code", "no code of a model is ever run"),
    ("parallelize", "a model runs on one device"),
    ("device_map_option", "a model runs on one device"),
    ("max_memory_per_gpu", "say it with `--memory-gib`"),
    ("max_cpu_memory", "say it with `--memory-gib`"),
    ("offload_folder", "nothing is offloaded"),
    ("low_cpu_mem_usage", "weights are mapped, not copied"),
    ("use_fast_tokenizer", "there is one tokeniser"),
    ("logits_cache", "common prompt beginnings are always shared"),
    ("attn_implementation", "there is one"),
];

/// Arguments that would change the numbers and are said in another way, or not at all.
const ELSEWHERE: [(&str, &str); 9] = [
    ("tokenizer", "the tokeniser is the one that lies beside the weights: put yours there"),
    ("peft", "adapters are not applied: merge it into the model and give the merged directory"),
    ("delta", "weight deltas are not applied: give the merged model"),
    ("gguf_file", "name the file: `--model local/PATH.gguf` (`evalign models pull ORG/REPO --file NAME`)"),
    ("subfolder", "name the directory: `--model local/PATH`"),
    ("load_in_8bit", "use a GGUF file and `--dtype q`"),
    ("load_in_4bit", "use a GGUF file and `--dtype q`"),
    ("system_instruction", "use `--system-instruction`"),
    ("chat_template_args", "the chat template is applied as it is: `--chat-template`"),
];

/// Reads `pretrained=NAME,dtype=bfloat16,revision=main,...`.
///
/// # Errors
/// No model, or an argument that would change the numbers and is not supported here.
pub(super) fn model_args(text: &str, output: Output) -> Result<ModelArgs, Failure> {
    let (mut name, mut revision, mut dtype) = (None, None, None);
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (argument, value) = part.split_once('=').map_or((part, ""), |(a, v)| (a.trim(), v.trim()));
        match argument {
            "pretrained" if !value.is_empty() => name = Some(value.to_owned()),
            "revision" if !value.is_empty() => revision = Some(value.to_owned()),
            "dtype" | "torch_dtype" => dtype = read_dtype(value, output)?,
            _ => tell(argument, part, output)?,
        }
    }
    let missing = || Failure::new("`--model_args` names no model", "write `--model_args pretrained=NAME`");
    let name = name.ok_or_else(missing)?;
    let Some(revision) = revision else { return Ok(ModelArgs { name, dtype }) };
    if name.contains('@') || std::path::Path::new(&name).exists() {
        return Err(Failure::new(
            format!("`revision={revision}` of `--model_args` does not apply to `{name}`"),
            "only models of the hub have revisions: `--model local/ORG/REPO@REVISION`",
        ));
    }
    Ok(ModelArgs { name: format!("{name}@{revision}"), dtype })
}

/// `auto` leaves it to evalign, as saying nothing does.
fn read_dtype(value: &str, output: Output) -> Result<Option<Dtype>, Failure> {
    if value == "auto" {
        output.note("note: `dtype=auto` is f32 on a CPU and bf16 on a GPU here; `--dtype` says it exactly");
        return Ok(None);
    }
    let plain = value.strip_prefix("torch.").unwrap_or(value);
    parse_dtype(plain).map(Some).map_err(|_| {
        Failure::new(
            format!("cannot use `dtype={value}` of `--model_args`"),
            "use float32, bfloat16, float16 or auto; evalign's own flag is `--dtype f32|bf16|f16|q`",
        )
    })
}

fn tell(argument: &str, part: &str, output: Output) -> Result<(), Failure> {
    let named = |(name, _): &&(&str, &str)| *name == argument;
    if let Some((_, why)) = WITHOUT_EFFECT.iter().find(named) {
        output.note(&format!("note: `{part}` of `--model_args` has no effect: {why}"));
        return Ok(());
    }
    let hint = ELSEWHERE.iter().find(named).map_or(
        "it takes pretrained, revision and dtype; leave this out, or see `evalign help eval` for a flag of its own",
        |(_, hint)| *hint,
    );
    Err(Failure::new(format!("cannot use `{part}` of `--model_args`"), hint))
}
