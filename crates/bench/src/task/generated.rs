//! Rows that are made and not stored: one-step arithmetic problems, as many as anybody wants.
//!
//! `generated/one_step_arithmetic.train.2000.1.jsonl` names 2000 problems of the training split, seed 1. A
//! problem belongs to the training or to the test split by a hash of its story and numbers, so that no problem of
//! one split is ever made in the other, whatever the seeds.

use std::collections::BTreeSet;

use evalign_core::Digest;
use evalign_stats::SplitMix64;
use serde_json::{Map, Value, json};

const PREFIX: &str = "generated/one_step_arithmetic.";
/// Most rows of one file: enough for any training run, and soon made.
const MOST_ROWS: usize = 100_000;

/// Whoever the problems are about, and what they count. No story depends on which.
const PEOPLE: [&str; 16] = [
    "Amina", "Ben", "Carla", "Deniz", "Emil", "Farah", "Goran", "Hana", "Ines", "Jonas", "Kofi", "Lena",
    "Mateo", "Nora", "Otto", "Priya",
];
const THINGS: [&str; 12] = [
    "apples", "books", "cards", "coins", "cookies", "marbles", "pencils", "photos", "shells", "stamps",
    "stickers", "tickets",
];

#[derive(Clone, Copy)]
enum Step {
    Add,
    Subtract,
    Multiply,
    Divide,
}

