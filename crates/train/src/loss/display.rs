//! An objective in the words of its settings, for people.

use std::fmt::{Display, Formatter, Result};

use super::{FDivergence, Kto, Objective, Preference, SftLoss};

impl Display for Objective {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Sft(SftLoss::Nll) => f.write_str("nll"),
            Self::Sft(SftLoss::Dft) => f.write_str("dft"),
            Self::Reward { center_coefficient: None } => f.write_str("Bradley-Terry"),
            Self::Reward { center_coefficient: Some(coefficient) } => {
                write!(f, "Bradley-Terry, center_rewards_coefficient {coefficient}")
            }
            Self::Preference(preference) => preference.fmt(f),
            Self::Kto(kto) => kto.fmt(f),
        }
    }
}

impl Display for Preference {
    /// What is at its default and changes nothing is left out.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (index, term) in self.terms.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { " + " })?;
            if term.weight.to_bits() != 1.0f32.to_bits() {
                write!(f, "{} ", term.weight)?;
            }
            f.write_str(term.loss.name())?;
        }
        write!(f, ", beta {}", self.beta)?;
        if self.label_smoothing > 0.0 {
            write!(f, ", label_smoothing {}", self.label_smoothing)?;
        }
        match self.f_divergence {
            FDivergence::ReverseKl => {}
            FDivergence::ForwardKl => f.write_str(", forward_kl")?,
            FDivergence::JsDivergence => f.write_str(", js_divergence")?,
            FDivergence::Alpha(alpha) => write!(f, ", alpha_divergence {alpha}")?,
        }
        if let Some(alpha) = self.ld_alpha {
            write!(f, ", ld_alpha {alpha}")?;
        }
        f.write_str(if self.use_weighting { ", use_weighting" } else { "" })
    }
}

impl Display for Kto {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let name = if self.apo_zero { "apo_zero_unpaired" } else { "kto" };
        write!(
            f,
            "{name}, beta {}, weights {} : {}",
            self.beta, self.desirable_weight, self.undesirable_weight
        )
    }
}
