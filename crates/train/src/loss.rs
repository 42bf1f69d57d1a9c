//! Where a loss becomes numbers: from the log-probabilities of a micro-batch's sequences (or their rewards) to
//! the loss and its derivative by each of them. Nothing else of a loss is known elsewhere: the backward pass
//! takes one coefficient for each label.
//!
//! Formulas are those of TRL 1.16 (`dpo_trainer.py`, `reward_trainer.py`, `sft_trainer.py`, `kto_trainer.py`,
//! experimental `orpo` and `cpo`), which names the papers; what is ours says so. Each is written once, over
//! dual numbers, so that no derivative is derived by hand.

mod display;
mod dual;
mod kto;
mod pair;
mod reward;
#[cfg(test)]
mod tests;

pub use pair::{FDivergence, PairLoss, PairTerm};

use crate::{Item, MicroBatch, ReferenceLogps, Scale};

/// What training minimises.
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    Sft(SftLoss),
    /// Bradley-Terry on the rewards of pairs, with margins and soft labels where the items have them.
    Reward {
        /// Adds this times the mean of `(chosen + rejected)^2` (Eisenstein et al. 2023, arXiv 2312.09244).
        center_coefficient: Option<f32>,
    },
    Preference(Preference),
    Kto(Kto),
}

/// How a language-modelling loss weighs its labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SftLoss {
    /// Cross-entropy.
    #[default]
    Nll,
    /// Each label weighted with its own probability (Wu et al. 2025, arXiv 2508.05629).
    Dft,
}

/// A weighted sum of losses over pairs, and what they share.
#[derive(Clone, Debug, PartialEq)]
pub struct Preference {
    pub terms: Vec<PairTerm>,
    pub beta: f32,
    /// Of cDPO, robust, EXO, AOT and SimPO: the share of labels taken to be wrong.
    pub label_smoothing: f32,
    pub f_divergence: FDivergence,
    /// LD-DPO (Liu et al. 2024, arXiv 2409.06411): the weight of what one side is longer than the other.
    pub ld_alpha: Option<f32>,
    /// WPO (Zhou et al. 2024, arXiv 2406.11827), equation 2.
    pub use_weighting: bool,
    pub discopop_tau: f32,
    pub simpo_gamma: f32,
}

impl Default for Preference {
    fn default() -> Self {
        Self {
            terms: vec![PairTerm { loss: PairLoss::Sigmoid, weight: 1.0 }],
            beta: 0.1,
            label_smoothing: 0.0,
            f_divergence: FDivergence::ReverseKl,
            ld_alpha: None,
            use_weighting: false,
            discopop_tau: 0.05,
            simpo_gamma: 0.5,
        }
    }
}

/// KTO (Ethayarajh et al. 2024, arXiv 2402.01306), equation 7, over single texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kto {
    pub beta: f32,
    pub desirable_weight: f32,
    pub undesirable_weight: f32,
    /// `apo_zero_unpaired`: no divergence term.
    pub apo_zero: bool,
}

impl Default for Kto {
    fn default() -> Self {
        Self { beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0, apo_zero: false }
    }
}

/// The labels of one sequence as a loss sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LabelLogps<'a> {
    pub(crate) policy: &'a [f32],
    /// `ln(sum over the vocabulary of p^2)` of each label's distribution: what WPO aligns with.
    pub(crate) log_sum_squares: &'a [f32],
    /// Empty where the loss has no reference.
    pub(crate) reference: &'a [f32],
}

impl LabelLogps<'_> {
    /// Sums with the weights of LD-DPO: 1 for the first `shared` labels, `tail` for the others.
    fn sums(&self, shared: usize, tail: f64) -> (f64, f64) {
        let sum = |values: &[f32]| {
            let (head, rest) = values.split_at(shared.min(values.len()));
            let add = |values: &[f32]| values.iter().map(|value| f64::from(*value)).sum::<f64>();
            if rest.is_empty() { add(head) } else { add(head) + tail * add(rest) }
        };
        (sum(self.policy), sum(self.reference))
    }
}