/// Stories: `{who}`, `{things}`, and the numbers `{a}` and `{b}` in the order in which they are computed with.
const STORIES: [(Step, &str); 16] = [
    (Step::Add, "{who} has {a} {things} and buys {b} more. How many {things} does {who} have now?"),
    (
        Step::Add,
        "There are {a} {things} in a box and {b} {things} on the table. How many {things} are there in all?",
    ),
    (
        Step::Add,
        "{who} collected {a} {things} on Monday and {b} on Tuesday. How many {things} did {who} collect?",
    ),
    (
        Step::Add,
        "A shop sold {a} {things} before noon and {b} after it. How many {things} did the shop sell?",
    ),
    (Step::Subtract, "{who} had {a} {things} and gave {b} of them away. How many {things} are left?"),
    (Step::Subtract, "A jar held {a} {things}. {who} took out {b}. How many {things} are still in the jar?"),
    (Step::Subtract, "{who} needs {a} {things} and has {b}. How many {things} are missing?"),
    (Step::Subtract, "Of {a} {things}, {b} are broken. How many {things} are whole?"),
    (Step::Multiply, "{who} fills {a} bags with {b} {things} each. How many {things} is that?"),
    (
        Step::Multiply,
        "A shelf has {a} rows with {b} {things} in every row. How many {things} are on the shelf?",
    ),
    (Step::Multiply, "{who} gets {b} {things} a day for {a} days. How many {things} does {who} get?"),
    (Step::Multiply, "Each of {a} children brings {b} {things}. How many {things} do they bring together?"),
    (
        Step::Divide,
        "{who} shares {a} {things} equally among {b} friends. How many {things} does each friend get?",
    ),
    (Step::Divide, "{a} {things} are packed into boxes of {b}. How many boxes are filled?"),
    (Step::Divide, "{who} puts {a} {things} into {b} equal piles. How many {things} are in a pile?"),
    (
        Step::Divide,
        "A pack of {a} {things} lasts {b} days, with the same number used every day. How many {things} are used a day?",
    ),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Split {
    Train,
    Test,
}

/// Whether a file of this name is made here, whatever is asked for.
pub(crate) fn is_generated(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// The rows and the text of a file of this name; `None` for a name of another kind.
pub(super) fn text(name: &str) -> Option<Result<String, String>> {
    let parts: Vec<&str> = name.strip_prefix(PREFIX)?.split('.').collect();
    let wrong = || {
        format!(
            "`{name}`: expected {PREFIX}SPLIT.ROWS.SEED.jsonl, SPLIT train or test, at most {MOST_ROWS} rows"
        )
    };
    let &[split, rows, seed, "jsonl"] = parts.as_slice() else { return Some(Err(wrong())) };
    let split = match split {
        "train" => Split::Train,
        "test" => Split::Test,
        _ => return Some(Err(wrong())),
    };
    let (Ok(rows @ 1..=MOST_ROWS), Ok(seed)) = (rows.parse(), seed.parse()) else {
        return Some(Err(wrong()));
    };
    let lines = problems(split, rows, seed).into_iter().map(|row| Value::Object(row).to_string() + "\n");
    Some(Ok(lines.collect()))
}

fn problems(split: Split, count: usize, seed: u64) -> Vec<Map<String, Value>> {
    let mut random = SplitMix64::new(seed);
    let mut seen = BTreeSet::new();
    let mut rows = Vec::with_capacity(count);
    while rows.len() < count {
        let story = random.below(STORIES.len() as u64) as usize;
        let (step, text) = STORIES[story];
        let (a, b, result) = numbers(step, &mut random);
        let who = PEOPLE[random.below(PEOPLE.len() as u64) as usize];
        let things = THINGS[random.below(THINGS.len() as u64) as usize];
        if split_of(story, a, b) != split {
            continue;
        }
        let question =
            [("{who}", who), ("{things}", things), ("{a}", &a.to_string()), ("{b}", &b.to_string())]
                .iter()
                .fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
        // Not every story names somebody.
        if !seen.insert(question.clone()) {
            continue;
        }
        let sign = match step {
            Step::Add => '+',
            Step::Subtract => '-',
            Step::Multiply => '*',
            Step::Divide => '/',
        };
        let row = json!({
            "question": question,
            "answer": format!("{a} {sign} {b} = {result}\n#### {result}"),
            "result": result.to_string(),
        });
        rows.extend(row.as_object().cloned());
    }
    rows
}

/// Two numbers and what comes of them: whole, above zero, and small enough to be done in the head.
fn numbers(step: Step, random: &mut SplitMix64) -> (u64, u64, u64) {
    let mut between = |low: u64, high: u64| low + random.below(high - low + 1);
    match step {
        Step::Add => {
            let (a, b) = (between(2, 99), between(2, 99));
            (a, b, a + b)
        }
        Step::Subtract => {
            let (b, rest) = (between(2, 60), between(2, 60));
            (b + rest, b, rest)
        }
        Step::Multiply => {
            let (a, b) = (between(2, 15), between(2, 15));
            (a, b, a * b)
        }
        Step::Divide => {
            let (b, each) = (between(2, 12), between(2, 15));
            (b * each, b, each)
        }
    }
}

/// One problem in five is for testing.
fn split_of(story: usize, a: u64, b: u64) -> Split {
    let digest = Digest::of(format!("one_step_arithmetic 1 {story} {a} {b}"));
    let bits = digest.as_str().get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0);
    if bits % 5 == 0 { Split::Test } else { Split::Train }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(name: &str) -> Vec<Value> {
        let text = text(name).unwrap().unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The question without the words that do not matter: two problems with the same key are the same problem.
    fn key(row: &Value) -> String {
        let question = row["question"].as_str().unwrap();
        let names = PEOPLE.iter().chain(&THINGS);
        names.fold(question.to_owned(), |text, name| text.replace(name, "_"))
    }

    #[test]
    fn a_name_always_means_the_same_problems_and_every_answer_is_right() {
        let name = "generated/one_step_arithmetic.train.500.1.jsonl";
        assert_eq!(text(name), text(name));
        let rows = rows(name);
        assert_eq!(rows.len(), 500);
        for row in &rows {
            let (sum, last) = row["answer"].as_str().unwrap().split_once("\n#### ").unwrap();
            let (left, result) = sum.split_once(" = ").unwrap();
            let parts: Vec<&str> = left.split(' ').collect();
            let (a, b): (i64, i64) = (parts[0].parse().unwrap(), parts[2].parse().unwrap());
            let computed = match parts[1] {
                "+" => a + b,
                "-" => a - b,
                "*" => a * b,
                _ => a / b,
            };
            assert_eq!((result, last), (computed.to_string().as_str(), result), "{row}");
            assert_eq!(row["result"], last);
            let question = row["question"].as_str().unwrap();
            assert!(question.contains(parts[0]) && question.contains(parts[2]) && !question.contains('{'));
        }
    }

    #[test]
    fn no_problem_of_one_split_is_made_in_the_other() {
        let all = |split: &str, seed: u64| -> BTreeSet<String> {
            rows(&format!("generated/one_step_arithmetic.{split}.3000.{seed}.jsonl"))
                .iter()
                .map(key)
                .collect()
        };
        for (train, test) in [(1, 1), (1, 2), (7, 8)] {
            assert!(all("train", train).is_disjoint(&all("test", test)));
        }
    }

    /// Of many: seven stories name nobody, and soon have the same numbers and things again.
    #[test]
    fn no_question_is_asked_twice() {
        for name in ["train.20000.1", "test.10000.3"] {
            let rows = rows(&format!("{PREFIX}{name}.jsonl"));
            let distinct: BTreeSet<&str> = rows.iter().filter_map(|row| row["question"].as_str()).collect();
            assert_eq!(distinct.len(), rows.len(), "{name}");
        }
    }

    #[test]
    fn other_names_are_refused_or_left_to_others() {
        assert_eq!(text("samples/arithmetic.jsonl"), None);
        for name in
            ["dev.5.1.jsonl", "train.0.1.jsonl", "train.100001.1.jsonl", "train.5.x.jsonl", "train.5.jsonl"]
        {
            assert!(text(&format!("{PREFIX}{name}")).unwrap().is_err(), "{name}");
        }
    }
}
