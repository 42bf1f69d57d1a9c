//! The same questions asked in other ways: what changes, and what must not.

use evalign_core::{Hint as _, Prompt, RequestKind, ScoringMode, Variant};
use evalign_data::DataRoots;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{embedded, request, source};
use crate::plan::{Notes, assemble};
use crate::shots::Pool;
use crate::task::TaskDefinition;
use crate::{Catalog, OptionOrder, Perturbation, PlannedSample, PlannedTask, RunRequest, draft};

fn mmlu_rows() -> Vec<Value> {
    let row = |question: &str, answer: u64| {
        json!({"question": question, "subject": "anatomy", "answer": answer,
               "choices": ["The Femur", "The Tibia", "The Ulna", "The Skull of A Man"]})
    };
    vec![row("Which bone is the LONGEST one, in 1 adult?", 0), row(" Which of these is in the arm? ", 2)]
}

fn hellaswag_rows() -> Vec<Value> {
    vec![
        json!({"activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.", "ctx_b": "he",
                "endings": ["is using wrap.", "Is ripping it off.", "holds a cube.", "pulls up roofing."], "label": "3"}),
    ]
}

fn gsm8k_rows() -> Vec<Value> {
    vec![
        json!({"question": "Tom has 12 apples, and buys 3 more for $4.50. How many?", "answer": "12+3=15\n#### 15"}),
    ]
}

/// A task asked in one way over rows written in a test.
fn asked(
    request: &RunRequest,
    task: &TaskDefinition,
    rows: &[Value],
    variant: Option<Variant>,
) -> PlannedTask {
    let mut definition = task.for_mode(request.mode).asked_as(variant).unwrap();
    definition.shots.count = 0;
    let digest = definition.digest();
    let pool = Pool::Examples(Vec::new());
    assemble(request, (definition, variant), digest, (source(rows), pool), &mut Notes::default()).unwrap()
}

fn prompt(sample: &PlannedSample) -> &str {
    match sample.prompt() {
        Some(Prompt::Text(text)) => text,
        other => panic!("no plain prompt: {other:?}"),
    }
}

fn continuations(sample: &PlannedSample) -> Vec<String> {
    match &sample.request.kind {
        RequestKind::LogLikelihood { continuations, .. } => continuations.clone(),
        _ => Vec::new(),
    }
}

#[test]
fn options_move_and_everything_before_them_stays() {
    let request = request(ScoringMode::Default);
    let task = embedded("mmlu_anatomy");
    let plain = asked(&request, &task, &mmlu_rows(), None);
    let moved = asked(&request, &task, &mmlu_rows(), Some(Variant::Order(1)));
    assert_eq!(moved.name(), "mmlu_anatomy@order1");
    for doc in 0..2 {
        let (before, after) = (plain.sample(doc, 0).unwrap(), moved.sample(doc, 0).unwrap());
        let shared = |sample: &PlannedSample| prompt(sample).split("A. ").next().unwrap().to_owned();
        assert_eq!(shared(&before), shared(&after));
        assert_eq!(continuations(&before), continuations(&after));
        assert!(
            prompt(&after)
                .contains("A. The Tibia\nB. The Ulna\nC. The Skull of A Man\nD. The Femur\nAnswer:")
        );
    }
    let targets: Vec<String> = (0..2).map(|doc| moved.sample(doc, 0).unwrap().target).collect();
    assert_eq!(targets, ["3", "1"]);
}

#[test]
fn written_letters_move_as_well() {
    let request = request(ScoringMode::Default);
    let moved = asked(&request, &embedded("mmlu_anatomy_generative"), &mmlu_rows(), Some(Variant::Order(3)));
    assert_eq!(moved.sample(0, 0).unwrap().target, "B");
}

#[test]
fn variants_have_protocols_of_their_own_and_leave_the_plain_one_alone() {
    let mut request = request(ScoringMode::Default);
    let task = embedded("mmlu_anatomy");
    let protocol =
        |request: &RunRequest, variant| asked(request, &task, &mmlu_rows(), variant).spec().protocol.clone();
    let plain = protocol(&request, None);
    let ways = [
        None,
        Some(Variant::Order(1)),
        Some(Variant::Order(2)),
        Some(Variant::Typos),
        Some(Variant::Case),
        Some(Variant::Whitespace),
        Some(Variant::Paraphrase(1)),
        Some(Variant::Paraphrase(2)),
    ];
    let mut protocols: Vec<String> = ways.iter().map(|way| protocol(&request, *way).to_string()).collect();
    protocols.sort();
    protocols.dedup();
    assert_eq!(protocols.len(), ways.len());
    let typos = protocol(&request, Some(Variant::Typos));
    request.option_order = OptionOrder::Cyclic;
    request.perturb = Perturbation::ALL.to_vec();
    assert_eq!(protocol(&request, None), plain);
    request.typo_rate = Some(0.2);
    assert_ne!(protocol(&request, Some(Variant::Typos)), typos);
    assert_eq!(protocol(&request, None), plain);
}

