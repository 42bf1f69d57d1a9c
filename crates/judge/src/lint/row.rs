use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use evalign_core::{Prompt, Role};
use evalign_data::{DataError, Example, Layout, Row};
use serde_json::Value;

use super::check::{Check, Finding};
use super::{LintReport, MOST_REMEMBERED};

/// Length from which on an answer that contains its prompt repeats it, in characters. Shorter ones are quoted in
/// ordinary answers.
const LONG_PROMPT: usize = 40;
/// One side so many times as long as the other is worth a look, from [`LONG_ANSWER`] characters on.
const FAR_LONGER: usize = 8;
const LONG_ANSWER: usize = 80;
/// Scored pairs from which on the file as a whole can be said to be reversed.
const ENOUGH_SCORED: u64 = 10;

/// Spellings that chat templates put around messages. Their beginnings are enough.
const TEMPLATE_MARKS: [&str; 9] = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|assistant|>",
];

/// Looks at rows one after the other.
#[derive(Debug)]
pub struct Linter {
    /// Rows and pairs that are remembered.
    pub(super) most: usize,
    report: LintReport,
    layout: Option<Layout>,
    conversational: Option<bool>,
    /// By hash: of whole rows the place, of pairs without their order also which side was chosen. Never walked.
    rows: HashMap<u64, u64>,
    pairs: HashMap<u64, (u64, u64)>,
}

impl Default for Linter {
    fn default() -> Self {
        Self {
            most: MOST_REMEMBERED,
            report: LintReport::default(),
            layout: None,
            conversational: None,
            rows: HashMap::new(),
            pairs: HashMap::new(),
        }
    }
}

impl Linter {
    /// Looks at one row, or at the error in its place.
    pub fn row(&mut self, place: u64, row: &Result<Row, DataError>, found: &mut dyn FnMut(Finding)) {
        self.report.rows += 1;
        let mut findings = Vec::new();
        match row {
            Err(error) => findings.push(Finding::new(place, Check::Unreadable, None, reason(error))),
            Ok(row) => match Example::from_row(row) {
                Err(misfit) => {
                    let message = format!("{}: {}", misfit.message, misfit.mend);
                    findings.push(Finding::new(place, Check::Unreadable, Some(&misfit.field), message));
                }
                Ok(example) => self.example(place, &example, row, &mut findings),
            },
        }
        findings.into_iter().for_each(|finding| self.count(finding, found));
    }

    /// What is to be said about the file as a whole, and the counts.
    pub fn finish(mut self, found: &mut dyn FnMut(Finding)) -> LintReport {
        if let Some(message) = self.report.lengths.skew() {
            self.count(Finding::new(0, Check::LengthSkew, None, message), found);
        }
        let (scored, reversed) = (self.report.scored_pairs, self.report.reversed_pairs);
        if scored >= ENOUGH_SCORED && reversed * 2 > scored {
            let message = format!(
                "in {reversed} of {scored} scored pairs the rejected side has the better score: \
                 `chosen` and `rejected` look swapped"
            );
            self.count(Finding::new(0, Check::ReversedColumns, None, message), found);
        }
        self.report
    }

    fn count(&mut self, finding: Finding, found: &mut dyn FnMut(Finding)) {
        *self.report.findings.entry(finding.check).or_default() += 1;
        found(finding);
    }

    fn example(&mut self, place: u64, example: &Example, row: &Row, out: &mut Vec<Finding>) {
        let layout = *self.layout.get_or_insert_with(|| example.layout());
        self.report.layout = Some(layout.name());
        if example.layout() != layout {
            let message = format!("a row of the layout {} in a file of {layout}", example.layout());
            out.push(Finding::new(place, Check::MixedLayouts, None, message));
        }
        self.style(place, example, out);
        for (field, text) in example.texts() {
            check_text(place, field, text, out);
        }
        if let Some((prompt, answers)) = sides(example) {
            for (field, answer) in answers {
                check_answer(place, (field, prompt, answer), out);
            }
        }
        let mut compared = true;
        if let Example::Preference { prompt, chosen, rejected } = example {
            let pair = (prompt, chosen, rejected);
            self.pair(place, pair, row, out);
            compared = self.contradicted(place, pair, out);
        }
        compared &= self.repeated(place, example, out);
        self.report.not_compared += u64::from(!compared);
    }

