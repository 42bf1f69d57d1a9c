//! TRL's metrics, by TRL's names: of a micro-batch, and means over micro-batches.

use crate::{Item, MicroBatch, Observed, Purpose, SequenceObserved};

/// Names and values, in the order they are shown in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    pub(crate) fn set(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Takes over the other's values.
    pub fn update(&mut self, other: &Self) {
        for (name, value) in other.iter() {
            self.set(name, value);
        }
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// The same with `eval_` before each name.
    #[must_use]
    pub(crate) fn of_evaluation(self) -> Self {
        Self(self.0.into_iter().map(|(name, value)| (format!("eval_{name}"), value)).collect())
    }
}

impl FromIterator<(String, f64)> for Metrics {
    fn from_iter<T: IntoIterator<Item = (String, f64)>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Weighted means of metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Means {
    sums: Vec<(String, f64, f64)>,
}

impl Means {
    pub(crate) fn add(&mut self, metrics: &Metrics, weight: f64) {
        for (name, value) in metrics.iter() {
            match self.sums.iter_mut().find(|(known, ..)| known == name) {
                Some((_, sum, weights)) => {
                    *sum += weight * value;
                    *weights += weight;
                }
                None => self.sums.push((name.to_owned(), weight * value, weight)),
            }
        }
    }

    /// The means so far; the next begin at nothing.
    pub(crate) fn take(&mut self) -> Metrics {
        std::mem::take(&mut self.sums).into_iter().map(|(name, sum, weight)| (name, sum / weight)).collect()
    }

    /// Sums and weights, to be kept in a checkpoint.
    pub(crate) fn parts(&self) -> &[(String, f64, f64)] {
        &self.sums
    }