#[test]
fn every_embedded_paraphrase_asks_the_same_question() {
    let request = request(ScoringMode::Default);
    for (name, rows) in
        [("mmlu_anatomy", mmlu_rows()), ("gsm8k", gsm8k_rows()), ("hellaswag", hellaswag_rows())]
    {
        let task = embedded(name);
        let plain = asked(&request, &task, &rows, None).sample(0, 0).unwrap();
        assert!(!task.paraphrases.is_empty(), "{name}");
        for number in 1..=task.paraphrases.len() as u32 {
            let sample =
                asked(&request, &task, &rows, Some(Variant::Paraphrase(number))).sample(0, 0).unwrap();
            assert_ne!(prompt(&sample), prompt(&plain), "{name} {number}");
            assert_eq!((&sample.target, &sample.doc), (&plain.target, &plain.doc));
            assert_eq!(continuations(&sample), continuations(&plain));
        }
    }
}

proptest! {
    /// Promise: a perturbed prompt is a function of the seed and the document, and neither choices nor the
    /// right answer nor anything but the question's words change.
    #[test]
    fn perturbations_touch_the_question_only(seed in any::<u64>(), rate in 0.01f64..1.0) {
        let mut request = request(ScoringMode::Default);
        request.seed = seed;
        request.typo_rate = Some(rate);
        for (name, rows, question) in [
            ("mmlu_anatomy", mmlu_rows(), "question"),
            ("gsm8k", gsm8k_rows(), "question"),
            ("hellaswag", hellaswag_rows(), "query"),
        ] {
            let task = embedded(name);
            let last = rows.len() as u64 - 1;
            let plain = asked(&request, &task, &rows, None).sample(last, 0).unwrap();
            for variant in [Variant::Typos, Variant::Case, Variant::Whitespace] {
                let perturbed = asked(&request, &task, &rows, Some(variant)).sample(last, 0).unwrap();
                let again = asked(&request, &task, &rows, Some(variant)).sample(last, 0).unwrap();
                prop_assert_eq!(&perturbed, &again);
                prop_assert_eq!(&perturbed.target, &plain.target);
                prop_assert_eq!(continuations(&perturbed), continuations(&plain));
                let (mut before, mut after) = (plain.doc.clone(), perturbed.doc.clone());
                let text = before[question].take();
                let changed = after[question].take();
                prop_assert_eq!(before, after);
                // What stands around the question in the prompt is the same.
                let frame = |prompt: &str, text: &Value| {
                    prompt.replacen(crate::python::strip(text.as_str().unwrap()), "?", 1)
                };
                prop_assert_eq!(frame(prompt(&perturbed), &changed), frame(prompt(&plain), &text));
                let digits = |text: &Value| text.as_str().unwrap().chars().filter(char::is_ascii_digit).collect::<String>();
                prop_assert_eq!(digits(&changed), digits(&text));
            }
        }
    }
}

fn refused(edit: impl FnOnce(&mut RunRequest)) -> (String, String) {
    let mut request = RunRequest::new("scripted/none".parse().unwrap(), vec!["samples".to_owned()]);
    edit(&mut request);
    let error = draft(&request, &Catalog::load(&[]).unwrap(), &DataRoots::default()).unwrap_err();
    (error.to_string(), error.hint().unwrap_or_default())
}

#[test]
fn requests_that_apply_to_nothing_are_refused() {
    let (message, hint) = refused(|request| request.option_order = OptionOrder::Cyclic);
    assert!(
        message.contains("applies to no task of samples") && hint.contains("`options`"),
        "{message} {hint}"
    );
    let (message, _) = refused(|request| {
        request.perturb = vec![Perturbation::Typos];
        request.mode = ScoringMode::LmEval;
    });
    assert!(message.contains("lm-evaluation-harness"), "{message}");
    for rate in [0.0, -1.0, 1.5, f64::NAN] {
        assert!(refused(|request| request.typo_rate = Some(rate)).0.contains("--typo-rate"));
    }
}

#[test]
fn what_does_not_apply_to_a_task_is_noted() {
    let mut request = RunRequest::new("scripted/none".parse().unwrap(), vec!["samples".to_owned()]);
    request.perturb = Perturbation::ALL.to_vec();
    let draft = draft(&request, &Catalog::load(&[]).unwrap(), &DataRoots::default()).unwrap();
    let names: Vec<&str> = draft.tasks.iter().map(PlannedTask::name).collect();
    assert!(
        names.contains(&"samples_knowledge@paraphrase2") && names.contains(&"samples_completion@case"),
        "{names:?}"
    );
    assert!(
        draft.notes.iter().any(|note| note.contains("samples_completion") && note.contains("paraphrase")),
        "{:?}",
        draft.notes
    );
    // Variants are asked right after their task: the engine shares what their prompts have in common.
    let first = names.iter().position(|name| *name == "samples_knowledge").unwrap();
    assert!(names[first + 1].starts_with("samples_knowledge@"));
}
