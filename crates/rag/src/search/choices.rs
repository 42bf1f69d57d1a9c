use serde::{Deserialize, Serialize};

use super::{Feedback, SearchMode, SearchOptions};
use crate::Fusion;

/// Ways of searching by the names that people call them by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedWay {
    /// By words.
    Bm25,
    /// By meaning.
    Dense,
    /// Both, fused by ranks.
    Hybrid,
    /// Both, fused by scores, and by meaning once more from nearer to the first hits.
    #[default]
    Feedback,
}

/// How the lists of words and of meaning become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamedFusion {
    Rrf,
    MinMax,
    Dbsf,
}

/// How chunks are to be found, as far as it is said. What is not said is as the way of searching has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchChoices {
    pub way: NamedWay,
    pub fusion: Option<NamedFusion>,
    /// Constant of reciprocal rank fusion.
    pub rrf_k: Option<f64>,
    pub bm25_weight: Option<f64>,
    /// Hits of each list that are fused.
    pub depth: Option<usize>,
    pub exact: bool,
    pub feedback_hits: Option<usize>,
    pub feedback_weight: Option<f64>,
}

/// An option that changes nothing in the way of searching that is asked for, which is a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("changes nothing in this way of searching")]
pub struct NoEffect {
    /// A field of [`SearchChoices`].
    pub option: &'static str,
    /// The ways in which it does change something.
    pub needed: &'static str,
}

impl SearchChoices {
    /// `expanded`: a question is looked for in several ways, whose lists are fused also in ways of one leg.
    ///
    /// # Errors
    /// An option that changes nothing.
    pub fn options(&self, expanded: bool) -> Result<SearchOptions, NoEffect> {
        let (mode, start) = match self.way {
            NamedWay::Bm25 => (SearchMode::Bm25, SearchOptions::default()),
            NamedWay::Dense => (SearchMode::Dense, SearchOptions::default()),
            NamedWay::Hybrid => (SearchMode::Hybrid, SearchOptions::default()),
            NamedWay::Feedback => (SearchMode::Hybrid, SearchOptions::recommended()),
        };
        let fusion = match self.fusion {
            Some(NamedFusion::Rrf) => Fusion::default(),
            Some(NamedFusion::MinMax) => Fusion::MinMax,
            Some(NamedFusion::Dbsf) => Fusion::Dbsf,
            None => start.fusion,
        };
        self.check(fusion, expanded)?;
        Ok(SearchOptions {
            mode,
            fusion: self.rrf_k.map_or(fusion, |k| Fusion::Rrf { k }),
            bm25_weight: self.bm25_weight.unwrap_or(start.bm25_weight),
            depth: self.depth.unwrap_or(start.depth),
            exact: self.exact,
            feedback: start.feedback.map(|feedback| Feedback {
                hits: self.feedback_hits.unwrap_or(feedback.hits),
                weight: self.feedback_weight.unwrap_or(feedback.weight),
            }),
            ..start
        })
    }

    fn check(&self, fusion: Fusion, expanded: bool) -> Result<(), NoEffect> {
        let both_legs = matches!(self.way, NamedWay::Hybrid | NamedWay::Feedback);
        let by_ranks = matches!(fusion, Fusion::Rrf { .. }) && (both_legs || expanded);
        let is_feedback = self.way == NamedWay::Feedback;
        for (option, is_given, counts, needed) in [
            ("fusion", self.fusion.is_some(), both_legs || expanded, "mode `hybrid` or `feedback`"),
            ("rrf_k", self.rrf_k.is_some(), by_ranks, "mode `hybrid`, or fusion `rrf`"),
            ("bm25_weight", self.bm25_weight.is_some(), both_legs, "mode `hybrid` or `feedback`"),
            ("feedback_hits", self.feedback_hits.is_some(), is_feedback, "mode `feedback`"),
            ("feedback_weight", self.feedback_weight.is_some(), is_feedback, "mode `feedback`"),
        ] {
            if is_given && !counts {
                return Err(NoEffect { option, needed });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_the_way_has_it_and_what_changes_nothing_is_refused() {
        let said = |way| SearchChoices { way, ..SearchChoices::default() };
        assert_eq!(SearchChoices::default().options(false), Ok(SearchOptions::recommended()));
        assert_eq!(said(NamedWay::Hybrid).options(false), Ok(SearchOptions::default()));
        let weighed = SearchChoices { bm25_weight: Some(0.5), depth: Some(7), ..said(NamedWay::Feedback) };
        let options = weighed.options(false).unwrap();
        assert_eq!((options.bm25_weight, options.depth, options.fusion), (0.5, 7, Fusion::Dbsf));
        let refused = |choices: SearchChoices, expanded| choices.options(expanded).unwrap_err().option;
        assert_eq!(
            refused(SearchChoices { bm25_weight: Some(1.0), ..said(NamedWay::Dense) }, true),
            "bm25_weight"
        );
        assert_eq!(refused(SearchChoices { rrf_k: Some(1.0), ..said(NamedWay::Feedback) }, false), "rrf_k");
        assert_eq!(
            refused(SearchChoices { feedback_hits: Some(1), ..said(NamedWay::Hybrid) }, false),
            "feedback_hits"
        );
        let one_leg = SearchChoices { fusion: Some(NamedFusion::Rrf), ..said(NamedWay::Bm25) };
        assert_eq!(refused(one_leg.clone(), false), "fusion");
        assert!(one_leg.options(true).is_ok(), "several queries have several lists");
    }
}
