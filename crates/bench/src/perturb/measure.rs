use std::collections::BTreeMap;

use evalign_core::{
    Digest, Estimate, Outcome, OutcomeCounts, PerturbationResult, SampleRecord, Score, Variant, VariantScore,
};
use evalign_stats::{mcnemar, paired_proportion_interval};
use evalign_store::{Store, StoredRun};
use indexmap::IndexMap;

use super::{Perturbation, typo_rate};
use crate::aggregate::{LEVEL, Leaf, joint_protocol, request_of, share};
use crate::{RunError, Scoreboard};

/// What one document's answer came to, by metric and filter.
#[derive(Debug)]
struct Asked {
    prompt: Digest,
    outcomes: Vec<((String, String), Outcome)>,
}

/// Documents of one leaf.
type Documents = BTreeMap<u64, Asked>;

/// The same item asked plainly and perturbed.
#[derive(Clone, Copy, Debug)]
struct Pair {
    plain: Outcome,
    perturbed: Outcome,
    touched: bool,
}

/// Pairs by metric and filter.
type Pairs = IndexMap<(String, String), Vec<Pair>>;

/// What perturbed prompts do to the scores of a run: for groups, then for tasks. Empty where none were
/// asked.
///
/// # Errors
/// A failure of the store, a stored sample that does not fit its task.
pub(crate) fn measure(
    board: &Scoreboard,
    store: &Store,
    run: &StoredRun,
) -> Result<Vec<PerturbationResult>, RunError> {
    let perturbed: Vec<(&Leaf, Variant)> = board
        .leaves
        .iter()
        .filter_map(|leaf| Some((leaf, leaf.spec.variant?)))
        .filter(|(_, variant)| Perturbation::of(*variant).is_some())
        .collect();
    if perturbed.is_empty() {
        return Ok(Vec::new());
    }
    let mut pairs: IndexMap<(&str, Variant), Pairs> = IndexMap::new();
    let mut plain: Option<(&str, Documents)> = None;
    for (leaf, variant) in &perturbed {
        let base = leaf.spec.base();
        if plain.as_ref().is_none_or(|(task, _)| *task != base) {
            let Some(of) = board.leaves.iter().find(|leaf| leaf.spec.task == base) else { continue };
            plain = Some((base, documents(board, store, run, of)?));
        }
        let Some((_, before)) = &plain else { continue };
        let after = documents(board, store, run, leaf)?;
        pairs.insert((base, *variant), paired(before, &after));
    }
    let mut variants: Vec<Variant> = perturbed.iter().map(|(_, variant)| *variant).collect();
    variants.sort();
    variants.dedup();
    let rate = typo_rate(&request_of(run)?);
    let mut tasks: Vec<&str> = perturbed.iter().map(|(leaf, _)| leaf.spec.base()).collect();
    tasks.dedup();
    let mut results = Vec::new();
    for (name, members) in board.groups_and(tasks.into_iter()) {
        for variant in &variants {
            let of_variant = perturbed.iter().filter(|(_, of)| of == variant).map(|(leaf, _)| &leaf.spec);
            let protocol = joint_protocol(of_variant.filter(|spec| members.contains(&spec.base())));
            let mut pooled: IndexMap<&(String, String), Vec<Pair>> = IndexMap::new();
            for member in &members {
                for (of, found) in pairs.get(&(*member, *variant)).into_iter().flatten() {
                    pooled.entry(of).or_default().extend(found);
                }
            }
            let about = About { task: name, variant: *variant, rate, protocol };
            results.extend(pooled.iter().map(|(of, pairs)| about.result(of, pairs)));
        }
    }
    Ok(results)
}

