use std::path::PathBuf;
use std::time::Instant;

use evalign_bench::{Catalog, Draft, PlannedSample, PlannedTask, RunRequest, draft};
use evalign_core::{
    ChoiceLogLikelihood, Digest, FinishReason, Outcome, Output, Prompt, RequestKind, Score, ScoringMode,
};
use evalign_data::DataRoots;
use serde_json::Value;

fn shared() -> Option<PathBuf> {
    evalign_testkit::shared("a test against the reference's logs")
}

fn plan(tasks: &[&str], change: impl FnOnce(&mut RunRequest)) -> Option<Draft> {
    let roots = DataRoots { data_root: Some(shared()?.join("data")), offline: true, ..DataRoots::default() };
    let tasks = tasks.iter().map(|task| (*task).to_owned()).collect();
    let mut request = RunRequest::new("scripted/none".parse().unwrap(), tasks);
    request.mode = ScoringMode::LmEval;
    change(&mut request);
    Some(draft(&request, &Catalog::load(&[]).unwrap(), &roots).unwrap())
}

fn golden(name: &str) -> Vec<Value> {
    let path = shared().unwrap().join("golden/lm-eval").join(format!("{name}.jsonl"));
    let text = fs_err::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(sample: &PlannedSample) -> &str {
    match sample.prompt() {
        Some(Prompt::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn score<'a>(scores: &'a [Score], metric: &str, filter: &str) -> &'a Score {
    scores.iter().find(|score| score.metric == metric && score.filter == filter).unwrap()
}

/// Prompt, continuations, target and document hash, and the scores of the reference's log-likelihoods.
fn check_choices(task: &PlannedTask, rows: &[Value]) {
    for row in rows {
        let doc = row["doc_id"].as_u64().unwrap();
        let sample = task.sample(doc, 0).unwrap();
        assert_eq!(sample.prompt_hash.as_str(), row["prompt_sha256"].as_str().unwrap(), "{}", sample.key);
        assert_eq!(sample.doc_hash.as_str(), row["doc_sha256"].as_str().unwrap(), "{}", sample.key);
        assert!(text(&sample).ends_with(row["prompt_tail"].as_str().unwrap()));
        assert_eq!(sample.target, row["target"].to_string());
        let RequestKind::LogLikelihood { continuations, .. } = &sample.request.kind else { panic!() };
        assert_eq!(Value::from(continuations.clone()), row["continuations"]);
        let sums = row["loglikelihood"].as_array().unwrap().iter().map(|sum| sum.as_f64().unwrap());
        let choices = sums.map(|sum| ChoiceLogLikelihood { sum, tokens: 1, greedy: false }).collect();
        let scores = task.scorer().score(&sample.doc, &Output::LogLikelihood { choices }).unwrap();
        for metric in ["acc", "acc_norm"] {
            if let Some(expected) = row[metric].as_f64() {
                assert_eq!(score(&scores, metric, "none").value, Some(expected), "{} {metric}", sample.key);
            }
        }
    }
}

#[test]
fn mmlu_five_shots() {
    for subject in ["abstract_algebra", "anatomy", "high_school_european_history", "world_religions"] {
        let Some(plan) = plan(&[&format!("mmlu_{subject}")], |r| r.shots = Some(5)) else { return };
        check_choices(&plan.tasks[0], &golden(&format!("mmlu_5shot_{subject}")));
    }
}

#[test]
fn hellaswag_no_shots() {
    let Some(plan) = plan(&["hellaswag"], |_| {}) else { return };
    assert_eq!(plan.total_samples(), 10_042);
    check_choices(&plan.tasks[0], &golden("hellaswag_0shot"));
}

#[test]
fn gsm8k_five_shots() {
    let Some(plan) = plan(&["gsm8k"], |_| {}) else { return };
    let task = &plan.tasks[0];
    for row in golden("gsm8k_5shot") {
        let sample = task.sample(row["doc_id"].as_u64().unwrap(), 0).unwrap();
        assert_eq!(sample.prompt_hash.as_str(), row["prompt_sha256"].as_str().unwrap());
        assert_eq!(text(&sample), row["prompt"].as_str().unwrap());
        assert_eq!(sample.target, row["target"].as_str().unwrap());
        let output = Output::Text {
            text: row["generation"].as_str().unwrap().to_owned(),
            finish: FinishReason::Stop,
            logprobs: None,
            reasoning: None,
        };
        let scores = task.scorer().score(&sample.doc, &output).unwrap();
        for filter in ["strict-match", "flexible-extract"] {
            let score = score(&scores, "exact_match", filter);
            assert_eq!(score.answer.as_deref(), row[filter]["extracted"].as_str());
            assert_eq!(score.value, row[filter]["exact_match"].as_f64());
            assert_eq!(score.outcome == Outcome::Correct, score.value == Some(1.0));
        }
    }
}

/// Published and independently computed prompt hashes.
#[test]
fn gsm8k_prompt_hashes() {
    let hash = |plan: &Draft, doc| plan.tasks[0].sample(doc, 0).unwrap().prompt_hash.to_string();
    let Some(five) = plan(&["gsm8k"], |_| {}) else { return };
    for (doc, expected) in [
        (0, "32680f263ba83280e98a8a24ceefed10a722a4cdcd9f4d78e93c45d43143ca66"),
        (1, "e6b9a0195411932e5323ed20ad05e965b08b979103bbb26594a5bdf123d27990"),
        (2, "97eb2662b11bbd7bd0423f898efde0e9a04d22028ed5fc1f80576965b0f570fa"),
        (1318, "c9c63955e0cf2185cb505fbc69b80561f7bad5c30a5daee94cc851b31107f4cb"),
    ] {
        assert_eq!(hash(&five, doc), expected, "document {doc}");
    }
    assert_eq!(text(&five.tasks[0].sample(0, 0).unwrap()).chars().count(), 3187);
    let all: String = (0..1319).map(|doc| hash(&five, doc)).collect();
    assert_eq!(Digest::of(all).as_str(), "e568d5f4432193c0a60b2d1f87472a2d09d967ee7379c98bc11dce8784a27c30");
    let zero = plan(&["gsm8k"], |r| r.shots = Some(0)).unwrap();
    assert_eq!(hash(&zero, 0), "b7d0342d147aa332159a8ac1e335932b8a27a7aca3a758b41efa721c5bf4984a");
    let part = plan(&["gsm8k"], |r| r.samples = Some("1318..1319".parse().unwrap())).unwrap();
    assert_eq!(hash(&part, 0), hash(&five, 1318), "a range keeps the prompts of the full run");
}

#[test]
fn gsm8k_chain_of_thought_hashes() {
    let Some(cot) = plan(&["gsm8k_cot"], |_| {}) else { return };
    let task = &cot.tasks[0];
    for (doc, expected) in [
        (0, "901fead9abd2535b6d0610c3c90125f38cad81678c4b2b98ec8fb818e3948bde"),
        (1, "d8ef3245c80f640811539185b957683e5036aab3d96e0ecf13cd5728c88cf30f"),
        (1318, "5b060fe1533ea37693f7f1637b6b057c5157b664596298cb43190e4dd7df8efd"),
    ] {
        assert_eq!(task.sample(doc, 0).unwrap().prompt_hash.as_str(), expected);
    }
    let first = task.sample(0, 0).unwrap();
    assert_eq!(first.target, "18");
    let (doc, target) = (first.doc_hash.as_str(), first.target_hash.as_str());
    assert!(doc.starts_with("986c1925") && doc.ends_with("518c"), "{doc}");
    assert!(target.starts_with("4ec9599f") && target.ends_with("d14a"), "{target}");
    let zero = plan(&["gsm8k_cot_zeroshot"], |r| r.shots = Some(5)).unwrap();
    assert_eq!(zero.notes.len(), 1, "the definition fixes 0 shots: {:?}", zero.notes);
    assert_eq!(
        zero.tasks[0].sample(0, 0).unwrap().prompt_hash.as_str(),
        "3ecf69624b1ce95ae0b41a1fc9ccaf38e0c07a2bb6c7c959ffc1c5a749dc049b"
    );
    let many = plan(&["gsm8k_cot_self_consistency"], |r| r.limit = Some("2".parse().unwrap())).unwrap();
    assert_eq!(many.total_samples(), 128);
    assert_eq!(many.tasks[0].sample(0, 63).unwrap().prompt_hash, first.prompt_hash);
}

#[test]
fn all_of_mmlu_is_planned_quickly() {
    let start = Instant::now();
    let Some(all) = plan(&["mmlu"], |r| r.shots = Some(5)) else { return };
    let seconds = start.elapsed().as_secs_f64();
    println!("planned {} samples of {} tasks in {seconds:.3} s", all.total_samples(), all.tasks.len());
    assert_eq!((all.tasks.len(), all.total_samples()), (57, 14_042));
    let names: Vec<&str> = all.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["mmlu", "mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities"]);
    assert_eq!(all.groups[0].leaves.len(), 57);
    assert!(seconds < 5.0, "{seconds} s");
    let start = Instant::now();
    let rendered = all.tasks.iter().map(|task| {
        task.docs().for_each(|doc| drop(task.sample(doc, 0).unwrap()));
        task.len()
    });
    println!("rendered {} samples in {:.3} s", rendered.sum::<u64>(), start.elapsed().as_secs_f64());
}
