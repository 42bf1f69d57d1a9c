use std::collections::{BTreeMap, BTreeSet};

use evalign_core::{
    Digest, Estimate, OptionOrderResult, Outcome, OutcomeCounts, RunId, SampleRecord, Score, TaskSpec,
    Variant, VariantScore,
};
use evalign_stats::{clustered_stderr, mean, student_t_quantile, wilson_interval};
use evalign_store::Store;
use indexmap::IndexMap;
use serde_json::Value;

use super::rotation::{option_at, right_option};
use crate::aggregate::{LEVEL, Leaf, joint_protocol, share};
use crate::task::{MetricName, OptionsDefinition};
use crate::{RunError, Scoreboard};

/// The answer to an item in one order of its options; options are named by their index in the order of
/// the dataset.
#[derive(Clone, Debug)]
struct Answer {
    outcome: Outcome,
    /// The option taken.
    taken: Option<usize>,
    /// Of each option, where choices are scored.
    probabilities: Option<Vec<f64>>,
    /// Where the right option stood.
    right_place: Option<usize>,
}

/// An item with its answers by order; `None` where an order was not asked (yet).
#[derive(Clone, Debug)]
struct Item {
    options: usize,
    answers: Vec<Option<Answer>>,
}

/// The items of a leaf task by metric and filter.
type Items = IndexMap<(String, String), BTreeMap<u64, Item>>;

/// What the order of options does to the scores of a run: for groups, then for tasks. Empty where no
/// other order was asked.
///
/// # Errors
/// A failure of the store, a stored sample that does not fit its task.
pub(crate) fn measure(
    board: &Scoreboard,
    store: &Store,
    run: &RunId,
) -> Result<Vec<OptionOrderResult>, RunError> {
    let mut tasks: IndexMap<&str, (Items, Vec<&TaskSpec>)> = IndexMap::new();
    for leaf in &board.leaves {
        let base = leaf.spec.base();
        let Some(options) = leaf.definition.options.as_ref().filter(|_| has_orders(board, base)) else {
            continue;
        };
        let places = match leaf.spec.variant {
            None => 0,
            Some(Variant::Order(places)) => places,
            Some(_) => continue,
        };
        let (items, orders) = tasks.entry(base).or_default();
        orders.push(&leaf.spec);
        board.each_document(store, run, leaf, &mut |records, scores| {
            for score in scores {
                collect(items, leaf, options, places, records, score)?;
            }
            Ok(())
        })?;
    }
    let mut results = Vec::new();
    for (name, members) in board.groups_and(tasks.keys().copied()) {
        let members: Vec<_> = members.iter().filter_map(|member| tasks.get(member)).collect();
        let protocol = joint_protocol(members.iter().flat_map(|(_, orders)| orders).copied());
        let names: BTreeSet<&(String, String)> = members.iter().flat_map(|(items, _)| items.keys()).collect();
        for of in names {
            let items: Vec<&Item> =
                members.iter().filter_map(|(items, _)| items.get(of)).flat_map(BTreeMap::values).collect();
            results.push(result(name, &protocol, of, &items));
        }
    }
    Ok(results)
}

fn has_orders(board: &Scoreboard, base: &str) -> bool {
    board
        .leaves
        .iter()
        .any(|leaf| leaf.spec.base() == base && matches!(leaf.spec.variant, Some(Variant::Order(_))))
}