    pub(crate) fn from_parts(sums: Vec<(String, f64, f64)>) -> Self {
        Self { sums }
    }
}

/// What a micro-batch came to, under TRL's names. Loss, gradient norm and learning rate are the update's.
pub(crate) fn of_batch(purpose: Purpose, batch: &MicroBatch, observed: &Observed) -> Metrics {
    let mut metrics = Metrics::default();
    match purpose {
        Purpose::Reward => rewards(&mut metrics, observed),
        Purpose::Sft => {
            let all: Vec<&SequenceObserved> = observed.sequences.iter().collect();
            metrics.set("entropy", entropy(&all));
            metrics.set("mean_token_accuracy", token_accuracy(&all));
        }
        Purpose::Preference => {
            let pairs = batch.items.len().min(observed.sequences.len());
            preference(&mut metrics, observed, pairs);
        }
        Purpose::Unpaired => unpaired(&mut metrics, batch, observed),
    }
    metrics
}

fn rewards(metrics: &mut Metrics, observed: &Observed) {
    let rewards: Vec<f64> = observed.sequences.iter().filter_map(|s| s.reward).map(f64::from).collect();
    let (chosen, rejected) = rewards.split_at(rewards.len() / 2);
    metrics.set("min_reward", rewards.iter().copied().fold(f64::INFINITY, f64::min));
    metrics.set("mean_reward", mean(rewards.iter().copied()));
    metrics.set("max_reward", rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    let pairs = || chosen.iter().zip(rejected);
    metrics.set("accuracy", mean(pairs().map(|(c, r)| f64::from(u8::from(c > r)))));
    metrics.set("margin", mean(pairs().map(|(c, r)| c - r)));
}

fn preference(metrics: &mut Metrics, observed: &Observed, pairs: usize) {
    let all: Vec<&SequenceObserved> = observed.sequences.iter().collect();
    let (chosen, rejected) = all.split_at(pairs);
    metrics.set("entropy", entropy(&all));
    metrics.set("logits/chosen", logits(chosen));
    metrics.set("logits/rejected", logits(rejected));
    metrics.set("mean_token_accuracy", token_accuracy(chosen));
    if !observed.rewards.is_empty() {
        preferences(metrics, observed.rewards.split_at(pairs.min(observed.rewards.len())));
    }
    metrics.set("logps/chosen", mean(chosen.iter().map(|s| f64::from(s.logp))));
    metrics.set("logps/rejected", mean(rejected.iter().map(|s| f64::from(s.logp))));
    lengths(metrics, "chosen", chosen);
    lengths(metrics, "rejected", rejected);
    divergence(metrics, chosen);
}

fn preferences(metrics: &mut Metrics, (c, r): (&[f32], &[f32])) {
    let of = |values: &[f32]| mean(values.iter().copied().map(f64::from));
    metrics.set("rewards/chosen", of(c));
    metrics.set("rewards/rejected", of(r));
    metrics.set("rewards/accuracies", mean(c.iter().zip(r).map(|(c, r)| f64::from(u8::from(c > r)))));
    // Differences are taken in f32, as TRL takes them.
    metrics.set("rewards/margins", mean(c.iter().zip(r).map(|(c, r)| f64::from(c - r))));
}

fn unpaired(metrics: &mut Metrics, batch: &MicroBatch, observed: &Observed) {
    let all: Vec<&SequenceObserved> = observed.sequences.iter().collect();
    metrics.set("entropy", entropy(&all));
    metrics.set("kl", observed.divergence.unwrap_or(f64::NAN));
    let wanted = |item: &Item| matches!(item, Item::Single { desirable: Some(true), .. });
    for (name, side) in [("chosen", true), ("rejected", false)] {
        let of_side = || {
            let sequences = observed.sequences.iter().zip(&observed.rewards).zip(&batch.items);
            sequences.filter(move |(_, item)| wanted(item) == side).map(|(values, _)| values)
        };
        let sequences: Vec<&SequenceObserved> = of_side().map(|(sequence, _)| sequence).collect();
        if sequences.is_empty() {
            continue;
        }
        metrics.set(&format!("rewards/{name}"), mean(of_side().map(|(_, reward)| f64::from(*reward))));
        metrics.set(&format!("logps/{name}"), mean(sequences.iter().map(|s| f64::from(s.logp))));
        metrics.set(&format!("logits/{name}"), logits(&sequences));
        lengths(metrics, name, &sequences);
    }
    if let (Some(chosen), Some(rejected)) = (metrics.get("rewards/chosen"), metrics.get("rewards/rejected")) {
        metrics.set("rewards/margins", chosen - rejected);
    }
}

/// Ours: mean labels of each side.
fn lengths(metrics: &mut Metrics, name: &str, side: &[&SequenceObserved]) {
    metrics.set(&format!("lengths/{name}"), mean(side.iter().map(|s| s.labels as f64)));
}

/// Ours: how far the policy is from its reference on chosen answers: the mean over their labels of `d² / 2` with
/// `d = reference - policy` (Schulman 2020, "Approximating KL divergence", k2). Labels are the data's, not samples of
/// the policy, so it bounds nothing; it is 0 at the start and grows. His k3, `exp(d) - 1 - d`, is not taken: a single
/// label that is pushed far down makes its exponential the whole figure.
fn divergence(metrics: &mut Metrics, chosen: &[&SequenceObserved]) {
    let labels = chosen.iter().flat_map(|sequence| {
        let both = sequence.logp_of_label.iter().zip(&sequence.reference_of_label);
        both.map(|(policy, reference)| f64::from(reference - policy))
    });
    let (sum, count) = labels.fold((0.0, 0usize), |(sum, count), d| (sum + d * d / 2.0, count + 1));
    if count > 0 {
        metrics.set("kl", sum / count as f64);
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

fn per_label(sequences: &[&SequenceObserved], sum: impl Fn(&SequenceObserved) -> f64) -> f64 {
    let labels: usize = sequences.iter().map(|sequence| sequence.labels).sum();
    let sum: f64 = sequences.iter().map(|sequence| sum(sequence)).sum();
    if labels == 0 { 0.0 } else { sum / labels as f64 }
}

fn entropy(sequences: &[&SequenceObserved]) -> f64 {
    per_label(sequences, |sequence| sequence.entropy_of_label.iter().copied().map(f64::from).sum())
}

fn token_accuracy(sequences: &[&SequenceObserved]) -> f64 {
    per_label(sequences, |sequence| sequence.top1 as f64)
}

fn logits(sequences: &[&SequenceObserved]) -> f64 {
    per_label(sequences, |sequence| sequence.logits_sum)
}
