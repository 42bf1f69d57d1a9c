//! From scored samples to numbers with their uncertainty.

mod estimate;
mod group;
mod leaf;

use evalign_core::{
    Digest, ModelSummary, Output, RunId, RunResults, RunSpec, SampleRecord, ScoringMode, TaskResult, TaskSpec,
};
use evalign_store::{SampleFilter, Store, StoredRun};

use crate::aggregate::group::group_result;
use crate::aggregate::leaf::LeafTally;
use crate::plan::plan_groups;
use crate::{Catalog, PlannedGroup, RunError, RunRequest, Scorer};

/// How the samples of a stored run are scored and aggregated. Needs the task files, but neither model
/// nor datasets.
#[derive(Debug)]
pub struct Scoreboard {
    mode: ScoringMode,
    /// In the order of the run's tasks.
    pub(crate) leaves: Vec<Leaf>,
    groups: Vec<PlannedGroup>,
}

#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) spec: TaskSpec,
    pub(crate) scorer: Scorer,
}

impl Scoreboard {
    /// The scoreboard of a run from the task files as they are now.
    ///
    /// # Errors
    /// A task that is no longer there; with `strict`, one whose definition has changed since the run.
    pub fn of_run(run: &StoredRun, catalog: &Catalog, strict: bool) -> Result<Self, RunError> {
        let request = request_of(run)?;
        let mut leaves = Vec::new();
        for spec in &run.spec.tasks {
            let definition = catalog.task(&spec.task)?.for_mode(run.spec.mode);
            let digest = definition.digest();
            if strict && digest != spec.definition {
                return Err(RunError::SpecChanged {
                    run: run.id.clone(),
                    differences: vec![evalign_core::SpecDifference {
                        field: format!("/tasks/{}/definition", spec.task),
                        stored: spec.definition.short().to_owned(),
                        now: digest.short().to_owned(),
                    }],
                });
            }
            let scorer = Scorer::new(&definition, run.spec.mode, spec.repeats)?;
            leaves.push(Leaf { spec: spec.clone(), scorer });
        }
        let mut groups = Vec::new();
        for name in &request.tasks {
            plan_groups(catalog, name, &mut groups)?;
        }
        Ok(Self { mode: run.spec.mode, leaves, groups })
    }

    /// Aggregates what is in the store now; works on unfinished runs too.
    ///
    /// # Errors
    /// A failure of the store, a stored sample that does not fit its task.
    pub fn aggregate(&self, store: &Store, id: &RunId) -> Result<RunResults, RunError> {
        let run = store.run(id)?;
        let mut leaves = Vec::with_capacity(self.leaves.len());
        for leaf in &self.leaves {
            let mut tally = LeafTally::new(self.mode);
            self.each_document(store, id, leaf, &mut |records, scores| tally.add(records, scores))?;
            leaves.push((&leaf.spec, tally));
        }
        let mut results: Vec<TaskResult> =
            self.groups.iter().map(|group| group_result(group, &leaves, self.mode)).collect();
        results.extend(leaves.iter().map(|(spec, tally)| tally.result(spec)));
        Ok(RunResults {
            run_id: run.id,
            status: run.status,
            model: summary(&run.spec),
            mode: run.spec.mode,
            seed: run.spec.seed,
            results,
            usage: run.usage,
            seconds: run.seconds,
        })
    }

    /// Calls `visit` for every document of a task in order, with its records in repeat order and the
    /// scores to aggregate.
    pub(crate) fn each_document(
        &self,
        store: &Store,
        id: &RunId,
        leaf: &Leaf,
        visit: &mut dyn FnMut(&[SampleRecord], &[evalign_core::Score]),
    ) -> Result<(), RunError> {
        let filter = SampleFilter { task: Some(leaf.spec.task.clone()), ..SampleFilter::default() };
        let mut records: Vec<SampleRecord> = Vec::new();
        for record in store.samples(id, filter)? {
            let record = record?;
            if records.first().is_some_and(|first| first.key.doc != record.key.doc) {
                visit(&records, &document_scores(leaf, &records)?);
                records.clear();
            }
            records.push(record);
        }
        if !records.is_empty() {
            visit(&records, &document_scores(leaf, &records)?);
        }
        Ok(())
    }
}

/// The scores of one document: the stored ones, or, where several answers are voted on, computed from
/// all of them. A document of which an answer is missing or failed has no vote and counts as an error.
fn document_scores(leaf: &Leaf, records: &[SampleRecord]) -> Result<Vec<evalign_core::Score>, RunError> {
    let [first, ..] = records else { return Ok(Vec::new()) };
    if !leaf.scorer.needs_all_repeats() {
        return Ok(first.scores.clone());
    }
    let outputs: Vec<&Output> = records.iter().filter_map(|record| record.output.as_ref()).collect();
    if outputs.len() < leaf.spec.repeats as usize {
        return Ok(leaf.scorer.failed());
    }
    Ok(leaf.scorer.score(&first.doc, &outputs)?)
}

/// The request a run was started with.
///
/// # Errors
/// A stored request this version cannot read.
pub fn request_of(run: &StoredRun) -> Result<RunRequest, RunError> {
    serde_json::from_value(run.request.clone())
        .map_err(|error| RunError::malformed(format!("request of run {}", run.id), error))
}

/// The result of a task whose scores are given, one list per document.
pub(crate) fn logged_result(spec: &TaskSpec, records: &[SampleRecord]) -> TaskResult {
    let mut tally = LeafTally::new(ScoringMode::LmEval);
    for records in records.chunk_by(|a, b| a.key.doc == b.key.doc) {
        let scores: Vec<_> = records.iter().flat_map(|record| record.scores.clone()).collect();
        tally.add(records, &scores);
    }
    tally.result(spec)
}

pub(crate) fn summary(spec: &RunSpec) -> ModelSummary {
    ModelSummary {
        reference: spec.model.reference.to_string(),
        digest: spec.model.weights.clone(),
        dtype: spec.model.dtype.clone(),
        device: spec.model.device.clone(),
    }
}

/// What makes two numbers comparable, for a group: the protocols of its leaves.
fn group_protocol(leaves: &[(&TaskSpec, &LeafTally)]) -> Digest {
    let parts: Vec<_> = leaves.iter().map(|(spec, _)| (spec.task.as_str(), spec.protocol.as_str())).collect();
    Digest::of_json(&serde_json::json!(parts))
}
