use evalign_core::{ChoiceLogLikelihood, FinishReason, Outcome, Output, Score, ScoringMode};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::embedded;
use crate::Scorer;
use crate::task::{MetricDefinition, MetricName, OutputKind};

fn text(text: &str) -> Output {
    Output::Text { text: text.to_owned(), finish: FinishReason::Stop, logprobs: None, reasoning: None }
}

fn cut(text: &str) -> Output {
    Output::Text { text: text.to_owned(), finish: FinishReason::Length, logprobs: None, reasoning: None }
}

fn scorer(task: &str, mode: ScoringMode, repeats: u32) -> Scorer {
    Scorer::new(&embedded(task).for_mode(mode), mode, repeats).unwrap()
}

fn score(task: &str, mode: ScoringMode, doc: &Value, outputs: &[Output]) -> Vec<Score> {
    let scorer = scorer(task, mode, outputs.len() as u32);
    match outputs {
        [only] => scorer.score(doc, only).unwrap(),
        several => scorer.vote(doc, &several.iter().map(Some).collect::<Vec<_>>()).unwrap(),
    }
}

fn of<'a>(scores: &'a [Score], filter: &str) -> (&'a str, Outcome, Option<f64>) {
    let score = scores.iter().find(|score| score.filter == filter).unwrap();
    (score.answer.as_deref().unwrap_or_default(), score.outcome, score.value)
}

fn gsm8k(answer: &str) -> Value {
    json!({"question": "How many?", "answer": format!("Some work.\n#### {answer}")})
}

const COMPAT: ScoringMode = ScoringMode::LmEval;
const DEFAULT: ScoringMode = ScoringMode::Default;

/// The faithful-bug list of the reference, strict pattern of `gsm8k_cot`.
#[test]
fn the_reference_eats_a_digit_and_misses_dollars() {
    for (answer, extracted, outcome) in [
        ("The answer is 18", "1", Outcome::Wrong),
        ("The answer is 5", "[invalid]", Outcome::Unparsed),
        ("The answer is $18.", "[invalid]", Outcome::Unparsed),
        ("The answer is 18.", "18", Outcome::Correct),
        ("The answer is 18.00.", "18.00", Outcome::Wrong),
    ] {
        let scores = score("gsm8k_cot", COMPAT, &gsm8k("18"), &[text(answer)]);
        let value = Some(f64::from(u8::from(outcome == Outcome::Correct)));
        assert_eq!(of(&scores, "strict-match"), (extracted, outcome, value), "{answer}");
    }
}

#[test]
fn the_reference_takes_trailing_dots_for_a_number() {
    let last = |answer: &str| {
        let scores = score("gsm8k_cot", COMPAT, &gsm8k("18"), &[text(answer)]);
        let (extracted, outcome, _) = of(&scores, "flexible-extract");
        (extracted.to_owned(), outcome)
    };
    assert_eq!(last("It is 18 and so on..."), ("...".to_owned(), Outcome::Wrong));
    assert_eq!(last("It costs $18."), ("$18.".to_owned(), Outcome::Correct));
    assert_eq!(last("It is 18.00"), ("18.00".to_owned(), Outcome::Wrong));
    let scores = score("gsm8k", COMPAT, &gsm8k("1000"), &[text("#### 1,000")]);
    assert_eq!(of(&scores, "strict-match"), ("1,000", Outcome::Correct, Some(1.0)));
}

#[test]
fn the_default_mode_reads_numbers_as_numbers() {
    for answer in [
        "The answer is 18",
        "The answer is 18.",
        "The answer is $18.",
        "The answer is 18.00.",
        "The answer is 18...",
    ] {
        let scores = score("gsm8k_cot", DEFAULT, &gsm8k("18"), &[text(answer)]);
        assert_eq!(of(&scores, "strict-match"), ("18", Outcome::Correct, Some(1.0)), "{answer}");
        assert_eq!(of(&scores, "flexible-extract").1, Outcome::Correct, "{answer}");
    }
    let scores = score("gsm8k", DEFAULT, &gsm8k("1,000"), &[text(" so 5-3=2...\n#### $1000.00\n\n")]);
    assert_eq!(of(&scores, "strict-match"), ("1000", Outcome::Correct, Some(1.0)));
    let scores = score("gsm8k", DEFAULT, &gsm8k("-3"), &[text("It fell to -3 degrees")]);
    assert_eq!(of(&scores, "flexible-extract").0, "-3");
    let scores = score("gsm8k", DEFAULT, &gsm8k("3"), &[text("that is 5-3")]);
    assert_eq!(of(&scores, "flexible-extract").0, "3");
}