fn collect(
    items: &mut Items,
    leaf: &Leaf,
    options: &OptionsDefinition,
    places: u32,
    records: &[SampleRecord],
    score: &Score,
) -> Result<(), RunError> {
    let Some(record) = records.first() else { return Ok(()) };
    let count = record.doc.get(&options.column).and_then(Value::as_array).map_or(0, Vec::len);
    // Later orders repeat earlier ones where an item has fewer options than others.
    if places as usize >= count {
        return Ok(());
    }
    let original = |place: usize| option_at(place, places, count);
    let metric = MetricName::ALL.into_iter().find(|metric| metric.name() == score.metric);
    let forecast = match metric {
        Some(metric) => leaf.scorer.forecast(record, metric)?,
        None => None,
    };
    let probabilities = forecast.filter(|forecast| forecast.probabilities.len() == count).map(|forecast| {
        let mut by_option = vec![0.0; count];
        for (place, p) in forecast.probabilities.iter().enumerate() {
            by_option[original(place)] = *p;
        }
        by_option
    });
    let taken = leaf.scorer.option_taken(record, score, &options.labels)?.filter(|place| *place < count);
    let answer = Answer {
        outcome: score.outcome,
        taken: taken.map(original),
        probabilities,
        right_place: record.doc.get(&options.answer).and_then(|answer| right_option(answer, &options.labels)),
    };
    let item = items
        .entry((score.metric.clone(), score.filter.clone()))
        .or_default()
        .entry(record.key.doc)
        .or_insert_with(|| Item { options: count, answers: vec![None; count] });
    if let Some(slot) = item.answers.get_mut(places as usize) {
        *slot = Some(answer);
    }
    Ok(())
}

fn result(
    task: &str,
    protocol: &Digest,
    (metric, filter): &(String, String),
    items: &[&Item],
) -> OptionOrderResult {
    let most = items.iter().map(|item| item.options).max().unwrap_or(0);
    let order = |places: usize| {
        let mut outcomes = OutcomeCounts::default();
        for answer in items.iter().filter_map(|item| item.answers.get(places)?.as_ref()) {
            outcomes.add(answer.outcome);
        }
        scored(outcomes)
    };
    let sets: Vec<Option<bool>> = items.iter().map(|item| item.changed()).collect();
    let decided = sets.iter().flatten().count() as u64;
    let changed = sets.iter().flatten().filter(|changed| **changed).count() as u64;
    let mut debiased = OutcomeCounts::default();
    for item in items {
        debiased.add(item.debiased());
    }
    let recalls: Vec<Estimate> = (0..most).map(|place| recall(items, place)).collect();
    OptionOrderResult {
        task: task.to_owned(),
        protocol: protocol.clone(),
        metric: metric.clone(),
        filter: filter.clone(),
        orders: (0..most).map(order).collect(),
        mean: mean_over_orders(items),
        changed: share(changed, decided),
        undecided: sets.len() as u64 - decided,
        debiased: scored(debiased),
        recall_std: spread(&recalls.iter().filter_map(|recall| recall.value).collect::<Vec<_>>()),
        recall_by_place: recalls,
    }
}

fn scored(outcomes: OutcomeCounts) -> VariantScore {
    VariantScore { estimate: share(outcomes.correct, outcomes.correct + outcomes.wrong), outcomes }
}

/// Share of right answers where the right option stands at `place`. Every item contributes one answer.
fn recall(items: &[&Item], place: usize) -> Estimate {
    let there = |answer: &&Answer| answer.right_place == Some(place) && answer.outcome.is_decided();
    let answers: Vec<&Answer> =
        items.iter().flat_map(|item| item.answers.iter().flatten()).filter(there).collect();
    share(
        answers.iter().filter(|answer| answer.outcome == Outcome::Correct).count() as u64,
        answers.len() as u64,
    )
}

/// Population standard deviation, as the paper's code takes it (`np.std`). `None` for fewer than two.
fn spread(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let centre = mean(values)?;
    mean(&values.iter().map(|value| (value - centre).powi(2)).collect::<Vec<_>>()).map(f64::sqrt)
}

