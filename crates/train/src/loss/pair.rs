//! Losses over pairs of a chosen and a rejected completion.

use super::dual::Dual;
use super::{LabelLogps, Preference, Slope, pairs};
use crate::{Item, MicroBatch, Scale};

/// A loss over pairs. With `D_w`, `D_l` the log-ratios of the chosen and rejected side to the reference and
/// `D` their difference; names are TRL's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairLoss {
    /// DPO (Rafailov et al. 2023, arXiv 2305.18290, equation 7). An item with a soft label `p` weighs both
    /// directions with `p` and `1 - p` (ours; cDPO with a probability of its own for each pair).
    Sigmoid,
    /// Conservative DPO (Mitchell 2023): `label_smoothing` of the labels are wrong. Ours in name only.
    Cdpo,
    /// SLiC (Zhao et al. 2023, arXiv 2305.10425).
    Hinge,
    /// IPO (Azar et al. 2023, arXiv 2310.12036, equation 17), averaged over tokens.
    Ipo,
    /// DPO on log-ratios averaged over tokens.
    SigmoidNorm,
    /// Robust DPO (Chowdhury et al. 2024, arXiv 2403.00409).
    Robust,
    /// EXO (Ji et al. 2024, arXiv 2402.00856, equation 16).
    ExoPair,
    /// NCA (Chen et al. 2024, arXiv 2402.05369).
    NcaPair,
    /// BCO without its running shift (Jung et al. 2024, arXiv 2404.04656).
    BcoPair,
    /// SPPO with hard labels (Wu et al. 2024, arXiv 2405.00675, equation 4.7).
    SppoHard,
    /// APO-zero (D'Oosterlinck et al. 2024, arXiv 2408.06266, equation 7).
    ApoZero,
    /// APO-down (equation 8 of the same).
    ApoDown,
    /// AOT on pairs (Melnyk et al. 2024, arXiv 2406.05882): log-ratios sorted over the micro-batch.
    Aot,
    /// AOT on unpaired samples of the same.
    AotUnpaired,
    /// `DiscoPOP` (Lu et al. 2024, arXiv 2406.08414, equation 5).
    Discopop,
    /// Cross-entropy of the chosen completions, by label.
    Sft,
    /// The odds-ratio term of ORPO (Hong et al. 2024, arXiv 2403.07691, equations 4 and 7), times `beta`; ORPO itself
    /// adds the cross-entropy of the chosen answer (equation 6): a second term `sft`. TRL's trainer takes that over the
    /// prompt as well.
    Orpo,
    /// SimPO (Meng et al. 2024, arXiv 2405.14734, equation 6): no reference, averages over tokens.
    Simpo,
}

impl PairLoss {
    /// Every loss with its name in configuration files.
    pub const ALL: [(&'static str, Self); 18] = [
        ("sigmoid", Self::Sigmoid),
        ("cdpo", Self::Cdpo),
        ("hinge", Self::Hinge),
        ("ipo", Self::Ipo),
        ("sigmoid_norm", Self::SigmoidNorm),
        ("robust", Self::Robust),
        ("exo_pair", Self::ExoPair),
        ("nca_pair", Self::NcaPair),
        ("bco_pair", Self::BcoPair),
        ("sppo_hard", Self::SppoHard),
        ("apo_zero", Self::ApoZero),
        ("apo_down", Self::ApoDown),
        ("aot", Self::Aot),
        ("aot_unpaired", Self::AotUnpaired),
        ("discopop", Self::Discopop),
        ("sft", Self::Sft),
        ("orpo", Self::Orpo),
        ("simpo", Self::Simpo),
    ];

    /// The loss of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, loss)| *loss)
    }

    /// Its name in configuration files.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, loss)| *loss == self).map_or("", |(name, _)| name)
    }

    /// Whether the reference model enters.
    #[must_use]
    pub fn needs_reference(self) -> bool {
        !matches!(self, Self::Sft | Self::Orpo | Self::Simpo)
    }
}

/// One loss of a mix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairTerm {
    pub loss: PairLoss,
    pub weight: f32,
}

/// Which divergence from the reference is bounded (Wang et al. 2023, arXiv 2309.16240): how a log-ratio becomes a
/// score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FDivergence {
    ReverseKl,
    ForwardKl,
    JsDivergence,
    Alpha(f32),
}

