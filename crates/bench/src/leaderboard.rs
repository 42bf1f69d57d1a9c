//! Runs measured in the same way, side by side, with the ranks that the samples support.
//!
//! Numbers of different protocols or documents never meet: each (task, protocol, metric, filter, range of
//! documents) is a block of its own. Within a block every pair of rows over the same documents is tested on those both answered, and
//! a rank is the interval that those tests leave open.

mod page;
mod plot;

use std::collections::BTreeMap;
use std::path::PathBuf;

use evalign_core::{
    Digest, LatencySummary, MetricResult, ModelSummary, Outcome, RunId, RunResults, RunStatus, ScoringMode,
    TaskResult, Usage,
};
use evalign_stats::{holm, rank_intervals};
use evalign_store::{Store, StoredRun};
use serde::Serialize;

pub use page::{BOARD_STYLE, RunLink, board_page, board_sections};

use crate::judging::arena_block;
use crate::paired::PairedScores;
use crate::scored::{ScoredDocument, ScoredRun};
use crate::{Catalog, RunError, lower_is_better, request_of};

/// Runs that are looked at, the newest first.
const MOST_RUNS: u32 = 10_000;

/// Chance that any of a block's rank intervals is wrong.
const RANK_ERROR: f64 = 0.05;

/// What to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoardQuery {
    /// Only this task or group.
    pub task: Option<String>,
    /// Also the members of groups.
    pub all: bool,
    /// Only this run.
    pub run: Option<RunId>,
}

/// Rows that may be compared: one task, protocol, metric, filter and range of documents. Best first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BoardBlock {
    pub task: String,
    pub version: String,
    pub protocol: Digest,
    pub metric: String,
    pub filter: String,
    pub shots: u32,
    pub chat_template: bool,
    pub compat: ScoringMode,
    pub lower_is_better: bool,
    /// Indices of the documents, half-open, by leaf task.
    pub documents: BTreeMap<String, [u64; 2]>,
    /// Tasks and groups directly under a group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    pub rows: Vec<BoardRow>,
}

/// One run's line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BoardRow {
    pub run_id: RunId,
    pub model: ModelSummary,
    pub shots: u32,
    pub compat: ScoringMode,
    pub result: MetricResult,
    pub truncated_prompts: u64,
    /// Best and worst rank that the paired tests allow; all intervals of a block hold together at 95 %.
    /// Absent where there is nothing to test: a metric of the whole task, samples that cannot be read.
    pub rank: Option<[u64; 2]>,
    /// Against the first row, on the documents both have. Absent in the first row itself.
    pub behind_first: Option<Gap>,
    pub usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySummary>,
}

impl BoardRow {
    /// `1`, or `1–3` where the tests leave it open.
    #[must_use]
    pub fn rank_text(&self) -> String {
        match self.rank {
            None => "-".to_owned(),
            Some([best, worst]) if best == worst => best.to_string(),
            Some([best, worst]) => format!("{best}–{worst}"),
        }
    }

    /// In US dollars.
    #[must_use]
    pub fn cost_text(&self) -> Option<String> {
        self.cost_usd.map(|usd| if usd < 0.01 { format!("{usd:.5}") } else { format!("{usd:.2}") })
    }

    /// Medians in milliseconds: the whole answer, and its first token.
    #[must_use]
    pub fn latency_texts(&self) -> [Option<String>; 2] {
        let shown = |ms: f64| format!("{ms:.0}");
        [
            self.latency.map(|latency| shown(latency.total_ms.p50)),
            self.latency.and_then(|latency| latency.first_token_ms).map(|first| shown(first.p50)),
        ]
    }

    /// What a reader should know beside the number: answers that were not decided, fragile ones, prompts that were
    /// cut.
    #[must_use]
    pub fn caveats(&self) -> Vec<String> {
        caveats(self.truncated_prompts, &self.result)
    }
}

/// What a reader should know beside a number, but for its bounds, which everybody shows in their own units.
#[must_use]
pub fn caveats(truncated_prompts: u64, metric: &MetricResult) -> Vec<String> {
    let undecided = [Outcome::Truncated, Outcome::Refused, Outcome::Unparsed, Outcome::Error];
    let counts = undecided.map(|outcome| (metric.outcomes.get(outcome), outcome.name()));
    let counts = counts
        .into_iter()
        .chain([(metric.fragile.unwrap_or(0), "fragile"), (truncated_prompts, "prompts cut")]);
    counts.filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
}

/// A row's paired difference from the first row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gap {
    pub difference: f64,
    pub ci95: Option<[f64; 2]>,
    pub p: Option<f64>,
    /// Documents both answered.
    pub n: u64,
}

/// By what makes rows comparable: task, protocol, metric, filter, documents.
type Blocks = BTreeMap<(String, String, String, String, BTreeMap<String, [u64; 2]>), BoardBlock>;

/// The board, and what it was made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Board {
    pub blocks: Vec<BoardBlock>,
    /// Finished runs that were looked at.
    pub runs: u64,
    /// Finished runs that have no results: left out, until they are rescored.
    pub without_results: Vec<RunId>,
}

