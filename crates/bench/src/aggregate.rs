//! From scored samples to numbers with their uncertainty.

mod estimate;
mod group;
mod leaf;

use std::collections::{BTreeMap, BTreeSet};

use evalign_core::{
    Digest, ModelSummary, Output, RunId, RunResults, RunSpec, SampleRecord, Score, ScoredBy, ScoringMode,
    TaskResult, TaskSpec,
};
use evalign_store::{SampleFilter, Store, StoreError, StoredRun};
use serde_json::json;

use crate::aggregate::group::group_result;
use crate::aggregate::leaf::LeafTally;
use crate::plan::plan_groups;
use crate::scorer::SCORER_VERSION;
use crate::{Catalog, PlannedGroup, RunError, RunRequest, Scorer, TaskDefinition};

/// How the samples of a stored run are scored and aggregated. Needs the task files, but neither model
/// nor datasets.
#[derive(Debug)]
pub struct Scoreboard {
    mode: ScoringMode,
    /// In the order of the run's tasks.
    pub(crate) leaves: Vec<Leaf>,
    groups: Vec<PlannedGroup>,
    scored_by: ScoredBy,
}

#[derive(Debug)]
pub(crate) struct Leaf {
    /// As the run's own, but for version and protocol where it is scored by other rules than it was run by.
    pub(crate) spec: TaskSpec,
    pub(crate) scorer: Scorer,
}

impl Scoreboard {
    /// The scoreboard of a run from the task files as they are now.
    ///
    /// # Errors
    /// A task that is no longer there; with `strict`, rules that are not those the stored scores come from.
    pub fn of_run(run: &StoredRun, catalog: &Catalog, strict: bool) -> Result<Self, RunError> {
        let request = request_of(run)?;
        let stored = run.scored_by.clone().unwrap_or_else(|| run.spec.scored_by());
        let changed = |what: String| RunError::ScoredOtherwise { run: run.id.clone(), what };
        if strict && stored.scorer_version != SCORER_VERSION {
            return Err(changed("version of the scoring code".to_owned()));
        }
        let mut leaves = Vec::new();
        let mut definitions = BTreeMap::new();
        for spec in &run.spec.tasks {
            let definition = catalog.task(&spec.task)?.for_mode(run.spec.mode);
            let digest = definition.digest();
            if strict && stored.definitions.get(&spec.task) != Some(&digest) {
                return Err(changed(format!("definition of `{}`", spec.task)));
            }
            let scorer = Scorer::new(&definition, run.spec.mode, spec.repeats)?;
            leaves.push(Leaf { spec: scored_spec(&run.spec, spec, &definition, &digest), scorer });
            definitions.insert(spec.task.clone(), digest);
        }
        let mut groups = Vec::new();
        for name in &request.tasks {
            plan_groups(catalog, name, &mut groups)?;
        }
        let scored_by = ScoredBy { scorer_version: SCORER_VERSION, definitions };
        Ok(Self { mode: run.spec.mode, leaves, groups, scored_by })
    }

    /// The names of all extraction filters.
    #[must_use]
    pub fn filters(&self) -> BTreeSet<&str> {
        self.leaves.iter().flat_map(|leaf| leaf.scorer.filters()).collect()
    }

    /// The rules it scores by, where they are not those of `spec`.
    pub(crate) fn other_rules(&self, spec: &RunSpec) -> Option<&ScoredBy> {
        Some(&self.scored_by).filter(|rules| **rules != spec.scored_by())
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
        Ok(run_results(run, results))
    }

    /// Calls `visit` for every document of a task in order, with its records in repeat order and the
    /// scores to aggregate.
    pub(crate) fn each_document(
        &self,
        store: &Store,
        id: &RunId,
        leaf: &Leaf,
        visit: &mut dyn FnMut(&[SampleRecord], &[Score]),
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

/// The results of a run as it stands in the store.
pub(crate) fn run_results(run: StoredRun, results: Vec<TaskResult>) -> RunResults {
    RunResults {
        run_id: run.id,
        status: run.status,
        model: ModelSummary {
            reference: run.spec.model.reference.to_string(),
            digest: run.spec.model.weights,
            dtype: run.spec.model.dtype,
            device: run.spec.model.device,
        },
        mode: run.spec.mode,
        seed: run.spec.seed,
        results,
        usage: run.usage,
        seconds: run.seconds,
    }
}

/// What a task's results are called when its answers are scored by this definition. Answers of one protocol
/// scored again are comparable with each other, but not with any that were asked for by the new definition:
/// it may ask something else.
fn scored_spec(run: &RunSpec, spec: &TaskSpec, definition: &TaskDefinition, digest: &Digest) -> TaskSpec {
    if *digest == spec.definition && run.scorer_version == SCORER_VERSION {
        return spec.clone();
    }
    let rules = json!({"asked": spec.protocol, "scored_by": digest, "scorer_version": SCORER_VERSION});
    TaskSpec { version: definition.version.clone(), protocol: Digest::of_json(&rules), ..spec.clone() }
}

/// The scores of one document: the stored ones, or, where several answers are voted on, computed from
/// all of them.
fn document_scores(leaf: &Leaf, records: &[SampleRecord]) -> Result<Vec<Score>, RunError> {
    let [first, ..] = records else { return Ok(Vec::new()) };
    if !leaf.scorer.needs_all_repeats() {
        return Ok(first.scores.clone());
    }
    // Up to the first answer that is still to come.
    let there = (0u32..).zip(records).take_while(|(repeat, record)| *repeat == record.key.repeat);
    let answers: Vec<Option<&Output>> = there.map(|(_, record)| record.output.as_ref()).collect();
    Ok(leaf.scorer.vote(&first.doc, &answers)?)
}

/// The request a run was started with.
///
/// # Errors
/// A stored request this version cannot read.
pub fn request_of(run: &StoredRun) -> Result<RunRequest, RunError> {
    serde_json::from_value(run.request.clone())
        .map_err(|error| RunError::malformed(format!("request of run {}", run.id), error))
}

/// The result of a task whose scores are taken as they are stored, one list per document.
pub(crate) fn logged_result(
    mode: ScoringMode,
    spec: &TaskSpec,
    records: impl Iterator<Item = Result<SampleRecord, StoreError>>,
) -> Result<TaskResult, RunError> {
    let mut tally = LeafTally::new(mode);
    let records: Vec<SampleRecord> = records.collect::<Result<_, _>>()?;
    for records in records.chunk_by(|a, b| a.key.doc == b.key.doc) {
        let scores: Vec<_> = records.iter().flat_map(|record| record.scores.clone()).collect();
        tally.add(records, &scores);
    }
    Ok(tally.result(spec))
}

/// What makes two numbers comparable, for a group: the protocols of its leaves.
fn group_protocol(leaves: &[(&TaskSpec, &LeafTally)]) -> Digest {
    let parts: Vec<_> = leaves.iter().map(|(spec, _)| (spec.task.as_str(), spec.protocol.as_str())).collect();
    Digest::of_json(&json!(parts))
}
