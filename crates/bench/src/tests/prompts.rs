//! Prompts of tasks whose data is not at hand, on rows written here. The expected texts and hashes were
//! made with the reference's own task files and Jinja2 3.1: for each file its `description`, then
//! `doc_to_text + " " + target + "\n\n"` per example, then `doc_to_text`.

use std::fmt::Write as _;

use evalign_core::{Digest, Prompt, RequestKind, ScoringMode};
use serde_json::{Value, json};

use super::{embedded, planned, request};
use crate::{Catalog, PlannedSample};

fn sample(task: &str, shots: u32, doc: &Value, examples: &[Value]) -> PlannedSample {
    let mut request = request(ScoringMode::LmEval);
    request.shots = Some(shots);
    let docs = std::slice::from_ref(doc);
    planned(&request, &embedded(task), docs, examples).unwrap().sample(0, 0).unwrap()
}

fn text(sample: &PlannedSample) -> &str {
    match sample.prompt() {
        Some(Prompt::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn continuations(sample: &PlannedSample) -> &[String] {
    match &sample.request.kind {
        RequestKind::LogLikelihood { continuations, .. } => continuations,
        other => panic!("{other:?}"),
    }
}

fn mmlu(subject: &str, question: &str, answer: u32) -> Value {
    json!({
        "question": question, "subject": subject,
        "choices": [" red", "green ", "it's \"blue\"", "ünï"], "answer": answer
    })
}

/// Hashes of the prompts and targets of all 57 subjects, hashed: `"\n".join(f"{task} {prompt_hash}
/// {target_hash}")` over the sorted task names.
#[test]
fn mmlu_families() {
    let catalog = Catalog::load(&[]).unwrap();
    for (group, shots, expected) in [
        ("mmlu", 1, "bd46fa59c12d513cac55a8c6d575d4bebc2cffc9e5c82aafc29accd132ee7547"),
        ("mmlu_continuation", 1, "ef5da278ea05a4ea7a04f88bbdc6e0b18e463d5d906c751569eaba2e624f2397"),
        ("mmlu_generative", 1, "16341d22a7abac9f5772235d235acf6fee6690ab70d9935f69dc0e237d510500"),
        ("mmlu_flan_cot_fewshot", 4, "384bdbbab4ca6a8734d7c76459c4c885ae35a6a95103918fc057903a7b798a0a"),
        ("mmlu_flan_cot_zeroshot", 0, "103142673def22819f78e38f6ba164585025491ef3e3e50ec964d2c08b650d86"),
    ] {
        let mut names = catalog.leaves(group).unwrap();
        names.sort();
        assert_eq!(names.len(), 57);
        let mut lines = String::new();
        for name in &names {
            let definition = catalog.task(name).unwrap();
            let subject = definition.dataset.filter.as_ref().unwrap().value.clone();
            let doc = mmlu(&subject, " Which one is it?\n", 2);
            let mut request = request(ScoringMode::LmEval);
            request.shots = Some(shots);
            let examples = [mmlu(&subject, "First?", 0)];
            let task = planned(&request, &definition, &[doc], &examples).unwrap();
            let sample = task.sample(0, 0).unwrap();
            let _ = writeln!(lines, "{name} {} {}", sample.prompt_hash, sample.target_hash);
        }
        assert_eq!(Digest::of(lines.trim_end()).as_str(), expected, "{group}");
    }
}

#[test]
fn continuations_are_the_choices() {
    let doc = mmlu("anatomy", "Which?", 1);
    assert_eq!(continuations(&sample("mmlu_anatomy", 0, &doc, &[])), [" A", " B", " C", " D"]);
    let cloze = sample("mmlu_anatomy_continuation", 0, &doc, &[]);
    assert_eq!(continuations(&cloze), ["  red", " green ", " it's \"blue\"", " ünï"]);
}

#[test]
fn arc() {
    let doc = json!({
        "id": "x", "question": "Which gas do plants take in?",
        "choices": {"text": ["Oxygen", "Carbon dioxide", "Neon"], "label": ["1", "2", "3"]}, "answerKey": "2"
    });
    let example = json!({
        "id": "y", "question": "What is ice?", "choices": {"text": ["Water", "Sand"], "label": ["A", "B"]},
        "answerKey": "A"
    });
    for task in ["arc_easy", "arc_challenge"] {
        let sample = sample(task, 1, &doc, std::slice::from_ref(&example));
        assert_eq!(
            text(&sample),
            "Question: What is ice?\nAnswer: Water\n\nQuestion: Which gas do plants take in?\nAnswer:"
        );
        assert_eq!(continuations(&sample), [" Oxygen", " Carbon dioxide", " Neon"]);
        assert_eq!(sample.target, "1");
    }
}

#[test]
fn triviaqa() {
    let doc = json!({
        "question": "Who wrote Emma",
        "answer": {"aliases": ["Jane Austen", "Austen's", "A \"quoted\" 'name'"], "value": "x"}
    });
    let example = json!({"question": "What is 1+1?", "answer": {"aliases": ["Two", "2"], "value": "2"}});
    let sample = sample("triviaqa", 1, &doc, &[example.clone(), example]);
    assert_eq!(text(&sample), "Question: What is 1+1??\nAnswer: Two\n\nQuestion: Who wrote Emma?\nAnswer:");
    assert_eq!(
        sample.target_hash.as_str(),
        "ddfc9bf9486329dfbf28b5fab1fd08e4884616fc9d55bad62f7dc75c5fd5d60b"
    );
}

#[test]
fn hellaswag_cleans_its_rows() {
    let doc = json!({
        "ind": 4, "activity_label": "Removing ice", "ctx_a": "A man [title]  starts.",
        "ctx_b": "ßIG IPhone [substeps] He ΑΣ", "endings": [" one [title] two", "[header] x  y", "", "d   e"],
        "label": "1"
    });
    let sample = sample("hellaswag", 0, &doc, &[]);
    assert_eq!(text(&sample), "Removing ice: A man.  starts. Ssig iphone he ας");
    assert_eq!(continuations(&sample), [" one. two", "  x y", " ", " d  e"]);
    assert_eq!(sample.doc_hash.as_str(), "33a8b18a46de2add82bb1864f35a010c2853a525cb0692e2b2470057ade63a84");
    assert_eq!(sample.doc["gold"], 1);
}

/// Digest of the texts as they stand in the reference's files, as canonical JSON.
#[test]
fn flan_examples_are_verbatim() {
    let catalog = Catalog::load(&[]).unwrap();
    let mut all = serde_json::Map::new();
    for name in catalog.leaves("mmlu_flan_cot_fewshot").unwrap() {
        let definition = catalog.task(&name).unwrap();
        let subject = name.trim_start_matches("mmlu_flan_cot_fewshot_").to_owned();
        let examples = definition.shots.examples.into_iter().map(Value::Object).collect();
        all.insert(subject, Value::Array(examples));
    }
    let digest = Digest::of_json(&Value::Object(all));
    assert_eq!(digest.as_str(), "6d8eda413d2088c206959d98f01bb8b44853382fd7c1c8ec589f03e754260f05");
}

#[test]
fn chats() {
    let doc = mmlu("anatomy", "Which?", 1);
    let mut request = request(ScoringMode::LmEval);
    request.chat_template = Some(true);
    request.system_instruction = Some("Be brief.".to_owned());
    let task = planned(&request, &embedded("mmlu_anatomy"), &[doc], &[]).unwrap();
    let mut sample = task.sample(0, 0).unwrap();
    let Some(Prompt::Chat(messages)) = sample.prompt() else { panic!() };
    assert_eq!(messages.len(), 2);
    assert!(messages[0].content.starts_with("Be brief.\n\nThe following are"));
    assert_eq!(continuations(&sample), ["A", "B", "C", "D"]);
    sample.set_rendered_prompt("rendered");
    assert_eq!(sample.prompt_hash, Digest::of("rendered"));
}