/// The board over all finished runs. An interrupted run has measured whichever samples came first: no
/// number to rank by.
///
/// # Errors
/// A failure of the store, results that cannot be read.
pub fn leaderboard(store: &Store, query: &BoardQuery) -> Result<Board, RunError> {
    let mut without_results = Vec::new();
    let mut arenas = Vec::new();
    let mut runs = BTreeMap::new();
    let mut blocks = Blocks::new();
    for run in store.runs(MOST_RUNS)? {
        let other = query.run.as_ref().is_some_and(|wanted| *wanted != run.id);
        if run.status != RunStatus::Completed || other {
            continue;
        }
        // Runs of several steps (critiques, pairs) measure nothing that could be ranked; those that do keep
        // results of the common kind.
        let several_steps = run.request.get("procedure").is_some();
        if let Some(block) = arena_block(&run) {
            arenas.extend(query.task.as_ref().is_none_or(|task| *task == block.task).then_some(block));
            continue;
        }
        if several_steps && run.results.as_ref().is_none_or(|kept| kept.get("results").is_none()) {
            continue;
        }
        let Some(results) = &run.results else {
            without_results.push(run.id);
            continue;
        };
        let results: RunResults = serde_json::from_value(results.clone())
            .map_err(|error| RunError::malformed(format!("results of run {}", run.id), error))?;
        collect(&run, &results, query, &mut blocks);
        runs.insert(run.id.clone(), run);
    }
    let mut catalogs = BTreeMap::new();
    for block in blocks.values_mut() {
        sort(block);
    }
    let mut read: Read = Read::default();
    for block in blocks.values_mut().filter(|block| block.rows.len() > 1) {
        if read.task != block.task {
            read = Read { task: block.task.clone(), documents: BTreeMap::new() };
        }
        rank(block, store, &runs, &mut catalogs, &mut read);
    }
    for block in blocks.values_mut().filter(|block| block.rows.len() == 1) {
        block.rows[0].rank = Some([1, 1]);
    }
    let mut blocks: Vec<BoardBlock> = blocks.into_values().chain(arenas).collect();
    blocks.sort_by_cached_key(|block| {
        let how = (block.shots, block.chat_template, block.compat.name(), block.protocol.to_string());
        (block.task.clone(), how, block.metric.clone(), block.filter.clone())
    });
    Ok(Board { blocks, runs: runs.len() as u64, without_results })
}

fn collect(run: &StoredRun, results: &RunResults, query: &BoardQuery, blocks: &mut Blocks) {
    let members: Vec<&String> = results.results.iter().flat_map(|result| &result.members).collect();
    for result in &results.results {
        let wanted = match &query.task {
            Some(task) => result.task == *task,
            None => query.all || !members.contains(&&result.task),
        };
        if !wanted {
            continue;
        }
        let documents = documents_of(run, results, result);
        for metric in &result.metrics {
            let key = (
                result.task.clone(),
                result.protocol.as_str().to_owned(),
                metric.name.clone(),
                metric.filter.clone(),
                documents.clone(),
            );
            let block = blocks.entry(key).or_insert_with(|| block(run, result, metric, &documents));
            keep_best_measured(block, row(results, result, metric));
        }
    }
}

/// Which documents a result is over: those of the task, or of all tasks under the group.
fn documents_of(run: &StoredRun, results: &RunResults, result: &TaskResult) -> BTreeMap<String, [u64; 2]> {
    let mut names = vec![&result.task];
    let mut found = BTreeMap::new();
    while let Some(name) = names.pop() {
        found.extend(
            run.spec.tasks.iter().filter(|task| task.task == *name).map(|t| (t.task.clone(), t.docs)),
        );
        names.extend(
            results.results.iter().filter(|group| group.task == *name).flat_map(|group| &group.members),
        );
    }
    found
}

fn block(
    run: &StoredRun,
    result: &TaskResult,
    metric: &MetricResult,
    documents: &BTreeMap<String, [u64; 2]>,
) -> BoardBlock {
    BoardBlock {
        task: result.task.clone(),
        version: result.version.clone(),
        protocol: result.protocol.clone(),
        metric: metric.name.clone(),
        filter: metric.filter.clone(),
        shots: result.shots,
        chat_template: run.spec.chat_template,
        compat: run.spec.mode,
        lower_is_better: lower_is_better(&metric.name),
        documents: documents.clone(),
        members: result.members.clone(),
        rows: Vec::new(),
    }
}

fn row(results: &RunResults, result: &TaskResult, metric: &MetricResult) -> BoardRow {
    BoardRow {
        run_id: results.run_id.clone(),
        model: results.model.clone(),
        shots: result.shots,
        compat: results.mode,
        result: metric.clone(),
        truncated_prompts: result.truncated_prompts,
        rank: None,
        behind_first: None,
        usage: results.usage,
        cost_usd: results.cost_usd,
        latency: results.latency,
    }
}

