use evalign_core::TopLogprob;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Rubric;

fn comparison() -> ResponseFormat {
    Rubric::find("helpfulness", &[]).unwrap().pairwise_format(Some(32))
}

fn said(text: &str) -> Output {
    Output::Text { text: text.to_owned(), finish: FinishReason::Stop, logprobs: None, reasoning: None }
}

fn label(text: &str) -> Result<String, Unscored> {
    Verdict::read(&comparison(), &said(text)).map(|verdict| verdict.choices[0].label.clone())
}

#[test]
fn a_verdict_is_the_whole_object_or_the_last_line() {
    for text in [
        r#"{"explanation": "better", "verdict": "B"}"#,
        "```json\n{\"explanation\": \"better\",\n \"verdict\": \"B\"}\n```",
        "Both are short.\n{\"verdict\": \"B\"}",
        "VERDICT: A would be wrong, so\nVERDICT: B\n",
    ] {
        assert_eq!(label(text).as_deref(), Ok("B"), "{text}");
    }
}

#[test]
fn what_is_not_said_at_the_end_is_not_said() {
    for text in [
        "VERDICT: A\nbut I am not sure",
        "{\"verdict\": \"A\"}\nOr is it B?",
        r#"{"verdict": "D"}"#,
        r#"{"verdict": "a"}"#,
        r#"{"verdict": ""}"#,
        r#"{"verdict": "A", "verdict": "B"}"#,
        r#"{"verdict": "A", "grade": "5"}"#,
        r#"{"verdict": ["A"]}"#,
        r#"{"explanation": "{\"verdict\": \"A\"}"}"#,
        "The VERDICT: A",
        "VERDICT: A.",
        "[[A]]",
        "GRADE: C",
        "",
    ] {
        assert_eq!(label(text), Err(Unscored::Malformed), "{text}");
    }
}

#[test]
fn why_there_is_none_is_told_apart() {
    let ended = |finish| Output::Text {
        text: "{\"explanation\": \"so".to_owned(),
        finish,
        logprobs: None,
        reasoning: None,
    };
    let read = |output: &Output| Verdict::read(&comparison(), output).unwrap_err();
    assert_eq!(read(&ended(FinishReason::Length)), Unscored::Truncated);
    // Cut off in the middle of a quotation.
    for (finish, reason) in
        [(FinishReason::Length, Unscored::Truncated), (FinishReason::ContentFilter, Unscored::Refused)]
    {
        for text in ["It ends with\nVERDICT: A", "It ends with\n{\"verdict\": \"A\"}"] {
            let quoted = Output::Text { text: text.to_owned(), finish, logprobs: None, reasoning: None };
            assert_eq!(read(&quoted), reason, "{text}");
        }
    }
    assert_eq!(read(&ended(FinishReason::ContentFilter)), Unscored::Refused);
    assert_eq!(read(&Output::LogLikelihood { choices: Vec::new() }), Unscored::Malformed);
}

/// An answer in pieces, the given ones with alternatives.
fn pieces(parts: &[(&str, &[(&str, f64)])]) -> Output {
    let token = |(text, top): &(&str, &[(&str, f64)])| TokenLogprob {
        top: top.iter().map(|(t, p)| TopLogprob::new((*t).to_owned(), p.ln())).collect(),
        ..TokenLogprob::new((*text).to_owned(), -0.1)
    };
    Output::Text {
        text: parts.iter().map(|(text, _)| *text).collect(),
        finish: FinishReason::Stop,
        logprobs: Some(parts.iter().map(token).collect()),
        reasoning: None,
    }
}

#[test]
fn probabilities_are_those_of_the_deciding_token() {
    let decoy: &[(&str, f64)] = &[("A", 0.9)];
    let output = pieces(&[
        ("{\"explanation\": \"", decoy),
        ("A is B", decoy),
        ("\", \"verdict\": \"", decoy),
        ("B", &[("B", 0.3), ("A", 0.1), (" B\"", 0.2), ("Both", 0.3)]),
        ("\"}", decoy),
    ]);
    let verdict = Verdict::read(&comparison(), &output).unwrap();
    let choice = &verdict.choices[0];
    let probabilities = choice.probabilities.clone().unwrap();
    for (found, expected) in probabilities.iter().zip([1.0 / 6.0, 5.0 / 6.0, 0.0, 0.0]) {
        assert!((found - expected).abs() < 1e-12, "{probabilities:?}");
    }
    assert_eq!(verdict.explanation.as_deref(), Some("A is B"));
}

#[test]
fn every_criterion_has_its_own_place() {
    let format = Rubric::find("summarisation", &[]).unwrap().pointwise_format(Some(0));
    let count = format.fields.len();
    assert!(count > 1);
    let mut parts: Vec<(String, Vec<(&str, f64)>)> = Vec::new();
    for field in 0..count {
        parts.push((format.text_before(field), Vec::new()));
        let top = if field == 0 { vec![("4", 0.8), ("5", 0.2)] } else { vec![("4", 0.5), ("3", 0.5)] };
        parts.push(("4".to_owned(), top));
    }
    parts.push((ResponseFormat::END.to_owned(), Vec::new()));
    let borrowed: Vec<_> = parts.iter().map(|(text, top)| (text.as_str(), top.as_slice())).collect();
    let verdict = Verdict::read(&format, &pieces(&borrowed)).unwrap();
    let first = verdict.choices[0].probabilities.clone().unwrap();
    assert!((first[3] - 0.8).abs() < 1e-12 && (first[4] - 0.2).abs() < 1e-12, "{verdict:?}");
    let last = verdict.choices[count - 1].probabilities.clone().unwrap();
    assert!((last[2] - 0.5).abs() < 1e-12, "{verdict:?}");
}

