use crate::{Feedback, Fusion, SearchMode, SearchOptions};

/// Hits of each leg that are fused. The lists of the last are kept for the sweep.
pub(super) const DEPTHS: [usize; 3] = [50, 100, 200];

/// What is tried of each way of cutting: each mode, and for hybrid search every fusion with some weights of the words
/// and some feedback. Plain hybrid search is the first.
#[must_use]
pub(super) fn candidates() -> Vec<SearchOptions> {
    let of = |mode, fusion, bm25_weight, depth| SearchOptions {
        mode,
        fusion,
        bm25_weight,
        depth,
        exact: true,
        ..SearchOptions::default()
    };
    let mut all = vec![of(SearchMode::Hybrid, Fusion::default(), 1.0, 100)];
    all.extend([SearchMode::Bm25, SearchMode::Dense].map(|mode| of(mode, Fusion::default(), 1.0, 100)));
    let ranks = [10.0, 30.0, 60.0, 100.0].map(|k| Fusion::Rrf { k });
    for fusion in ranks.into_iter().chain([Fusion::MinMax, Fusion::Dbsf]) {
        for bm25_weight in [0.5, 0.75, 1.0, 1.33, 2.0] {
            for depth in DEPTHS {
                all.push(of(SearchMode::Hybrid, fusion, bm25_weight, depth));
            }
        }
    }
    for fusion in [Fusion::default(), Fusion::MinMax, Fusion::Dbsf] {
        for (hits, weight) in [(3, 0.2), (5, 0.2), (5, 0.3), (5, 0.5), (10, 0.3)] {
            let feedback = Some(Feedback { hits, weight });
            all.push(SearchOptions { feedback, ..of(SearchMode::Hybrid, fusion, 1.0, 100) });
        }
    }
    all
}