#[test]
fn what_could_not_be_read_has_an_outcome_of_its_own() {
    for (output, outcome) in [
        (text("I do not know"), Outcome::Unparsed),
        (text(""), Outcome::Unparsed),
        (cut("Let us think about this step by"), Outcome::Truncated),
        (text("I'm sorry, but I can't help with that."), Outcome::Refused),
    ] {
        let scores = score("gsm8k", DEFAULT, &gsm8k("18"), std::slice::from_ref(&output));
        assert_eq!(of(&scores, "strict-match").1, outcome);
        assert_eq!(of(&scores, "strict-match").2, None);
        let scores = score("gsm8k", COMPAT, &gsm8k("18"), &[output]);
        assert_eq!((of(&scores, "strict-match").1, of(&scores, "strict-match").2), (outcome, Some(0.0)));
    }
    // Cut off, but the answer was there already.
    let scores = score("gsm8k", DEFAULT, &gsm8k("18"), &[cut("#### 18\n\nAnother one")]);
    assert_eq!(of(&scores, "strict-match").1, Outcome::Correct);
}

fn answers(numbers: &[&str]) -> Vec<Output> {
    numbers
        .iter()
        .map(|n| {
            if n.is_empty() {
                text("No idea")
            } else {
                text(&format!("So the answer is. The answer is {n}."))
            }
        })
        .collect()
}

#[test]
fn the_reference_votes_on_raw_text_and_lets_invalid_answers_vote() {
    let mut numbers = vec![""; 3];
    numbers.extend(["1,000", "1000", "1,000", "1000", "7"]);
    let scores = score("gsm8k_cot_self_consistency", COMPAT, &gsm8k("1000"), &answers(&numbers));
    assert_eq!(of(&scores, "maj@8"), ("[invalid]", Outcome::Unparsed, Some(0.0)));
    assert_eq!(of(&scores, "maj@64").0, "[invalid]");
    assert_eq!(of(&scores, "score-first").0, "[invalid]");
    // Equal counts: the first seen.
    let scores = score(
        "gsm8k_cot_self_consistency",
        COMPAT,
        &gsm8k("5"),
        &answers(&["3", "5", "5", "3", "9", "", "", "8"]),
    );
    assert_eq!(of(&scores, "maj@8"), ("3", Outcome::Wrong, Some(0.0)));
}

#[test]
fn the_default_mode_votes_on_numbers_and_drops_invalid_answers() {
    let mut numbers = vec![""; 3];
    numbers.extend(["1,000", "1000", "1,000.0", "7", "7"]);
    let scores = score("gsm8k_cot_self_consistency", DEFAULT, &gsm8k("1000"), &answers(&numbers));
    assert_eq!(of(&scores, "maj@8"), ("1000", Outcome::Correct, Some(1.0)));
    assert_eq!(of(&scores, "maj@4"), ("1000", Outcome::Correct, Some(1.0)));
    assert_eq!(of(&scores, "maj@1").1, Outcome::Unparsed);
    let names: Vec<&str> = scores.iter().map(|score| score.filter.as_str()).collect();
    assert_eq!(names, ["maj@1", "maj@4", "maj@8"], "filters that need more answers are left out");
    let all_invalid = answers(&["", ""]);
    let scores = score("gsm8k_cot_self_consistency", DEFAULT, &gsm8k("1"), &all_invalid);
    assert_eq!(of(&scores, "maj@1").2, None);
}

#[test]
fn one_answer_of_several_is_scored_without_votes() {
    let scorer = scorer("gsm8k_cot_self_consistency", DEFAULT, 8);
    assert!(scorer.needs_all_repeats());
    let one = text("The answer is 4.");
    let scores = scorer.score(&gsm8k("4"), &one).unwrap();
    assert_eq!(scores.len(), 1);
    assert_eq!(of(&scores, "maj@1"), ("4", Outcome::Correct, Some(1.0)));
}

