use evalign_core::{Message, Prompt, Role};
use serde_json::Value;

use super::Misfit;
use crate::Row;

const MESSAGES: &str = r#"write text, or messages: [{"role": "user", "content": "..."}]"#;

/// A column's text or messages: `{"role", "content"}`, or ShareGPT's `{"from", "value"}`; contents are text, or blocks of
/// text.
///
/// # Errors
/// The column is missing, is empty, or holds something else.
pub fn column_text(row: &Row, field: &str) -> Result<Prompt, Misfit> {
    let misfit = |message: String| Misfit::new(field, message, MESSAGES);
    match row.get(field) {
        Some(Value::String(text)) => Ok(Prompt::Text(text.clone())),
        Some(Value::Array(items)) if items.is_empty() => Err(misfit("holds no message".to_owned())),
        Some(Value::Array(items)) => {
            let messages = items.iter().enumerate().map(|(index, item)| message(field, index, item));
            Ok(Prompt::Chat(messages.collect::<Result<_, _>>()?))
        }
        Some(Value::Null) | None => Err(misfit("is missing".to_owned())),
        Some(other) => {
            Err(misfit(format!("expected text or messages, found {}", quoted(&other.to_string()))))
        }
    }
}

fn message(field: &str, index: usize, value: &Value) -> Result<Message, Misfit> {
    let field = format!("{field}[{index}]");
    let misfit = |message: String, mend| Misfit::new(&field, message, mend);
    let part = |names: [&str; 2]| {
        names.into_iter().find_map(|name| value.get(name).filter(|value| !value.is_null()))
    };
    let (Some(role), Some(content)) =
        (part(["role", "from"]).and_then(Value::as_str), part(["content", "value"]))
    else {
        let found = quoted(&value.to_string());
        return Err(misfit(format!("expected a role and a content, found {found}"), MESSAGES));
    };
    let calls = value.get("tool_calls").filter(|calls| !calls.is_null());
    if calls.is_some_and(|calls| calls.as_array().is_none_or(|calls| !calls.is_empty())) {
        return Err(misfit(
            "has tool calls, which are not rendered".to_owned(),
            "leave the row out, or render its conversation to text beforehand",
        ));
    }
    let role = match role {
        "system" => Role::System,
        "user" | "human" => Role::User,
        "assistant" | "gpt" => Role::Assistant,
        other => {
            let message = format!("unknown role {}", quoted(other));
            return Err(misfit(message, "roles are system, user and assistant"));
        }
    };
    let content = match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(blocks) => {
            blocks.iter().map(|block| block.get("text").and_then(Value::as_str)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    };
    match content {
        Some(content) => Ok(Message { role, content }),
        None => Err(misfit("has content that is no text".to_owned(), MESSAGES)),
    }
}

pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("`{}...`", &text[..cut]),
        None => format!("`{text}`"),
    }
}

/// Both are text, or both conversations.
pub(super) fn alike(field: &str, one: &Prompt, other: &Prompt) -> Result<(), Misfit> {
    match (one, other) {
        (Prompt::Text(_), Prompt::Text(_)) | (Prompt::Chat(_), Prompt::Chat(_)) => Ok(()),
        _ => Err(Misfit::new(
            field,
            "is of another kind than the columns before it: one is text, the other a conversation",
            "write all of them as text, or all as lists of messages",
        )),
    }
}

/// Takes the prompt out of a pair that has it in both texts: TRL's `extract_prompt` (1.16, `data_utils.py`), the longest
/// common beginning without a space at its end. Where one begins with the other, its last character (message) is no
/// prompt.
pub(super) fn extract_prompt(chosen: &Prompt, rejected: &Prompt) -> Result<(Prompt, Prompt, Prompt), Misfit> {
    let none = || {
        Misfit::new(
            "prompt",
            "is missing, and a side of the pair is empty",
            "give the prompt in a column of its own",
        )
    };
    match (chosen, rejected) {
        (Prompt::Text(chosen), Prompt::Text(rejected)) => {
            let (one, other): (Vec<char>, Vec<char>) = (chosen.chars().collect(), rejected.chars().collect());
            let mut at = common_beginning(&one, &other).ok_or_else(none)?;
            if at > 0 && one[at] != other[at] && one[at - 1] == ' ' {
                at -= 1;
            }
            let part = |chars: &[char]| Prompt::Text(chars.iter().collect());
            Ok((part(&one[..at]), part(&one[at..]), part(&other[at..])))
        }
        (Prompt::Chat(chosen), Prompt::Chat(rejected)) => {
            let at = common_beginning(chosen, rejected).ok_or_else(none)?;
            let part = |messages: &[Message]| Prompt::Chat(messages.to_vec());
            Ok((part(&chosen[..at]), part(&chosen[at..]), part(&rejected[at..])))
        }
        _ => alike("rejected", chosen, rejected).and_then(|()| Err(none())),
    }
}

fn common_beginning<T: PartialEq>(one: &[T], other: &[T]) -> Option<usize> {
    let shorter = one.len().min(other.len());
    let first = one.iter().zip(other).position(|(a, b)| a != b);
    (shorter > 0).then(|| first.unwrap_or(shorter - 1))
}
