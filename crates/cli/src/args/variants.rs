//! What `evalign eval` takes to ask the same questions in other ways too.

use clap::{Args, ValueEnum};
use evalign_bench::{OptionOrder, Perturbation};

/// The questions in other ways, beside the plain ones and in the same run.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Robustness")]
pub(crate) struct VariantArgs {
    /// `cyclic` also asks every lettered multiple-choice item with its options moved up by one place, by two,
    /// ...: accuracy of each order, share of items whose answer changes with it, and accuracy with the order
    /// averaged out (arXiv 2309.03882).
    #[arg(long, alias = "option_order", value_enum, default_value_t, value_name = "ORDER")]
    pub(crate) option_order: Order,

    /// Also ask perturbed questions, and report the drop item by item: typos (letters replaced by neighbours
    /// on the keyboard), case (all lower), whitespace (spaces repeated), paraphrase (other words from the
    /// task file), or all. Options, labels and answers stay as they are.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    pub(crate) perturb: Vec<Perturb>,

    /// Share of the question's letters that typos replace [default: 0.05].
    #[arg(long, alias = "typo_rate", value_name = "F")]
    pub(crate) typo_rate: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    #[default]
    AsGiven,
    Cyclic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Perturb {
    Typos,
    Case,
    Whitespace,
    Paraphrase,
    All,
}

impl VariantArgs {
    pub(crate) fn order(&self) -> OptionOrder {
        match self.option_order {
            Order::AsGiven => OptionOrder::AsGiven,
            Order::Cyclic => OptionOrder::Cyclic,
        }
    }

    /// Each kind once, in one order whatever was typed: it is part of what identifies a run.
    pub(crate) fn perturbations(&self) -> Vec<Perturbation> {
        let kind = |perturbation| match perturbation {
            Perturbation::Typos => Perturb::Typos,
            Perturbation::Case => Perturb::Case,
            Perturbation::Whitespace => Perturb::Whitespace,
            Perturbation::Paraphrase => Perturb::Paraphrase,
        };
        let wanted = |perturbation: &Perturbation| {
            self.perturb.contains(&Perturb::All) || self.perturb.contains(&kind(*perturbation))
        };
        Perturbation::ALL.into_iter().filter(wanted).collect()
    }
}