#[test]
fn a_failed_call_takes_part_only_in_the_votes_that_need_it() {
    let scorer = scorer("gsm8k_cot_self_consistency", DEFAULT, 8);
    let given = answers(&["4", "4", "4", "4", "7", "7", "7", "7"]);
    let outcomes = |missing: usize, count: usize| -> Vec<(String, Outcome)> {
        let mut all: Vec<Option<&Output>> = given.iter().map(Some).take(count).collect();
        if let Some(answer) = all.get_mut(missing) {
            *answer = None;
        }
        let scores = scorer.vote(&gsm8k("4"), &all).unwrap();
        scores.into_iter().map(|score| (score.filter, score.outcome)).collect()
    };
    let named = |outcomes: &[(&str, Outcome)]| -> Vec<(String, Outcome)> {
        outcomes.iter().map(|(filter, outcome)| ((*filter).to_owned(), *outcome)).collect()
    };
    let (right, error) = (Outcome::Correct, Outcome::Error);
    assert_eq!(outcomes(5, 8), named(&[("maj@1", right), ("maj@4", right), ("maj@8", error)]));
    assert_eq!(outcomes(1, 8), named(&[("maj@1", right), ("maj@4", error), ("maj@8", error)]));
    assert_eq!(outcomes(0, 8), named(&[("maj@1", error), ("maj@4", error), ("maj@8", error)]));
    // Of a run that is not finished: what is still to come is neither right nor wrong nor failed.
    assert_eq!(outcomes(99, 5), named(&[("maj@1", right), ("maj@4", right)]));
    assert_eq!(outcomes(2, 5), named(&[("maj@1", right), ("maj@4", error)]));
    assert_eq!(outcomes(99, 0), named(&[]));
}

/// An answer that was cut off beyond the first k says nothing about maj@k.
#[test]
fn a_vote_is_undecided_for_the_reasons_of_its_own_answers() {
    let scorer = scorer("gsm8k_cot_self_consistency", DEFAULT, 4);
    let given = [text("no idea"), text("none"), text("nothing"), cut("Let us")];
    let scores = scorer.vote(&gsm8k("4"), &given.iter().map(Some).collect::<Vec<_>>()).unwrap();
    assert_eq!(of(&scores, "maj@1").1, Outcome::Unparsed);
    assert_eq!(of(&scores, "maj@4").1, Outcome::Truncated);
}

#[test]
fn too_few_repeats_fail_only_where_the_reference_fails() {
    let definition = embedded("gsm8k_cot_self_consistency");
    assert!(Scorer::new(&definition.for_mode(COMPAT), COMPAT, 4).is_err());
    assert!(Scorer::new(&definition.for_mode(DEFAULT), DEFAULT, 4).is_ok());
}

fn mmlu(answer: u32) -> Value {
    json!({"question": "Which?", "subject": "anatomy", "choices": ["red", "green", "blue", "Guilty of Romance"], "answer": answer})
}

#[test]
fn letters_written_out() {
    let task = "mmlu_anatomy_generative";
    assert_eq!(of(&score(task, COMPAT, &mmlu(1), &[text(" B.")]), "get_response").1, Outcome::Correct);
    assert_eq!(
        of(&score(task, COMPAT, &mmlu(1), &[text(" The answer is B")]), "get_response").1,
        Outcome::Wrong
    );
    assert_eq!(
        of(&score(task, DEFAULT, &mmlu(1), &[text(" (B) green")]), "get_response").1,
        Outcome::Correct
    );
    assert_eq!(of(&score(task, DEFAULT, &mmlu(1), &[text(" Because")]), "get_response").1, Outcome::Unparsed);
}

/// `re.findall("(?<=answer is )(.*)(?=.)", ...)` and the multi-choice filter, worked out by hand.
#[test]
fn flan_answers() {
    let task = "mmlu_flan_cot_fewshot_anatomy";
    let strict = |answer: &str| {
        let scores = score(task, COMPAT, &mmlu(2), &[text(answer)]);
        let (extracted, outcome, _) = of(&scores, "get-answer");
        (extracted.to_owned(), outcome)
    };
    assert_eq!(strict("So the answer is (C).").0, "(C)");
    assert_eq!(strict("So the answer is (C)"), ("(C".to_owned(), Outcome::Correct));
    assert_eq!(strict("So the answer is (C). Yes").0, "(C). Ye");
    assert_eq!(strict("unsure").0, "[invalid]");
    let default = score(task, DEFAULT, &mmlu(2), &[text("So the answer is (C). Yes")]);
    assert_eq!(of(&default, "get-answer").1, Outcome::Correct);
    let task = "mmlu_flan_cot_zeroshot_anatomy";
    let flexible = |answer: &str| {
        let scores = score(task, COMPAT, &mmlu(2), &[text(answer)]);
        of(&scores, "flexible-extract").0.to_owned()
    };
    assert_eq!(flexible("(A) or rather (C)"), "(C)");
    assert_eq!(flexible("It must be Green!"), "(B)");
    assert_eq!(flexible("the film guilty of romance, red"), "(A)");
    assert_eq!(flexible("Answer: B"), "(B)");
    assert_eq!(flexible("none of them"), "[invalid]");
}

