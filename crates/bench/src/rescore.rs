//! Scores stored answers again: no model, no dataset, only what the samples hold.

use std::time::Duration;

use evalign_core::{RunId, RunResults, SampleKey, Score, ScoredBy};
use evalign_store::{Lease, SampleFilter, Store};
use serde_json::json;

use crate::judging::is_verdict;
use crate::{BenchError, KeptResults, RunError, Scoreboard, Scorer};

const LEASE_TTL: Duration = Duration::from_secs(60);

/// Samples that are scored between two renewals of the lease.
const RENEWED_EVERY: u64 = 2000;

/// What [`rescore`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Rescored {
    pub samples: u64,
    /// Samples of which at least one score came out differently.
    pub changed: u64,
    /// The rules are not those the run was started with: its results have a protocol of their own now.
    pub other_rules: bool,
    pub results: RunResults,
}

/// Computes all scores of a run again from its stored answers with the task files as they are now, and
/// replaces the stored ones, all or none. The run remembers what it was scored by.
///
/// `extractor`: what is told, not what is kept, is the metrics of this one alone.
///
/// # Errors
/// An extractor that no task of the run has, a held lease, a failure of the store, an answer that does not fit its task.
pub fn rescore(
    store: &Store,
    run: &RunId,
    board: &Scoreboard,
    extractor: Option<&str>,
    owner: &str,
) -> Result<Rescored, RunError> {
    if let Some(extractor) = extractor {
        check_extractor(run, board, extractor)?;
    }
    let lease = store.lease(run, owner, LEASE_TTL)?;
    let scorers = board.leaves.iter().map(|leaf| (leaf.spec.task.as_str(), &leaf.scorer));
    let stored = store.run(run)?;
    let rules = board.other_rules(&stored.spec);
    let (samples, changed) = score_again(store, &lease, scorers, rules)?;
    let kept = KeptResults::anew(board.aggregate(store, run)?, stored.results.as_ref())?;
    store.save_results(&lease, &json!(kept))?;
    store.release(lease)?;
    let mut results = kept.results;
    if let Some(extractor) = extractor {
        for result in &mut results.results {
            result.metrics.retain(|metric| metric.filter == extractor);
        }
    }
    Ok(Rescored { samples, changed, other_rules: rules.is_some(), results })
}

fn check_extractor(run: &RunId, board: &Scoreboard, extractor: &str) -> Result<(), BenchError> {
    let known = board.filters();
    if known.contains(extractor) {
        return Ok(());
    }
    let names: Vec<&str> = known.into_iter().collect();
    Err(BenchError::request(
        format!("the tasks of {run} have no extractor `{extractor}`"),
        format!(
            "they have {}; add one under `filters` in a task file of your own (`--include-path`)",
            names.join(", ")
        ),
    ))
}

/// Replaces the scores of all samples in one transaction, with `rules` as what they come from (`None`: the
/// run's spec), and returns how many samples there are and how many are scored differently now.
pub(crate) fn score_again<'a>(
    store: &Store,
    lease: &Lease,
    scorers: impl Iterator<Item = (&'a str, &'a Scorer)>,
    rules: Option<&ScoredBy>,
) -> Result<(u64, u64), RunError> {
    let mut samples = 0;
    let mut changed: Vec<(SampleKey, Vec<Score>)> = Vec::new();
    for (task, scorer) in scorers {
        let filter = SampleFilter { task: Some(task.to_owned()), ..SampleFilter::default() };
        for record in store.samples(lease.run(), filter)? {
            let record = record?;
            let mut scores = match &record.output {
                Some(output) => scorer.score(&record.doc, output)?,
                None => scorer.failed(),
            };
            // What a judge said stays said.
            scores.extend(record.scores.iter().filter(|score| is_verdict(score)).cloned());
            samples += 1;
            if scores != record.scores {
                changed.push((record.key, scores));
            }
            if samples % RENEWED_EVERY == 0 {
                store.renew(lease, LEASE_TTL)?;
            }
        }
    }
    let count = changed.len() as u64;
    store.replace_scores(lease, changed, rules)?;
    Ok((samples, count))
}
