//! What goes wrong in preference training while the loss looks fine, noticed from the metrics.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::Metrics;

/// Log lines in a row before the chosen answers count as displaced.
const DISPLACED_LINES: u32 = 5;
/// Gradient norms that are remembered, and how many are needed to tell a spike.
const NORMS: usize = 50;
const NORMS_NEEDED: usize = 10;
/// A norm this many times the median is a spike.
const SPIKE: f64 = 10.0;
/// Generations this many times longer or shorter than before training have drifted.
const DRIFT: f64 = 1.5;
/// Standard errors by which an accuracy has to fall below its best.
const FALL: f64 = 2.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// Chosen answers become less likely than under the reference while the margin grows (Razin et al. 2024,
    /// arXiv 2410.08847).
    LikelihoodDisplacement,
    /// Generated answers become much longer or shorter.
    LengthDrift,
    /// The evaluation split's reward accuracy falls.
    AccuracyFalling,
    GradientSpike,
    /// There is a loss and no gradient: weights of a ruined model, or pairs of equal sides.
    NoGradient,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    pub update: u64,
    pub kind: AlarmKind,
    pub message: String,
}

impl Alarm {
    /// Compares the mean length of generated answers, in tokens, before training and now.
    #[must_use]
    pub fn length_drift(update: u64, before: f64, now: f64) -> Option<Self> {
        let ratio = now.max(1.0) / before.max(1.0);
        let message =
            format!("generated answers have {now:.0} tokens on average, before training {before:.0}");
        let drifted = !(1.0 / DRIFT..=DRIFT).contains(&ratio);
        drifted.then_some(Self { update, kind: AlarmKind::LengthDrift, message })
    }
}

/// What is remembered between updates; part of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    norms: Vec<f64>,
    displaced_lines: u32,
    best_accuracy: Option<f64>,
    /// Mean length of generated answers at the first evaluation.
    first_length: Option<f64>,
    /// Alarms that are on: each is told when it begins, and again only after it was over.
    on: BTreeSet<AlarmKind>,
}

