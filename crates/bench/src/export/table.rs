use std::path::{Path, PathBuf};

use evalign_core::{Output, Prompt, RequestKind, SampleRecord, Score};
use evalign_data::{Column, ColumnKind, ParquetTable, Row};
use evalign_store::{SampleFilter, Store, StoredRun};
use serde_json::{Value, json};

use crate::RunError;

const COLUMNS: [(&str, ColumnKind); 17] = [
    ("task", ColumnKind::Text),
    ("doc", ColumnKind::Integer),
    ("repeat", ColumnKind::Integer),
    ("metric", ColumnKind::Text),
    ("filter", ColumnKind::Text),
    ("outcome", ColumnKind::Text),
    ("value", ColumnKind::Number),
    ("answer", ColumnKind::Text),
    ("margin", ColumnKind::Number),
    ("target", ColumnKind::Text),
    ("prompt", ColumnKind::Text),
    ("response", ColumnKind::Text),
    ("output", ColumnKind::Json),
    ("error", ColumnKind::Text),
    ("doc_json", ColumnKind::Json),
    ("prompt_hash", ColumnKind::Text),
    ("truncated_tokens", ColumnKind::Integer),
];

/// `samples.parquet`: one row per sample and score.
pub(super) fn write(store: &Store, run: &StoredRun, out: &Path) -> Result<Vec<PathBuf>, RunError> {
    let path = out.join("samples.parquet");
    let columns: Vec<Column> = COLUMNS.iter().map(|(name, kind)| Column::new(name, *kind)).collect();
    let mut table = ParquetTable::create(&path, &columns)?;
    for record in store.samples(&run.id, SampleFilter::default())? {
        let record = record?;
        for score in &record.scores {
            table.push(row(&record, score))?;
        }
    }
    table.finish()?;
    Ok(vec![path])
}

fn row(record: &SampleRecord, score: &Score) -> Row {
    let response = match &record.output {
        Some(Output::Text { text, .. }) => Some(text),
        Some(Output::LogLikelihood { .. } | Output::Perplexity { .. }) | None => None,
    };
    let values = [
        json!(record.key.task),
        json!(record.key.doc),
        json!(record.key.repeat),
        json!(score.metric),
        json!(score.filter),
        json!(score.outcome.name()),
        json!(score.value),
        json!(score.answer),
        json!(score.margin),
        json!(record.target),
        prompt(&record.request.kind),
        json!(response),
        json!(record.output),
        json!(record.error),
        record.doc.clone(),
        json!(record.prompt_hash),
        json!(record.truncated_tokens),
    ];
    COLUMNS.iter().zip(values).map(|((name, _), value)| ((*name).to_owned(), value)).collect()
}

fn prompt(kind: &RequestKind) -> Value {
    match kind {
        RequestKind::LogLikelihood { context: prompt, .. } | RequestKind::Generate { prompt, .. } => {
            match prompt {
                Prompt::Text(text) => json!(text),
                Prompt::Chat(messages) => json!(json!(messages).to_string()),
            }
        }
        RequestKind::Perplexity { text } => json!(text),
    }
}
