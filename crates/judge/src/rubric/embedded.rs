//! The rubrics that ship inside the binary.

macro_rules! rubrics {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../../rubrics/", $name, ".yaml")))),+]
    };
}

/// Name and text. A test compares the list with the directory.
pub(super) const RUBRICS: &[(&str, &str)] = rubrics![
    "answer_relevance",
    "claim_support",
    "factual_correctness",
    "harmlessness",
    "helpfulness",
    "honesty",
    "instruction_following",
    "rag_faithfulness",
    "reasoning",
    "summarisation",
];
