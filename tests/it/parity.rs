//! The real model against what lm-evaluation-harness printed for it.

use evalign_testkit::{Sandbox, real_model, shared};

/// Runs tasks under the reference's rule book and compares with its logs. Returns the verification.
fn against(test: &str, tasks: &[&str], more: &[&str], files: &[&str]) -> Option<serde_json::Value> {
    let (shared, model) = (shared(test)?, real_model(test)?);
    let sandbox = Sandbox::new();
    let (model, data) = (format!("local/{}", model.display()), shared.join("data").display().to_string());
    let mut arguments = vec!["eval"];
    arguments.extend(tasks);
    arguments.extend(["--model", &model, "--data-root", &data, "--compat", "lm-eval", "--dtype", "f32"]);
    arguments.extend(more);
    sandbox.ok(&arguments);
    let files: Vec<String> =
        files.iter().map(|file| shared.join("golden/lm-eval").join(file).display().to_string()).collect();
    let mut arguments = vec!["verify", "last", "--json", "--against"];
    arguments.extend(files.iter().map(String::as_str));
    Some(sandbox.run(&arguments).json())
}

#[test]
fn multiple_choice_agrees_item_by_item() {
    let found = against(
        "multiple_choice",
        &["mmlu_abstract_algebra"],
        &["--shots", "5", "--limit", "25"],
        &["mmlu_5shot_abstract_algebra.jsonl"],
    );
    let Some(found) = found else { return };
    assert_eq!(found[0]["equal"], 25, "{found:#}");
    let Some(found) =
        against("multiple_choice", &["hellaswag"], &["--limit", "20"], &["hellaswag_0shot.jsonl"])
    else {
        return;
    };
    // The log goes on for 80 documents more: those are missing, and nothing else.
    assert_eq!(found[0]["equal"], 20, "{found:#}");
    let divergences = found[0]["divergences"].as_array().unwrap();
    assert!(divergences.iter().all(|divergence| divergence["cause"] == "missing"), "{found:#}");
}

#[test]
fn generation_agrees_item_by_item() {
    let found = against("generation", &["gsm8k"], &["--shots", "5", "--limit", "3"], &["gsm8k_5shot.jsonl"]);
    let Some(found) = found else { return };
    let divergences = found[0]["divergences"].as_array().unwrap();
    let prompts = divergences.iter().filter(|d| d["cause"] == "prompt" || d["cause"] == "extraction").count();
    assert_eq!(prompts, 0, "{found:#}");
    assert!(found[0]["equal"].as_u64() >= Some(2), "{found:#}");
}
