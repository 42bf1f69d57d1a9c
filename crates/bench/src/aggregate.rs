//! From scored samples to numbers with their uncertainty.

mod calibration;
mod estimate;
mod group;
mod leaf;
mod repeats;

use std::collections::{BTreeMap, BTreeSet};

use evalign_core::{
    Digest, LatencySummary, ModelSummary, Output, Provider, RunId, RunResults, RunSpec, SampleRecord, Score,
    ScoredBy, ScoringMode, TaskResult, TaskSpec,
};
use evalign_store::{SampleFilter, Spending, Store, StoreError, StoredRun};
use serde_json::json;

pub(crate) use crate::aggregate::calibration::{CalibrationTally, DEFAULT_BINS};
pub(crate) use crate::aggregate::estimate::{Aggregation, LEVEL, clustered_estimate, estimate, share};
use crate::aggregate::group::group_result;
use crate::aggregate::leaf::LeafTally;
use crate::aggregate::repeats::RepeatTally;
use crate::generated_choice;
use crate::judging::{best_of, mean_verdicts};
use crate::plan::plan_groups;
use crate::scorer::SCORER_VERSION;
use crate::{Catalog, PlannedGroup, RunError, RunRequest, Scorer, TaskDefinition};

/// How the samples of a stored run are scored and aggregated. Needs the task files, but neither model
/// nor datasets.
#[derive(Debug)]
pub struct Scoreboard {
    pub(crate) mode: ScoringMode,
    /// In the order of the run's tasks.
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) groups: Vec<PlannedGroup>,
    scored_by: ScoredBy,
}

#[derive(Debug)]
pub(crate) struct Leaf {
    /// As the run's own, but for version and protocol where it is scored by other rules than it was run by.
    pub(crate) spec: TaskSpec,
    /// As this variant of the task is asked.
    pub(crate) definition: TaskDefinition,
    pub(crate) scorer: Scorer,
}

impl Leaf {
    /// There is one answer to a document, and its scores are all that results come from.
    fn is_counted(&self) -> bool {
        self.spec.repeats == 1 && self.scorer.choosing_metric().is_none()
    }

    fn samples(&self) -> SampleFilter {
        SampleFilter { task: Some(self.spec.task.clone()), ..SampleFilter::default() }
    }
}

/// The part of a record that is read where scores are counted and nothing else.
#[derive(serde::Deserialize)]
struct Counted {
    #[serde(default)]
    truncated_tokens: u64,
    scores: Vec<Score>,
}

/// Takes a document: its records in repeat order, and the scores to aggregate.
pub(crate) type Visit<'a> = dyn FnMut(&[SampleRecord], &[Score]) -> Result<(), RunError> + 'a;

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
            let definition = catalog.task(spec.base())?.for_mode(run.spec.mode).asked_as(spec.variant)?;
            let definition = generated_choice::asked_for(definition, &request)?;
            let digest = definition.digest();
            if strict && stored.definitions.get(&spec.task) != Some(&digest) {
                return Err(changed(format!("definition of `{}`", spec.task)));
            }
            let scorer = Scorer::new(&definition, run.spec.mode, spec.repeats)?;
            let spec = scored_spec(&run.spec, spec, &definition, &digest);
            definitions.insert(spec.task.clone(), digest);
            leaves.push(Leaf { spec, definition, scorer });
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
        let mut repeats = Vec::new();
        // Variants are no results of their own: they are compared with the plain task below.
        for leaf in self.leaves.iter().filter(|leaf| leaf.spec.variant.is_none()) {
            let mut tally = LeafTally::new(self.mode);
            if leaf.is_counted() {
                for part in store.parts::<Counted>(id, leaf.samples())? {
                    let Counted { truncated_tokens, scores } = part?;
                    tally.count(u64::from(truncated_tokens > 0), &scores);
                }
                leaves.push((&leaf.spec, tally));
                continue;
            }
            let mut several = RepeatTally::new(self.mode);
            self.each_document(store, id, leaf, &mut |records, scores| {
                tally.add(records, scores);
                tally.add_forecast(&leaf.scorer, records)?;
                if leaf.spec.repeats > 1 {
                    several.add(records);
                }
                Ok(())
            })?;
            repeats.extend(several.results(&leaf.spec));
            leaves.push((&leaf.spec, tally));
        }
        let mut results: Vec<TaskResult> =
            self.groups.iter().map(|group| group_result(group, &leaves, self.mode)).collect();
        results.extend(leaves.iter().map(|(spec, tally)| tally.result(spec)));
        let option_order = crate::option_order::measure(self, store, id)?;
        let perturbations = crate::perturb::measure(self, store, &run)?;
        let plain = run_results(store, run, results)?;
        Ok(RunResults { repeats, option_order, perturbations, ..plain })
    }

    /// Whatever has a number of its own, with the leaf tasks under it: the groups, then these leaves.
    pub(crate) fn groups_and<'a>(
        &'a self,
        leaves: impl Iterator<Item = &'a str> + 'a,
    ) -> impl Iterator<Item = (&'a str, Vec<&'a str>)> + 'a {
        let members = |group: &'a PlannedGroup| group.leaves.iter().map(String::as_str).collect();
        let groups = self.groups.iter().map(move |group| (group.name.as_str(), members(group)));
        groups.chain(leaves.map(|leaf| (leaf, vec![leaf])))
    }

    /// Calls `visit` for every document of a task in order.
    pub(crate) fn each_document(
        &self,
        store: &Store,
        id: &RunId,
        leaf: &Leaf,
        visit: &mut Visit<'_>,
    ) -> Result<(), RunError> {
        let mut records: Vec<SampleRecord> = Vec::new();
        for record in store.samples(id, leaf.samples())? {
            let record = record?;
            if records.first().is_some_and(|first| first.key.doc != record.key.doc) {
                visit(&records, &document_scores(leaf, &records)?)?;
                records.clear();
            }
            records.push(record);
        }
        if !records.is_empty() {
            visit(&records, &document_scores(leaf, &records)?)?;
        }
        Ok(())
    }
}