impl FDivergence {
    fn score(self, ratio: Dual) -> Dual {
        match self {
            Self::ReverseKl => ratio,
            Self::ForwardKl => Dual::constant(1.0) - (-ratio).exp(),
            Self::JsDivergence => Dual::constant(std::f64::consts::LN_2) + ratio.log_sigmoid(),
            Self::Alpha(alpha) if (f64::from(alpha) - 1.0).abs() < 1e-6 => ratio,
            Self::Alpha(alpha) => {
                let order = f64::from(alpha) - 1.0;
                // TRL clamps the exponent at 80 in f32.
                (ratio.scale(order).at_most(80.0).exp() - Dual::constant(1.0)).scale(1.0 / order)
            }
        }
    }
}

/// What a loss sees of one pair. Derivatives are by the (weighted) sums of log-probabilities.
#[derive(Clone, Copy, Debug)]
struct Pair {
    /// Log-ratios to the reference.
    chosen: Dual,
    rejected: Dual,
    /// The policy's own sums.
    chosen_logp: Dual,
    rejected_logp: Dual,
    chosen_labels: f64,
    rejected_labels: f64,
    soft_label: f64,
}

impl Preference {
    pub(super) fn slope(&self, batch: &MicroBatch, sequences: &[LabelLogps<'_>], scale: Scale) -> Slope {
        let count = pairs(batch);
        let (chosen, rejected) = sequences.split_at(count.min(sequences.len()));
        let tail = self.ld_alpha.map_or(1.0, f64::from);
        let shared: Vec<usize> =
            chosen.iter().zip(rejected).map(|(w, l)| w.policy.len().min(l.policy.len())).collect();
        let views: Vec<Pair> = (0..count.min(rejected.len()))
            .map(|index| {
                Pair::new(&chosen[index], &rejected[index], shared[index], tail, &batch.items[index])
            })
            .collect();
        // Derivatives of the preference terms by each side's sum.
        let mut by_sum = vec![[0.0; 2]; views.len()];
        let mut loss = 0.0;
        let per_item = f64::from(scale.items);
        for term in self.terms.iter().filter(|term| term.loss != PairLoss::Sft) {
            for (winner, loser, pair) in self.matched(term.loss, &views) {
                let weight =
                    per_item * f64::from(term.weight) * self.certainty(&chosen[winner], &rejected[loser]);
                let value = self.value(term.loss, &pair).scale(weight);
                loss += value.value;
                by_sum[winner][0] += value.slope[0];
                by_sum[loser][1] += value.slope[1];
            }
        }
        let mut slope = Slope { loss, ..Slope::default() };
        for (side, sequences) in [chosen, rejected].into_iter().enumerate() {
            for (index, sequence) in sequences.iter().enumerate() {
                let of_sum = by_sum.get(index).map_or(0.0, |slopes| slopes[side]);
                let weight = |label: usize| if label < shared[index] { of_sum } else { of_sum * tail };
                slope.by_label.push((0..sequence.policy.len()).map(|label| weight(label) as f32).collect());
            }
        }
        let certainties = chosen.iter().zip(rejected).map(|(w, l)| self.certainty(w, l));
        let certainty = certainties.sum::<f64>() / count.max(1) as f64;
        self.add_likelihood(chosen, certainty * f64::from(scale.labels), &mut slope);
        slope.rewards = self.rewards(&views);
        slope.logps = self.ld_alpha.map(|_| {
            let side = |logp: fn(&Pair) -> Dual| views.iter().map(move |pair| logp(pair).value as f32);
            side(|pair| pair.chosen_logp).chain(side(|pair| pair.rejected_logp)).collect()
        });
        slope
    }

    /// The cross-entropy of the chosen side, where it is part of the mix.
    fn add_likelihood(&self, chosen: &[LabelLogps<'_>], per_label: f64, slope: &mut Slope) {
        for term in self.terms.iter().filter(|term| term.loss == PairLoss::Sft) {
            let weight = per_label * f64::from(term.weight);
            for (sequence, by_label) in chosen.iter().zip(&mut slope.by_label) {
                slope.loss -= weight * sequence.policy.iter().map(|logp| f64::from(*logp)).sum::<f64>();
                by_label.iter_mut().for_each(|slope| *slope -= weight as f32);
            }
        }
    }

    /// The pairs of a term: those of the data, or sorted over the micro-batch. Also which items' chosen and
    /// rejected sides they are made of.
    fn matched(&self, loss: PairLoss, views: &[Pair]) -> Vec<(usize, usize, Pair)> {
        let ranked = |key: &dyn Fn(&Pair) -> f64| {
            let mut order: Vec<usize> = (0..views.len()).collect();
            order.sort_by(|a, b| key(&views[*a]).total_cmp(&key(&views[*b])));
            order
        };
        match loss {
            PairLoss::Aot => {
                let ratio = |pair: &Pair| pair.chosen_logp.value - pair.rejected_logp.value;
                let reference = |pair: &Pair| ratio(pair) - (pair.chosen.value - pair.rejected.value);
                let sorted = ranked(&reference);
                ranked(&ratio)
                    .into_iter()
                    .zip(sorted)
                    .map(|(index, other)| {
                        let mut pair = views[index];
                        pair.chosen = pair.chosen_logp - Dual::constant(reference(&views[other]));
                        pair.rejected = pair.rejected_logp;
                        (index, index, pair)
                    })
                    .collect()
            }
            PairLoss::AotUnpaired => {
                let winners = ranked(&|pair| pair.chosen.value);
                let losers = ranked(&|pair| pair.rejected.value);
                winners
                    .into_iter()
                    .zip(losers)
                    .map(|(winner, loser)| {
                        let pair = Pair { rejected: views[loser].rejected, ..views[winner] };
                        (winner, loser, pair)
                    })
                    .collect()
            }
            _ => views.iter().enumerate().map(|(index, pair)| (index, index, *pair)).collect(),
        }
    }

    /// WPO's weight of a pair: how likely the policy itself is to write both sides. No derivative.
    fn certainty(&self, chosen: &LabelLogps<'_>, rejected: &LabelLogps<'_>) -> f64 {
        if !self.use_weighting {
            return 1.0;
        }
        let mean = |side: &LabelLogps<'_>| {
            let aligned =
                side.policy.iter().zip(side.log_sum_squares).map(|(logp, sum)| f64::from(logp - sum));
            aligned.sum::<f64>() / side.policy.len().max(1) as f64
        };
        (mean(chosen) + mean(rejected)).exp()
    }

    /// One loss of one pair.
    fn value(&self, loss: PairLoss, pair: &Pair) -> Dual {
        let (beta, smoothing) = (f64::from(self.beta), f64::from(self.label_smoothing));
        let one = Dual::constant(1.0);
        let (winner, loser) = (self.f_divergence.score(pair.chosen), self.f_divergence.score(pair.rejected));
        let logits = (winner - loser).scale(beta);
        let averaged = winner.scale(1.0 / pair.chosen_labels) - loser.scale(1.0 / pair.rejected_labels);
        let (reward_w, reward_l) = (pair.chosen.scale(beta), pair.rejected.scale(beta));
        let both_ways =
            |x: Dual, right: f64| -x.log_sigmoid().scale(right) - (-x).log_sigmoid().scale(1.0 - right);
        match loss {
            PairLoss::Sigmoid => both_ways(logits, pair.soft_label),
            PairLoss::Cdpo => both_ways(logits, 1.0 - smoothing),
            PairLoss::Hinge => (one - logits).relu(),
            PairLoss::Ipo => (averaged - Dual::constant(0.5 / beta)).square(),
            PairLoss::SigmoidNorm => -averaged.scale(beta).log_sigmoid(),
            PairLoss::Robust => {
                let flipped = -(-logits).log_sigmoid().scale(smoothing);
                (-logits.log_sigmoid().scale(1.0 - smoothing) - flipped).scale(1.0 / (1.0 - 2.0 * smoothing))
            }
            PairLoss::ExoPair => {
                let right = logits.log_sigmoid() - Dual::constant((1.0 - smoothing).ln());
                let wrong = (-logits).log_sigmoid() - Dual::constant(smoothing.ln());
                logits.sigmoid() * right + (-logits).sigmoid() * wrong
            }
            PairLoss::NcaPair => {
                -reward_w.log_sigmoid() - ((-reward_w).log_sigmoid() + (-reward_l).log_sigmoid()).scale(0.5)
            }
            PairLoss::BcoPair => -reward_w.log_sigmoid() - (-reward_l).log_sigmoid(),
            PairLoss::SppoHard => {
                let half = Dual::constant(0.5 / beta);
                (pair.chosen - half).square() + (pair.rejected + half).square()
            }
            PairLoss::ApoZero => one - reward_w.sigmoid() + reward_l.sigmoid(),
            PairLoss::ApoDown => reward_w.sigmoid() + one - (reward_w - reward_l).sigmoid(),
            PairLoss::Aot | PairLoss::AotUnpaired => {
                both_ways((pair.chosen - pair.rejected).scale(beta), 1.0 - smoothing)
            }
            PairLoss::Discopop => {
                let blend = logits.scale(1.0 / f64::from(self.discopop_tau)).sigmoid();
                -logits.log_sigmoid() * (one - blend) + (-logits).exp() * blend
            }
            PairLoss::Orpo => {
                let (w, l) = pair.averages();
                -((w - l) - (w.log_1m_exp() - l.log_1m_exp())).log_sigmoid().scale(beta)
            }
            PairLoss::Simpo => {
                let (w, l) = pair.averages();
                both_ways((w - l).scale(beta) - Dual::constant(f64::from(self.simpo_gamma)), 1.0 - smoothing)
            }
            // By label, not by pair: see `add_likelihood`.
            PairLoss::Sft => Dual::default(),
        }
    }

    /// TRL's rewards: beta times the log-ratio whatever the loss, or times the average without a reference; none where
    /// nothing is preferred.
    fn rewards(&self, views: &[Pair]) -> Vec<f32> {
        if self.terms.iter().all(|term| term.loss == PairLoss::Sft) {
            return Vec::new();
        }
        let beta = f64::from(self.beta);
        let against_reference = self.terms.iter().any(|term| term.loss.needs_reference());
        let sides = |pair: &Pair| match against_reference {
            true => [pair.chosen.value, pair.rejected.value],
            false => [pair.averages().0.value, pair.averages().1.value],
        };
        (0..2).flat_map(|side| views.iter().map(move |pair| (beta * sides(pair)[side]) as f32)).collect()
    }
}

impl Pair {
    fn new(
        chosen: &LabelLogps<'_>,
        rejected: &LabelLogps<'_>,
        shared: usize,
        tail: f64,
        item: &Item,
    ) -> Self {
        // TRL counts the completion's tokens, also one that nothing predicts.
        let tokens = |side: usize, labels: usize| {
            let trained = |text: &crate::Sequence| text.trained.iter().filter(|trained| **trained).count();
            item.sequences().nth(side).map_or(labels, trained).max(labels).max(1) as f64
        };
        let (chosen_logp, chosen_reference) = chosen.sums(shared, tail);
        let (rejected_logp, rejected_reference) = rejected.sums(shared, tail);
        let (chosen_logp, rejected_logp) = (Dual::variable(chosen_logp, 0), Dual::variable(rejected_logp, 1));
        Self {
            chosen: chosen_logp - Dual::constant(chosen_reference),
            rejected: rejected_logp - Dual::constant(rejected_reference),
            chosen_logp,
            rejected_logp,
            chosen_labels: tokens(0, chosen.policy.len()),
            rejected_labels: tokens(1, rejected.policy.len()),
            soft_label: soft_label(item),
        }
    }

    fn averages(&self) -> (Dual, Dual) {
        (
            self.chosen_logp.scale(1.0 / self.chosen_labels),
            self.rejected_logp.scale(1.0 / self.rejected_labels),
        )
    }
}

fn soft_label(item: &Item) -> f64 {
    match item {
        Item::Pair { label, .. } => label.map_or(1.0, f64::from),
        Item::Single { .. } => 1.0,
    }
}

/// The loss of a pair whose sides equal their reference, where that is a constant.
pub(super) fn at_zero(loss: PairLoss, preference: &Preference) -> Option<f64> {
    if matches!(loss, PairLoss::Sft | PairLoss::Orpo | PairLoss::Simpo) {
        return None;
    }
    let zero = LabelLogps { policy: &[0.0], log_sum_squares: &[0.0], reference: &[0.0] };
    let nothing = Item::Pair {
        chosen: crate::Sequence::default(),
        rejected: crate::Sequence::default(),
        margin: None,
        label: None,
    };
    let pair = Pair::new(&zero, &zero, 1, 1.0, &nothing);
    Some(preference.value(loss, &pair).value)
}
