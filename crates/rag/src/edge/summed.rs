//! Scores of words that no layout of segments changes.
//!
//! The engine adds up a document's term weights in f32, in an order that depends on how its segments happen to
//! lie (which posting list is the longest, what was merged when). Sums in another order differ in their last
//! bits, and with them the order of near ties. So the score of a hit is added up once more in f64, in the order
//! in which the point holds its terms: the same points rank the same wherever this engine holds them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use qdrant_edge as qe;

use super::collection::Collection;

/// Term weights that are remembered before all are forgotten: some 8 MB.
const MAX_REMEMBERED: usize = 1_000_000;

/// Term weights of points that were hits since the last write: reading one from the engine takes longer than finding it.
#[derive(Debug, Default)]
pub(super) struct HitVectors(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    /// Writes so far. What was read before a write is not remembered after it.
    writes: u64,
    /// By the vector's name.
    points: BTreeMap<String, HashMap<qe::PointId, Arc<qe::SparseVector>>>,
    /// Numbers in all of them.
    weights: usize,
}

impl HitVectors {
    pub(super) fn forget(&self) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *remembered = Remembered { writes: remembered.writes + 1, ..Remembered::default() };
    }

    /// The writes so far, and what is known of these points.
    fn get(&self, using: &str, hits: &[qe::ScoredPoint]) -> (u64, Vec<Option<Arc<qe::SparseVector>>>) {
        let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let points = remembered.points.get(using);
        (remembered.writes, hits.iter().map(|hit| points?.get(&hit.id).cloned()).collect())
    }

    fn put(&self, writes: u64, using: &str, read: &[(qe::PointId, Arc<qe::SparseVector>)]) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.writes != writes {
            return;
        }
        let more: usize = read.iter().map(|(_, vector)| vector.indices.len()).sum();
        if more > MAX_REMEMBERED {
            return;
        }
        if remembered.weights + more > MAX_REMEMBERED {
            *remembered = Remembered { writes, ..Remembered::default() };
        }
        remembered.weights += more;
        remembered.points.entry(using.to_owned()).or_default().extend(read.iter().cloned());
    }
}

impl Collection {
    /// The hits of a query; if it is one by a sparse vector, with scores that were added up again.
    pub(crate) fn query(
        &self,
        request: qe::QueryRequest,
    ) -> Result<Vec<qe::ScoredPoint>, qe::OperationError> {
        let Some((using, weights)) = sparse(&request) else { return self.shard().query(request) };
        let mut hits = self.shard().query(request)?;
        let vectors = self.vectors_of(&using, &hits)?;
        for (hit, vector) in hits.iter_mut().zip(vectors) {
            // A point that was deleted meanwhile keeps the engine's score.
            if let Some(vector) = vector {
                hit.score = score(&weights, &vector);
            }
        }
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
        Ok(hits)
    }

    /// The term weights of hits, `None` of a point that has none.
    fn vectors_of(
        &self,
        using: &str,
        hits: &[qe::ScoredPoint],
    ) -> Result<Vec<Option<Arc<qe::SparseVector>>>, qe::OperationError> {
        let (writes, mut known) = self.hit_vectors().get(using, hits);
        let missing: Vec<qe::PointId> =
            hits.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(hit, _)| hit.id).collect();
        if missing.is_empty() {
            return Ok(known);
        }
        let wanted = qe::WithVector::Selector(vec![using.to_owned()]);
        let records = self.shard().retrieve(&missing, Some(false.into()), Some(wanted))?;
        let read: Vec<_> = records.into_iter().filter_map(|record| term_weights(record, using)).collect();
        self.hit_vectors().put(writes, using, &read);
        let read: HashMap<_, _> = read.into_iter().collect();
        for (hit, known) in hits.iter().zip(&mut known) {
            *known = known.take().or_else(|| read.get(&hit.id).cloned());
        }
        Ok(known)
    }
}

fn term_weights(record: qe::Record, using: &str) -> Option<(qe::PointId, Arc<qe::SparseVector>)> {
    let Some(qe::VectorStructInternal::Named(mut vectors)) = record.vector else { return None };
    match vectors.remove(using) {
        Some(qe::VectorInternal::Sparse(vector)) => Some((record.id, Arc::new(vector))),
        _ => None,
    }
}

/// Name and weights of a query by one sparse vector, in the order of their dimensions.
fn sparse(request: &qe::QueryRequest) -> Option<(String, Vec<(u32, f32)>)> {
    let Some(qe::ScoringQuery::Vector(qe::QueryEnum::Nearest(nearest))) = &request.query else { return None };
    let qe::VectorInternal::Sparse(vector) = &nearest.query else { return None };
    let mut weights: Vec<(u32, f32)> =
        vector.indices.iter().copied().zip(vector.values.iter().copied()).collect();
    weights.sort_unstable_by_key(|(dimension, _)| *dimension);
    Some((nearest.using.clone()?, weights))
}

fn score(weights: &[(u32, f32)], vector: &qe::SparseVector) -> f32 {
    let product = |(dimension, value): (&u32, &f32)| {
        let place = weights.binary_search_by_key(dimension, |(dimension, _)| *dimension).ok()?;
        Some(f64::from(weights[place].1) * f64::from(*value))
    };
    vector.indices.iter().zip(&vector.values).filter_map(product).sum::<f64>() as f32
}
