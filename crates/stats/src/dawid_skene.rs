use std::collections::BTreeMap;

const MOST_ROUNDS: usize = 500;
/// Added to every count: a judge who never erred in a few items may still err.
const PRIOR: f64 = 0.01;

/// What several judges say together, each weighted by how reliable it turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Consensus {
    /// By item: probability of each category.
    pub items: Vec<Vec<f64>>,
    /// By category: how frequent it is.
    pub prevalence: Vec<f64>,
    /// By judge: probability of what it says (column) given what is true (row).
    pub confusion: Vec<Vec<Vec<f64>>>,
}

/// The EM algorithm of Dawid and Skene 1979 (Applied Statistics 28:20): the truth of each item and the error
/// rates of each judge, at once, starting from majority votes. `ratings` are (item, judge, category), numbered
/// from 0; an item need not have a rating by every judge.
///
/// `None` without ratings, with fewer than two categories, or for a number out of range.
#[must_use]
pub fn dawid_skene(
    (items, judges, categories): (usize, usize, usize),
    ratings: &[(usize, usize, usize)],
) -> Option<Consensus> {
    let sound = |(i, j, c): &(usize, usize, usize)| *i < items && *j < judges && *c < categories;
    if ratings.is_empty() || categories < 2 || !ratings.iter().all(sound) {
        return None;
    }
    let mut by_item: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (item, judge, category) in ratings {
        by_item.entry(*item).or_default().push((*judge, *category));
    }
    let mut truth = vec![vec![1.0 / categories as f64; categories]; items];
    for (item, said) in &by_item {
        truth[*item] = vec![0.0; categories];
        for (_, category) in said {
            truth[*item][*category] += 1.0 / said.len() as f64;
        }
    }
    let mut consensus = Consensus { items: truth, prevalence: Vec::new(), confusion: Vec::new() };
    for _ in 0..MOST_ROUNDS {
        consensus.learn(judges, categories, &by_item);
        if consensus.decide(&by_item) < 1e-12 {
            break;
        }
    }
    Some(consensus)
}

impl Consensus {
    /// M step: error rates and prevalence from the probable truth (their equations 2.3 and 2.4).
    fn learn(&mut self, judges: usize, categories: usize, by_item: &BTreeMap<usize, Vec<(usize, usize)>>) {
        let mut prevalence = vec![PRIOR; categories];
        let mut confusion = vec![vec![vec![PRIOR; categories]; categories]; judges];
        for (item, said) in by_item {
            for (truth, p) in self.items[*item].iter().enumerate() {
                prevalence[truth] += p;
                for (judge, category) in said {
                    confusion[*judge][truth][*category] += p;
                }
            }
        }
        normalise(&mut prevalence);
        confusion.iter_mut().flatten().for_each(|row| normalise(row));
        (self.prevalence, self.confusion) = (prevalence, confusion);
    }

    /// E step: the probable truth from error rates and prevalence (their equation 2.5). Returns the largest
    /// change of a probability.
    fn decide(&mut self, by_item: &BTreeMap<usize, Vec<(usize, usize)>>) -> f64 {
        let mut moved = 0.0_f64;
        for (item, said) in by_item {
            let log_weight = |truth: usize| {
                let seen = said.iter().map(|(judge, category)| self.confusion[*judge][truth][*category].ln());
                self.prevalence[truth].ln() + seen.sum::<f64>()
            };
            let logs: Vec<f64> = (0..self.prevalence.len()).map(log_weight).collect();
            let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut next: Vec<f64> = logs.iter().map(|log| (log - most).exp()).collect();
            normalise(&mut next);
            for (new, old) in next.iter().zip(&self.items[*item]) {
                moved = moved.max((new - old).abs());
            }
            self.items[*item] = next;
        }
        moved
    }
}

fn normalise(weights: &mut [f64]) {
    let total: f64 = weights.iter().sum();
    if total > 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two good judges and one that says the opposite: the majority is wrong wherever the good ones differ
    /// from each other, and the opposite of the third is worth as much as they are.
    #[test]
    fn a_judge_who_is_always_wrong_is_as_good_as_one_who_is_right() {
        let mut ratings = Vec::new();
        for item in 0..60 {
            let truth = item % 2;
            let slips = |judge: usize| item % 10 == judge;
            ratings.push((item, 0, if slips(0) { 1 - truth } else { truth }));
            ratings.push((item, 1, if slips(1) { 1 - truth } else { truth }));
            ratings.push((item, 2, 1 - truth));
        }
        let consensus = dawid_skene((60, 3, 2), &ratings).unwrap();
        for (item, p) in consensus.items.iter().enumerate() {
            assert!(p[item % 2] > 0.9, "{item}: {p:?}");
        }
        assert!(consensus.confusion[2][0][1] > 0.99);
        assert!((consensus.confusion[0][0][0] - 0.8).abs() < 0.01, "{:?}", consensus.confusion[0]);
    }

    #[test]
    fn numbers_out_of_range_and_nothing_are_none() {
        assert_eq!(dawid_skene((1, 1, 2), &[]), None);
        assert_eq!(dawid_skene((1, 1, 2), &[(0, 0, 2)]), None);
        assert_eq!(dawid_skene((1, 1, 1), &[(0, 0, 0)]), None);
    }

    #[test]
    fn an_item_nobody_rated_stays_open() {
        let consensus = dawid_skene((2, 1, 2), &[(0, 0, 1)]).unwrap();
        assert_eq!(consensus.items[1], vec![0.5, 0.5]);
    }
}
