//! Multiple choice without likelihoods: the options are shown under letters and the model writes one.
//! For servers that return no log-probabilities of a prompt. It measures something else than comparing
//! likelihoods does (a model may know the answer and not the format), so its metric has a name of its
//! own, `acc_generated`, and it is asked this way only on request.

use crate::error::BenchError;
use crate::request::RunRequest;
use crate::task::{
    Choices, FilterPipeline, FilterStep, Generation, MetricDefinition, MetricName, OutputKind, RegexStep,
    TargetDefinition, TaskDefinition,
};

const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Said after the task's own description.
const INSTRUCTION: &str =
    "Give the letter of the option that answers the question or goes on with the text.\n\n";

/// Room for a sentence around the letter; `--max-tokens` gives reasoning models more.
const MAX_TOKENS: u32 = 256;

/// A letter after "answer", "option" or "choice", or at the very beginning before a mark or the end of
/// the line. "A" and "I" before a lower-case word are words.
const LETTER: &str = r#"(?:[Aa]nswer|ANSWER|[Oo]ption|[Cc]hoice)(?:\s+is)?\s*:?\s*[(\[*"']*([A-Z])(?![A-Za-z'])(?:(?<![AI])|(?!\s[a-z]))|^\s*[(\[*"']*([A-Z])(?:[)\]*"']*[.:,)]|[)\]*"']*\s*(?:\n|$))"#;

/// The definition as the request wants it asked. What is no multiple choice stays as it is.
///
/// # Errors
/// A task whose right answer is not one option, or `--compat lm-eval`.
pub(crate) fn asked_for(
    definition: TaskDefinition,
    request: &RunRequest,
) -> Result<TaskDefinition, BenchError> {
    if !request.generated_choices || definition.output != OutputKind::MultipleChoice {
        return Ok(definition);
    }
    if request.mode == evalign_core::ScoringMode::LmEval {
        return Err(BenchError::request(
            "`--generated-choices` asks what lm-evaluation-harness does not ask",
            "leave out `--compat lm-eval`",
        ));
    }
    let unfit = |field: &str, message: &str| BenchError::Definition {
        task: definition.name.clone(),
        field: field.to_owned(),
        message: message.to_owned(),
    };
    let TargetDefinition::One(target) = &definition.target else {
        return Err(unfit("targets", "several answers may be right, so it cannot be asked for one letter"));
    };
    let (shown, choices) = match &definition.choices {
        Some(Choices::Fixed(choices)) => {
            (are_letters(choices), serde_json::to_string(choices).unwrap_or_default())
        }
        Some(Choices::Expression(expression)) => (false, format!("({expression})")),
        None => return Err(unfit("choices", "there are none to show")),
    };
    let target = letter_of(target, &choices);
    let prompt = if shown { definition.prompt.clone() } else { with_options(&definition.prompt, &choices) };
    let chat = request.chat_template.unwrap_or(false);
    let pattern =
        RegexStep { pattern: LETTER.to_owned(), group_select: -1, fallback: "[invalid]".to_owned() };
    Ok(TaskDefinition {
        output: OutputKind::GenerateUntil,
        description: format!("{}{INSTRUCTION}", definition.description),
        prompt,
        choices: None,
        target: TargetDefinition::One(target),
        generation: Some(Generation {
            // In a chat the answer ends by itself; plain text goes on with the next question.
            until: if chat { Vec::new() } else { vec!["\n".to_owned()] },
            max_tokens: MAX_TOKENS,
            temperature: 0.0,
            top_p: None,
            top_k: None,
            min_p: None,
            repetition_penalty: None,
        }),
        filters: vec![FilterPipeline {
            name: "letter".to_owned(),
            steps: vec![FilterStep::Regex(pattern), FilterStep::TakeFirst],
        }],
        metrics: vec![MetricDefinition::plain(MetricName::AccGenerated)],
        ..definition
    })
}

/// The prompt shows the options itself, under the letters that are the choices.
fn are_letters(choices: &[String]) -> bool {
    choices.iter().enumerate().all(|(index, choice)| LETTERS.get(index..=index) == Some(choice.as_str()))
}

/// The letter of the option that the target names: by index where it is a number that can be one,
/// otherwise by its text, the first that has it.
fn letter_of(target: &str, choices: &str) -> String {
    format!(
        "{{% set shown %}}{target}{{% endset %}}{{% set by_index = shown.isdigit() and (shown|int) < ({choices}|length) %}}\
         {{% for choice in {choices} %}}\
         {{% if (by_index and shown|int == loop.index0) or (not by_index and shown == choice and choice not in {choices}[:loop.index0]) %}}\
         {{{{ \"{LETTERS}\"[loop.index0] }}}}{{% endif %}}{{% endfor %}}"
    )
}

/// The question without the mark where its answer would begin, the options, and that mark.
fn with_options(prompt: &str, choices: &str) -> String {
    let question = prompt.trim_end();
    let question =
        ["\nAnswer:", "\nA:"].iter().find_map(|mark| question.strip_suffix(mark)).unwrap_or(question);
    format!(
        "{question}\n{{% for choice in {choices} %}}{{{{ \"{LETTERS}\"[loop.index0] }}}}. {{{{ choice|trim }}}}\n{{% endfor %}}Answer:"
    )
}

