//! What a run could show, before it is run.

use evalign_core::{RunStatus, TaskSpec};
use evalign_stats::Power;
use evalign_store::{Store, StoredRun};
use serde::Serialize;

use crate::paired::PairedScores;
use crate::scored::ScoredRun;
use crate::task::OutputKind;
use crate::{Catalog, Plan, PlannedTask, RunError};

/// Share of items on which two models are taken to disagree where no earlier runs say it: half of what
/// independent models at 50 % would (Miller 2024, arXiv 2411.00640, reports correlations of
/// 0.3 to 0.7 between models' question scores).
const ASSUMED_DISCORDANCE: f64 = 0.25;

/// Runs that are looked at for an earlier disagreement, the newest first.
const EARLIER_RUNS: u32 = 200;

/// The smallest difference that a task, or a group's tasks together, can show with 80 % power at 5 %.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Detectable {
    pub task: String,
    /// Documents.
    pub n: u64,
    /// Between two accuracies around 50 % without pairing documents.
    pub unpaired: Option<f64>,
    /// Between two models compared document by document, as `evalign compare` does.
    pub paired: Option<f64>,
    /// Share of documents on which the two disagree, as taken for `paired`.
    pub discordance: f64,
    /// It is that of two earlier runs; otherwise it is assumed.
    pub measured: bool,
}

/// For each leaf task of a plan that is scored right or wrong, and for each group over more than one.
///
/// # Errors
/// A failure of the store.
pub fn detectable(plan: &Plan, store: &Store) -> Result<Vec<Detectable>, RunError> {
    let runs = store.runs(EARLIER_RUNS)?;
    let catalog = Catalog::load(&[])?;
    let mut found = Vec::new();
    let tasks = plan.tasks.iter().filter(|task| task.definition().output != OutputKind::Perplexity);
    for task in tasks.filter(|task| task.spec().variant.is_none()) {
        let earlier = earlier_discordance(task.spec(), &runs, store, &catalog)?;
        found.push(of(task.name(), documents(task), earlier));
    }
    let leaves = found.clone();
    for group in &plan.groups {
        let members: Vec<&Detectable> =
            leaves.iter().filter(|leaf| group.leaves.contains(&leaf.task)).collect();
        if members.len() > 1 {
            let n = members.iter().map(|leaf| leaf.n).sum::<u64>();
            let disagreeing: f64 = members.iter().map(|leaf| leaf.discordance * leaf.n as f64).sum();
            let measured = members.iter().all(|leaf| leaf.measured);
            let mut group = of(&group.name, n, Some(disagreeing / n as f64));
            group.measured = measured;
            found.push(group);
        }
    }
    Ok(found)
}

fn documents(task: &PlannedTask) -> u64 {
    task.spec().docs[1] - task.spec().docs[0]
}

fn of(task: &str, n: u64, earlier: Option<f64>) -> Detectable {
    let discordance = earlier.unwrap_or(ASSUMED_DISCORDANCE);
    let power = Power::default();
    Detectable {
        task: task.to_owned(),
        n,
        unpaired: power.detectable_unpaired(n, 0.5),
        paired: power.detectable_paired(n, discordance),
        discordance,
        measured: earlier.is_some(),
    }
}

/// How often the two newest finished runs of different models that measured this task by this protocol
/// disagreed, by its first metric. One more disagreement each way is counted, since none seen is not none
/// there.
fn earlier_discordance(
    task: &TaskSpec,
    runs: &[StoredRun],
    store: &Store,
    catalog: &Catalog,
) -> Result<Option<f64>, RunError> {
    // Votes over repeats would need the run's own task files.
    if task.repeats > 1 {
        return Ok(None);
    }
    let same = |run: &&StoredRun| {
        run.status == RunStatus::Completed
            && run.scored_by.is_none()
            && run.spec.tasks.iter().any(|t| t.protocol == task.protocol)
    };
    let mut fitting = runs.iter().filter(same);
    let Some(newest) = fitting.next() else { return Ok(None) };
    let Some(other) = fitting.find(|run| run.spec.model != newest.spec.model) else { return Ok(None) };
    let documents = |run| ScoredRun { store, run, catalog }.documents(task, None);
    let (ours, theirs) = (documents(newest)?, documents(other)?);
    let first = ours.iter().flat_map(|document| &document.scores).next();
    let Some((metric, filter)) = first.map(|score| (score.metric.clone(), score.filter.clone())) else {
        return Ok(None);
    };
    let paired = PairedScores::of(&ours, &theirs, &metric, &filter);
    Ok(paired.difference().and_then(|found| {
        let counts = found.agreement?;
        Some((counts.only_a + counts.only_b + 2) as f64 / (found.n + 2) as f64)
    }))
}
