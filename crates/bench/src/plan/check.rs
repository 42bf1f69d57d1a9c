use evalign_model::Model;

use crate::error::BenchError;
use crate::planned::PlannedTask;
use crate::request::RunRequest;
use crate::task::OutputKind;
use crate::variant;

/// Whether a model can be asked what a task asks.
///
/// # Errors
/// It cannot, or takes prompts of the other kind only.
pub(super) fn check_capabilities(
    task: &PlannedTask,
    model: &dyn Model,
    chat: bool,
) -> Result<(), BenchError> {
    let can = model.capabilities();
    let (able, what, instead) = match task.definition().output {
        OutputKind::MultipleChoice if chat && can.log_likelihood => (
            can.chat_log_likelihood || !can.chat,
            "give the likelihood of an answer in a chat",
            "run it with `--no-chat-template`, or ask for the answer as text with `--generated-choices`",
        ),
        OutputKind::MultipleChoice => (
            can.log_likelihood,
            "give the likelihood of an answer",
            "ask for the answer as text with `--generated-choices`: another measurement, with metrics of another name",
        ),
        OutputKind::GenerateUntil => {
            (can.generate, "generate text", "choose a task that the model can answer")
        }
        OutputKind::Perplexity => {
            (can.perplexity, "give the likelihood of a text", "choose a task that the model can answer")
        }
    };
    let name = &model.identity().reference;
    if !able {
        return Err(BenchError::request(
            format!("task `{}`: the model {name} cannot {what}", task.name()),
            instead,
        ));
    }
    match (chat, can.chat, can.completion) {
        (true, false, _) => Err(BenchError::request(
            format!("the model {name} has no chat template or takes no chats"),
            "run it with `--no-chat-template`",
        )),
        (false, _, false) => Err(BenchError::request(
            format!("the model {name} takes only chats, no plain text"),
            "run it with `--chat-template`",
        )),
        (true, true, _) | (false, _, true) => Ok(()),
    }
}

/// What a request says by itself, before any task is looked at.
///
/// # Errors
/// It contradicts itself, or a number in it is none that can be used.
pub(super) fn check_request(request: &RunRequest) -> Result<(), BenchError> {
    if request.tasks.is_empty() {
        return Err(BenchError::request("no task is named", "name one; `evalign tasks list` shows all"));
    }
    if request.limit.is_some() && request.samples.is_some() {
        return Err(BenchError::request(
            "`--limit` and `--samples` exclude each other",
            "`--limit 10` is `--samples 0..10`",
        ));
    }
    let positive = |name: &str, value: Option<u32>| match value {
        Some(0) => Err(BenchError::request(format!("`--{name}` is 0"), "use 1 or more, or leave it out")),
        _ => Ok(()),
    };
    positive("repeats", request.repeats)?;
    positive("max-tokens", request.max_tokens)?;
    if request.multiturn && request.chat_template != Some(true) {
        return Err(BenchError::request(
            "`--multiturn` makes turns of a chat, and no chat template is applied",
            "add `--chat-template`, or leave out `--multiturn`",
        ));
    }
    let check = |name: &str, value: Option<f64>, good: fn(f64) -> bool, use_instead: &str| match value {
        Some(value) if !good(value) => {
            Err(BenchError::request(format!("`--{name}` is {value}"), format!("use a number {use_instead}")))
        }
        _ => Ok(()),
    };
    variant::check_request(request)?;
    check("temperature", request.temperature, |t| (0.0..=100.0).contains(&t), "from 0 to 100")?;
    check("top-p", request.top_p, |p| p > 0.0 && p <= 1.0, "above 0 and up to 1")?;
    check("min-p", request.min_p, |p| (0.0..=1.0).contains(&p), "from 0 to 1")
}
