use evalign_core::{Message, Prompt, Role};
use serde_json::{Map, Value, json};

use super::text::{alike, column_text, extract_prompt, quoted};
use crate::{Layout, Row, Style};

/// One row of a preference file: a text is a conversation or plain text.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    Preference { prompt: Prompt, chosen: Prompt, rejected: Prompt },
    Unpaired { prompt: Prompt, completion: Prompt, label: bool },
    PromptOnly { prompt: Prompt },
    PromptCompletion { prompt: Prompt, completion: Prompt },
    LanguageModeling { text: Prompt },
}

/// What of a row is not as its layout wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub field: String,
    pub message: String,
    pub mend: &'static str,
}

impl Misfit {
    pub(super) fn new(field: &str, message: impl Into<String>, mend: &'static str) -> Self {
        Self { field: field.to_owned(), message: message.into(), mend }
    }
}

impl Example {
    #[must_use]
    pub fn layout(&self) -> Layout {
        match self {
            Self::Preference { .. } => Layout::Preference,
            Self::Unpaired { .. } => Layout::Unpaired,
            Self::PromptOnly { .. } => Layout::PromptOnly,
            Self::PromptCompletion { .. } => Layout::PromptCompletion,
            Self::LanguageModeling { .. } => Layout::LanguageModeling,
        }
    }

    /// Its texts with the names of their columns (in messages style).
    #[must_use]
    pub fn texts(&self) -> Vec<(&'static str, &Prompt)> {
        match self {
            Self::Preference { prompt, chosen, rejected } => {
                vec![("prompt", prompt), ("chosen", chosen), ("rejected", rejected)]
            }
            Self::Unpaired { prompt, completion, .. } | Self::PromptCompletion { prompt, completion } => {
                vec![("prompt", prompt), ("completion", completion)]
            }
            Self::PromptOnly { prompt } => vec![("prompt", prompt)],
            Self::LanguageModeling { text } => vec![("messages", text)],
        }
    }

    /// Reads a row; columns that the layout does not have are not looked at.
    ///
    /// # Errors
    /// The first column that is missing or holds something else.
    pub fn from_row(row: &Row) -> Result<Self, Misfit> {
        let columns = row.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str());
        let layout = Layout::of_columns(columns).ok_or_else(|| no_layout(row))?;
        Ok(match layout {
            Layout::Preference => {
                let (prompt, chosen, rejected) = preference(row)?;
                Self::Preference { prompt, chosen, rejected }
            }
            Layout::Unpaired => {
                let (prompt, completion) = completion(row)?;
                Self::Unpaired { prompt, completion, label: label(row)? }
            }
            Layout::PromptOnly => Self::PromptOnly { prompt: column_text(row, "prompt")? },
            Layout::PromptCompletion => {
                let (prompt, completion) = completion(row)?;
                Self::PromptCompletion { prompt, completion }
            }
            Layout::LanguageModeling => {
                let columns = ["messages", "conversations"];
                let column = columns.into_iter().find(|name| says(row, name)).unwrap_or("text");
                Self::LanguageModeling { text: column_text(row, column)? }
            }
        })
    }

    /// Writes the layout's columns.
    ///
    /// # Errors
    /// A conversation of several messages cannot be written as plain text without a model's chat template.
    pub fn to_row(&self, style: Style) -> Result<Row, Misfit> {
        let names = self.layout().columns(style);
        let mut row = Map::new();
        for ((field, text), name) in self.texts().into_iter().zip(names) {
            let role = if matches!(field, "prompt" | "messages") { Role::User } else { Role::Assistant };
            let value = match style {
                Style::Conversational => json!(messages(text, role)),
                Style::Standard => json!(plain(field, text)?),
            };
            row.insert((*name).to_owned(), value);
        }
        if let Self::Unpaired { label, .. } = self {
            row.insert("label".to_owned(), json!(label));
        }
        Ok(row)
    }

    /// The same preference as rows of another layout: a pair as its two sides, as its better side, or as its
    /// prompt. `None` where this row does not hold what the other layout asks for.
    #[must_use]
    pub fn converted(&self, layout: Layout) -> Option<Vec<Self>> {
        if self.layout() == layout {
            return Some(vec![self.clone()]);
        }
        let (prompt, good, bad) = match self {
            Self::Preference { prompt, chosen, rejected } => (prompt, Some(chosen), Some(rejected)),
            Self::Unpaired { prompt, completion, label: true } => (prompt, Some(completion), None),
            Self::Unpaired { prompt, completion, label: false } => (prompt, None, Some(completion)),
            Self::PromptCompletion { prompt, completion } => (prompt, Some(completion), None),
            Self::PromptOnly { .. } | Self::LanguageModeling { .. } => return None,
        };
        let unpaired = |completion: &Prompt, label| Self::Unpaired {
            prompt: prompt.clone(),
            completion: completion.clone(),
            label,
        };
        match layout {
            Layout::Preference => None,
            Layout::Unpaired => {
                let sides = [(good, true), (bad, false)];
                Some(sides.into_iter().filter_map(|(side, label)| Some(unpaired(side?, label))).collect())
            }
            Layout::PromptOnly => Some(vec![Self::PromptOnly { prompt: prompt.clone() }]),
            Layout::PromptCompletion => good.map(|good| {
                vec![Self::PromptCompletion { prompt: prompt.clone(), completion: good.clone() }]
            }),
            Layout::LanguageModeling => {
                good.map(|good| vec![Self::LanguageModeling { text: joined(prompt, good) }])
            }
        }
    }
}

