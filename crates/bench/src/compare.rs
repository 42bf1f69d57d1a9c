//! Two runs side by side on the documents they share: was the difference measured or is it noise?

mod changes;
mod protocol;

use std::collections::BTreeSet;

use evalign_core::{ModelSummary, RunId, RunStatus, TaskSpec};
use evalign_stats::benjamini_hochberg;
use evalign_store::{Store, StoredRun};
use serde::Serialize;

pub use changes::{Change, ChangeKind, Changes, ChangesQuery, changes};
pub use protocol::ProtocolDifference;

use crate::aggregate::summary;
use crate::compare::protocol::protocol_differences;
use crate::paired::{Difference, PairedScores, is_likelihood};
use crate::scored::{ScoredDocument, ScoredRun};
use crate::{BenchError, Catalog, PlannedGroup, RunError, lower_is_better, request_of};

/// The word for "the task a document belongs to" in [`CompareOptions::cluster`].
pub const CLUSTER_BY_SUBJECT: &str = "subject";

/// What a p-value is at most where a difference counts as shown.
pub const SHOWN_AT: f64 = 0.05;

/// What to compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompareOptions {
    /// Only this metric.
    pub metric: Option<String>,
    /// What makes documents dependent: a column, or [`CLUSTER_BY_SUBJECT`] for the task, which concerns
    /// groups (within one subject, documents are taken as independent).
    pub cluster: Option<String>,
    /// Compare tasks that were measured in different ways all the same, and mark them.
    pub allow_different_protocols: bool,
}

/// One of the two runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComparedRun {
    pub run_id: RunId,
    pub status: RunStatus,
    pub model: ModelSummary,
    pub chat_template: bool,
}

/// B against A on one task, or on a group's tasks together, under one metric and filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub task: String,
    /// Number of tasks taken together; 0 for a leaf task.
    pub members: usize,
    pub metric: String,
    pub filter: String,
    pub same_protocol: bool,
    pub lower_is_better: bool,
    #[serde(flatten)]
    pub result: Difference,
    /// Benjamini & Hochberg's adjusted p-value over the leaf tasks with this metric and filter. Groups
    /// are no tests of their own and have none.
    pub q: Option<f64>,
}

impl Comparison {
    /// The p-value that counts: adjusted where there are several tests.
    #[must_use]
    pub fn decisive_p(&self) -> Option<f64> {
        self.q.or(self.result.p)
    }

    /// Whether the difference was shown: there may be one where it was not.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.decisive_p().is_some_and(|p| p <= SHOWN_AT)
    }

    #[must_use]
    pub fn is_b_better(&self) -> bool {
        (self.result.difference > 0.0) != self.lower_is_better
    }
}

/// What [`compare`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunComparison {
    pub a: ComparedRun,
    pub b: ComparedRun,
    pub cluster: Option<String>,
    /// Empty where both runs were measured in the same way.
    pub protocol_differences: Vec<ProtocolDifference>,
    pub comparisons: Vec<Comparison>,
    /// What a reader should know: tasks of only one run, unfinished runs.
    pub notes: Vec<String>,
}

/// Compares two stored runs, document by document.
///
/// # Errors
/// The same run twice, no task or document in common, another protocol (unless allowed), an unknown
/// metric or column, task files that are no longer there, a failure of the store.
pub fn compare(
    store: &Store,
    a: &RunId,
    b: &RunId,
    options: &CompareOptions,
) -> Result<RunComparison, RunError> {
    if a == b {
        return Err(BenchError::request(
            format!("{a} is compared with itself"),
            "name two runs; `evalign runs` lists them",
        )
        .into());
    }
    let (run_a, run_b) = (store.run(a)?, store.run(b)?);
    let catalog_a = Catalog::load(&request_of(&run_a)?.include_path)?;
    let catalog_b = Catalog::load(&request_of(&run_b)?.include_path)?;
    let a = ScoredRun { store, run: &run_a, catalog: &catalog_a };
    let b = ScoredRun { store, run: &run_b, catalog: &catalog_b };
    let common = common_tasks(&a, &b)?;
    let differences = protocol_differences(&run_a, &run_b, &common)?;
    if !differences.is_empty() && !options.allow_different_protocols {
        return Err(refusal(&differences));
    }
    let mut notes = notes(&a, &b, &common);
    let leaves = leaves(&a, &b, &common, options)?;
    check_pairs(&leaves, &common)?;
    let mut comparisons = group_comparisons(groups(&a, &b)?, &leaves, options, &mut notes);
    if options.cluster.as_deref() == Some(CLUSTER_BY_SUBJECT) && comparisons.is_empty() {
        notes.push("clustering by subject concerns groups, and no group was run".to_owned());
    }
    comparisons.extend(leaves.iter().filter_map(LeafPairs::comparison));
    adjust(&mut comparisons);
    Ok(RunComparison {
        a: compared(&run_a),
        b: compared(&run_b),
        cluster: options.cluster.clone(),
        protocol_differences: differences,
        comparisons,
        notes,
    })
}