fn documents(board: &Scoreboard, store: &Store, run: &StoredRun, leaf: &Leaf) -> Result<Documents, RunError> {
    let mut found = Documents::new();
    board.each_document(store, &run.id, leaf, &mut |records: &[SampleRecord], scores: &[Score]| {
        if let Some(first) = records.first() {
            let outcomes =
                scores.iter().map(|score| ((score.metric.clone(), score.filter.clone()), score.outcome));
            let asked = Asked { prompt: first.prompt_hash.clone(), outcomes: outcomes.collect() };
            found.insert(first.key.doc, asked);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Pairs of the documents that were asked both ways.
fn paired(before: &Documents, after: &Documents) -> IndexMap<(String, String), Vec<Pair>> {
    let mut pairs: IndexMap<(String, String), Vec<Pair>> = IndexMap::new();
    for (doc, perturbed) in after {
        let Some(plain) = before.get(doc) else { continue };
        for (of, outcome) in &perturbed.outcomes {
            let same = plain.outcomes.iter().find(|(other, _)| other == of);
            // A metric without right and wrong has nothing to pair.
            let Some((_, plain_outcome)) = same.filter(|(_, o)| *o != Outcome::Unscored) else { continue };
            pairs.entry(of.clone()).or_default().push(Pair {
                plain: *plain_outcome,
                perturbed: *outcome,
                touched: plain.prompt != perturbed.prompt,
            });
        }
    }
    pairs
}

/// What numbers are about.
struct About<'a> {
    task: &'a str,
    variant: Variant,
    /// Of typos.
    rate: f64,
    protocol: Digest,
}

impl About<'_> {
    fn result(&self, (metric, filter): &(String, String), pairs: &[Pair]) -> PerturbationResult {
        let (mut plain, mut perturbed) = (OutcomeCounts::default(), OutcomeCounts::default());
        let (mut decided, mut lost, mut gained) = (0, 0, 0);
        for pair in pairs {
            plain.add(pair.plain);
            perturbed.add(pair.perturbed);
            decided += u64::from(pair.plain.is_decided() && pair.perturbed.is_decided());
            lost += u64::from((pair.plain, pair.perturbed) == (Outcome::Correct, Outcome::Wrong));
            gained += u64::from((pair.plain, pair.perturbed) == (Outcome::Wrong, Outcome::Correct));
        }
        let scored = |outcomes: OutcomeCounts| VariantScore {
            estimate: share(outcomes.correct, outcomes.correct + outcomes.wrong),
            outcomes,
        };
        PerturbationResult {
            task: self.task.to_owned(),
            perturbation: self.variant,
            rate: (self.variant == Variant::Typos).then_some(self.rate),
            protocol: self.protocol.clone(),
            metric: metric.clone(),
            filter: filter.clone(),
            plain: scored(plain),
            perturbed: scored(perturbed),
            drop: drop(lost, gained, decided),
            p_value: (decided > 0).then(|| mcnemar(lost, gained).exact),
            lost,
            gained,
            undecided: pairs.len() as u64 - decided,
            touched: pairs.iter().filter(|pair| pair.touched).count() as u64,
        }
    }
}

/// Mean of the differences plain - perturbed, each -1, 0 or 1, with their sample standard error.
fn drop(lost: u64, gained: u64, n: u64) -> Estimate {
    let count = n as f64;
    let value = (n > 0).then(|| (lost as f64 - gained as f64) / count);
    let stderr = value.filter(|_| n > 1).map(|mean| {
        let squares = (lost + gained) as f64 - count * mean * mean;
        (squares.max(0.0) / (count - 1.0) / count).sqrt()
    });
    Estimate { value, stderr, ci95: paired_proportion_interval(gained, lost, n, LEVEL), n }
}

#[cfg(test)]
mod tests {
    use super::*;

    // import numpy as np
    // d = np.array([1] * 7 + [-1] * 3 + [0] * 40); print(repr(d.mean()), repr(d.std(ddof=1) / np.sqrt(50)))
    // from statsmodels.stats.contingency_tables import mcnemar
    // print(mcnemar([[20, 7], [3, 20]], exact=True).pvalue)
    #[test]
    fn drops_are_paired() {
        use Outcome::{Correct, Truncated, Wrong};
        let mut pairs = vec![Pair { plain: Correct, perturbed: Wrong, touched: true }; 7];
        pairs.extend([Pair { plain: Wrong, perturbed: Correct, touched: true }; 3]);
        pairs.extend([Pair { plain: Correct, perturbed: Correct, touched: false }; 20]);
        pairs.extend([Pair { plain: Wrong, perturbed: Wrong, touched: true }; 20]);
        // Neither a loss nor a gain: the perturbed answer was cut.
        pairs.push(Pair { plain: Correct, perturbed: Truncated, touched: true });
        let about = About { task: "t", variant: Variant::Typos, rate: 0.05, protocol: Digest::of("p") };
        let found = about.result(&("acc".to_owned(), "none".to_owned()), &pairs);
        assert_eq!(
            (found.drop.n, found.undecided, found.lost, found.gained, found.touched),
            (50, 1, 7, 3, 31)
        );
        assert!((found.drop.value.unwrap() - 0.08).abs() < 1e-12);
        assert!((found.drop.stderr.unwrap() - 0.06285714285714285).abs() < 1e-12);
        assert!((found.p_value.unwrap() - 0.34375).abs() < 1e-12);
        let [low, high] = found.drop.ci95.unwrap();
        assert!(low < 0.0 && high > 0.08, "{low} {high}");
        assert_eq!((found.plain.estimate.n, found.perturbed.estimate.n), (51, 50));
        assert_eq!(found.perturbed.outcomes.truncated, 1);
    }

    #[test]
    fn no_difference_is_no_certainty() {
        let same = drop(0, 0, 30);
        assert_eq!((same.value, same.stderr), (Some(0.0), Some(0.0)));
        assert!(same.ci95.unwrap()[1] > 0.05);
        assert_eq!(drop(0, 0, 0), Estimate { value: None, stderr: None, ci95: None, n: 0 });
    }
}
