use super::{LegKind, LegShare, SearchMode, SearchOptions};
use crate::Scored;
use crate::fusion::{Fused, Share};

/// What the legs of a question found.
#[derive(Clone, Debug)]
pub(crate) struct Searched {
    /// Kind of each leg, and which query of that kind it looked for.
    pub(super) legs: Vec<(LegKind, usize)>,
    pub(super) lists: Vec<Vec<Scored>>,
}

impl Searched {
    /// One list of all. A single leg keeps its own scores.
    pub(crate) fn fuse(self, options: &SearchOptions) -> Vec<Fused> {
        let depth = options.depth.max(options.limit);
        let mut lists = self.lists;
        for hits in &mut lists {
            hits.truncate(depth);
        }
        if let [hits] = lists.as_slice() {
            return hits.iter().enumerate().map(single).collect();
        }
        let count = |kind| self.legs.iter().filter(|(leg, _)| *leg == kind).count() as f64;
        // Several queries of a kind share the weight of the kind, so that asking in more ways does not turn
        // the balance between words and vectors.
        let weights: Vec<f64> = self
            .legs
            .iter()
            .map(|(kind, _)| match kind {
                LegKind::Bm25 => options.bm25_weight / count(LegKind::Bm25),
                LegKind::Dense => 1.0 / count(LegKind::Dense),
            })
            .collect();
        options.fusion.fuse(&lists, &weights)
    }

    pub(crate) fn lists(&self) -> &[Vec<Scored>] {
        &self.lists
    }

    pub(crate) fn longest(&self) -> usize {
        self.lists.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Ends each list behind as many hits as is said of it.
    pub(crate) fn truncate(&mut self, length: impl Fn(&[Scored]) -> usize) {
        for hits in &mut self.lists {
            hits.truncate(length(hits));
        }
    }

    /// The legs of both.
    pub(crate) fn join(mut self, other: Self) -> Self {
        self.legs.extend(other.legs);
        self.lists.extend(other.lists);
        self
    }

    /// The legs that a mode uses.
    pub(crate) fn of(&self, mode: SearchMode) -> Self {
        let used = |kind| match mode {
            SearchMode::Bm25 => kind == LegKind::Bm25,
            SearchMode::Dense => kind == LegKind::Dense,
            SearchMode::Hybrid => true,
        };
        let used = self.legs.iter().zip(&self.lists).filter(|((kind, _), _)| used(*kind));
        let (legs, lists) = used.map(|(leg, list)| (*leg, list.clone())).unzip();
        Self { legs, lists }
    }
}

fn single((position, hit): (usize, &Scored)) -> Fused {
    let score = f64::from(hit.score);
    Fused { id: hit.id, score, shares: vec![Share { leg: 0, rank: position + 1, score, share: score }] }
}

/// A leg of vectors with a hit has been asked again wherever there is feedback.
pub(super) fn leg_share(legs: &[(LegKind, usize)], share: &Share, options: &SearchOptions) -> LegShare {
    let (leg, query) = legs[share.leg];
    let moved = leg == LegKind::Dense && options.feedback.is_some_and(|feedback| feedback.hits > 0);
    LegShare { leg, query, rank: share.rank, score: share.score, share: share.share, moved }
}
