//! A sample as pages show it.

use evalign_core::{Output, Prompt, RequestKind, Role, SampleRecord};
use serde::Serialize;

use crate::routes::runs::sample_id;

/// Characters at the end of a prompt that are shown at once.
const SHOWN: usize = 1200;

/// Characters that prompts have to share at their beginning to be folded.
const SHARED: usize = 200;

/// A sample as the page shows it.
#[derive(Serialize)]
pub(super) struct SampleView {
    id: String,
    task: String,
    doc: u64,
    repeat: u32,
    /// What the prompts on the page have in common, and its number of characters.
    shared: Vec<PartView>,
    shared_characters: usize,
    messages: Vec<MessageView>,
    choices: Vec<ChoiceView>,
    answer: Option<String>,
    reasoning: Option<String>,
    target: String,
    error: Option<String>,
    scores: Vec<ScoreView>,
    pub(super) verdicts: Vec<VerdictView>,
    spent: String,
}

#[derive(Serialize)]
struct PartView {
    role: &'static str,
    text: String,
}

#[derive(PartialEq, Eq, Serialize)]
pub(super) struct MessageView {
    role: &'static str,
    folded: String,
    shown: String,
}

#[derive(Serialize)]
struct ChoiceView {
    text: String,
    sum: Option<f64>,
    /// Probability among the choices, in percent.
    share: Option<f64>,
    is_best: bool,
    is_target: bool,
}

#[derive(Serialize)]
struct ScoreView {
    metric: String,
    filter: String,
    outcome: &'static str,
    value: Option<f64>,
    answer: Option<String>,
}

/// What a judge said: its fields where it kept to the form, else what it wrote.
#[derive(Serialize)]
pub(super) struct VerdictView {
    fields: Vec<(String, String)>,
    text: Option<String>,
}

/// A message: who says it, and what.
type Part<'a> = (&'static str, &'a str);

fn parts(record: &SampleRecord) -> Vec<Part<'_>> {
    match &record.request.kind {
        RequestKind::LogLikelihood { context: prompt, .. } | RequestKind::Generate { prompt, .. } => {
            parts_of(prompt)
        }
        RequestKind::Perplexity { text } => vec![("text", text)],
    }
}

pub(super) fn parts_of(prompt: &Prompt) -> Vec<Part<'_>> {
    let role = |role: Role| match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    match prompt {
        Prompt::Text(text) => vec![("prompt", text)],
        Prompt::Chat(messages) => {
            messages.iter().map(|message| (role(message.role), message.content.as_str())).collect()
        }
    }
}

/// What the prompts of several documents of one task have in common at their beginning, message by message: the
/// instruction and worked examples. Nothing, where there is only one document, or hardly anything in common.
pub(super) fn shared_prefix<'a>(records: impl IntoIterator<Item = &'a SampleRecord>) -> Vec<Part<'a>> {
    let mut docs: Vec<u64> = Vec::new();
    let mut shared: Vec<Part<'a>> = Vec::new();
    for record in records {
        if docs.contains(&record.key.doc) {
            continue;
        }
        let others = parts(record);
        if docs.is_empty() {
            shared = others;
        } else {
            keep_common(&mut shared, &others);
        }
        docs.push(record.key.doc);
    }
    let characters: usize = shared.iter().map(|(_, text)| text.chars().count()).sum();
    if docs.len() < 2 || characters < SHARED { Vec::new() } else { shared }
}

fn keep_common(shared: &mut Vec<Part<'_>>, others: &[Part<'_>]) {
    let whole = shared.iter().zip(others).take_while(|(ours, theirs)| ours == theirs).count();
    let partial = match (shared.get(whole), others.get(whole)) {
        (Some((role, ours)), Some((other, theirs))) if role == other => {
            let same = ours.char_indices().zip(theirs.chars()).find(|((_, a), b)| a != b);
            let common = same.map_or(ours.len().min(theirs.len()), |((at, _), _)| at);
            // A whole line, so that nothing is cut in two.
            let line = ours[..common].rfind('\n').map_or(0, |at| at + 1);
            Some((*role, &ours[..line])).filter(|(_, text)| !text.is_empty())
        }
        _ => None,
    };
    shared.truncate(whole);
    shared.extend(partial);
}

impl MessageView {
    fn of(role: &'static str, text: &str) -> Self {
        let skipped = text.chars().count().saturating_sub(SHOWN);
        // At the start of a paragraph, so that no example is cut in two.
        let at = text.char_indices().nth(skipped).map_or(0, |(at, _)| at);
        let at = if at == 0 { 0 } else { text[..at].rfind("\n\n").map_or(at, |line| line + 2) };
        Self { role, folded: text[..at].to_owned(), shown: text[at..].to_owned() }
    }
}

/// What is left of a prompt behind the shared part.
fn rest(parts: &[Part<'_>], shared: &[Part<'_>]) -> Vec<MessageView> {
    let behind = |(place, (role, text)): (usize, &Part<'_>)| {
        let skipped = shared.get(place).map_or("", |(_, text)| text);
        let rest = text.strip_prefix(skipped).unwrap_or(text);
        (!rest.is_empty()).then(|| MessageView::of(role, rest))
    };
    parts.iter().enumerate().filter_map(behind).collect()
}