/// Mean of all decided answers. Answers to one item are no independent evidence: its standard error takes
/// them as a cluster, and where no two answers differ the interval is that of as many items.
fn mean_over_orders(items: &[&Item]) -> Estimate {
    let (mut values, mut clusters) = (Vec::new(), Vec::new());
    for (index, item) in items.iter().enumerate() {
        for answer in item.answers.iter().flatten().filter(|answer| answer.outcome.is_decided()) {
            values.push(f64::from(u8::from(answer.outcome == Outcome::Correct)));
            clusters.push(index);
        }
    }
    let value = mean(&values);
    let stderr = clustered_stderr(&values, &clusters);
    clusters.dedup();
    let count = clusters.len() as u64;
    let ci95 = match (value, stderr) {
        (Some(value), Some(stderr)) if stderr > 0.0 => {
            student_t_quantile(0.5 + LEVEL / 2.0, count.saturating_sub(1) as f64)
                .map(|t| [(value - t * stderr).max(0.0), (value + t * stderr).min(1.0)])
        }
        (Some(value), _) => wilson_interval((value * count as f64).round() as u64, count, LEVEL),
        (None, _) => None,
    };
    Estimate { value, stderr, ci95, n: values.len() as u64 }
}

impl Item {
    /// Whether not all orders led to the same option; `None` where that cannot be known.
    fn changed(&self) -> Option<bool> {
        let taken: Vec<usize> =
            self.answers.iter().map(|answer| answer.as_ref()?.taken).collect::<Option<_>>()?;
        let first = taken.first()?;
        Some(taken.iter().any(|option| option != first))
    }

    /// The outcome with the order averaged out.
    fn debiased(&self) -> Outcome {
        let Some(answers) = self.answers.iter().map(Option::as_ref).collect::<Option<Vec<&Answer>>>() else {
            return Outcome::Error;
        };
        let Some(right) = self.right_option() else { return Outcome::Unscored };
        let probabilities: Vec<&Vec<f64>> =
            answers.iter().filter_map(|answer| answer.probabilities.as_ref()).collect();
        let taken = if probabilities.len() == answers.len() {
            most_likely(&probabilities)
        } else if probabilities.is_empty() {
            most_frequent(&answers, self.options)
        } else {
            Err(Outcome::Error)
        };
        match taken {
            Ok(option) if option == right => Outcome::Correct,
            Ok(_) => Outcome::Wrong,
            Err(outcome) => outcome,
        }
    }

    /// The index of the right option in the order of the dataset.
    fn right_option(&self) -> Option<usize> {
        let of = |(places, answer): (usize, &Option<Answer>)| {
            let place = answer.as_ref()?.right_place?;
            (place < self.options).then(|| option_at(place, places as u32, self.options))
        };
        self.answers.iter().enumerate().find_map(of)
    }
}

/// Mean probabilities that differ by less are equal: they are sums of the same numbers in another order.
const EQUAL: f64 = 1e-12;

/// The option with the highest mean probability. Two that are equally likely leave the item undecided.
fn most_likely(probabilities: &[&Vec<f64>]) -> Result<usize, Outcome> {
    let options = probabilities.first().map_or(0, |p| p.len());
    let sum = |option: usize| probabilities.iter().filter_map(|p| p.get(option)).sum::<f64>();
    let most = (0..options).map(sum).fold(0.0, f64::max);
    only((0..options).filter(|option| most - sum(*option) < EQUAL * probabilities.len() as f64))
}

/// The one winner.
fn only(mut winners: impl Iterator<Item = usize>) -> Result<usize, Outcome> {
    match (winners.next(), winners.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(Outcome::Unparsed),
    }
}

/// The option written most often. Two that are written equally often leave the item undecided, and so do
/// answers of which none can be read.
fn most_frequent(answers: &[&Answer], options: usize) -> Result<usize, Outcome> {
    let votes = |option: usize| answers.iter().filter(|answer| answer.taken == Some(option)).count();
    let most = (0..options).map(votes).max().unwrap_or(0);
    if most == 0 {
        let first = answers.first().map_or(Outcome::Error, |answer| answer.outcome);
        return Err(if first.is_decided() { Outcome::Unparsed } else { first });
    }
    only((0..options).filter(|option| votes(*option) == most))
}

#[cfg(test)]
mod tests;