/// The pairs of one leaf task under one metric and filter.
struct LeafPairs {
    task: String,
    metric: String,
    filter: String,
    same_protocol: bool,
    scores: PairedScores,
}

impl LeafPairs {
    fn comparison(&self) -> Option<Comparison> {
        Some(Comparison {
            task: self.task.clone(),
            members: 0,
            metric: self.metric.clone(),
            filter: self.filter.clone(),
            same_protocol: self.same_protocol,
            lower_is_better: lower_is_better(&self.metric),
            result: with_bootstrap(&self.scores)?,
            q: None,
        })
    }
}

fn with_bootstrap(scores: &PairedScores) -> Option<Difference> {
    let mut found = scores.difference()?;
    found.bootstrap_ci95 = scores.bootstrap();
    Some(found)
}

fn compared(run: &StoredRun) -> ComparedRun {
    ComparedRun {
        run_id: run.id.clone(),
        status: run.status,
        model: summary(&run.spec),
        chat_template: run.spec.chat_template,
    }
}

fn common_tasks<'a>(a: &ScoredRun<'a>, b: &ScoredRun<'a>) -> Result<Vec<(TaskSpec, TaskSpec)>, RunError> {
    let common: Vec<(TaskSpec, TaskSpec)> =
        a.tasks().filter_map(|task| Some((a.as_scored(task), b.as_scored(b.task(&task.task)?)))).collect();
    if common.is_empty() {
        let names = |run: &ScoredRun<'_>| {
            let names: Vec<&str> = run.tasks().map(|task| task.task.as_str()).take(5).collect();
            format!("{} has {}", run.run.id, names.join(", "))
        };
        return Err(BenchError::request(
            format!("the runs have no task in common: {}; {}", names(a), names(b)),
            "compare runs of the same task; `evalign runs` lists them",
        )
        .into());
    }
    Ok(common)
}

fn refusal(differences: &[ProtocolDifference]) -> RunError {
    let lines: Vec<String> = differences.iter().map(|difference| format!("\n  {difference}")).collect();
    BenchError::request(
        format!("the runs were measured in different ways:{}", lines.concat()),
        "measure both in the same way, or compare them all the same with `--allow-different-protocols`",
    )
    .into()
}

fn notes(a: &ScoredRun<'_>, b: &ScoredRun<'_>, common: &[(TaskSpec, TaskSpec)]) -> Vec<String> {
    let mut notes = Vec::new();
    for (run, name) in [(a, "A"), (b, "B")] {
        let alone: Vec<&str> = run
            .tasks()
            .map(|task| task.task.as_str())
            .filter(|task| common.iter().all(|(spec, _)| spec.task != *task))
            .collect();
        if let [first, rest @ ..] = alone.as_slice() {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            notes.push(format!("only {name} has {first}{more}"));
        }
        if run.run.status != RunStatus::Completed {
            notes.push(format!(
                "{name} is {} with {} of {} samples: the documents answered first are compared, which may not be \
                 like the rest",
                run.run.status.name(),
                run.run.samples_done,
                run.run.samples_total
            ));
        }
    }
    notes
}

fn leaves(
    a: &ScoredRun<'_>,
    b: &ScoredRun<'_>,
    common: &[(TaskSpec, TaskSpec)],
    options: &CompareOptions,
) -> Result<Vec<LeafPairs>, RunError> {
    let column = options.cluster.as_deref().filter(|column| *column != CLUSTER_BY_SUBJECT);
    let mut leaves = Vec::new();
    let mut metrics: Vec<String> = Vec::new();
    for (spec_a, spec_b) in common {
        let (ours, theirs) = (a.documents(spec_a, column)?, b.documents(spec_b, None)?);
        let in_b = score_names(&theirs);
        for (metric, filter) in score_names(&ours).into_iter().filter(|name| in_b.contains(name)) {
            if !metrics.contains(&metric) {
                metrics.push(metric.clone());
            }
            if options.metric.as_ref().is_some_and(|wanted| *wanted != metric) {
                continue;
            }
            leaves.push(LeafPairs {
                task: spec_a.task.clone(),
                same_protocol: spec_a.protocol == spec_b.protocol,
                scores: PairedScores::of(&ours, &theirs, &metric, &filter),
                metric,
                filter,
            });
        }
    }
    match &options.metric {
        Some(wanted) if leaves.is_empty() => Err(BenchError::request(
            format!("the runs have no metric `{wanted}` in common"),
            format!("they have {}", metrics.join(", ")),
        )
        .into()),
        Some(_) | None => Ok(leaves),
    }
}

