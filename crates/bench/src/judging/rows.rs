use std::path::Path;

use evalign_core::{Digest, FinishReason, Message, Output, Prompt, RequestKind, RunId};
use evalign_data::{DataError, Limits, Row, numbered_rows};
use evalign_judge::{Material, as_text};
use evalign_store::{SampleFilter, Store};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{BenchError, RunError};

/// One row of a file that is to be judged: an answer, or two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedRow {
    pub prompt: String,
    pub answers: Answers,
    pub reference: Option<String>,
    pub context: Option<String>,
    /// What people say.
    pub label: Option<Label>,
    /// The models that wrote the answers, where the row says so.
    pub writers: [Option<String>; 2],
    /// `file:line`.
    pub source: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answers {
    One(String),
    Two([String; 2]),
}

/// A label: a score for one answer, 1, 0 or 1/2 (for A, B or a tie) for two.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// True or false, good or bad.
    Binary(bool),
    Score(f64),
    Points(f64),
}

impl JudgedRow {
    /// What a judge is shown beside the answers.
    #[must_use]
    pub fn material(&self) -> Material<'_> {
        Material {
            prompt: &self.prompt,
            reference: self.reference.as_deref(),
            context: self.context.as_deref(),
        }
    }
}

/// Names under which the columns of a row are looked for, in this order.
const ANSWER: [&str; 4] = ["answer", "completion", "response", "output"];
const FIRST: [&str; 4] = ["a", "answer_a", "response_a", "chosen"];
const SECOND: [&str; 4] = ["b", "answer_b", "response_b", "rejected"];
const WRITER: [&str; 2] = ["model", "sampler"];
const WRITERS: [[&str; 2]; 2] = [["model_a", "sampler_chosen"], ["model_b", "sampler_rejected"]];
const LABEL: [&str; 4] = ["label", "winner", "preference", "score"];

/// Reads the rows of a JSONL or parquet file: `prompt` and `answer`, or `prompt`, `a` and `b`, with `reference`,
/// `context`, `label` and who wrote the answers where there are such columns. Texts may be messages.
///
/// # Errors
/// A file that cannot be read, or a row that is none of both, with its line and field; rows of both kinds; no rows.
pub(super) fn read_rows(path: &Path, limit: Option<u64>) -> Result<Vec<JudgedRow>, RunError> {
    let most = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let rows = numbered_rows(path, &Limits::default())?;
    let unit = rows.unit();
    let mut found: Vec<JudgedRow> = Vec::new();
    for (place, row) in rows.take(most) {
        let source = format!("{}:{place}", path.file_name().unwrap_or_default().display());
        let fault = |(field, message, mend): Fault| DataError::Row {
            path: path.to_owned(),
            unit,
            row: place,
            field: Some(field),
            message,
            mend: Some(mend.to_owned()),
        };
        let row = read_row(&row?, source).map_err(fault)?;
        if let Some(first) = found.first()
            && std::mem::discriminant(&first.answers) != std::mem::discriminant(&row.answers)
        {
            let message = "has another number of answers than the rows before it".to_owned();
            return Err(fault(("answer".to_owned(), message, "put them into files of their own")).into());
        }
        found.push(row);
    }
    if found.is_empty() {
        let dataset = path.display().to_string();
        return Err(DataError::Empty { dataset, filter: None, files: vec![path.to_owned()] }.into());
    }
    Ok(found)
}

/// The texts of a run as rows: what was asked, what was answered, and the right answer as the reference.
///
/// # Errors
/// A failure of the store; a run that wrote no texts.
pub(super) fn answered_rows(
    store: &Store,
    run: &RunId,
    limit: Option<u64>,
) -> Result<Vec<JudgedRow>, RunError> {
    let most = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut rows = Vec::new();
    // In a run of several steps others may have answered too.
    let stored = store.run(run)?;
    let writer = stored.request.get("procedure").is_none().then(|| stored.spec.model.reference.to_string());
    for record in store.samples(run, SampleFilter::default())? {
        let record = record?;
        let answer = (&record.output, &record.request.kind);
        let (Some(Output::Text { text, finish, .. }), RequestKind::Generate { prompt, .. }) = answer else {
            continue;
        };
        if rows.len() == most {
            break;
        }
        // What judges and critics said is no answer, nor is what a provider withheld.
        if !is_answer(&record.key.task) || *finish == FinishReason::ContentFilter {
            continue;
        }
        rows.push(JudgedRow {
            prompt: as_text(prompt),
            answers: Answers::One(text.clone()),
            reference: Some(record.target.clone()).filter(|target| !target.is_empty()),
            context: None,
            label: None,
            writers: [writer.clone(), None],
            source: record.key.to_string(),
        });
    }
    if rows.is_empty() {
        let message = format!("run {run} has no written answers");
        return Err(BenchError::request(message, "judge a run of a task that generates text").into());
    }
    Ok(rows)
}

