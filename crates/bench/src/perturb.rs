//! Changes of a prompt that change no meaning: what a model understands should survive them.
//!
//! Typos, lower case and repeated spaces are three of HELM's robustness perturbations (Liang et al. 2022,
//! "Holistic Evaluation of Language Models", arXiv 2211.09110, section 4.4.2; `helm.benchmark.augmentations`:
//! `TyposPerturbation`, `LowerCasePerturbation`, `SpacePerturbation`), the first after NL-Augmenter's
//! `butter_fingers_perturbation` (Dhole et al. 2021, arXiv 2112.02721). They touch the columns that the
//! task file names under `question`: never options, labels, worked examples or the right answer. A
//! paraphrase replaces the task's templates by others of its file.

mod measure;
mod text;

use evalign_core::Variant;
use serde::{Deserialize, Serialize};

pub(crate) use measure::measure;
pub(crate) use text::{MOST_SPACES, lower_case, spaces, typos};

use crate::request::RunRequest;

/// Raised whenever a perturbation makes another text of the same text and seed.
pub(crate) const VERSION: u32 = 1;

/// Share of letters that typos replace where the request names none: about one word in five of English.
pub const DEFAULT_TYPO_RATE: f64 = 0.05;

/// A kind of perturbation that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Perturbation {
    Typos,
    Case,
    Whitespace,
    Paraphrase,
}

impl Perturbation {
    pub const ALL: [Self; 4] = [Self::Typos, Self::Case, Self::Whitespace, Self::Paraphrase];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Typos => "typos",
            Self::Case => "case",
            Self::Whitespace => "whitespace",
            Self::Paraphrase => "paraphrase",
        }
    }

    /// The kind a variant is of; `None` for another order of options.
    pub(crate) fn of(variant: Variant) -> Option<Self> {
        match variant {
            Variant::Order(_) => None,
            Variant::Typos => Some(Self::Typos),
            Variant::Case => Some(Self::Case),
            Variant::Whitespace => Some(Self::Whitespace),
            Variant::Paraphrase(_) => Some(Self::Paraphrase),
        }
    }
}

pub(crate) fn typo_rate(request: &RunRequest) -> f64 {
    request.typo_rate.unwrap_or(DEFAULT_TYPO_RATE)
}
