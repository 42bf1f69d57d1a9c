use std::fmt;

use serde::{Deserialize, Serialize};

/// A way of asking a task's questions other than the one its file defines, to see how much the answers
/// depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// The options of every item moved up by so many places, the first ones to the end.
    Order(u32),
    /// Letters of the question replaced by their neighbours on a keyboard.
    Typos,
    /// The question in lower case.
    Case,
    /// Spaces of the question repeated.
    Whitespace,
    /// The task file's paraphrase of this number, counted from 1.
    Paraphrase(u32),
}

/// Stands between a task's name and its variant. It cannot occur in the name of a task.
const SEPARATOR: char = '@';

impl Variant {
    /// The name samples of the variant are stored under, `mmlu_anatomy@order1` for example.
    #[must_use]
    pub fn task_name(self, base: &str) -> String {
        format!("{base}{SEPARATOR}{self}")
    }

    /// The task behind a name made by [`Variant::task_name`]; another name is returned as it is.
    #[must_use]
    pub fn base_task(name: &str) -> &str {
        name.split_once(SEPARATOR).map_or(name, |(base, _)| base)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order(places) => write!(f, "order{places}"),
            Self::Typos => f.write_str("typos"),
            Self::Case => f.write_str("case"),
            Self::Whitespace => f.write_str("whitespace"),
            Self::Paraphrase(number) => write!(f, "paraphrase{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_the_task() {
        for variant in [Variant::Order(3), Variant::Typos, Variant::Paraphrase(2)] {
            let name = variant.task_name("mmlu_anatomy");
            assert_eq!(Variant::base_task(&name), "mmlu_anatomy");
        }
        assert_eq!(Variant::Order(1).task_name("x"), "x@order1");
        assert_eq!(Variant::base_task("gsm8k"), "gsm8k");
    }
}
