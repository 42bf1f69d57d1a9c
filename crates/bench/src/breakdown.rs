//! The scores of a run by the value of a column: by subject, by source, by difficulty, by whatever the
//! dataset says about its items.

use std::collections::BTreeMap;

use evalign_core::{Digest, Estimate, OutcomeCounts, RunId, SampleRecord, Score, TaskSpec};
use evalign_store::Store;
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;

use crate::aggregate::{Aggregation, clustered_estimate, estimate, joint_protocol};
use crate::scored::column;
use crate::{BenchError, RunError, Scoreboard};

/// Which columns to read. `a.b` reaches into objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakdownOptions {
    /// Items with the same value form a group.
    pub by: String,
    /// Items with the same value are not independent of each other: the passage they are about, say.
    pub cluster: Option<String>,
}

/// Every score of a run by the value of a column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Breakdown {
    pub by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Groups of tasks first, then leaf tasks; those whose items have no such column are left out.
    pub results: Vec<BreakdownResult>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BreakdownResult {
    pub task: String,
    pub protocol: Digest,
    pub metric: String,
    pub filter: String,
    /// Over all items, which are taken as clusters by the column: what the groups share does not count as
    /// independent evidence (Miller 2024, arXiv 2411.00640, eq. 4).
    pub overall: Estimate,
    /// By value, in order; items without the column last.
    pub groups: Vec<BreakdownGroup>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BreakdownGroup {
    /// The value of the column; absent for items without it.
    pub label: Option<String>,
    #[serde(flatten)]
    pub estimate: Estimate,
    pub outcomes: OutcomeCounts,
}

/// One score of one item.
struct Scored {
    group: Option<String>,
    cluster: String,
    value: Option<(f64, f64)>,
    outcome: evalign_core::Outcome,
}

/// The scores of a leaf by metric and filter.
type Leaf = IndexMap<(String, String), Vec<Scored>>;

impl Scoreboard {
    /// Breaks the scores of a run down by a column of its items.
    ///
    /// # Errors
    /// A column that no item has, an item without the cluster's column, a failure of the store.
    pub fn breakdown(
        &self,
        store: &Store,
        run: &RunId,
        options: &BreakdownOptions,
    ) -> Result<Breakdown, RunError> {
        let leaves: Vec<_> = self.leaves.iter().filter(|leaf| leaf.spec.variant.is_none()).collect();
        let mut tasks: IndexMap<&str, (Leaf, &TaskSpec)> = IndexMap::new();
        let mut columns: Vec<String> = Vec::new();
        for leaf in &leaves {
            let mut scored = Leaf::new();
            let mut known = false;
            self.each_document(store, run, leaf, &mut |records, scores| {
                let Some(first) = records.first() else { return Ok(()) };
                known |= collect(&mut scored, first, scores, options)?;
                note_columns(&mut columns, &first.doc);
                Ok(())
            })?;
            if known {
                tasks.insert(&leaf.spec.task, (scored, &leaf.spec));
            }
        }
        if tasks.is_empty() {
            return Err(no_column(&options.by, &columns).into());
        }
        let mut results = Vec::new();
        for (name, members) in self.groups_and(tasks.keys().copied()) {
            let members: Vec<_> = members.iter().filter_map(|member| tasks.get(member)).collect();
            let protocol = joint_protocol(members.iter().map(|(_, spec)| *spec));
            let mut pooled: IndexMap<&(String, String), Vec<&Scored>> = IndexMap::new();
            for (of, scored) in members.iter().flat_map(|(leaf, _)| leaf) {
                pooled.entry(of).or_default().extend(scored);
            }
            results.extend(pooled.into_iter().map(|((metric, filter), scored)| BreakdownResult {
                task: name.to_owned(),
                protocol: protocol.clone(),
                metric: metric.clone(),
                filter: filter.clone(),
                overall: self.overall(metric, &scored),
                groups: self.by_value(metric, &scored, options.cluster.is_some()),
            }));
        }
        Ok(Breakdown { by: options.by.clone(), cluster: options.cluster.clone(), results })
    }

    fn overall(&self, metric: &str, scored: &[&Scored]) -> Estimate {
        let valued = scored.iter().filter_map(|scored| Some((scored.value?, scored.group.clone())));
        let (pairs, clusters): (Vec<_>, Vec<_>) = valued.unzip();
        clustered_estimate(Aggregation::of(metric), &pairs, &clusters, self.mode)
    }

    fn by_value(&self, metric: &str, scored: &[&Scored], clustered: bool) -> Vec<BreakdownGroup> {
        // Items without the column come last.
        let mut groups: BTreeMap<(bool, Option<&str>), Vec<&Scored>> = BTreeMap::new();
        for item in scored {
            let value = item.group.as_deref();
            groups.entry((value.is_none(), value)).or_default().push(item);
        }
        let group = |((_, value), items): ((bool, Option<&str>), Vec<&Scored>)| {
            let mut outcomes = OutcomeCounts::default();
            items.iter().for_each(|item| outcomes.add(item.outcome));
            let valued = items.iter().filter_map(|item| Some((item.value?, item.cluster.as_str())));
            let (pairs, clusters): (Vec<_>, Vec<_>) = valued.unzip();
            let aggregation = Aggregation::of(metric);
            let estimate = if clustered {
                clustered_estimate(aggregation, &pairs, &clusters, self.mode)
            } else {
                estimate(aggregation, &pairs, self.mode)
            };
            BreakdownGroup { label: value.map(str::to_owned), estimate, outcomes }
        };
        groups.into_iter().map(group).collect()
    }
}

/// Adds the scores of an item; true where it has the column.
fn collect(
    scored: &mut Leaf,
    record: &SampleRecord,
    scores: &[Score],
    options: &BreakdownOptions,
) -> Result<bool, BenchError> {
    let group = column(&record.doc, &options.by);
    let cluster = match &options.cluster {
        None => record.key.to_string(),
        Some(name) => column(&record.doc, name).ok_or_else(|| {
            let mut columns = Vec::new();
            note_columns(&mut columns, &record.doc);
            no_column(name, &columns)
        })?,
    };
    let known = group.is_some();
    for score in scores {
        scored.entry((score.metric.clone(), score.filter.clone())).or_default().push(Scored {
            group: group.clone(),
            cluster: cluster.clone(),
            value: score.value.map(|value| (value, score.weight.unwrap_or(1.0))),
            outcome: score.outcome,
        });
    }
    Ok(known)
}

fn note_columns(columns: &mut Vec<String>, doc: &Value) {
    for name in doc.as_object().into_iter().flat_map(|row| row.keys()) {
        if !columns.contains(name) {
            columns.push(name.clone());
        }
    }
}

fn no_column(name: &str, columns: &[String]) -> BenchError {
    BenchError::request(
        format!("no item of the run has a column `{name}`"),
        format!("the columns are {}", columns.join(", ")),
    )
}
