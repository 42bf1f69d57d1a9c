//! Whether a model chooses an option or a place: every item of a lettered multiple-choice task is asked
//! in all cyclic permutations of its options (Zheng et al. 2023, arXiv 2309.03882; Pezeshkpour & Hruschka
//! 2023, arXiv 2308.11483). The prompts share everything up to the options, which the local engine
//! computes once.

mod measure;
mod rotation;

use serde::{Deserialize, Serialize};

pub(crate) use measure::measure;
pub(crate) use rotation::rotate;

/// In which orders the options of a lettered item are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionOrder {
    /// As the dataset has them.
    #[default]
    AsGiven,
    /// In as many orders as there are options: as given, moved up by one place, by two, ...
    Cyclic,
}