    fn style(&mut self, place: u64, example: &Example, out: &mut Vec<Finding>) {
        let chat = |text: &&Prompt| matches!(text, Prompt::Chat(_));
        let texts: Vec<&Prompt> = example.texts().into_iter().map(|(_, text)| text).collect();
        let conversational = *self.conversational.get_or_insert_with(|| texts.iter().any(chat));
        if texts.iter().any(|text| chat(text) != conversational) {
            let (here, file) =
                if conversational { ("plain text", "messages") } else { ("messages", "plain text") };
            out.push(Finding::new(place, Check::MixedStyles, None, format!("{here} in a file of {file}")));
        }
    }

    fn pair(&mut self, place: u64, (_, chosen, rejected): Pair<'_>, row: &Row, out: &mut Vec<Finding>) {
        let (good, bad) = (content(chosen), content(rejected));
        if normal(&good) == normal(&bad) {
            out.push(Finding::new(place, Check::Identical, None, "both sides say the same"));
        }
        let (long, short) = (good.chars().count(), bad.chars().count());
        self.report.lengths.add(long as u64, short as u64);
        if long.max(short) >= LONG_ANSWER && long.max(short) >= FAR_LONGER * long.min(short).max(1) {
            let message = format!("the chosen side has {long} characters, the rejected one {short}");
            out.push(Finding::new(place, Check::LengthRatio, None, message));
        }
        self.scores(place, row, out);
    }

    /// Whether an earlier pair can have been one of the same answers. `false`: there were too many to remember.
    fn contradicted(
        &mut self,
        place: u64,
        (prompt, chosen, rejected): Pair<'_>,
        out: &mut Vec<Finding>,
    ) -> bool {
        let (chosen, rejected) = (hash(&content(chosen)), hash(&content(rejected)));
        let unordered = hash(&(hash(&content(prompt)), chosen.min(rejected), chosen.max(rejected)));
        match self.pairs.get(&unordered) {
            Some((earlier, winner)) if *winner != chosen && chosen != rejected => {
                let message = format!("prefers the other one of the same two answers as {earlier}");
                out.push(Finding::new(place, Check::Contradiction, None, message));
            }
            Some(_) => {}
            None if self.pairs.len() >= self.most => return false,
            None => {
                self.pairs.insert(unordered, (place, chosen));
            }
        }
        true
    }

    /// What the row itself says about which side is better.
    fn scores(&mut self, place: u64, row: &Row, out: &mut Vec<Finding>) {
        let number = |name: &str| row.get(name).and_then(Value::as_f64);
        let by_score = number("score_chosen").zip(number("score_rejected")).map(|(good, bad)| good - bad);
        let by_probability = number("probability_first")
            .zip(number("probability_second"))
            .map(|(first, second)| (first + second) / 2.0 - 0.5);
        let Some(better_by) = by_score.or_else(|| number("margin")).or(by_probability) else { return };
        self.report.scored_pairs += 1;
        if better_by < 0.0 {
            self.report.reversed_pairs += 1;
            let message = format!("by its own numbers the rejected side is better, by {:.3}", -better_by);
            out.push(Finding::new(place, Check::Reversed, None, message));
        }
    }

