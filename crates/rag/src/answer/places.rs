//! All places where the text of a hit stands, and which of them is cited.

use crate::evidence::{Evidence, cite, name_terms};
use crate::{Analyzer, Chunk, HitCopy};

/// A chunk and the others that say the same.
pub(super) struct Places {
    pub(super) chunk: Chunk,
    others: Vec<Chunk>,
}

impl Places {
    /// The place that is cited is the one whose document's name holds most of what is asked for, among equals the hit's
    /// own: of two invoices that say the same, the one of the year that is asked about.
    pub(super) fn of(question: &str, of_hit: Chunk, copies: &[HitCopy]) -> Self {
        if copies.is_empty() {
            return Self { chunk: of_hit, others: Vec::new() };
        }
        let analyzer = Analyzer::english();
        let asked = analyzer.terms(question);
        let named = |chunk: &Chunk| {
            let name = name_terms(chunk, &analyzer);
            asked.iter().filter(|term| name.contains(term)).count()
        };
        let mut others: Vec<Chunk> = copies.iter().map(|copy| copy.chunk(&of_hit)).collect();
        others.insert(0, of_hit);
        // The first of the greatest: `max_by_key` would take the last.
        let best = (0..others.len()).rev().max_by_key(|place| named(&others[*place])).unwrap_or(0);
        Self { chunk: others.remove(best), others }
    }

    /// A statement of the chunk, with the other places where it stands.
    pub(super) fn cited(&self, mut evidence: Evidence) -> Evidence {
        let offset = |byte: u64| usize::try_from(byte - self.chunk.start_byte).unwrap_or(usize::MAX);
        let range = offset(evidence.citation.start_byte)..offset(evidence.citation.end_byte);
        evidence.citation.copies = self.others.iter().map(|other| cite(other, range.clone())).collect();
        evidence
    }
}
