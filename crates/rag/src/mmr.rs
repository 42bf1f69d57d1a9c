//! Fewer hits that say the same.

/// Maximal marginal relevance (Carbonell & Goldstein 1998, doi 10.1145/290941.291025): gives, one after the
/// other, the item with the greatest `lambda * relevance - (1 - lambda) * likeness`, where likeness is the
/// greatest cosine with what was given before; of equal items the first. Each item costs one cosine with every item
/// that is left, so who needs few takes few.
#[derive(Debug)]
pub(crate) struct Diverse<T> {
    lambda: f64,
    left: Vec<Candidate<T>>,
}

#[derive(Debug)]
struct Candidate<T> {
    item: T,
    /// From 0 for the least to 1 for the greatest.
    relevance: f64,
    likeness: f64,
    vector: Option<Vec<f32>>,
}

impl<T> Diverse<T> {
    /// Items with their relevance, on any scale, and their vectors, which have unit length; an item without one is like
    /// no other.
    pub(crate) fn of(items: Vec<(T, f64, Option<Vec<f32>>)>, lambda: f64) -> Self {
        let low = items.iter().map(|(_, relevance, _)| *relevance).fold(f64::INFINITY, f64::min);
        let high = items.iter().map(|(_, relevance, _)| *relevance).fold(f64::NEG_INFINITY, f64::max);
        let scaled = |relevance: f64| if high > low { (relevance - low) / (high - low) } else { 1.0 };
        let candidate = |(item, relevance, vector)| Candidate {
            item,
            relevance: scaled(relevance),
            likeness: 0.0,
            vector,
        };
        Self { lambda, left: items.into_iter().map(candidate).collect() }
    }

    fn gain(&self, candidate: &Candidate<T>) -> f64 {
        self.lambda * candidate.relevance - (1.0 - self.lambda) * candidate.likeness
    }
}

impl<T> Iterator for Diverse<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        // The first of the greatest: `max_by` would take the last.
        let candidates = self.left.iter().map(|candidate| self.gain(candidate)).enumerate().rev();
        let (best, _) = candidates.max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let picked = self.left.remove(best);
        for other in &mut self.left {
            let likeness = cosine(picked.vector.as_deref(), other.vector.as_deref());
            other.likeness = other.likeness.max(likeness);
        }
        Some(picked.item)
    }
}

fn cosine(a: Option<&[f32]>, b: Option<&[f32]>) -> f64 {
    match (a, b) {
        (Some(a), Some(b)) => a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum(),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_what_was_picked_waits() {
        let (x, y) = (vec![1.0f32, 0.0], vec![0.0f32, 1.0]);
        let diversify = |lambda: f64, most: usize| {
            let items = vec![
                (0, 1.0, Some(x.clone())),
                (1, 0.99, Some(x.clone())),
                (2, 0.5, Some(y.clone())),
                (3, 0.0, None),
            ];
            Diverse::of(items, lambda).take(most).collect::<Vec<_>>()
        };
        assert_eq!(diversify(0.5, 3), [0, 2, 3]);
        assert_eq!(diversify(1.0, 4), [0, 1, 2, 3]);
        assert_eq!(diversify(0.5, 9).len(), 4);
        assert!(Diverse::<u8>::of(Vec::new(), 0.5).next().is_none());
    }
}
