use serde::Serialize;

use super::half;
use super::stages::Trial;
use crate::diff::{MetricDifference, difference};
use crate::{RagError, SearchWay};

/// What a way of searching has beyond plain hybrid search over whole documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TunePart {
    /// Another fusion, weight, depth, leg or feedback over whole documents, and nothing else.
    Fusion,
    /// Documents cut into chunks.
    Chunks,
    /// Chunks searched together with the document's title.
    Prefix,
    /// First hits judged again.
    Rerank,
}

impl TunePart {
    const ALL: [Self; 4] = [Self::Fusion, Self::Chunks, Self::Prefix, Self::Rerank];

    /// The part that a way is an example of.
    fn of(way: &SearchWay) -> Self {
        match (way.rerank_depth, way.chunking) {
            (Some(_), _) => Self::Rerank,
            (None, Some(chunking)) if chunking.prefix => Self::Prefix,
            (None, Some(_)) => Self::Chunks,
            (None, None) => Self::Fusion,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fusion => "fusion",
            Self::Chunks => "chunks",
            Self::Prefix => "prefix",
            Self::Rerank => "rerank",
        }
    }
}

/// The best way with a part, and what it gains.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TunedPart {
    pub part: TunePart,
    /// The best on the queries that were tuned on.
    #[serde(flatten)]
    pub way: SearchWay,
    /// Against plain hybrid search over whole documents, over the queries held out.
    pub gain: Vec<MetricDifference>,
}

/// `order`: places of the trials, the best first; the first trial is plain hybrid search.
pub(super) fn best(trials: &[Trial], order: &[usize]) -> Result<Vec<TunedPart>, RagError> {
    let held_out = |place: usize| half(&trials[place].per_query, false);
    let best_of = |part| order.iter().find(|place| TunePart::of(&trials[**place].way) == part).copied();
    let tuned = |part| -> Option<Result<TunedPart, RagError>> {
        let place = best_of(part)?;
        let gain = difference(&held_out(0), &held_out(place));
        Some(gain.map(|gain| TunedPart { part, way: trials[place].way.clone(), gain }))
    };
    TunePart::ALL.into_iter().filter_map(tuned).collect()
}
