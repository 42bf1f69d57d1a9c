use super::{Settings, TrainConfig};
use crate::{FDivergence, Objective, PairLoss};

impl TrainConfig {
    /// What was said and changes nothing about this run, each with why. `goes_on`: training goes on with an adapter.
    #[must_use]
    pub fn unread(&self, said: &Settings, goes_on: bool) -> Vec<String> {
        let mut notes = Vec::new();
        for (name, is_said, is_read) in self.of_the_loss(said) {
            if is_said && !is_read {
                let more = match (name, self.has(&[PairLoss::Sigmoid])) {
                    ("label_smoothing", true) => "; `cdpo` is `sigmoid` with it",
                    _ => "",
                };
                notes.push(format!("`{name}` has no effect: this loss does not read it{more}"));
            }
        }
        let of_adapters = [
            ("lora_r", said.lora_r.is_some()),
            ("lora_alpha", said.lora_alpha.is_some()),
            ("lora_dropout", said.lora_dropout.is_some()),
            ("lora_target_modules", said.lora_target_modules.is_some()),
            ("use_rslora", said.use_rslora.is_some()),
            ("use_dora", said.use_dora.is_some()),
        ];
        for (name, _) in of_adapters.into_iter().filter(|(_, is_said)| goes_on && *is_said) {
            notes.push(format!("`{name}` has no effect: the adapter that training goes on with has its own"));
        }
        notes
    }

    fn has(&self, losses: &[PairLoss]) -> bool {
        match &self.objective {
            Objective::Preference(preference) => {
                preference.terms.iter().any(|term| losses.contains(&term.loss))
            }
            Objective::Sft(_) | Objective::Reward { .. } | Objective::Kto(_) => false,
        }
    }

    /// Settings that only some losses read: the name, whether something was said, whether this loss reads it.
    fn of_the_loss(&self, said: &Settings) -> [(&'static str, bool, bool); 18] {
        use PairLoss::{
            Aot, AotUnpaired, Cdpo, Discopop, ExoPair, Hinge, Ipo, Robust, Sigmoid, SigmoidNorm, Simpo,
        };
        let sft = matches!(self.objective, Objective::Sft(_));
        let reward = self.objective.is_reward();
        let kto = matches!(self.objective, Objective::Kto(_));
        let (pairs, alpha, contrast) = match &self.objective {
            Objective::Preference(preference) => (
                true,
                matches!(preference.f_divergence, FDivergence::Alpha(_)),
                preference.terms.iter().any(|term| term.loss != PairLoss::Sft),
            ),
            Objective::Sft(_) | Objective::Reward { .. } | Objective::Kto(_) => (false, false, false),
        };
        let divergence = self.has(&[Sigmoid, Cdpo, Hinge, Ipo, SigmoidNorm, Robust, ExoPair, Discopop]);
        let smoothing = self.has(&[Cdpo, Robust, ExoPair, Aot, AotUnpaired, Simpo]);
        let reference = self.objective.needs_reference();
        let other_divergence = said.f_divergence_type.as_deref().is_some_and(|name| name != "reverse_kl");
        [
            ("beta", said.beta.is_some(), kto || contrast),
            ("label_smoothing", said.label_smoothing.is_some_and(|share| share > 0.0), smoothing),
            ("f_divergence_type", other_divergence, divergence),
            ("f_alpha_divergence_coef", said.f_alpha_divergence_coef.is_some(), alpha && divergence),
            ("loss_weights", said.loss_weights.is_some(), pairs),
            ("ld_alpha", said.ld_alpha.is_some(), contrast),
            ("use_weighting", said.use_weighting == Some(true), pairs),
            ("discopop_tau", said.discopop_tau.is_some(), self.has(&[Discopop])),
            ("simpo_gamma", said.simpo_gamma.is_some(), self.has(&[Simpo])),
            ("desirable_weight", said.desirable_weight.is_some(), kto),
            ("undesirable_weight", said.undesirable_weight.is_some(), kto),
            ("center_rewards_coefficient", said.center_rewards_coefficient.is_some(), reward),
            ("assistant_only_loss", said.assistant_only_loss == Some(true), sft),
            ("completion_only_loss", said.completion_only_loss.is_some(), sft),
            ("dataset_text_field", said.dataset_text_field.is_some(), sft),
            ("truncation_mode", said.truncation_mode.is_some(), !reward),
            ("ref_model", said.ref_model.is_some(), reference),
            ("precompute_ref_log_probs", said.precompute_ref_log_probs == Some(true), reference),
        ]
    }
}