impl Memory {
    /// Looks at a line of the log.
    pub(crate) fn logged(&mut self, update: u64, metrics: &Metrics) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        if let Some(norm) = metrics.get("grad_norm") {
            let median = median(&self.norms);
            let spike = self.norms.len() >= NORMS_NEEDED && norm > SPIKE * median;
            let message =
                || format!("gradient norm {norm:.3}, {:.0} times the usual {median:.3}", norm / median);
            alarms.extend(self.switch(AlarmKind::GradientSpike, spike, update, message));
            let dead = norm == 0.0 && metrics.get("loss").is_some_and(|loss| loss != 0.0);
            let message = || {
                "the gradient is zero, nothing is learnt any more: if the learning rate was too high, the weights are ruined"
                    .to_owned()
            };
            alarms.extend(self.switch(AlarmKind::NoGradient, dead, update, message));
            self.norms.push(norm);
            let surplus = self.norms.len().saturating_sub(NORMS);
            self.norms.drain(..surplus);
        }
        if let (Some(chosen), Some(margin)) = (metrics.get("rewards/chosen"), metrics.get("rewards/margins"))
        {
            self.displaced_lines = if chosen < 0.0 && margin > 0.0 { self.displaced_lines + 1 } else { 0 };
            let message = || {
                format!(
                    "chosen answers are becoming less likely (rewards/chosen {chosen:.3}) while the margin grows \
                     ({margin:.3}): add an SFT term (`--loss-type sigmoid,sft`), or use `apo_zero`"
                )
            };
            let displaced = self.displaced_lines >= DISPLACED_LINES;
            alarms.extend(self.switch(AlarmKind::LikelihoodDisplacement, displaced, update, message));
        }
        alarms
    }

    /// Looks at an evaluation over `items` pairs.
    pub(crate) fn evaluated(&mut self, update: u64, metrics: &Metrics, items: u64) -> Vec<Alarm> {
        let mut alarms = Vec::from_iter(self.accuracy(update, metrics, items));
        if let Some(length) = metrics.get("eval_lengths/generated") {
            let drift = Alarm::length_drift(update, *self.first_length.get_or_insert(length), length);
            let message = || drift.as_ref().map(|alarm| alarm.message.clone()).unwrap_or_default();
            alarms.extend(self.switch(AlarmKind::LengthDrift, drift.is_some(), update, message));
        }
        alarms
    }

    fn accuracy(&mut self, update: u64, metrics: &Metrics, items: u64) -> Option<Alarm> {
        let accuracy = metrics.get("eval_rewards/accuracies").or_else(|| metrics.get("eval_accuracy"))?;
        let best = self.best_accuracy.map_or(accuracy, |best| best.max(accuracy));
        self.best_accuracy = Some(best);
        let error = (best * (1.0 - best) / items.max(1) as f64).sqrt().max(0.5 / items.max(1) as f64);
        let message = || {
            format!(
                "reward accuracy on the evaluation split fell from {best:.3} to {accuracy:.3} ({items} pairs, standard \
                 error {error:.3})"
            )
        };
        self.switch(AlarmKind::AccuracyFalling, best - accuracy > FALL * error, update, message)
    }

    fn switch(
        &mut self,
        kind: AlarmKind,
        is_on: bool,
        update: u64,
        message: impl Fn() -> String,
    ) -> Option<Alarm> {
        if !is_on {
            self.on.remove(&kind);
            return None;
        }
        self.on.insert(kind).then(|| Alarm { update, kind, message: message() })
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(values: &[(&str, f64)]) -> Metrics {
        values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn displacement_is_told_once_while_it_lasts() {
        let mut memory = Memory::default();
        let bad = metrics(&[("rewards/chosen", -0.2), ("rewards/margins", 0.5)]);
        let good = metrics(&[("rewards/chosen", 0.2), ("rewards/margins", 0.5)]);
        let told = |memory: &mut Memory, metrics, lines: u64| -> usize {
            (0..lines).map(|update| memory.logged(update, metrics).len()).sum()
        };
        assert_eq!(told(&mut memory, &bad, 4), 0);
        assert_eq!(told(&mut memory, &bad, 10), 1);
        assert_eq!(told(&mut memory, &good, 1), 0);
        assert_eq!(told(&mut memory, &bad, 10), 1);
    }

    #[test]
    fn a_spike_is_told_against_the_median() {
        let mut memory = Memory::default();
        for update in 0..20 {
            assert_eq!(memory.logged(update, &metrics(&[("grad_norm", 1.0)])), []);
        }
        let alarms = memory.logged(20, &metrics(&[("grad_norm", 30.0)]));
        assert_eq!(alarms[0].kind, AlarmKind::GradientSpike);
    }

    /// A hinge without a loss has none either, and has learnt.
    #[test]
    fn a_loss_without_a_gradient_is_told() {
        let mut memory = Memory::default();
        let at = |loss, norm| metrics(&[("loss", loss), ("grad_norm", norm)]);
        assert_eq!(memory.logged(1, &at(0.7, 1e-9)), []);
        assert_eq!(memory.logged(2, &at(0.0, 0.0)), []);
        assert_eq!(memory.logged(3, &at(0.7, 0.0))[0].kind, AlarmKind::NoGradient);
    }

    #[test]
    fn a_fall_within_the_noise_is_none() {
        let mut memory = Memory::default();
        let at = |accuracy| metrics(&[("eval_rewards/accuracies", accuracy)]);
        assert_eq!(memory.evaluated(1, &at(0.8), 100), []);
        assert_eq!(memory.evaluated(2, &at(0.75), 100), []);
        assert_eq!(memory.evaluated(3, &at(0.6), 100)[0].kind, AlarmKind::AccuracyFalling);
    }

    #[test]
    fn lengths_are_compared_with_the_first_evaluation() {
        let mut memory = Memory::default();
        let at = |length| metrics(&[("eval_lengths/generated", length)]);
        assert_eq!(memory.evaluated(0, &at(40.0), 100), []);
        assert_eq!(memory.evaluated(10, &at(50.0), 100), []);
        assert_eq!(memory.evaluated(20, &at(90.0), 100)[0].kind, AlarmKind::LengthDrift);
        assert_eq!(memory.evaluated(30, &at(95.0), 100), [], "told once while it lasts");
        assert_eq!(Alarm::length_drift(3, 40.0, 45.0), None);
        assert_eq!(Alarm::length_drift(3, 40.0, 90.0).map(|alarm| alarm.kind), Some(AlarmKind::LengthDrift));
    }
}