/// A text as messages; plain text becomes one message of this role.
fn messages(text: &Prompt, role: Role) -> Vec<Message> {
    match text {
        Prompt::Chat(messages) => messages.clone(),
        Prompt::Text(text) => vec![Message { role, content: text.clone() }],
    }
}

fn plain<'a>(field: &str, text: &'a Prompt) -> Result<&'a str, Misfit> {
    match text {
        Prompt::Text(text) => Ok(text),
        Prompt::Chat(messages) => match messages.as_slice() {
            [only] => Ok(&only.content),
            several => Err(Misfit::new(
                field,
                format!("a conversation of {} messages is no plain text", several.len()),
                "write conversational rows: the trainer renders them with the model's own chat template",
            )),
        },
    }
}

fn joined(prompt: &Prompt, completion: &Prompt) -> Prompt {
    match (prompt, completion) {
        (Prompt::Text(prompt), Prompt::Text(completion)) => Prompt::Text(format!("{prompt}{completion}")),
        _ => {
            let mut all = messages(prompt, Role::User);
            all.extend(messages(completion, Role::Assistant));
            Prompt::Chat(all)
        }
    }
}

fn no_layout(row: &Row) -> Misfit {
    let columns: Vec<&str> = row.keys().map(String::as_str).collect();
    let missing = match (columns.contains(&"chosen"), columns.contains(&"rejected")) {
        (true, false) => "rejected",
        (false, true) => "chosen",
        _ => "prompt",
    };
    let found = if columns.is_empty() { "none".to_owned() } else { columns.join(", ") };
    Misfit::new(
        missing,
        format!("its columns ({found}) are none of TRL's layouts"),
        "preference rows have prompt, chosen, rejected; unpaired ones prompt, completion, label",
    )
}

fn says(row: &Row, column: &str) -> bool {
    row.get(column).is_some_and(|value| !value.is_null())
}

/// A pair with its prompt, wherever the row has that.
fn preference(row: &Row) -> Result<(Prompt, Prompt, Prompt), Misfit> {
    let (chosen, rejected) = (column_text(row, "chosen")?, column_text(row, "rejected")?);
    alike("rejected", &chosen, &rejected)?;
    if !says(row, "prompt") {
        return extract_prompt(&chosen, &rejected);
    }
    match (column_text(row, "prompt")?, &chosen) {
        // UltraFeedback's layout: the prompt as a string, and again as a turn of both conversations.
        (Prompt::Text(prompt), Prompt::Chat(messages)) => {
            if messages.iter().any(|message| message.role == Role::User && message.content == prompt) {
                return extract_prompt(&chosen, &rejected);
            }
            Err(Misfit::new(
                "prompt",
                "is text, and `chosen` a conversation that does not hold it",
                "give `prompt` as a list of messages too",
            ))
        }
        (prompt, _) => {
            alike("chosen", &prompt, &chosen)?;
            Ok((prompt, chosen, rejected))
        }
    }
}

fn completion(row: &Row) -> Result<(Prompt, Prompt), Misfit> {
    let (prompt, completion) = (column_text(row, "prompt")?, column_text(row, "completion")?);
    alike("completion", &prompt, &completion)?;
    Ok((prompt, completion))
}

/// Whether an unpaired completion is a good one; some files write 0 and 1.
fn label(row: &Row) -> Result<bool, Misfit> {
    let label = row.get("label").unwrap_or(&Value::Null);
    match (label.as_bool(), label.as_f64()) {
        (Some(label), _) => Ok(label),
        (None, Some(number)) if number == 0.0 || number == 1.0 => Ok(number == 1.0),
        _ => {
            let message = format!("expected true or false, found {}", quoted(&label.to_string()));
            Err(Misfit::new("label", message, "`label` says whether the completion is a good one"))
        }
    }
}
