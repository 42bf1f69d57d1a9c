//! What an answer that is none counts as (promise 15). That numbers agree with the reference (promise 16)
//! is tested where they are computed, in `evalign-stats` and `evalign-bench`.

use evalign_testkit::openai_server::{Behaviour, Fault, Reasoning, What, When};

use crate::openai::{Exam, metric, on, outcome, status};

#[test]
fn promise_15_an_answer_that_is_none_is_no_zero() {
    let spoiled = [
        What::NullContent,
        What::EmptyChoices,
        What::MalformedJson,
        What::ContentType { content_type: "text/html".to_owned() },
        What::Html,
        What::HugeBody { bytes: 300 << 20 },
        What::WrongLength { difference: -20 },
        What::DuplicateChoices,
    ];
    // The rest is answered rightly.
    let mut behaviour = Behaviour::default();
    for document in 0..12 {
        let answer = (document + 1).to_string();
        behaviour = behaviour.rule(&format!("Document {document}:"), &answer);
    }
    for (document, what) in spoiled.iter().enumerate() {
        behaviour = behaviour.fault(on(document, None, what.clone()));
    }
    let exam = Exam::of(12, behaviour);
    let ran = exam.eval(&["--max-retries", "1"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let document = ran.json();
    let metric = metric(&document);
    assert_eq!(outcome(&document, "wrong"), 0, "nothing that is no answer counts as wrong: {metric}");
    let right = outcome(&document, "correct");
    // A wrong label on a whole body and the same choice twice may be taken for what they are.
    assert!((4..=6).contains(&right), "{metric}");
    assert_eq!(metric["value"], 1.0);
    assert_eq!(metric["n"].as_u64(), Some(right));
    assert!(metric["bounds"][0].as_f64() < metric["bounds"][1].as_f64(), "{metric}");
    let shown = exam.run(&["show", "last", "--samples", "--outcome", "error", "--json"]).json();
    for record in shown.as_array().unwrap() {
        assert!(record["error"].as_str().is_some_and(|reason| !reason.is_empty()), "{record}");
    }
}

/// What a model or a filter says instead of an answer may hold a stop string, or even the right answer.
#[test]
fn promise_15_a_refusal_is_neither_right_nor_wrong() {
    let mut behaviour = Behaviour::default();
    for document in 0..4 {
        let said = format!("{}\nI will not go on.", document + 1);
        behaviour = behaviour.rule(&format!("Document {document}:"), &said);
    }
    // Where to stop is not said to the server, so the stop string is in every text.
    let behaviour = behaviour.fault(on(0, None, What::Declined)).fault(on(1, None, What::Filtered));
    for stream in ["stream: false", "stream: true"] {
        let exam = Exam::of(4, behaviour.clone()).settings(&format!("{stream}\nmax_stop_strings: 0"));
        let document = exam.ok(&[]);
        assert_eq!((outcome(&document, "refused"), outcome(&document, "wrong")), (2, 0), "{document:#}");
        assert_eq!(outcome(&document, "correct"), 2, "{stream}");
        let shown = exam.run(&["show", "last", "--samples", "--outcome", "refused", "--json"]).json();
        let text = &shown[0]["output"]["text"]["text"];
        assert_eq!(text, "1\nI will not go on.", "it is kept whole");
    }
}

#[test]
fn promise_15_a_metric_over_nothing_is_null() {
    let exam =
        Exam::of(4, Behaviour::default().fault(Fault { when: When::text("Document"), what: status(400) }));
    let ran = exam.eval(&[]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let document = ran.json();
    let metric = metric(&document);
    assert!(metric["value"].is_null() && metric["stderr"].is_null(), "{metric}");
    assert_eq!((metric["n"].as_u64(), outcome(&document, "error")), (Some(0), 4));
    let table = exam.run(&["show", "last"]);
    assert!(table.stdout.contains("could be 0.0000 to 1.0000"), "{}", table.stdout);
    assert_eq!(table.stdout.matches("0.0000").count(), 1, "no value is shown: {}", table.stdout);
}

#[test]
fn promise_15_answers_that_were_cut_are_said_to_be() {
    let mut behaviour = Behaviour::default();
    behaviour.capabilities.reasoning = Reasoning::ReasoningContent;
    let exam = Exam::of(4, behaviour.clone());
    // Too little to finish a thought.
    let ran = exam.eval(&["--max-tokens", "5"]);
    let document = ran.json();
    assert_eq!(outcome(&document, "truncated"), 4, "{document:#}");
    assert_eq!(outcome(&document, "wrong"), 0);
    let exam = Exam::of(4, behaviour);
    exam.ok(&["--max-tokens", "200"]);
    let shown = exam.run(&["show", "last", "--samples", "--json"]).json();
    let text = &shown[0]["output"]["text"];
    assert!(text["reasoning"].as_str().is_some_and(|thoughts| thoughts.contains("words")), "{shown:#}");
    assert!(text["text"].as_str().is_some_and(|text| !text.contains("I add the numbers up")));
}

#[test]
fn a_server_and_the_scripted_model_give_the_same_answers() {
    let exam = Exam::of(20, Behaviour { seed: 7, ..Behaviour::default() });
    exam.ok(&["--no-chat-template"]);
    let shown = |exam: &Exam| {
        let shown = exam.run(&["show", "last", "--samples", "--limit", "100", "--json"]).json();
        let texts = shown.as_array().unwrap().iter().map(|record| record["output"]["text"]["text"].clone());
        texts.collect::<Vec<_>>()
    };
    let served = shown(&exam);
    exam.sandbox.write("model.json", "{\"seed\": 7}");
    let model = format!("scripted/{}", exam.sandbox.path().join("model.json").display());
    let ran = exam.run(&["eval", "sums", "--include-path", "tasks", "--model", &model]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(served.len(), 20);
    assert_eq!(served, shown(&exam));
}
