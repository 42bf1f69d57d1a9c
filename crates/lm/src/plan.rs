//! The order in which a set of token sequences is computed, so that no shared prefix is computed twice.
//!
//! Sorting the sequences by their tokens puts every prefix tree's nodes into depth-first order: what a
//! sequence shares with *any* earlier one, it shares with its predecessor. So the tree is never built;
//! the sorted order and the length each sequence shares with its predecessor are the tree. Tokens
//! computed = sum of (length - shared length) = number of nodes of the tree: the least possible.

use std::cmp::Ordering;

/// A sequence of tokens in two parts (context, then continuation), so that a context with many
/// continuations is stored once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens<'a> {
    pub(crate) head: &'a [u32],
    pub(crate) tail: &'a [u32],
}

impl<'a> Tokens<'a> {
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<u32> {
        self.head.get(index).or_else(|| self.tail.get(index - self.head.len())).copied()
    }

    pub(crate) fn range(&self, from: usize, to: usize) -> impl Iterator<Item = u32> + use<'a> {
        let split = self.head.len();
        let head = &self.head[from.min(split)..to.min(split)];
        let tail = &self.tail[from.max(split) - split..to.max(split) - split];
        head.iter().chain(tail).copied()
    }

    /// Number of leading tokens both have in common.
    fn shared(&self, other: &Self) -> usize {
        let mut at = 0;
        loop {
            let (a, b) = (self.piece(at), other.piece(at));
            let length = a.len().min(b.len());
            let equal = a[..length].iter().zip(&b[..length]).take_while(|(x, y)| x == y).count();
            at += equal;
            if equal < length || length == 0 {
                return at;
            }
        }
    }

    /// The contiguous rest from `at` on.
    fn piece(&self, at: usize) -> &'a [u32] {
        match self.head.get(at..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => self.tail.get(at - self.head.len()..).unwrap_or(&[]),
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let shared = self.shared(other);
        self.get(shared).cmp(&other.get(shared))
    }
}

/// Sequences in depth-first order of their prefix tree. 8 bytes a sequence, whatever its length.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Caller's indices, sorted (and rotated); equal sequences stay in the caller's order.
    order: Vec<u32>,
    /// Length of the prefix each shares with its predecessor in `order`; 0 for the first.
    shared: Vec<u32>,
}

impl Plan {
    /// Plans `count` sequences (fewer than 2^32), `tokens(i)` being the i-th.
    pub(crate) fn new<'a>(count: usize, tokens: impl Fn(usize) -> Tokens<'a>) -> Self {
        let mut order: Vec<u32> = (0..count as u32).collect();
        order.sort_by(|a, b| tokens(*a as usize).compare(&tokens(*b as usize)));
        let mut shared = vec![0; order.len()];
        for i in 1..order.len() {
            shared[i] = tokens(order[i - 1] as usize).shared(&tokens(order[i] as usize)) as u32;
        }
        let mut plan = Self { order, shared };
        plan.start_with_the_shortest(|sequence| tokens(sequence).len());
        plan
    }

    /// Rotates the order to begin with the shortest sequence among those that begin a branch of the root,
    /// so that the first result comes early. Last and first of a sorted order share exactly what all
    /// share, so no token is computed more often.
    fn start_with_the_shortest(&mut self, length: impl Fn(usize) -> usize) {
        let Some(common) = self.shared.iter().skip(1).min().copied() else { return };
        let branches = (0..self.order.len()).filter(|place| *place == 0 || self.shared[*place] == common);
        let first = branches.min_by_key(|place| length(self.order[*place] as usize)).unwrap_or(0);
        self.shared[0] = common;
        self.order.rotate_left(first);
        self.shared.rotate_left(first);
        self.shared[0] = 0;
    }

    /// Shares at most all but the last token of each sequence, so that every one computes its own last.
    pub(crate) fn keeping_last(mut self, length: impl Fn(usize) -> usize) -> Self {
        for (shared, sequence) in self.shared.iter_mut().zip(&self.order) {
            *shared = (*shared).min(length(*sequence as usize).saturating_sub(1) as u32);
        }
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// The caller's index of the sequence at this place of the order.
    pub(crate) fn sequence(&self, place: usize) -> usize {
        self.order[place] as usize
    }

    /// Tokens it shares with its predecessor.
    pub(crate) fn shared(&self, place: usize) -> usize {
        self.shared[place] as usize
    }

    /// Places after `place` that share more than `above` tokens with the sequence at `place`, each with
    /// how many it shares.
    pub(crate) fn sharing(&self, place: usize, above: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut common = usize::MAX;
        (place + 1..self.order.len()).map_while(move |later| {
            common = common.min(self.shared(later));
            (common > above).then_some((later, common))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn split(sequence: &(Vec<u32>, Vec<u32>)) -> Tokens<'_> {
        Tokens { head: &sequence.0, tail: &sequence.1 }
    }

    #[test]
    fn begins_with_the_shortest_branch() {
        let sequences: Vec<(Vec<u32>, Vec<u32>)> =
            [vec![1, 2, 3, 4, 5], vec![1, 2, 3, 4, 6], vec![1, 9], vec![1, 9, 8]]
                .map(|head| (head, vec![]))
                .to_vec();
        let plan = Plan::new(sequences.len(), |i| split(&sequences[i]));
        assert_eq!((plan.order, plan.shared), (vec![2, 3, 0, 1], vec![0, 2, 1, 4]));
    }

    proptest! {
        #[test]
        fn computes_each_node_of_the_tree_once(
            sequences in prop::collection::vec(
                (prop::collection::vec(0u32..3, 1..6), prop::collection::vec(0u32..3, 0..4)), 1..30)
        ) {
            let plan = Plan::new(sequences.len(), |i| split(&sequences[i]));
            let whole = |i: usize| [sequences[i].0.clone(), sequences[i].1.clone()].concat();
            let nodes: BTreeSet<Vec<u32>> =
                (0..sequences.len()).flat_map(|i| (1..=whole(i).len()).map(move |n| (i, n))).map(|(i, n)| whole(i)[..n].to_vec()).collect();
            let computed: usize = (0..plan.len())
                .map(|place| whole(plan.sequence(place)).len() - plan.shared(place))
                .sum();
            prop_assert_eq!(computed, nodes.len());
            for place in 0..plan.len() {
                let own = whole(plan.sequence(place));
                for (later, common) in plan.sharing(place, 1) {
                    let other = whole(plan.sequence(later));
                    prop_assert_eq!(&own[..common], &other[..common]);
                    prop_assert!(own.get(common).is_none() || own.get(common) != other.get(common));
                }
            }
        }

        #[test]
        fn ranges_read_across_the_parts(head in prop::collection::vec(0u32..9, 0..5), tail in prop::collection::vec(0u32..9, 0..5), from in 0usize..9, len in 0usize..9) {
            let whole = [head.clone(), tail.clone()].concat();
            let tokens = Tokens { head: &head, tail: &tail };
            let from = from.min(whole.len());
            let to = (from + len).min(whole.len());
            prop_assert_eq!(tokens.range(from, to).collect::<Vec<_>>(), whole[from..to].to_vec());
        }
    }
}
