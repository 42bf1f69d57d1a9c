//! Constitutional critique and revision (Bai et al. 2022, arXiv 2212.08073, section 3.1), with what the paper leaves
//! out: every revision is compared with what it revises, by a judge that does not know the principle. Only what wins
//! in both orders counts as a gain.
//!
//! ```text
//! answer -> (critique -> revision) x rounds -> verify, each a phase of one run
//! ```

mod chain;
mod report;
mod rows;
mod run;

pub use chain::CutTexts;
pub use report::{CritiqueReport, PrincipleCounts};
pub use rows::{CritiqueFiles, critique_results};
pub use run::{Critique, CritiqueBound, CritiqueRequest};

#[cfg(test)]
mod tests;
