use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{LegKind, SearchOptions, Searched, Searcher};
use crate::{Leg, RagError, Scope, With};

/// A second look by meaning: the question's vector is moved towards those of the first hits, which are taken for
/// relevant, and asked again (Rocchio's feedback on dense vectors, without a negative part: Li et al. 2023, arXiv
/// 2108.11044, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// Hits of the fused list that are taken for relevant.
    pub hits: usize,
    /// What the mean of their vectors counts against the question's own (which counts 1).
    pub weight: f64,
}

impl Searcher<'_> {
    /// Replaces what the legs of vectors found by what they find after the feedback. Nothing changes where there
    /// is no such leg, or no hit.
    pub(crate) async fn feed_back(
        &self,
        (collection, scope): (&str, &Scope),
        legs: &[Leg],
        searched: &mut Searched,
        options: &SearchOptions,
    ) -> Result<(), RagError> {
        let Some(feedback) = options.feedback else { return Ok(()) };
        let is_dense = |place: &usize| searched.legs[*place].0 == LegKind::Dense;
        let places: Vec<usize> = (0..legs.len()).filter(is_dense).collect();
        let mut first = searched.clone().fuse(options);
        first.truncate(feedback.hits);
        if places.is_empty() || first.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = first.iter().map(|hit| hit.id).collect();
        let with = With { payload: false, vectors: true };
        let records = self.store.retrieve(collection, scope, &ids, with).await?;
        let vectors: Vec<Vec<f32>> = records.into_iter().filter_map(|record| record.dense).collect();
        let moved = places.iter().map(|place| towards(&legs[*place], &vectors, feedback.weight));
        let depth = options.depth.max(options.limit);
        let lists = self.stable(collection, scope, &moved.collect::<Vec<_>>(), depth).await?;
        for (place, list) in places.into_iter().zip(lists) {
            searched.lists[place] = list;
        }
        Ok(())
    }
}

/// The leg with its vector moved, of unit length.
fn towards(leg: &Leg, vectors: &[Vec<f32>], weight: f64) -> Leg {
    match leg {
        Leg::Dense { vector, limit, exact } => {
            let mean = |place: usize| {
                let values = vectors.iter().filter_map(|vector| vector.get(place));
                values.map(|value| f64::from(*value)).sum::<f64>() / vectors.len().max(1) as f64
            };
            let moved: Vec<f64> = (vector.iter().enumerate())
                .map(|(place, value)| f64::from(*value) + weight * mean(place))
                .collect();
            let length = moved.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            let vector = moved.into_iter().map(|value| (value / length) as f32).collect();
            Leg::Dense { vector, limit: *limit, exact: *exact }
        }
        Leg::Sparse { .. } => leg.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_moves_towards_the_mean_and_keeps_its_length() {
        let leg = Leg::Dense { vector: vec![1.0, 0.0], limit: 3, exact: true };
        let vectors = [vec![0.0, 1.0], vec![1.0, 0.0]];
        let Leg::Dense { vector, limit, exact } = towards(&leg, &vectors, 1.0) else { panic!("a dense leg") };
        // (1, 0) + (0.5, 0.5), of length 1.
        let length = 2.5f32.sqrt();
        assert!((vector[0] - 1.5 / length).abs() < 1e-6 && (vector[1] - 0.5 / length).abs() < 1e-6);
        assert_eq!((limit, exact), (3, true));
        assert_eq!(towards(&leg, &[], 1.0), leg);
    }
}
