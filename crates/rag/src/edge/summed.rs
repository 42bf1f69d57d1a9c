//! Scores of words that no layout of segments changes.
//!
//! The engine adds up a document's term weights in f32, in an order that depends on how its segments happen to
//! lie (which posting list is the longest, what was merged when). Sums in another order differ in their last
//! bits, and with them the order of near ties. So the score of a hit is added up once more in f64, in the order
//! in which the point holds its terms: the same points rank the same wherever this engine holds them.

use qdrant_edge as qe;

use super::collection::Collection;

impl Collection {
    /// The hits of a query; if it is one by a sparse vector, with scores that were added up again.
    pub(crate) fn query(
        &self,
        mut request: qe::QueryRequest,
    ) -> Result<Vec<qe::ScoredPoint>, qe::OperationError> {
        let Some((using, weights)) = sparse(&request) else { return self.shard().query(request) };
        let wanted = std::mem::replace(&mut request.with_vector, qe::WithVector::Bool(false));
        request.with_vector = with(&wanted, &using);
        let mut hits = self.shard().query(request)?;
        for hit in &mut hits {
            if let Some(score) = score(&weights, hit.vector.as_ref(), &using) {
                hit.score = score;
            }
            strip(hit, &wanted, &using);
        }
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
        Ok(hits)
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

fn score(weights: &[(u32, f32)], point: Option<&qe::VectorStructInternal>, using: &str) -> Option<f32> {
    let Some(qe::VectorStructInternal::Named(vectors)) = point else { return None };
    let Some(qe::VectorInternal::Sparse(vector)) = vectors.get(using) else { return None };
    let product = |(dimension, value): (&u32, &f32)| {
        let place = weights.binary_search_by_key(dimension, |(dimension, _)| *dimension).ok()?;
        Some(f64::from(weights[place].1) * f64::from(*value))
    };
    Some(vector.indices.iter().zip(&vector.values).filter_map(product).sum::<f64>() as f32)
}

/// What was asked for and the vector itself.
fn with(wanted: &qe::WithVector, using: &str) -> qe::WithVector {
    match wanted {
        qe::WithVector::Bool(true) => qe::WithVector::Bool(true),
        qe::WithVector::Bool(false) => qe::WithVector::Selector(vec![using.to_owned()]),
        qe::WithVector::Selector(names) => {
            let others = names.iter().filter(|name| *name != using).cloned();
            qe::WithVector::Selector(others.chain([using.to_owned()]).collect())
        }
    }
}

/// Takes the vector away again where it was not asked for.
fn strip(hit: &mut qe::ScoredPoint, wanted: &qe::WithVector, using: &str) {
    match wanted {
        qe::WithVector::Bool(true) => {}
        qe::WithVector::Bool(false) => hit.vector = None,
        qe::WithVector::Selector(names) => {
            if let Some(qe::VectorStructInternal::Named(vectors)) = &mut hit.vector
                && !names.iter().any(|name| name == using)
            {
                vectors.remove(using);
            }
        }
    }
}
