//! Item-by-item comparison of a run with what lm-evaluation-harness logged: where the two first part,
//! and in which step.

mod compare;
mod reference;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use evalign_core::RunId;
use evalign_data::Limits;
use evalign_store::Store;
use serde::Serialize;

pub(crate) use reference::{ReferenceItem, logged as read_logged};

use crate::RunError;
use crate::aggregate::{Leaf, Scoreboard};
use crate::verify::compare::compare;
use crate::verify::reference::read_items;

/// The step in which an item stopped agreeing; earlier steps agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A document the run is about, of which it has no answer.
    Missing,
    /// Another dataset row.
    Document,
    /// Another prompt or continuation.
    Prompt,
    /// The model saw the same prompt and wrote something else.
    Token,
    LogLikelihood,
    /// The same text, another answer read from it.
    Extraction,
    /// The same answer, scored differently.
    Score,
}

impl Cause {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Document => "document",
            Self::Prompt => "prompt",
            Self::Token => "token",
            Self::LogLikelihood => "log-likelihood",
            Self::Extraction => "extraction",
            Self::Score => "score",
        }
    }
}

/// An item that does not agree.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    pub doc: u64,
    pub cause: Cause,
    /// What differs, both sides named.
    pub detail: String,
}

/// The comparison of one reference file with one task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verification {
    pub task: String,
    pub file: PathBuf,
    /// Lines of the reference file that were compared: those about documents of the run.
    pub items: u64,
    /// Lines about documents that the run leaves out (`--limit`, `--samples`).
    pub outside: u64,
    pub equal: u64,
    /// Multiple-choice items that were decided differently, but whose margin is within the tolerance.
    pub within_margin: u64,
    /// Largest difference of a log-likelihood, in nats, over items with equal prompts.
    pub largest_difference: Option<f64>,
    /// In file order.
    pub divergences: Vec<Divergence>,
}

/// How to compare.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyOptions {
    /// Largest difference of a log-likelihood that still counts as equal, in nats.
    pub tolerance: f64,
    /// The task the files belong to; absent: told from their names.
    pub task: Option<String>,
    /// How far a reference file may unpack, among others.
    pub limits: Limits,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { tolerance: 5e-3, task: None, limits: Limits::default() }
    }
}

/// Compares a run with one reference file, over the documents that both are about.
///
/// # Errors
/// An unreadable file, one that fits none of the run's tasks or none of its documents, a failure of the
/// store.
pub fn verify(
    store: &Store,
    run: &RunId,
    board: &Scoreboard,
    file: &Path,
    options: &VerifyOptions,
) -> Result<Verification, RunError> {
    let leaf = leaf_of(board, file, options)?;
    let [start, end] = leaf.spec.docs;
    let mut items = read_items(file, &options.limits)?;
    let lines = items.len() as u64;
    items.retain(|item| (start..end).contains(&item.doc));
    let outside = lines - items.len() as u64;
    if items.is_empty() {
        return Err(RunError::NothingToCompare {
            path: file.to_owned(),
            task: leaf.spec.task.clone(),
            docs: leaf.spec.docs,
            lines,
        });
    }
    let mut found = Verification {
        task: leaf.spec.task.clone(),
        file: file.to_owned(),
        items: items.len() as u64,
        outside,
        equal: 0,
        within_margin: 0,
        largest_difference: None,
        divergences: Vec::new(),
    };
    let mut open: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        open.entry(item.doc).or_default().push(index);
    }
    let mut results = vec![None; items.len()];
    board.each_document(store, run, leaf, &mut |records, scores| {
        let about = records.first().and_then(|record| open.remove(&record.key.doc));
        for index in about.into_iter().flatten() {
            results[index] = Some(compare(&items[index], records, scores, options.tolerance));
        }
        Ok(())
    })?;
    for (item, result) in items.iter().zip(results) {
        let Some(result) = result else {
            let detail = "the run has no answer to this document".to_owned();
            found.divergences.push(Divergence { doc: item.doc, cause: Cause::Missing, detail });
            continue;
        };
        found.largest_difference = match (found.largest_difference, result.largest_difference) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        found.within_margin += u64::from(result.within_margin);
        match result.divergence {
            Some((cause, detail)) => found.divergences.push(Divergence { doc: item.doc, cause, detail }),
            None => found.equal += 1,
        }
    }
    Ok(found)
}

/// The task a file is about: the named one, the only one, or the one its name says (`samples_TASK_DATE`
/// as the reference writes it, with or without `_5shot` in between).
fn leaf_of<'a>(board: &'a Scoreboard, file: &Path, options: &VerifyOptions) -> Result<&'a Leaf, RunError> {
    let no_task = || RunError::NoTask {
        path: file.to_owned(),
        tasks: board.leaves.iter().map(|leaf| leaf.spec.task.clone()).collect(),
    };
    let wanted = match &options.task {
        Some(task) => task.clone(),
        None => task_in_name(file.file_name().and_then(|n| n.to_str()).unwrap_or_default()),
    };
    let by_name = board.leaves.iter().find(|leaf| leaf.spec.task == wanted);
    match (by_name, board.leaves.as_slice()) {
        (Some(leaf), _) => Ok(leaf),
        (None, [only]) if options.task.is_none() && only.spec.task.starts_with(&wanted) => Ok(only),
        (None, _) => Err(no_task()),
    }
}

pub(crate) fn task_in_name(name: &str) -> String {
    let stem = name.split('.').next().unwrap_or(name);
    let stem = stem.strip_prefix("samples_").unwrap_or(stem);
    let is_shots =
        |part: &str| part.strip_suffix("shot").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let is_date = |part: &str| {
        part.len() >= 10 && part.as_bytes()[4] == b'-' && part[..4].bytes().all(|b| b.is_ascii_digit())
    };
    stem.split('_')
        .take_while(|part| !is_date(part))
        .filter(|part| !is_shots(part))
        .collect::<Vec<_>>()
        .join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_told_from_file_names() {
        for (name, task) in [
            ("samples_mmlu_anatomy_2026-11-01T10-11-12.123.jsonl", "mmlu_anatomy"),
            ("mmlu_5shot_world_religions.jsonl", "mmlu_world_religions"),
            ("hellaswag_0shot.jsonl", "hellaswag"),
            ("gsm8k_5shot.jsonl", "gsm8k"),
            ("samples_gsm8k_cot.jsonl", "gsm8k_cot"),
        ] {
            assert_eq!(task_in_name(name), task, "{name}");
        }
    }
}
