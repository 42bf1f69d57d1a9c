//! One pass through the model: tokens of many sequences, concatenated.

use std::ops::Range;

use crate::kv::KvPath;

/// Consecutive tokens of one sequence inside a [`Step`]. Their keys and values go to the end of the last
/// node of `path`, and they see everything before them on it.
#[derive(Debug)]
pub(crate) struct Span {
    /// Rows of the step.
    pub(crate) rows: Range<usize>,
    pub(crate) path: KvPath,
}

/// What is computed together. Rows of later spans may see rows of earlier ones: in every layer all keys
/// and values are stored before any row attends.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) tokens: Vec<u32>,
    /// Of each row in its own sequence.
    pub(crate) positions: Vec<usize>,
    pub(crate) spans: Vec<Span>,
}

impl Step {
    pub(crate) fn rows(&self) -> usize {
        self.tokens.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.spans.clear();
    }

    /// Appends the last tokens of a path, which the path already counts. Returns the first row.
    pub(crate) fn push(&mut self, path: &KvPath, tokens: impl Iterator<Item = u32>) -> usize {
        let first_row = self.tokens.len();
        self.tokens.extend(tokens);
        let rows = first_row..self.tokens.len();
        self.positions.extend(path.len() - rows.len()..path.len());
        self.spans.push(Span { rows, path: path.clone() });
        first_row
    }

    /// Keys these rows see together in a layer with this window.
    pub(crate) fn visible_keys(&self, rows: Range<usize>, window: Option<usize>) -> u64 {
        let seen = |position: usize| (position + 1).min(window.unwrap_or(usize::MAX)) as u64;
        self.positions[rows].iter().map(|position| seen(*position)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KvStore;

    #[test]
    fn rows_know_their_positions() {
        let mut store: KvStore<()> = KvStore::new(100);
        let mut path = KvPath::default();
        path.push(store.add((), 1), 4);
        let mut step = Step::default();
        step.push(&path, [7, 8].into_iter());
        path.push(store.add((), 1), 2);
        assert_eq!(step.push(&path, [9, 10].into_iter()), 2);
        assert_eq!(step.positions, [2, 3, 4, 5]);
        assert_eq!(step.visible_keys(0..4, None), 3 + 4 + 5 + 6);
        assert_eq!(step.visible_keys(0..4, Some(3)), 12);
        drop(path);
        assert_eq!(store.free_bytes(), 98);
        step.clear();
        assert_eq!(store.free_bytes(), 100);
    }
}