/// The loss of a micro-batch and its derivatives.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Slope {
    /// With the micro-batch's [`Scale`].
    pub(crate) loss: f64,
    /// Of each sequence, by each label's log-probability; empty for a reward model.
    pub(crate) by_label: Vec<Vec<f32>>,
    /// Of each sequence, by its reward; empty for all else.
    pub(crate) by_reward: Vec<f32>,
    /// Reward of each sequence as the loss sees it; empty where there is none.
    pub(crate) rewards: Vec<f32>,
    /// Log-probability of each sequence as the loss sees it, where that is not the sum over its labels.
    pub(crate) logps: Option<Vec<f32>>,
}

impl Objective {
    /// Whether the reference model's log-probabilities enter the loss.
    #[must_use]
    pub fn needs_reference(&self) -> bool {
        match self {
            Self::Sft(_) | Self::Reward { .. } => false,
            Self::Preference(preference) => preference.terms.iter().any(|term| term.loss.needs_reference()),
            Self::Kto(_) => true,
        }
    }

    /// Whether it is a score that is trained, not a distribution over tokens.
    #[must_use]
    pub fn is_reward(&self) -> bool {
        matches!(self, Self::Reward { .. })
    }

    /// Whether it also asks for the divergence over mismatched prompts and completions.
    #[must_use]
    pub(crate) fn needs_mismatched(&self) -> bool {
        matches!(self, Self::Kto(kto) if !kto.apo_zero)
    }

    /// The loss of untrained weights (LoRA's `B = 0`, or a policy equal to its reference) for items without
    /// soft label and length weighting, where it is a constant: a check that the whole set-up is right.
    #[must_use]
    pub fn initial_loss(&self) -> Option<f64> {
        let Self::Preference(preference) = self else { return None };
        let plain = preference.f_divergence == FDivergence::ReverseKl && !preference.use_weighting;
        if !plain {
            return None;
        }
        preference
            .terms
            .iter()
            .map(|term| Some(f64::from(term.weight) * pair::at_zero(term.loss, preference)?))
            .sum()
    }

    /// Loss and derivatives by label; `sequences` in the order of [`crate::Observed::sequences`], `divergence` what
    /// [`Objective::needs_mismatched`] asked for.
    pub(crate) fn slope(
        &self,
        batch: &MicroBatch,
        sequences: &[LabelLogps<'_>],
        divergence: f64,
        scale: Scale,
    ) -> Slope {
        match self {
            Self::Sft(loss) => sft(*loss, sequences, scale),
            Self::Preference(preference) => preference.slope(batch, sequences, scale),
            Self::Kto(kto) => kto.slope(batch, sequences, divergence, scale),
            // Rewards have no labels; see `reward_slope`.
            Self::Reward { .. } => Slope::default(),
        }
    }

    /// Loss and derivatives by reward.
    pub(crate) fn reward_slope(&self, batch: &MicroBatch, rewards: &[f32], scale: Scale) -> Slope {
        match self {
            Self::Reward { center_coefficient } => reward::slope(*center_coefficient, batch, rewards, scale),
            Self::Sft(_) | Self::Preference(_) | Self::Kto(_) => Slope::default(),
        }
    }
}

fn sft(loss: SftLoss, sequences: &[LabelLogps<'_>], scale: Scale) -> Slope {
    let weight = |logp: f32| match loss {
        SftLoss::Nll => 1.0,
        SftLoss::Dft => f64::from(logp).exp(),
    };
    let per_label = f64::from(scale.labels);
    let mut slope = Slope::default();
    for sequence in sequences {
        let sum: f64 = sequence.policy.iter().map(|logp| weight(*logp) * f64::from(*logp)).sum();
        slope.loss -= per_label * sum;
        slope.by_label.push(sequence.policy.iter().map(|logp| -(per_label * weight(*logp)) as f32).collect());
    }
    slope
}

/// How many pairs a micro-batch has.
fn pairs(batch: &MicroBatch) -> usize {
    batch.items.iter().filter(|item| matches!(item, Item::Pair { .. })).count()
}

impl ReferenceLogps {
    pub(crate) fn of(&self, sequence: usize) -> &[f32] {
        self.per_label.get(sequence).map_or(&[], Vec::as_slice)
    }
}
