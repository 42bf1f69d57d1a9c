//! Scores by document, as comparisons of runs read them.

use evalign_core::{Digest, Score, TaskSpec};
use evalign_store::{SampleFilter, Store, StoredRun};
use serde_json::Value;

use crate::aggregate::scored_protocol;
use crate::plan::plan_groups;
use crate::{BenchError, Catalog, PlannedGroup, RunError, Scoreboard, request_of};

/// What one document of a task was worth.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScoredDocument {
    pub(crate) hash: Digest,
    pub(crate) scores: Vec<Score>,
    /// The value of the column that documents are clustered by.
    pub(crate) label: Option<String>,
}

/// A stored run, ready to have its scores read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScoredRun<'a> {
    pub(crate) store: &'a Store,
    pub(crate) run: &'a StoredRun,
    pub(crate) catalog: &'a Catalog,
}

impl ScoredRun<'_> {
    /// Leaf tasks, those asked in another way than defined left out.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = &TaskSpec> {
        self.run.spec.tasks.iter().filter(|task| task.variant.is_none())
    }

    pub(crate) fn task(&self, name: &str) -> Option<&TaskSpec> {
        self.tasks().find(|task| task.task == name)
    }

    /// The task as it says what its scores come from: of a run that was scored again, by what was.
    pub(crate) fn as_scored(&self, task: &TaskSpec) -> TaskSpec {
        let Some(rules) = &self.run.scored_by else { return task.clone() };
        let definition = rules.definitions.get(&task.task).unwrap_or(&task.definition).clone();
        let protocol = scored_protocol(&self.run.spec, task, &definition, rules.scorer_version);
        TaskSpec { definition, protocol, ..task.clone() }
    }

    /// The groups of the tasks that were asked for, outer ones first.
    pub(crate) fn groups(&self) -> Result<Vec<PlannedGroup>, RunError> {
        let mut groups = Vec::new();
        for name in &request_of(self.run)?.tasks {
            plan_groups(self.catalog, name, &mut groups)?;
        }
        Ok(groups)
    }

    /// The scores of a task by document, in order. `column` is read into the labels.
    pub(crate) fn documents(
        &self,
        task: &TaskSpec,
        column: Option<&str>,
    ) -> Result<Vec<ScoredDocument>, RunError> {
        if task.repeats > 1 {
            return self.voted(task, column);
        }
        let Some(column) = column else {
            let scores = self.store.scores(&self.run.id, &task.task)?;
            let document = |s: evalign_store::SampleScores| ScoredDocument {
                hash: s.doc_hash,
                scores: s.scores,
                label: None,
            };
            return Ok(scores.into_iter().map(document).collect());
        };
        let filter = SampleFilter { task: Some(task.task.clone()), ..SampleFilter::default() };
        let mut documents = Vec::new();
        for record in self.store.samples(&self.run.id, filter)? {
            let record = record?;
            let label = Some(label(&record.doc, column, &task.task)?);
            documents.push(ScoredDocument { hash: record.doc_hash, scores: record.scores, label });
        }
        Ok(documents)
    }

    /// Several answers to a document are scored together, by the task's definition.
    fn voted(&self, task: &TaskSpec, column: Option<&str>) -> Result<Vec<ScoredDocument>, RunError> {
        let board = Scoreboard::of_run(self.run, self.catalog, false)?;
        let Some(leaf) = board.leaves.iter().find(|leaf| leaf.spec.task == task.task) else {
            return Ok(Vec::new());
        };
        let mut documents = Vec::new();
        board.each_document(self.store, &self.run.id, leaf, &mut |records, scores| {
            if let [first, ..] = records {
                let label = column.map(|column| label(&first.doc, column, &task.task)).transpose();
                documents.push(label.map(|label| ScoredDocument {
                    hash: first.doc_hash.clone(),
                    scores: scores.to_vec(),
                    label,
                }));
            }
            Ok(())
        })?;
        documents.into_iter().collect::<Result<_, BenchError>>().map_err(Into::into)
    }
}

/// A column of a document as text; `a.b` reaches into objects. `None` where it is absent or null.
pub(crate) fn column(doc: &Value, name: &str) -> Option<String> {
    let whole = doc.get(name).or_else(|| name.split('.').try_fold(doc, |value, part| value.get(part)));
    match whole? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn label(doc: &Value, name: &str, task: &str) -> Result<String, BenchError> {
    column(doc, name).ok_or_else(|| {
        let columns = doc.as_object().map(|row| row.keys().cloned().collect::<Vec<_>>().join(", "));
        let columns = columns.unwrap_or_else(|| "not known".to_owned());
        BenchError::request(
            format!("documents of task `{task}` cannot be clustered by `{name}`: one has no such column"),
            format!("its columns are {columns}; `--cluster subject` clusters by task"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_are_columns_as_text() {
        let doc = json!({"passage": "p1", "meta": {"id": 7}, "none": null, "a.b": true});
        assert_eq!(label(&doc, "passage", "t").unwrap(), "p1");
        assert_eq!(label(&doc, "meta.id", "t").unwrap(), "7");
        assert_eq!(label(&doc, "a.b", "t").unwrap(), "true");
        for missing in ["none", "other", "meta.other"] {
            let error = label(&doc, missing, "t").unwrap_err();
            assert!(error.to_string().contains(missing), "{error}");
        }
    }
}