/// The results of a run as it stands in the store, without measures over several answers to an item.
pub(crate) fn run_results(
    store: &Store,
    run: StoredRun,
    results: Vec<TaskResult>,
) -> Result<RunResults, RunError> {
    // Nobody times what is computed in this process, and nobody bills it; but a judge elsewhere may have been paid.
    let spending = match run.spec.model.reference.provider {
        Provider::Openai => store.spending(&run.id)?,
        Provider::Local | Provider::Scripted if run.request["prices"].is_string() => {
            Spending { latencies: Vec::new(), ..store.spending(&run.id)? }
        }
        Provider::Local | Provider::Scripted => Spending::default(),
    };
    Ok(RunResults {
        run_id: run.id,
        status: run.status,
        model: summary(&run.spec),
        mode: run.spec.mode,
        seed: run.spec.seed,
        results,
        usage: run.usage,
        seconds: run.seconds,
        cost_usd: spending.cost_usd,
        latency: LatencySummary::of(&spending.latencies),
        repeats: Vec::new(),
        option_order: Vec::new(),
        perturbations: Vec::new(),
    })
}

/// The model as results show it.
pub(crate) fn summary(spec: &RunSpec) -> ModelSummary {
    ModelSummary {
        reference: spec.model.reference.to_string(),
        digest: spec.model.weights.clone(),
        adapter: spec.model.adapter.clone(),
        trained_on: spec.model.trained_on.clone(),
        dtype: spec.model.dtype.clone(),
        device: spec.model.device.clone(),
    }
}

/// What a task's results are called when its answers are scored by this definition.
fn scored_spec(run: &RunSpec, spec: &TaskSpec, definition: &TaskDefinition, digest: &Digest) -> TaskSpec {
    let protocol = scored_protocol(run, spec, digest, SCORER_VERSION);
    if protocol == spec.protocol {
        return spec.clone();
    }
    TaskSpec { version: definition.version.clone(), protocol, ..spec.clone() }
}

/// Answers of one protocol scored again are comparable with each other, but not with any that were asked for
/// by the new definition: it may ask something else.
pub(crate) fn scored_protocol(
    run: &RunSpec,
    spec: &TaskSpec,
    definition: &Digest,
    scorer_version: u32,
) -> Digest {
    if *definition == spec.definition && run.scorer_version == scorer_version {
        return spec.protocol.clone();
    }
    let rules = json!({"asked": spec.protocol, "scored_by": definition, "scorer_version": scorer_version});
    Digest::of_json(&rules)
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
    let mut scores = leaf.scorer.vote(&first.doc, &answers)?;
    scores.extend(mean_verdicts(records));
    scores.extend(best_of(records));
    Ok(scores)
}

/// The request a run was started with; of a run of several steps, the part of it that says how its model is
/// asked.
///
/// # Errors
/// A stored request this version cannot read.
pub fn request_of(run: &StoredRun) -> Result<RunRequest, RunError> {
    let request = if run.request.get("procedure").is_some() { &run.request["run"] } else { &run.request };
    serde_json::from_value(request.clone())
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

/// What makes two numbers over several leaf tasks comparable: the protocols of these; of one leaf, its own.
pub(crate) fn joint_protocol<'a>(leaves: impl IntoIterator<Item = &'a TaskSpec>) -> Digest {
    let leaves: Vec<&TaskSpec> = leaves.into_iter().collect();
    match leaves[..] {
        [only] => only.protocol.clone(),
        _ => {
            let parts: Vec<_> = leaves.iter().map(|spec| (&spec.task, spec.protocol.as_str())).collect();
            Digest::of_json(&json!(parts))
        }
    }
}
