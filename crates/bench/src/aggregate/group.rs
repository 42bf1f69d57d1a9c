use evalign_core::{MetricResult, OutcomeCounts, ScoringMode, TaskResult, TaskSpec};
use evalign_stats::{combined_stderr, pooled_stderr, unweighted_mean_stderr, weighted_mean};

use super::calibration::CalibrationTally;
use super::estimate::{Aggregation, group_estimate};
use super::leaf::{LeafMetric, LeafTally, bounds};
use crate::PlannedGroup;

/// Aggregates the leaves of a group, metric by metric, over the leaves that have the metric.
///
/// Value: mean of the leaves' values, weighted by their documents or not, as the group says. Standard
/// error: under `--compat lm-eval` the reference's pooled formula; by default that of a mean over
/// independent strata, which does not let the differences between leaves inflate it.
pub(super) fn group_result(
    group: &PlannedGroup,
    leaves: &[(&TaskSpec, LeafTally)],
    mode: ScoringMode,
) -> TaskResult {
    let members: Vec<(&TaskSpec, &LeafTally)> = leaves
        .iter()
        .filter(|(spec, _)| group.leaves.contains(&spec.task))
        .map(|(spec, tally)| (*spec, tally))
        .collect();
    let mut names: Vec<&(String, String)> = Vec::new();
    for (_, tally) in &members {
        for name in tally.names() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let metrics = names.into_iter().map(|name| metric(name, &members, group.weight_by_size, mode));
    TaskResult {
        task: group.name.clone(),
        version: group.version.clone(),
        protocol: super::joint_protocol(members.iter().map(|(spec, _)| *spec)),
        shots: members.iter().map(|(spec, _)| spec.shots).max().unwrap_or(0),
        truncated_prompts: members.iter().map(|(_, tally)| tally.truncated_prompts()).sum(),
        members: group.members.clone(),
        metrics: metrics.chain(calibration(&members, group.weight_by_size)).collect(),
    }
}

/// Over all items of the group together: errors of leaves with few items are mostly noise, and so is
/// their mean. A group in which every leaf counts equally has none.
fn calibration(members: &[(&TaskSpec, &LeafTally)], weight_by_size: bool) -> Vec<MetricResult> {
    let mut pooled = CalibrationTally::default();
    for (_, tally) in members.iter().filter(|_| weight_by_size) {
        pooled.merge(tally.calibration());
    }
    pooled.metrics()
}

fn metric(
    name: &(String, String),
    members: &[(&TaskSpec, &LeafTally)],
    weight_by_size: bool,
    mode: ScoringMode,
) -> MetricResult {
    let found: Vec<(LeafMetric, u64)> = members
        .iter()
        .filter_map(|(_, tally)| {
            let metric = tally.metric(name)?;
            // The reference weighs by documents; a document without a value carries no weight by default.
            let size = if mode == ScoringMode::LmEval { tally.documents() } else { metric.estimate.n };
            Some((metric, size))
        })
        .collect();
    let mut outcomes = OutcomeCounts::default();
    for (metric, _) in &found {
        outcomes.merge(&metric.outcomes);
    }
    // Averaging perplexities of different tasks means nothing that a person could use.
    let value =
        (Aggregation::of(&name.0) == Aggregation::Mean).then(|| value(&found, weight_by_size)).flatten();
    let stderr = value.and_then(|_| stderr(&found, weight_by_size, mode));
    let n = found.iter().map(|(metric, _)| metric.estimate.n).sum();
    let share = bounds(&outcomes).is_some();
    MetricResult {
        name: name.0.clone(),
        filter: name.1.clone(),
        estimate: group_estimate(value, stderr, n, share.then_some(outcomes.correct), share),
        bounds: if weight_by_size { bounds(&outcomes) } else { None },
        fragile: found.iter().filter_map(|(metric, _)| metric.fragile).reduce(|a, b| a + b),
        outcomes,
    }
}

fn value(found: &[(LeafMetric, u64)], weight_by_size: bool) -> Option<f64> {
    let pairs: Vec<(f64, f64)> = found
        .iter()
        .filter_map(|(metric, size)| {
            Some((metric.estimate.value?, if weight_by_size { *size as f64 } else { 1.0 }))
        })
        .collect();
    weighted_mean(&pairs)
}

/// `None` as soon as one leaf with a value has no standard error: an interval that leaves out its
/// least certain part would be a lie.
fn stderr(found: &[(LeafMetric, u64)], weight_by_size: bool, mode: ScoringMode) -> Option<f64> {
    let parts: Vec<(f64, u64)> = found
        .iter()
        .filter(|(metric, _)| metric.estimate.value.is_some())
        .map(|(metric, size)| metric.estimate.stderr.map(|stderr| (stderr, *size)))
        .collect::<Option<_>>()?;
    match (weight_by_size, mode) {
        (true, ScoringMode::LmEval) => pooled_stderr(&parts),
        (true, ScoringMode::Default) => {
            combined_stderr(&parts.iter().map(|(stderr, size)| (*stderr, *size as f64)).collect::<Vec<_>>())
        }
        (false, _) => unweighted_mean_stderr(&parts.iter().map(|(stderr, _)| *stderr).collect::<Vec<_>>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evalign_core::{Digest, Outcome, Score};

    fn leaf(task: &str, values: &[f64], mode: ScoringMode) -> (TaskSpec, LeafTally) {
        let spec = TaskSpec {
            task: task.to_owned(),
            version: "1".to_owned(),
            definition: Digest::of(task),
            dataset: Digest::of(task),
            protocol: Digest::of(task),
            shots: 0,
            repeats: 1,
            docs: [0, values.len() as u64],
            generation: serde_json::Value::Null,
            variant: None,
        };
        let mut tally = LeafTally::new(mode);
        for value in values {
            let score = Score {
                metric: "acc".to_owned(),
                filter: "none".to_owned(),
                outcome: if *value == 1.0 { Outcome::Correct } else { Outcome::Wrong },
                value: Some(*value),
                answer: None,
                weight: None,
                margin: None,
            };
            tally.add(&[], &[score]);
        }
        (spec, tally)
    }

    /// `aggregate_subtask_metrics` with `pooled_sample_stderr` (weighted by size) or `unweighted_mean_stderr`
    /// (not), run from lm_eval 0.4.13's api/metrics.py over the leaves' values:
    /// `a = [1,0,1,1]; b = [1,0,0,0,0,1,0,0,0,0]`. By default, weighted: sqrt(sum (n_i s_i)^2) / sum n_i.
    #[test]
    fn leaves_count_by_size_or_equally() {
        let (compat, default) = (ScoringMode::LmEval, ScoringMode::Default);
        for (weight_by_size, mode, value, stderr) in [
            (true, compat, 5.0 / 14.0, 0.118_271_278_162_093_26),
            (true, default, 5.0 / 14.0, 0.119_047_619_047_619_05),
            (false, compat, 0.475, 0.141_666_666_666_666_66),
            (false, default, 0.475, 0.141_666_666_666_666_66),
        ] {
            let (a, a_tally) = leaf("a", &[1.0, 0.0, 1.0, 1.0], mode);
            let (b, b_tally) = leaf("b", &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0], mode);
            let members = vec!["a".to_owned(), "b".to_owned()];
            let group = PlannedGroup {
                name: "both".to_owned(),
                version: "1".to_owned(),
                leaves: members.clone(),
                members,
                weight_by_size,
            };
            let result = group_result(&group, &[(&a, a_tally), (&b, b_tally)], mode);
            let found = &result.metrics[0].estimate;
            let near = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-14;
            assert!(
                near(found.value, value) && near(found.stderr, stderr),
                "{weight_by_size} {mode:?} {found:?}"
            );
            assert_eq!(found.n, 14);
        }
    }
}