/// Metrics and filters in the order of the definition. A failed call has all of them too.
fn score_names(documents: &[ScoredDocument]) -> Vec<(String, String)> {
    let mut names: Vec<(String, String)> = Vec::new();
    for score in documents.iter().flat_map(|document| &document.scores) {
        if !names.iter().any(|(metric, filter)| *metric == score.metric && *filter == score.filter) {
            names.push((score.metric.clone(), score.filter.clone()));
        }
    }
    names
}

fn check_pairs(leaves: &[LeafPairs], common: &[(TaskSpec, TaskSpec)]) -> Result<(), RunError> {
    if leaves.iter().any(|leaf| !leaf.scores.pairs.is_empty()) {
        return Ok(());
    }
    let ranges = |spec: &TaskSpec| format!("{} to {}", spec.docs[0], spec.docs[1]);
    let (a, b) = &common[0];
    Err(BenchError::request(
        format!(
            "the runs share no document that both decided: of `{}` A has documents {}, B {}",
            a.task,
            ranges(a),
            ranges(b)
        ),
        "run both over the same documents (`--limit`, `--samples`)",
    )
    .into())
}

/// The groups that either run was asked for.
fn groups(a: &ScoredRun<'_>, b: &ScoredRun<'_>) -> Result<Vec<PlannedGroup>, RunError> {
    let mut groups = a.groups()?;
    let more = b.groups()?;
    groups.extend(more);
    let mut known = BTreeSet::new();
    groups.retain(|group| known.insert(group.name.clone()));
    Ok(groups)
}

/// Groups over the leaf tasks that both runs have.
fn group_comparisons(
    groups: Vec<PlannedGroup>,
    leaves: &[LeafPairs],
    options: &CompareOptions,
    notes: &mut Vec<String>,
) -> Vec<Comparison> {
    let by_task = options.cluster.as_deref() == Some(CLUSTER_BY_SUBJECT);
    let mut found = Vec::new();
    for group in groups {
        let mut names: Vec<(&str, &str)> = Vec::new();
        let members: Vec<&LeafPairs> = leaves.iter().filter(|l| group.leaves.contains(&l.task)).collect();
        for leaf in &members {
            if !names.contains(&(&leaf.metric, &leaf.filter)) {
                names.push((&leaf.metric, &leaf.filter));
            }
        }
        for (metric, filter) in names {
            let parts: Vec<&&LeafPairs> =
                members.iter().filter(|leaf| leaf.metric == metric && leaf.filter == filter).collect();
            // Perplexities of different tasks have no common mean.
            if parts.len() < 2 || is_likelihood(metric) {
                continue;
            }
            let same_protocol = parts.iter().all(|leaf| leaf.same_protocol);
            let scores: Vec<(&str, PairedScores)> =
                parts.iter().map(|leaf| (leaf.task.as_str(), leaf.scores.clone())).collect();
            let together = PairedScores::together(&scores, group.weight_by_size, by_task);
            let Some(result) = with_bootstrap(&together) else { continue };
            if parts.len() < group.leaves.len() {
                let note =
                    format!("{}: {} of {} tasks compared", group.name, parts.len(), group.leaves.len());
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            found.push(Comparison {
                task: group.name.clone(),
                members: parts.len(),
                metric: metric.to_owned(),
                filter: filter.to_owned(),
                same_protocol,
                lower_is_better: lower_is_better(metric),
                result,
                q: None,
            });
        }
    }
    found
}

/// Adjusts the leaf tasks' p-values, one family per metric and filter.
fn adjust(comparisons: &mut [Comparison]) {
    let mut families: Vec<(String, String)> = Vec::new();
    for comparison in comparisons.iter() {
        let family = (comparison.metric.clone(), comparison.filter.clone());
        if !families.contains(&family) {
            families.push(family);
        }
    }
    for (metric, filter) in families {
        let mut members: Vec<&mut Comparison> = comparisons
            .iter_mut()
            .filter(|c| c.members == 0 && c.metric == metric && c.filter == filter && c.result.p.is_some())
            .collect();
        let p: Vec<f64> = members.iter().filter_map(|comparison| comparison.result.p).collect();
        let Some(adjusted) = benjamini_hochberg(&p) else { continue };
        for (comparison, q) in members.iter_mut().zip(adjusted) {
            comparison.q = Some(q);
        }
    }
}