fn choices(record: &SampleRecord, continuations: &[String]) -> Vec<ChoiceView> {
    let sums: Vec<Option<f64>> = match &record.output {
        Some(Output::LogLikelihood { choices }) => choices.iter().map(|choice| Some(choice.sum)).collect(),
        _ => vec![None; continuations.len()],
    };
    let best = sums.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    let all: f64 = sums.iter().flatten().map(|sum| (sum - best).exp()).sum();
    let choice = |(index, text): (usize, &String)| {
        let sum = sums.get(index).copied().flatten();
        ChoiceView {
            text: text.clone(),
            sum,
            share: sum.map(|sum| 100.0 * (sum - best).exp() / all),
            is_best: sum == Some(best),
            is_target: record.target == index.to_string() || record.target.trim() == text.trim(),
        }
    };
    continuations.iter().enumerate().map(choice).collect()
}

fn scores(record: &SampleRecord) -> Vec<ScoreView> {
    let view = |score: &evalign_core::Score| ScoreView {
        metric: score.metric.clone(),
        filter: score.filter.clone(),
        outcome: score.outcome.name(),
        value: score.value,
        answer: score.answer.clone(),
    };
    record.scores.iter().map(view).collect()
}

fn answer_of(record: &SampleRecord) -> (Option<String>, Option<String>) {
    match &record.output {
        Some(Output::Text { text, reasoning, .. }) => (Some(text.clone()), reasoning.clone()),
        Some(Output::Perplexity { sum, tokens }) => {
            (Some(format!("log-likelihood {sum:.4} over {tokens} tokens")), None)
        }
        Some(Output::LogLikelihood { .. }) | None => (None, None),
    }
}

/// Tokens, time and money.
fn spent(record: &SampleRecord) -> String {
    let usage = &record.usage;
    let mut parts =
        vec![format!("{} tokens read, {} generated", usage.prompt_tokens, usage.generated_tokens)];
    parts.extend(record.latency.map(|latency| format!("{:.0} ms", latency.total_ms)));
    if record.requests > 1 {
        parts.push(format!("{} requests", record.requests));
    }
    parts.extend(record.cost_usd.map(|usd| format!("{usd:.6} USD")));
    if record.truncated_tokens > 0 {
        parts.push(format!("{} tokens of the prompt cut", record.truncated_tokens));
    }
    parts.join(", ")
}

impl SampleView {
    /// `shared`: what [`shared_prefix`] found among samples of which this is one.
    pub(super) fn of(record: &SampleRecord, shared: &[Part<'_>]) -> Self {
        let choices = match &record.request.kind {
            RequestKind::LogLikelihood { continuations, .. } => choices(record, continuations),
            RequestKind::Generate { .. } | RequestKind::Perplexity { .. } => Vec::new(),
        };
        let (answer, reasoning) = answer_of(record);
        Self {
            id: sample_id(&record.key),
            task: record.key.task.clone(),
            doc: record.key.doc,
            repeat: record.key.repeat,
            shared: shared.iter().map(|(role, text)| PartView { role, text: (*text).to_owned() }).collect(),
            shared_characters: shared.iter().map(|(_, text)| text.chars().count()).sum(),
            messages: rest(&parts(record), shared),
            choices,
            answer,
            reasoning,
            target: record.target.clone(),
            error: record.error.clone(),
            scores: scores(record),
            verdicts: Vec::new(),
            spent: spent(record),
        }
    }

    /// The prompt of two samples that were asked the same, taken out of both.
    pub(super) fn same_prompt(&mut self, other: &mut Self) -> Vec<MessageView> {
        if self.messages != other.messages {
            return Vec::new();
        }
        other.messages.clear();
        std::mem::take(&mut self.messages)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

impl VerdictView {
    pub(super) fn of(record: &SampleRecord) -> Self {
        let text = answer_of(record).0.unwrap_or_default();
        let read = |value: serde_json::Value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        let fields = match serde_json::from_str(&text) {
            Ok(serde_json::Value::Object(fields)) => {
                fields.into_iter().map(|(name, value)| (name, read(value))).collect()
            }
            Ok(_) | Err(_) => Vec::new(),
        };
        let text = Some(text).filter(|_| fields.is_empty());
        Self { fields, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prompts_share_ends_at_a_line_or_a_message() {
        let mut shared = vec![("system", "be brief"), ("user", "an example\nQuestion: a?")];
        keep_common(&mut shared, &[("system", "be brief"), ("user", "an example\nQuestion: b?")]);
        assert_eq!(shared, [("system", "be brief"), ("user", "an example\n")]);
        let left = rest(&[("system", "be brief"), ("user", "an example\nQuestion: a?")], &shared);
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].role, left[0].shown.as_str()), ("user", "Question: a?"));
        keep_common(&mut shared, &[("user", "be brief")]);
        assert!(shared.is_empty());
        let mut umlauts = vec![("prompt", "ä\nö")];
        keep_common(&mut umlauts, &[("prompt", "ä\nü")]);
        assert_eq!(umlauts, [("prompt", "ä\n")], "never within a character");
    }
}