/// Per model the run over most samples; of equals the one that was timed (the other took its answers from
/// the cache), then the newest (runs come newest first).
fn keep_best_measured(block: &mut BoardBlock, row: BoardRow) {
    let merit = |row: &BoardRow| (row.result.estimate.n, row.latency.is_some());
    match block.rows.iter_mut().find(|known| known.model == row.model) {
        Some(known) if merit(known) < merit(&row) => *known = row,
        Some(_) => {}
        None => block.rows.push(row),
    }
}

/// Best value first; rows without a value last.
fn sort(block: &mut BoardBlock) {
    let sign = if block.lower_is_better { -1.0 } else { 1.0 };
    let merit = |row: &BoardRow| row.result.estimate.value.map_or(f64::NEG_INFINITY, |value| sign * value);
    block.rows.sort_by(|a, b| merit(b).total_cmp(&merit(a)).then_with(|| a.run_id.cmp(&b.run_id)));
}

/// The scores of the task that is being ranked.
#[derive(Default)]
struct Read {
    task: String,
    /// By run and leaf task.
    documents: BTreeMap<(RunId, String), Vec<ScoredDocument>>,
}

/// Leaf tasks under a block's task, and whether each document counts the same.
struct Leaves {
    names: Vec<String>,
    by_size: bool,
}

type Catalogs = BTreeMap<Vec<PathBuf>, Option<Catalog>>;

/// Fills in ranks and gaps. A block whose samples or task files cannot be read stays without: the
/// numbers themselves are still good.
fn rank(
    block: &mut BoardBlock,
    store: &Store,
    runs: &BTreeMap<RunId, StoredRun>,
    catalogs: &mut Catalogs,
    read: &mut Read,
) {
    let mut leaves = None;
    for row in &block.rows {
        let found = runs.get(&row.run_id).and_then(|run| documents(block, store, run, catalogs, read));
        match found {
            Some(found) => leaves = Some(found),
            None => {
                tracing::warn!(run = %row.run_id, task = block.task, "no ranks: samples or task files cannot be read");
                return;
            }
        }
    }
    let Some(leaves) = leaves else { return };
    let paired = |a: &BoardRow, b: &BoardRow| {
        let parts: Vec<(&str, PairedScores)> = leaves
            .names
            .iter()
            .filter_map(|leaf| {
                let ours = read.documents.get(&(a.run_id.clone(), leaf.clone()))?;
                let theirs = read.documents.get(&(b.run_id.clone(), leaf.clone()))?;
                Some((leaf.as_str(), PairedScores::of(ours, theirs, &block.metric, &block.filter)))
            })
            .filter(|(_, part)| !part.pairs.is_empty())
            .collect();
        PairedScores::together(&parts, leaves.by_size, false).difference()
    };
    let mut tests = Vec::new();
    let mut gaps = vec![None; block.rows.len()];
    for (i, a) in block.rows.iter().enumerate() {
        for (j, b) in block.rows.iter().enumerate().skip(i + 1) {
            let Some(found) = paired(a, b) else { continue };
            let complete = found.left_out.only_in_a + found.left_out.only_in_b == 0;
            if i == 0 {
                let (difference, ci95, p, n) = (found.difference, found.ci95, found.p, found.n);
                gaps[j] = Some(Gap { difference, ci95, p, n });
            }
            let second_wins = (found.difference > 0.0) != block.lower_is_better;
            tests
                .extend(found.p.filter(|_| complete).map(|p| (p, if second_wins { (j, i) } else { (i, j) })));
        }
    }
    if tests.is_empty() {
        return;
    }
    let adjusted = holm(&tests.iter().map(|(p, _)| *p).collect::<Vec<_>>()).unwrap_or_default();
    let shown: Vec<(usize, usize)> =
        adjusted.iter().zip(&tests).filter(|(p, _)| **p <= RANK_ERROR).map(|(_, (_, pair))| *pair).collect();
    let ranks = rank_intervals(block.rows.len(), &shown);
    for ((row, rank), gap) in block.rows.iter_mut().zip(ranks).zip(gaps) {
        row.rank = Some([rank.best, rank.worst]);
        row.behind_first = gap;
    }
}

/// Reads a run's scores for a block's leaf tasks, once.
fn documents(
    block: &BoardBlock,
    store: &Store,
    run: &StoredRun,
    catalogs: &mut Catalogs,
    read: &mut Read,
) -> Option<Leaves> {
    let include = request_of(run).ok()?.include_path;
    let catalog = catalogs.entry(include.clone()).or_insert_with(|| Catalog::load(&include).ok()).as_ref()?;
    let scored = ScoredRun { store, run, catalog };
    let leaves = match scored.groups().ok()?.into_iter().find(|group| group.name == block.task) {
        Some(group) => Leaves { names: group.leaves, by_size: group.weight_by_size },
        None => Leaves { names: vec![block.task.clone()], by_size: true },
    };
    for leaf in &leaves.names {
        let key = (run.id.clone(), leaf.clone());
        // A group's number may be over fewer tasks than it has now.
        let Some(spec) = scored.task(leaf) else { continue };
        if let std::collections::btree_map::Entry::Vacant(vacant) = read.documents.entry(key) {
            vacant.insert(scored.documents(spec, None).ok()?);
        }
    }
    Some(leaves)
}
