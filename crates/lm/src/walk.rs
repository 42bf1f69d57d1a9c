//! Walking a plan: which tokens come next, and which nodes they share.

use std::ops::Range;
use std::rc::Rc;

use crate::LmError;
use crate::backend::{DecoderBackend, KvShape};
use crate::kv::{KvPath, KvStore};
use crate::plan::{Plan, Tokens};
use crate::step::Step;

/// Rows of a full step: enough for efficient matrix products, few enough that activations stay small
/// and results come every second.
pub(crate) const STEP_ROWS: usize = 512;

/// Tokens of one sequence that went into a step together.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) place: usize,
    /// Positions in the sequence.
    pub(crate) positions: Range<usize>,
    /// Positions before this one were computed before, for this or an earlier sequence.
    pub(crate) new_from: usize,
    /// Row of the first of them in the step.
    pub(crate) first_row: usize,
}

/// Where a depth-first walk stands: the path of the sequence at `place`, computed (or in the pending
/// step) as far as `path.len()`.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) plan: Plan,
    place: usize,
    entered: bool,
    path: KvPath,
    /// Positions at which later sequences leave this one, ascending: nodes end there, so that every
    /// branch shares whole nodes.
    cuts: Vec<usize>,
    /// Positions of the entered sequence below this were in some step.
    seen: usize,
    forgot: bool,
}

impl Walk {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan,
            place: 0,
            entered: false,
            path: KvPath::default(),
            cuts: Vec::new(),
            seen: 0,
            forgot: false,
        }
    }

    /// The sequence to continue with, or `None` at the end. Entering a sequence drops the nodes that no
    /// later one shares.
    pub(crate) fn enter(&mut self) -> Option<usize> {
        if self.place >= self.plan.len() {
            return None;
        }
        if !self.entered {
            self.entered = true;
            self.path.truncate(self.plan.shared(self.place));
            self.cuts.clear();
            let branches = self.plan.sharing(self.place, self.path.len()).map(|(_, common)| common);
            self.cuts.extend(branches);
            self.cuts.dedup();
            self.cuts.reverse();
            self.seen = self.plan.shared(self.place);
            self.forgot = false;
        }
        Some(self.place)
    }

    pub(crate) fn path(&self) -> &KvPath {
        &self.path
    }

    /// Nodes that the rest of the entered sequence will need at most.
    pub(crate) fn nodes_left(&self) -> usize {
        self.cuts.len() - self.cuts.partition_point(|cut| *cut <= self.path.len()) + 1
    }

    /// Starts the entered sequence over, in as few nodes as possible: branches cost memory, and when a
    /// sequence does not fit with them it may fit without. `false` when that was tried already.
    pub(crate) fn start_over(&mut self) -> bool {
        self.path.truncate(0);
        self.cuts.clear();
        !std::mem::replace(&mut self.forgot, true)
    }

    /// Gives up what is kept for the sequences to come: it will be computed again. `false` where nothing is kept.
    /// Not while a sequence is read.
    pub(crate) fn forget(&mut self) -> bool {
        let keeps = self.path.len() > 0;
        self.path.truncate(0);
        self.entered = false;
        keeps
    }

    /// Leaves the entered sequence for the next one.
    pub(crate) fn leave(&mut self) {
        self.place += 1;
        self.entered = false;
    }

    /// Puts as much of the rest of the entered sequence into the step as one node, the step's rows and
    /// the budget allow. `None` when nothing fits now.
    ///
    /// # Errors
    /// When the backend cannot allocate.
    pub(crate) fn advance<B: DecoderBackend>(
        &mut self,
        backend: &B,
        shape: KvShape,
        store: &mut KvStore<B::Kv>,
        tokens: Tokens<'_>,
        step: &mut Step,
        most_rows: usize,
    ) -> Result<Option<Piece>, LmError> {
        let start = self.path.len();
        let next_cut = self.cuts.iter().copied().find(|cut| *cut > start).unwrap_or(usize::MAX);
        let wanted = tokens.len().min(next_cut) - start;
        let wanted = wanted.min(most_rows.saturating_sub(step.rows()));
        let length = fitting(wanted, store.free_bytes(), |tokens| backend.kv_bytes(shape, tokens));
        if length == 0 {
            return Ok(None);
        }
        let node = store.add(backend.new_kv(shape, length)?, backend.kv_bytes(shape, length));
        self.path.push(Rc::clone(&node), length);
        let positions = start..start + length;
        let first_row = step.push(&self.path, tokens.range(positions.start, positions.end));
        let new_from = self.seen.max(start);
        self.seen = self.seen.max(positions.end);
        Ok(Some(Piece { place: self.place, positions, new_from, first_row }))
    }
}

/// The most tokens, at most `wanted`, whose bytes fit; `bytes` grows with its argument.
fn fitting(wanted: usize, free: u64, bytes: impl Fn(usize) -> u64) -> usize {
    if bytes(wanted) <= free {
        return wanted;
    }
    let (mut fits, mut too_many) = (0, wanted);
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        if bytes(middle) <= free {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_fitting_length_is_found() {
        let bytes = |tokens: usize| 10 * tokens.next_multiple_of(4) as u64;
        assert_eq!(fitting(100, 1000, bytes), 100);
        assert_eq!(fitting(100, 999, bytes), 96);
        assert_eq!(fitting(100, 39, bytes), 0);
        assert_eq!(fitting(0, 0, bytes), 0);
    }
}
