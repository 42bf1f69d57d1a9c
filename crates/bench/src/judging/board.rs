use evalign_core::{Digest, Estimate, MetricResult, ModelSummary, OutcomeCounts};
use evalign_store::StoredRun;
use serde_json::json;

use super::arena::{ArenaOutcome, ArenaRequest};
use crate::leaderboard::{BoardBlock, BoardRow};

/// What an arena's ratings are called on the leaderboard.
pub(crate) const ARENA_TASK: &str = "arena";
const METRIC: &str = "rating";

/// The ratings of a finished arena as a block of their own: they are about each other only. `None` for other runs.
pub(crate) fn arena_block(run: &StoredRun) -> Option<BoardBlock> {
    let request: ArenaRequest = serde_json::from_value(run.request.clone()).ok()?;
    let outcome: ArenaOutcome = serde_json::from_value(run.results.clone()?).ok()?;
    let names = request.names();
    let row = |standing: &evalign_judge::Standing| {
        let place = names.iter().position(|name| *name == standing.name)?;
        let rating = standing.rating;
        Some(BoardRow {
            run_id: run.id.clone(),
            model: ModelSummary {
                reference: standing.name.clone(),
                digest: request.weights.get(place)?.clone(),
                adapter: None,
                trained_on: None,
                dtype: run.spec.model.dtype.clone(),
                device: run.spec.model.device.clone(),
            },
            shots: 0,
            compat: run.spec.mode,
            result: MetricResult {
                name: METRIC.to_owned(),
                filter: "none".to_owned(),
                estimate: Estimate {
                    value: rating.map(|rating| rating.value),
                    stderr: None,
                    ci95: rating.map(|rating| rating.ci95),
                    n: standing.battles,
                },
                outcomes: OutcomeCounts::default(),
                bounds: None,
                fragile: None,
            },
            truncated_prompts: 0,
            rank: Some(standing.rank),
            behind_first: None,
            usage: run.usage,
            cost_usd: None,
            latency: None,
        })
    };
    let protocols: Vec<&Digest> = run.spec.tasks.iter().map(|task| &task.protocol).collect();
    Some(BoardBlock {
        task: ARENA_TASK.to_owned(),
        version: "1".to_owned(),
        protocol: Digest::of_json(&json!(protocols)),
        metric: METRIC.to_owned(),
        filter: "none".to_owned(),
        shots: 0,
        chat_template: run.spec.chat_template,
        compat: run.spec.mode,
        lower_is_better: false,
        documents: run.spec.tasks.iter().map(|task| (task.task.clone(), task.docs)).collect(),
        members: Vec::new(),
        rows: outcome.report.standings.iter().map(row).collect::<Option<_>>()?,
    })
}
