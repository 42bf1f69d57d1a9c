//! The task files and sample sets that ship inside the binary.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::generated;

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../../benchmarks/", $name)))),+]
    };
}

/// Name relative to `benchmarks/`, and contents. A test compares the list with the directory.
pub(super) const FILES: &[(&str, &str)] = files![
    "_arc.yaml",
    "_gsm8k.yaml",
    "_gsm8k_cot.yaml",
    "_mmlu.yaml",
    "_mmlu_flan_cot_shots.yaml",
    "arc_challenge.yaml",
    "arc_easy.yaml",
    "gsm8k.yaml",
    "gsm8k_cot.yaml",
    "gsm8k_cot_self_consistency.yaml",
    "gsm8k_cot_zeroshot.yaml",
    "hellaswag.yaml",
    "mmlu.yaml",
    "mmlu_continuation.yaml",
    "mmlu_flan_cot_fewshot.yaml",
    "mmlu_flan_cot_zeroshot.yaml",
    "mmlu_generative.yaml",
    "one_step_arithmetic.yaml",
    "robustness.yaml",
    "robustness_attacks.yaml",
    "robustness_demographic.yaml",
    "robustness_overrefusal.yaml",
    "samples.yaml",
    "samples/arithmetic.jsonl",
    "samples/arithmetic_shots.jsonl",
    "samples/attacks.jsonl",
    "samples/completion.jsonl",
    "samples/demographic_swaps.jsonl",
    "samples/harmless.jsonl",
    "samples/judge_injections.jsonl",
    "samples/knowledge.jsonl",
    "samples/knowledge_shots.jsonl",
    "samples_arithmetic.yaml",
    "samples_completion.yaml",
    "samples_knowledge.yaml",
    "triviaqa.yaml",
];

pub(super) fn text(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| *text)
}

/// An embedded JSONL file.
pub(crate) struct EmbeddedRows {
    pub(crate) rows: Result<Vec<Map<String, Value>>, String>,
    /// The file as it is: what its digest is taken of.
    pub(crate) text: Cow<'static, str>,
}

/// The embedded (or generated) JSONL file of that name, if there is one.
pub(crate) fn embedded_rows(name: &str) -> Option<EmbeddedRows> {
    let text = match generated::text(name) {
        Some(Ok(text)) => Cow::Owned(text),
        Some(Err(error)) => return Some(EmbeddedRows { rows: Err(error), text: Cow::Borrowed("") }),
        None => Cow::Borrowed(text(name)?),
    };
    let rows =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(|(i, line)| {
            serde_json::from_str(line).map_err(|error| format!("{name}:{}: {error}", i + 1))
        });
    let rows = rows.collect();
    Some(EmbeddedRows { rows, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn listed(directory: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in fs_err::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                listed(&entry.path(), &format!("{name}/"), found);
            } else if name.ends_with(".yaml") || name.ends_with(".jsonl") {
                found.push(name);
            }
        }
    }

    #[test]
    fn every_file_of_the_directory_is_embedded() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benchmarks");
        let mut found = Vec::new();
        listed(&directory, "", &mut found);
        found.sort();
        let embedded: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(found, embedded);
    }
}
