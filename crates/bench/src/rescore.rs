//! Scores stored answers again: no model, no dataset, only what the samples hold.

use std::time::Duration;

use evalign_core::{RunId, RunResults, SampleKey, Score};
use evalign_store::{SampleFilter, Store};
use serde_json::json;

use crate::{RunError, Scoreboard};

/// Samples whose scores are replaced in one transaction.
const BATCH: usize = 2000;

/// What [`rescore`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Rescored {
    pub samples: u64,
    /// Samples of which at least one score came out differently.
    pub changed: u64,
    pub results: RunResults,
}

/// Computes all scores of a run again from its stored answers with the task files as they are now, and
/// replaces the stored ones.
///
/// # Errors
/// A held lease, a failure of the store, an answer that does not fit its task.
pub fn rescore(store: &Store, run: &RunId, board: &Scoreboard, owner: &str) -> Result<Rescored, RunError> {
    let lease = store.lease(run, owner, Duration::from_secs(60))?;
    let (mut samples, mut changed) = (0, 0);
    let mut batch: Vec<(SampleKey, Vec<Score>)> = Vec::new();
    for leaf in &board.leaves {
        let filter = SampleFilter { task: Some(leaf.spec.task.clone()), ..SampleFilter::default() };
        for record in store.samples(run, filter)? {
            let record = record?;
            let scores = match &record.output {
                Some(output) => leaf.scorer.score(&record.doc, &[output])?,
                None => leaf.scorer.failed(),
            };
            samples += 1;
            if scores != record.scores {
                changed += 1;
                batch.push((record.key, scores));
            }
            if batch.len() == BATCH {
                store.replace_scores(&lease, std::mem::take(&mut batch))?;
                store.renew(&lease, Duration::from_secs(60))?;
            }
        }
    }
    store.replace_scores(&lease, batch)?;
    let results = board.aggregate(store, run)?;
    store.save_results(&lease, &json!(results))?;
    store.release(lease)?;
    Ok(Rescored { samples, changed, results })
}
