use evalign_core::{Output, Prompt, RequestKind, SampleRecord};
use serde::Serialize;

/// Characters at the end of a prompt that are shown at once; what comes before (worked examples, which most
/// samples share) is folded.
const SHOWN: usize = 1200;

/// A sample as the page shows it.
#[derive(Serialize)]
pub(super) struct SampleView {
    task: String,
    doc: u64,
    repeat: u32,
    messages: Vec<MessageView>,
    choices: Vec<ChoiceView>,
    answer: Option<String>,
    reasoning: Option<String>,
    target: String,
    error: Option<String>,
    scores: Vec<ScoreView>,
}

#[derive(Serialize)]
struct MessageView {
    role: &'static str,
    folded: String,
    shown: String,
}

#[derive(Serialize)]
struct ChoiceView {
    text: String,
    sum: Option<f64>,
    is_best: bool,
    is_target: bool,
}

#[derive(Serialize)]
struct ScoreView {
    metric: String,
    filter: String,
    outcome: &'static str,
    value: Option<f64>,
}

impl MessageView {
    fn of(role: &'static str, text: &str) -> Self {
        let skipped = text.chars().count().saturating_sub(SHOWN);
        // At the start of a line, so that no example is cut in two.
        let at = text.char_indices().nth(skipped).map_or(0, |(at, _)| at);
        let at = if at == 0 { 0 } else { text[..at].rfind("\n\n").map_or(at, |line| line + 2) };
        Self { role, folded: text[..at].to_owned(), shown: text[at..].to_owned() }
    }
}

fn messages(prompt: &Prompt) -> Vec<MessageView> {
    match prompt {
        Prompt::Text(text) => vec![MessageView::of("prompt", text)],
        Prompt::Chat(messages) => messages
            .iter()
            .map(|message| {
                let role = match message.role {
                    evalign_core::Role::System => "system",
                    evalign_core::Role::User => "user",
                    evalign_core::Role::Assistant => "assistant",
                };
                MessageView::of(role, &message.content)
            })
            .collect(),
    }
}

fn choices(record: &SampleRecord, continuations: &[String]) -> Vec<ChoiceView> {
    let sums: Vec<Option<f64>> = match &record.output {
        Some(Output::LogLikelihood { choices }) => choices.iter().map(|choice| Some(choice.sum)).collect(),
        _ => vec![None; continuations.len()],
    };
    let best = sums.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    let choice = |(index, text): (usize, &String)| {
        let sum = sums.get(index).copied().flatten();
        ChoiceView {
            text: text.clone(),
            sum,
            is_best: sum == Some(best),
            is_target: record.target == index.to_string() || record.target.trim() == text.trim(),
        }
    };
    continuations.iter().enumerate().map(choice).collect()
}

impl SampleView {
    pub(super) fn of(record: &SampleRecord) -> Self {
        let (messages, choices) = match &record.request.kind {
            RequestKind::LogLikelihood { context, continuations } => {
                (messages(context), choices(record, continuations))
            }
            RequestKind::Generate { prompt, .. } => (messages(prompt), Vec::new()),
            RequestKind::Perplexity { text } => (vec![MessageView::of("text", text)], Vec::new()),
        };
        let (answer, reasoning) = match &record.output {
            Some(Output::Text { text, reasoning, .. }) => (Some(text.clone()), reasoning.clone()),
            _ => (None, None),
        };
        let score = |score: &evalign_core::Score| ScoreView {
            metric: score.metric.clone(),
            filter: score.filter.clone(),
            outcome: score.outcome.name(),
            value: score.value,
        };
        Self {
            task: record.key.task.clone(),
            doc: record.key.doc,
            repeat: record.key.repeat,
            messages,
            choices,
            answer,
            reasoning,
            target: record.target.clone(),
            error: record.error.clone(),
            scores: record.scores.iter().map(score).collect(),
        }
    }
}