    /// As [`Linter::contradicted`], for the whole row.
    fn repeated(&mut self, place: u64, example: &Example, out: &mut Vec<Finding>) -> bool {
        let texts: Vec<String> =
            example.texts().into_iter().map(|(_, text)| normal(&content(text))).collect();
        let label = matches!(example, Example::Unpaired { label: true, .. });
        let row = hash(&(texts, label));
        match self.rows.get(&row) {
            Some(earlier) => {
                let message = format!("says the same as {earlier}");
                out.push(Finding::new(place, Check::Duplicate, None, message));
            }
            None if self.rows.len() >= self.most => return false,
            None => {
                self.rows.insert(row, place);
            }
        }
        true
    }
}

/// Prompt, chosen and rejected.
type Pair<'a> = (&'a Prompt, &'a Prompt, &'a Prompt);

/// The prompt, and the answers to it.
fn sides(example: &Example) -> Option<(&Prompt, Vec<(&'static str, &Prompt)>)> {
    match example {
        Example::Preference { prompt, chosen, rejected } => {
            Some((prompt, vec![("chosen", chosen), ("rejected", rejected)]))
        }
        Example::Unpaired { prompt, completion, .. } | Example::PromptCompletion { prompt, completion } => {
            Some((prompt, vec![("completion", completion)]))
        }
        Example::PromptOnly { prompt } => Some((prompt, Vec::new())),
        Example::LanguageModeling { .. } => None,
    }
}

fn check_text(place: u64, field: &str, text: &Prompt, out: &mut Vec<Finding>) {
    let body = content(text);
    if body.trim().is_empty() {
        out.push(Finding::new(place, Check::Empty, Some(field), "there is nothing in it"));
    }
    if let Some(mark) = TEMPLATE_MARKS.iter().find(|mark| body.contains(**mark)) {
        let message =
            format!("contains `{mark}`, which a chat template writes: the trainer would add its own");
        out.push(Finding::new(place, Check::TemplateMarks, Some(field), message));
    }
    let Prompt::Chat(messages) = text else { return };
    let wrong = |message: &str| Finding::new(place, Check::WrongRole, Some(field), message);
    if messages.iter().skip(1).any(|message| message.role == Role::System) {
        out.push(wrong("a system message stands behind others; it comes first"));
    }
    if messages.windows(2).any(|two| two[0].role == two[1].role && two[0].role != Role::System) {
        out.push(wrong("two messages in a row are of the same role"));
    }
    match (field, messages.last().map(|message| message.role)) {
        ("prompt", Some(Role::Assistant | Role::System)) => {
            out.push(wrong("a prompt ends with the user's message"));
        }
        ("chosen" | "rejected" | "completion", Some(Role::User | Role::System)) => {
            out.push(wrong("an answer ends with the assistant's message"));
        }
        _ => {}
    }
    if field != "prompt" && field != "messages" && messages.first().is_some_and(|m| m.role != Role::Assistant)
    {
        out.push(wrong("an answer begins with the assistant's message"));
    }
}

fn check_answer(place: u64, (field, prompt, answer): (&str, &Prompt, &Prompt), out: &mut Vec<Finding>) {
    let asked = match prompt {
        Prompt::Text(text) => text.trim(),
        Prompt::Chat(messages) => messages
            .iter()
            .rev()
            .find(|message| message.role == Role::User)
            .map_or("", |message| message.content.trim()),
    };
    if asked.chars().count() >= LONG_PROMPT && content(answer).contains(asked) {
        let message = "repeats the prompt word for word";
        out.push(Finding::new(place, Check::PromptInAnswer, Some(field), message));
    }
}

fn content(text: &Prompt) -> String {
    match text {
        Prompt::Text(text) => text.clone(),
        Prompt::Chat(messages) => {
            messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
        }
    }
}

/// Without what nobody sees: how much white space there is.
fn normal(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// With the fixed keys of the standard library: the same in every run of the same build.
fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Without path and line, which the finding has already.
fn reason(error: &DataError) -> String {
    match error {
        DataError::Row { message, field: Some(field), .. } => format!("field `{field}`: {message}"),
        DataError::Row { message, .. } => message.clone(),
        other => other.to_string(),
    }
}