/// Whether the samples of a task or step answer what was asked.
fn is_answer(task: &str) -> bool {
    let of_task = !task.contains('/');
    of_task || task.ends_with("/answer")
}

/// Field, what is wrong with it, and how to mend it.
type Fault = (String, String, &'static str);

fn read_row(row: &Row, source: String) -> Result<JudgedRow, Fault> {
    let missing = |field: &str, mend| (field.to_owned(), "is missing".to_owned(), mend);
    let text = |names: &[&str]| -> Result<Option<String>, Fault> {
        let found = names.iter().find_map(|name| Some((*name, row.get(*name).filter(|v| !v.is_null())?)));
        let Some((name, value)) = found else { return Ok(None) };
        let mend = "give it as text or as messages with `role` and `content`";
        let read = read_text(value).ok_or((name.to_owned(), "is no text".to_owned(), mend))?;
        Ok(Some(read))
    };
    let prompt = text(&["prompt", "question"])?;
    let prompt = prompt.ok_or_else(|| missing("prompt", "give each row a `prompt`"))?;
    let answers = match (text(&FIRST)?, text(&SECOND)?, text(&ANSWER)?) {
        (Some(a), Some(b), _) => Answers::Two([a, b]),
        (Some(_), None, _) => return Err(missing("b", "give the row two answers, `a` and `b`")),
        (None, Some(_), _) => return Err(missing("a", "give the row two answers, `a` and `b`")),
        (None, None, Some(answer)) => Answers::One(answer),
        (None, None, None) => {
            return Err(missing("answer", "give each row an `answer`, or two to be compared, `a` and `b`"));
        }
    };
    let label = LABEL.iter().find_map(|name| Some((*name, row.get(*name).filter(|v| !v.is_null())?)));
    let label = label.map(|(name, value)| read_label(name, value, &answers)).transpose()?;
    let context = match row.get("context") {
        Some(Value::Array(parts)) if parts.iter().all(Value::is_string) => {
            Some(parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n\n"))
        }
        _ => text(&["context"])?,
    };
    let reference = text(&["reference"])?;
    let writers = match answers {
        Answers::One(_) => [writer(row, &WRITER), None],
        Answers::Two(_) => WRITERS.map(|names| writer(row, &names)),
    };
    Ok(JudgedRow { prompt, answers, reference, context, label, writers, source })
}

fn writer(row: &Row, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| row.get(*name)?.as_str()).map(str::to_owned)
}

fn read_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(_) => {
            let messages: Vec<Message> = serde_json::from_value(value.clone()).ok()?;
            match messages.as_slice() {
                [only] => Some(only.content.clone()),
                _ => Some(as_text(&Prompt::Chat(messages))),
            }
        }
        _ => None,
    }
}

fn read_label(name: &str, value: &Value, answers: &Answers) -> Result<Label, Fault> {
    let wrong = |expected: &'static str| (name.to_owned(), format!("is {value}"), expected);
    match (answers, value) {
        (Answers::Two(_), Value::String(side)) => match side.to_lowercase().as_str() {
            "a" | "model_a" | "first" => Ok(Label::Points(1.0)),
            "b" | "model_b" | "second" => Ok(Label::Points(0.0)),
            "tie" | "c" | "both" | "both_bad" | "tie (bothbad)" => Ok(Label::Points(0.5)),
            _ => Err(wrong("a label of two answers is `A`, `B` or `tie`")),
        },
        (Answers::Two(_), _) => Err(wrong("a label of two answers is `A`, `B` or `tie`")),
        (Answers::One(_), Value::Bool(good)) => Ok(Label::Binary(*good)),
        (Answers::One(_), Value::Number(score)) => {
            let score = score.as_f64().filter(|score| score.is_finite());
            score.map(Label::Score).ok_or(wrong("a label of one answer is a number or true or false"))
        }
        (Answers::One(_), _) => Err(wrong("a label of one answer is a number or true or false")),
    }
}

/// SHA-256 of what the rows say. Labels are left out: they change no verdict.
pub(super) fn digest(rows: &[JudgedRow]) -> Digest {
    let said: Vec<_> =
        rows.iter().map(|row| (&row.prompt, &row.answers, &row.reference, &row.context)).collect();
    // Lists and objects of one field: their JSON is canonical as it comes.
    Digest::of_canonical(&said)
}
