//! KTO and its relatives: single texts, wanted or not.

use super::dual::Dual;
use super::{Kto, LabelLogps, Slope};
use crate::{Item, MicroBatch, Scale};

impl Kto {
    /// `divergence` is the mean log-ratio of mismatched completions; below zero it counts as zero.
    pub(super) fn slope(
        &self,
        batch: &MicroBatch,
        sequences: &[LabelLogps<'_>],
        divergence: f64,
        scale: Scale,
    ) -> Slope {
        let (beta, kl) = (f64::from(self.beta), Dual::constant(divergence.max(0.0)));
        let one = Dual::constant(1.0);
        let mut slope = Slope::default();
        for (item, sequence) in batch.items.iter().zip(sequences) {
            let (policy, reference) = sequence.sums(usize::MAX, 1.0);
            let ratio = Dual::variable(policy, 0) - Dual::constant(reference);
            let wanted = matches!(item, Item::Single { desirable: Some(true), .. });
            let (value, weight) = match (wanted, self.apo_zero) {
                (true, false) => (one - (ratio - kl).scale(beta).sigmoid(), self.desirable_weight),
                (true, true) => (one - ratio.scale(beta).sigmoid(), self.desirable_weight),
                (false, false) => (one - (kl - ratio).scale(beta).sigmoid(), self.undesirable_weight),
                (false, true) => (ratio.scale(beta).sigmoid(), self.undesirable_weight),
            };
            let value = value.scale(f64::from(weight) * f64::from(scale.items));
            slope.loss += value.value;
            slope.by_label.push(vec![value.slope[0] as f32; sequence.policy.len()]);
            slope.rewards.push((beta * ratio.value) as f32);
        }
        slope
    }
}