#[test]
fn trivia_takes_any_alias() {
    let doc = json!({"question": "Who?", "answer": {"aliases": ["J. K. Rowling", "it's Jo"], "value": "x"}});
    let scores = score("triviaqa", COMPAT, &doc, &[text(" j k rowling ")]);
    assert_eq!(of(&scores, "remove_whitespace"), ("j k rowling", Outcome::Correct, Some(1.0)));
    assert_eq!(
        of(&score("triviaqa", COMPAT, &doc, &[text("Its Jo")]), "remove_whitespace").1,
        Outcome::Correct
    );
    assert_eq!(
        of(&score("triviaqa", DEFAULT, &doc, &[text("Joanne")]), "remove_whitespace").1,
        Outcome::Wrong
    );
}

fn likelihoods(sums: &[f64]) -> Output {
    let choice = |sum: &f64| ChoiceLogLikelihood { sum: *sum, tokens: 1, greedy: false };
    Output::LogLikelihood { choices: sums.iter().map(choice).collect() }
}

#[test]
fn multiple_choice() {
    let scores = score("mmlu_anatomy", DEFAULT, &mmlu(1), &[likelihoods(&[-2.0, -1.5, -3.0, -4.0])]);
    assert_eq!(scores.len(), 1);
    assert_eq!(of(&scores, "none"), ("B", Outcome::Correct, Some(1.0)));
    assert_eq!(scores[0].margin, Some(0.5));
    let scores = score("mmlu_anatomy", DEFAULT, &mmlu(7), &[likelihoods(&[-2.0, -1.5, -3.0, -4.0])]);
    assert_eq!(of(&scores, "none"), ("B", Outcome::Unscored, None));
    let scorer = scorer("mmlu_anatomy", DEFAULT, 1);
    assert!(scorer.score(&mmlu(1), &likelihoods(&[-1.0])).is_err());
    assert!(scorer.score(&mmlu(1), &text("B")).is_err());
    let failed = scorer.failed();
    assert_eq!((failed[0].outcome, failed[0].value), (Outcome::Error, None));
}

/// word_perplexity = exp(-sum / words), and so on; the aggregate weights by words or bytes.
#[test]
fn perplexity() {
    let mut definition = embedded("gsm8k");
    definition.output = OutputKind::Perplexity;
    definition.metrics = [MetricName::WordPerplexity, MetricName::BytePerplexity, MetricName::BitsPerByte]
        .map(MetricDefinition::plain)
        .to_vec();
    let scorer = Scorer::new(&definition, DEFAULT, 1).unwrap();
    let doc = json!({"question": "", "answer": "two wörds"});
    let scores = scorer.score(&doc, &Output::Perplexity { sum: -5.0, tokens: 3 }).unwrap();
    let values: Vec<_> = scores.iter().map(|score| (score.value, score.weight, score.outcome)).collect();
    assert_eq!(values[0], (Some(2.5), Some(2.0), Outcome::Unscored));
    assert_eq!(values[1], (Some(0.5), Some(10.0), Outcome::Unscored));
    assert_eq!(values[2], values[1]);
    let empty = json!({"question": "", "answer": ""});
    let scores = scorer.score(&empty, &Output::Perplexity { sum: 0.0, tokens: 0 }).unwrap();
    assert_eq!(scores[1].value, None);
}

proptest! {
    /// No answer, however odd, makes a score that contradicts its outcome.
    #[test]
    fn values_agree_with_outcomes(answer in ".{0,60}", compat in any::<bool>()) {
        let mode = if compat { COMPAT } else { DEFAULT };
        for task in ["gsm8k", "triviaqa", "mmlu_flan_cot_zeroshot_anatomy"] {
            let doc = match task {
                "gsm8k" => gsm8k("18"),
                "triviaqa" => json!({"question": "?", "answer": {"aliases": ["18"]}}),
                _ => mmlu(1),
            };
            for score in score(task, mode, &doc, &[text(&answer)]) {
                match (score.outcome, compat) {
                    (Outcome::Correct, _) => prop_assert_eq!(score.value, Some(1.0)),
                    (Outcome::Wrong, _) => prop_assert_eq!(score.value, Some(0.0)),
                    (_, true) => prop_assert!(score.value.is_some()),
                    (_, false) => prop_assert_eq!(score.value, None),
                }
            }
        }
    }
}