#[cfg(test)]
mod tests {
    use evalign_core::{FinishReason, Outcome, Output, ScoringMode};
    use serde_json::{Value, json};

    use super::*;
    use crate::document::{Reader, Target};
    use crate::scorer::Scorer;
    use crate::task::Catalog;

    fn request() -> RunRequest {
        let mut request = RunRequest::new("openai/m".parse().unwrap(), vec!["x".to_owned()]);
        request.generated_choices = true;
        request
    }

    fn task(name: &str) -> TaskDefinition {
        let catalog = Catalog::load(&[]).unwrap();
        asked_for(catalog.task(name).unwrap().for_mode(ScoringMode::Default), &request()).unwrap()
    }

    fn rendered(task: &TaskDefinition, row: Value) -> (String, Target) {
        let Value::Object(row) = row else { panic!() };
        let reader = Reader::new(task).unwrap();
        let document = reader.document(row).unwrap();
        (reader.prompt(&document).unwrap(), reader.target(&document).unwrap())
    }

    #[test]
    fn options_are_shown_under_letters() {
        let row = json!({"question": "Which is a metal?", "choices": {"text": ["wood", "iron", "ice"], "label": ["1", "2", "3"]}, "answerKey": "2"});
        let (prompt, target) = rendered(&task("arc_easy"), row);
        assert_eq!(prompt, "Question: Which is a metal?\nA. wood\nB. iron\nC. ice\nAnswer:");
        assert_eq!(target, Target::One("B".to_owned()));

        let row = json!({"activity_label": "Cooking", "ctx_a": "A man is in a kitchen.", "ctx_b": "he", "label": "0",
                         "endings": ["stirs the soup.", "flies away."]});
        let (prompt, target) = rendered(&task("hellaswag"), row);
        assert_eq!(prompt, "Cooking: A man is in a kitchen. He\nA. stirs the soup.\nB. flies away.\nAnswer:");
        assert_eq!(target, Target::One("A".to_owned()));
    }

    #[test]
    fn options_that_are_shown_already_stay() {
        let mmlu = task("mmlu_anatomy");
        let row = json!({"question": "Q?", "choices": ["w", "x", "y", "z"], "answer": 3});
        let (prompt, target) = rendered(&mmlu, row);
        assert_eq!(prompt, "Q?\nA. w\nB. x\nC. y\nD. z\nAnswer:");
        assert_eq!(target, Target::One("D".to_owned()));
        assert!(mmlu.description.ends_with(INSTRUCTION));
    }

    #[test]
    fn targets_are_found_by_text_too() {
        let definition = TaskDefinition {
            choices: Some(Choices::Expression("options".to_owned())),
            target: TargetDefinition::One("{{right}}".to_owned()),
            ..Catalog::load(&[]).unwrap().task("arc_easy").unwrap().for_mode(ScoringMode::Default)
        };
        let definition = asked_for(definition, &request()).unwrap();
        let target = |options: Value, right: &str| {
            rendered(&definition, json!({"question": "?", "options": options, "right": right})).1
        };
        assert_eq!(target(json!(["yes", "no", "no"]), "no"), Target::One("B".to_owned()));
        // Numbers as options: an index where it can be one, as the scorer of likelihoods has it.
        assert_eq!(target(json!(["7", "8", "9"]), "9"), Target::One("C".to_owned()));
        assert_eq!(target(json!(["2", "1", "0"]), "1"), Target::One("B".to_owned()));
    }

    #[test]
    fn letters_are_read_from_what_models_write() {
        let scorer = Scorer::new(&task("mmlu_anatomy"), ScoringMode::Default, 1).unwrap();
        let doc = json!({"question": "Q?", "choices": ["w", "x", "y", "z"], "answer": 1});
        for (text, outcome) in [
            (" B", Outcome::Correct),
            ("B.", Outcome::Correct),
            ("(B) x", Outcome::Correct),
            ("**B**", Outcome::Correct),
            ("B. x\n\nBecause of A and C.", Outcome::Correct),
            ("The answer is B because it is.", Outcome::Correct),
            ("Answer: **B**", Outcome::Correct),
            ("A. w? No: the correct answer is (B).", Outcome::Correct),
            ("C", Outcome::Wrong),
            ("The answer is C.", Outcome::Wrong),
            ("A man is an animal", Outcome::Unparsed),
            ("The answer is a dog", Outcome::Unparsed),
            ("The answer is A dog", Outcome::Unparsed),
            ("", Outcome::Unparsed),
            ("I am sorry, but I cannot answer that.", Outcome::Refused),
        ] {
            let finish = FinishReason::Stop;
            let output = Output::Text { text: text.to_owned(), finish, logprobs: None, reasoning: None };
            let scores = scorer.score(&doc, &output).unwrap();
            assert_eq!(
                (scores[0].metric.as_str(), scores[0].outcome),
                ("acc_generated", outcome),
                "{text:?}: {scores:?}"
            );
        }
    }

    #[test]
    fn other_tasks_and_rule_books_are_left_alone() {
        let gsm8k = task("gsm8k");
        assert_eq!(gsm8k.metrics[0].name, MetricName::ExactMatch);
        let mut request = request();
        request.mode = ScoringMode::LmEval;
        let arc = Catalog::load(&[]).unwrap().task("arc_easy").unwrap().for_mode(ScoringMode::LmEval);
        assert!(asked_for(arc, &request).is_err());
    }
}
