//! Which chunks a model is shown: as much of the question's evidence as fits, nothing twice.

use std::collections::BTreeSet;

use crate::{Chunk, Evidence};

/// Picks chunks within a budget of tokens by what each adds: repeatedly the chunk whose statements have the
/// greatest sum of score times share of terms not yet packed, for each of its tokens to the power of one half
/// (the greedy rule for budgeted coverage of Lin and Bilmes 2010, "Multi-document Summarization via Budgeted
/// Maximization of Submodular Functions", section 4, with their scaling r = 0.5). Returns positions in
/// `chunks`, the best first.
#[must_use]
pub fn pack(
    chunks: &[Chunk],
    evidence: &[Evidence],
    budget_tokens: usize,
    count: &dyn Fn(&str) -> usize,
) -> Vec<usize> {
    let costs: Vec<usize> = chunks.iter().map(|chunk| count(&chunk.text).max(1)).collect();
    let (mut left, mut packed) = (budget_tokens, Vec::new());
    let mut told: BTreeSet<&str> = BTreeSet::new();
    loop {
        let best = (0..chunks.len())
            .filter(|index| !packed.contains(index) && costs[*index] <= left)
            .map(|index| (index, gain(index, evidence, &told) / (costs[index] as f64).sqrt()))
            .filter(|(_, gain)| *gain > 0.0)
            .reduce(|best, next| if next.1 > best.1 { next } else { best });
        let Some((index, _)) = best else { return packed };
        left -= costs[index];
        packed.push(index);
        let statements = evidence.iter().filter(|evidence| evidence.chunk == index);
        told.extend(statements.flat_map(|evidence| evidence.terms.iter().map(String::as_str)));
    }
}

/// What the best statement of a chunk adds to what is told already.
fn gain(index: usize, evidence: &[Evidence], told: &BTreeSet<&str>) -> f64 {
    evidence
        .iter()
        .filter(|evidence| evidence.chunk == index && !evidence.terms.is_empty())
        .map(|evidence| {
            let new = evidence.terms.iter().filter(|term| !told.contains(term.as_str())).count();
            evidence.score * new as f64 / evidence.terms.len() as f64
        })
        .fold(0.0, f64::max)
}
