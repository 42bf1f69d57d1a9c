//! Fewer hits that say the same.

/// Maximal marginal relevance (Carbonell & Goldstein 1998, doi 10.1145/290941.291025): picks, one after the
/// other, the item with the greatest `lambda * relevance - (1 - lambda) * likeness`, where likeness is the
/// greatest cosine with what was picked before. Returns positions in `items`, at most `limit`; of equal
/// items the first.
///
/// Relevance is scaled to [0, 1] by the least and the greatest; vectors have unit length, and an item
/// without a vector is like no other.
#[must_use]
pub(crate) fn diversify(items: &[(f64, Option<&[f32]>)], lambda: f64, limit: usize) -> Vec<usize> {
    let low = items.iter().map(|(relevance, _)| *relevance).fold(f64::INFINITY, f64::min);
    let high = items.iter().map(|(relevance, _)| *relevance).fold(f64::NEG_INFINITY, f64::max);
    let scaled = |relevance: f64| if high > low { (relevance - low) / (high - low) } else { 1.0 };
    let mut likeness = vec![0.0f64; items.len()];
    let mut left: Vec<usize> = (0..items.len()).collect();
    let mut picked = Vec::with_capacity(limit.min(items.len()));
    while picked.len() < limit {
        let gain = |item: usize| lambda * scaled(items[item].0) - (1.0 - lambda) * likeness[item];
        // The first of the greatest: `max_by` would take the last.
        let best = left.iter().enumerate().rev().max_by(|(_, a), (_, b)| gain(**a).total_cmp(&gain(**b)));
        let Some(position) = best.map(|(position, _)| position) else { break };
        let item = left.remove(position);
        picked.push(item);
        for other in &left {
            likeness[*other] = likeness[*other].max(cosine(items[item].1, items[*other].1));
        }
    }
    picked
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
        let (x, y) = ([1.0f32, 0.0], [0.0f32, 1.0]);
        let items: Vec<(f64, Option<&[f32]>)> =
            vec![(1.0, Some(&x)), (0.99, Some(&x)), (0.5, Some(&y)), (0.0, None)];
        assert_eq!(diversify(&items, 0.5, 3), [0, 2, 3]);
        assert_eq!(diversify(&items, 1.0, 4), [0, 1, 2, 3]);
        assert_eq!(diversify(&items, 0.5, 9).len(), 4);
        assert!(diversify(&[], 0.5, 3).is_empty());
    }
}