/// Nobody knows whether what was cut off right behind a quotation would have gone on.
#[test]
fn the_last_line_of_an_answer_that_was_cut_off_is_no_verdict() {
    let ended =
        |text: &str, finish| Output::Text { text: text.to_owned(), finish, logprobs: None, reasoning: None };
    for (finish, why) in
        [(FinishReason::Length, Unscored::Truncated), (FinishReason::ContentFilter, Unscored::Refused)]
    {
        for text in ["The answer ends with\nVERDICT: A", "It says:\n{\"verdict\": \"A\"}", "VERDICT: A"] {
            assert_eq!(Verdict::read(&comparison(), &ended(text, finish)), Err(why.clone()), "{text}");
            assert_eq!(label(text).as_deref(), Ok("A"), "{text}");
        }
        // The whole object was said, whatever would have come behind it.
        let whole = ended(r#"{"explanation": "so", "verdict": "B"}"#, finish);
        assert_eq!(Verdict::read(&comparison(), &whole).unwrap().choices[0].label, "B");
    }
}

/// Texts that are nearly a verdict: right and wrong labels, in and around objects, fences and lines, in any order.
fn near_verdict() -> impl Strategy<Value = String> {
    let label = prop::sample::select(vec!["A", "B", "C", "N", "D", "a", "", "A ", "AB", "5"]);
    let piece = label.prop_flat_map(|label| {
        prop::sample::select(vec![
            format!("VERDICT: {label}"),
            format!("VERDICT:{label}"),
            format!("{{\"verdict\": \"{label}\"}}"),
            format!("{{\"explanation\": \"VERDICT: {label}\", \"verdict\": \"{label}\"}}"),
            format!("{{\"verdict\": \"{label}\", \"explanation\": \"x\"}}"),
            format!("{{\"verdict\": \"{label}\", \"verdict\": \"A\"}}"),
            format!("{{\"verdict\": [\"{label}\"]}}"),
            format!("{{\"verdict\": \"{label}\""),
            format!("[[{label}]]"),
            "```json\n".to_owned(),
            "```".to_owned(),
            "so".to_owned(),
        ])
    });
    let between = prop::sample::select(vec!["", " ", "\n", "\n\n", "\r\n", "\u{200b}", "\u{2028}"]);
    prop::collection::vec((piece, between), 1..4)
        .prop_map(|parts| parts.into_iter().map(|(piece, between)| piece + between).collect())
}

fn finish() -> impl Strategy<Value = FinishReason> {
    prop::sample::select(vec![FinishReason::Stop, FinishReason::Length, FinishReason::ContentFilter])
}

/// What is said as an object, if all of the text is one: read by nobody's rules but JSON's.
fn said_as_object(text: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(text.trim()).ok()?;
    value.get("verdict")?.as_str().map(str::to_owned)
}

proptest! {
    /// Whatever a judge quotes in its explanation, the verdict is the one it gives.
    #[test]
    fn promise_30_quoted_text_is_never_the_verdict(quoted in "(\\PC|\n|\"|\\\\|VERDICT: A|\\{\"verdict\": \"A\"\\}){0,40}") {
        let object = json!({"explanation": quoted, "verdict": "B"}).to_string();
        prop_assert_eq!(label(&object), Ok("B".to_owned()));
        let line = format!("{quoted}\nVERDICT: B");
        prop_assert_eq!(label(&line), Ok("B".to_owned()));
    }

    /// Whatever is read stands in the last line or is the whole, with a label of the form; an answer that was cut
    /// off is never read by its last line; and nothing makes the parser fall over.
    #[test]
    fn near_verdicts_are_read_by_their_end_or_not_at_all(text in near_verdict(), finish in finish()) {
        let output = Output::Text { text: text.clone(), finish, logprobs: None, reasoning: None };
        if let Ok(verdict) = Verdict::read(&comparison(), &output) {
            let label = &verdict.choices[0].label;
            prop_assert!(["A", "B", "C", "N"].contains(&label.as_str()), "{}", label);
            let body = text.trim().trim_start_matches("```json").trim_start_matches("```").trim_end_matches("```");
            let last = text.trim().lines().next_back().unwrap_or_default().trim();
            let whole = said_as_object(body) == Some(label.clone());
            let ends = said_as_object(last) == Some(label.clone())
                || last.strip_prefix("VERDICT:").is_some_and(|said| said.trim() == label);
            prop_assert!(whole || (finish == FinishReason::Stop && ends), "{:?} {:?} {}", text, finish, label);
        }
    }

    #[test]
    fn promise_34_anything_can_be_read(text in "\\PC{0,200}", finish in finish()) {
        let output = Output::Text { text, finish, logprobs: None, reasoning: None };
        prop_assert!(Verdict::read(&comparison(), &output).is_err());
    }
}
