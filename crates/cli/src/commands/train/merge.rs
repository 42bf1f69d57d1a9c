use evalign_core::ModelRef;
use evalign_train::{MergedForm, merge as merge_into};
use serde_json::json;

use super::resolve;
use super::run::watch_interrupts;
use crate::Verdict;
use crate::args::MergeArgs;
use crate::commands::context::absolute;
use crate::output::{Failure, Output};

pub(super) fn merge(args: &MergeArgs, output: Output) -> Result<Verdict, Failure> {
    let reference: ModelRef = args.model.parse()?;
    let Some(adapter) = &reference.adapter else {
        return Err(Failure::new(
            format!("`{reference}` has no adapter"),
            "name it as `local/NAME+adapter=DIR`",
        ));
    };
    let form = match args.form.as_str() {
        "hf" => MergedForm::HuggingFace,
        "gguf" => MergedForm::gguf(&args.kind).ok_or_else(|| {
            Failure::new(
                format!("there is no `--type {}`", args.kind),
                "use f32, f16, q8_0, q5_1, q5_0, q4_1 or q4_0",
            )
        })?,
        other => return Err(Failure::new(format!("there is no `--form {other}`"), "use hf or gguf")),
    };
    let base = resolve(&reference, args.offline, output)?;
    let stop = watch_interrupts(output, "nothing of it is kept")?;
    let Some(merged) = merge_into(&base, adapter, &absolute(&args.out), form, &stop)? else {
        return Ok(Verdict::Interrupted);
    };
    if args.json {
        output.json(&json!({
            "path": merged.path, "merged_matrices": merged.merged, "positions_compared": merged.positions,
            "largest_logit_difference": merged.largest_difference, "largest_logit": merged.largest_logit
        }))?;
    } else {
        output.result(&format!(
            "{}: {} matrices merged; logits differ by at most {:.1e} from base and adapter, over {} positions (largest \
             logit {:.1})",
            merged.path.display(),
            merged.merged,
            merged.largest_difference,
            merged.positions,
            merged.largest_logit
        ))?;
    }
    Ok(Verdict::Good)
}
