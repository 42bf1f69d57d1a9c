use serde::{Deserialize, Serialize};

use crate::{Digest, Estimate, OutcomeCounts, Variant};

/// One metric of a task asked in one way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VariantScore {
    #[serde(flatten)]
    pub estimate: Estimate,
    pub outcomes: OutcomeCounts,
}

/// How much the answers to lettered questions depend on the order of the options: every item was asked
/// in all cyclic permutations of its options (Zheng et al. 2023, "Large Language Models Are Not Robust
/// Multiple Choice Selectors", arXiv 2309.03882; Pezeshkpour & Hruschka 2023, arXiv 2308.11483).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptionOrderResult {
    /// A leaf task, or a group: then over all items of its tasks together.
    pub task: String,
    /// Of all orders together; differs from the task's own.
    pub protocol: Digest,
    pub metric: String,
    pub filter: String,
    /// The options as given, then moved up by one place, by two, ... An item with fewer options than
    /// others counts only in the orders it has.
    pub orders: Vec<VariantScore>,
    /// Over all items and orders; the answers to one item are a cluster (arXiv 2411.00640, eq. 4).
    pub mean: Estimate,
    /// Share of items of which not every order led to the same option's content, over the items whose
    /// answer is known in every order.
    pub changed: Estimate,
    /// Items left out of `changed`: in some order no choice could be read, or the call failed.
    pub undecided: u64,
    /// Accuracy of the answers from which the order was averaged out: the option with the highest mean
    /// probability over all orders (arXiv 2309.03882, "Cyclic Permutation"); for written answers the
    /// option chosen most often. Where two options are equally likely, or chosen equally often, the item
    /// is undecided (`unparsed`).
    pub debiased: VariantScore,
    /// Standard deviation over the places (first, second, ...) of the share of items answered right
    /// whose right option stands there, over all orders: `RStd` of arXiv 2309.03882, section 2. 0 for
    /// a model that does not care where an option stands.
    pub recall_std: Option<f64>,
    /// Those shares.
    pub recall_by_place: Vec<Estimate>,
}

/// What a change of the prompt that changes no meaning does to a score, item by item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerturbationResult {
    /// A leaf task, or a group: then over all items of its tasks together.
    pub task: String,
    pub perturbation: Variant,
    /// Share of letters that typos replaced.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate: Option<f64>,
    /// Of the perturbed prompts.
    pub protocol: Digest,
    pub metric: String,
    pub filter: String,
    pub plain: VariantScore,
    pub perturbed: VariantScore,
    /// plain - perturbed over the items that were decided both times, so that a positive number is a
    /// loss. Interval of Bonett & Price 2012 for paired proportions.
    pub drop: Estimate,
    /// Exact two-sided McNemar test that the change makes no difference.
    pub p_value: Option<f64>,
    /// Items right before and wrong after.
    pub lost: u64,
    /// Items wrong before and right after.
    pub gained: u64,
    /// Items left out of `drop`: one of the two answers is neither right nor wrong.
    pub undecided: u64,
    /// Items whose prompt the perturbation changed; the others cannot differ.
    pub touched: u64,
}
