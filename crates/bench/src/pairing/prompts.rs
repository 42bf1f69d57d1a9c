use std::path::Path;

use evalign_core::{Digest, Message, Prompt, Role};
use evalign_data::{DataError, Example, Limits, numbered_rows};
use evalign_judge::as_text;
use serde_json::{Value, json};

use crate::{Limit, RunError};

/// Text of all prompts of a run: they are held in memory, and clients of the service send them too.
const MOST_TEXT_BYTES: usize = 1 << 30;

/// A prompt of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedPrompt {
    pub prompt: Prompt,
    /// As a judge is shown it.
    pub text: String,
    /// `file:line`.
    pub source: String,
    /// A right answer, from the column `reference`.
    pub reference: Option<String>,
}

/// Reads the prompts of a JSONL or parquet file of any layout that has some (TRL's, or a column `prompt`): the first
/// ones, where there is a limit. With `chat`, a plain text is what the user says.
///
/// # Errors
/// A file that cannot be read, a row without a prompt (with its line), no rows, more than 1 GiB of prompts.
pub fn load_prompts(path: &Path, limit: Option<Limit>, chat: bool) -> Result<Vec<LoadedPrompt>, RunError> {
    let (mut found, mut text_bytes) = (Vec::new(), 0);
    let rows = numbered_rows(path, &Limits::default())?;
    let unit = rows.unit();
    for (place, row) in rows {
        if matches!(limit, Some(Limit::Docs(docs)) if found.len() as u64 == docs) {
            break;
        }
        let row = row?;
        let fault = |field: &str, message: String, mend: &str| DataError::Row {
            path: path.to_owned(),
            unit,
            row: place,
            field: Some(field.to_owned()),
            message,
            mend: Some(mend.to_owned()),
        };
        let example =
            Example::from_row(&row).map_err(|misfit| fault(&misfit.field, misfit.message, misfit.mend))?;
        let prompt = match example {
            Example::Preference { prompt, .. }
            | Example::Unpaired { prompt, .. }
            | Example::PromptOnly { prompt }
            | Example::PromptCompletion { prompt, .. } => prompt,
            Example::LanguageModeling { .. } => {
                let mend = "give each row a `prompt`, as text or as messages";
                return Err(fault("prompt", "is missing".to_owned(), mend).into());
            }
        };
        let text = as_text(&prompt);
        if text.trim().is_empty() {
            return Err(fault("prompt", "is empty".to_owned(), "remove the row").into());
        }
        text_bytes += text.len();
        if text_bytes > MOST_TEXT_BYTES {
            return Err(DataError::TooLarge {
                path: path.to_owned(),
                what: "the prompts".to_owned(),
                limit: "1 GiB".to_owned(),
            }
            .into());
        }
        let prompt = match prompt {
            Prompt::Text(content) if chat => Prompt::Chat(vec![Message { role: Role::User, content }]),
            prompt => prompt,
        };
        found.push(LoadedPrompt {
            prompt,
            text,
            source: format!("{}:{place}", path.file_name().unwrap_or_default().display()),
            reference: row.get("reference").and_then(Value::as_str).map(str::to_owned),
        });
    }
    if let Some(limit) = limit {
        found.truncate(usize::try_from(limit.of(found.len() as u64)).unwrap_or(usize::MAX));
    }
    if found.is_empty() {
        let path = path.to_owned();
        return Err(DataError::Empty {
            dataset: path.display().to_string(),
            filter: None,
            files: vec![path],
        }
        .into());
    }
    Ok(found)
}

/// SHA-256 of what prompts say, in order.
pub(crate) fn digest_of_prompts(prompts: &[LoadedPrompt]) -> Digest {
    let rows: Vec<Value> = prompts.iter().map(|p| json!([p.prompt, p.reference])).collect();
    Digest::of_json(&Value::Array(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("prompts.jsonl");
        std::fs::write(&path, "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n{\"prompt\": \" \"}\n").unwrap();
        let read = |limit| load_prompts(&path, limit, false);
        assert_eq!(read(Some(Limit::Docs(2))).unwrap().len(), 2);
        assert!(read(Some(Limit::Fraction(0.5))).is_err(), "a share is one of all rows");
        assert!(read(None).unwrap_err().to_string().contains('3'), "the line is named");
    }
}
