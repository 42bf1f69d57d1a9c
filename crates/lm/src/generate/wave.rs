use std::borrow::Cow;

use crate::GenerateItem;
use crate::plan::{Plan, Tokens};
use crate::walk::Walk;

/// Items that came together, and how far their prompts are read. What they share is computed once.
pub(super) struct Wave<'a> {
    items: Cow<'a, [GenerateItem]>,
    /// The number of the first of them.
    first: usize,
    /// Places in `items` of those to be answered; what the plan calls a sequence is a place in here.
    valid: Vec<usize>,
    pub(super) walk: Walk,
}

impl<'a> Wave<'a> {
    pub(super) fn new(items: Cow<'a, [GenerateItem]>, first: usize, valid: Vec<usize>) -> Self {
        let prompt = |sequence: usize| tokens(&items[valid[sequence]]);
        // Every prompt computes its own last token: the row its first new token is drawn from.
        let plan = Plan::new(valid.len(), prompt).keeping_last(|sequence| prompt(sequence).len());
        Self { items, first, valid, walk: Walk::new(plan) }
    }

    /// The item at this place of the walk, and its number.
    pub(super) fn item(&self, place: usize) -> (usize, &GenerateItem) {
        let index = self.valid[self.walk.plan.sequence(place)];
        (self.first + index, &self.items[index])
    }

    /// The walk, with the item at this place.
    pub(super) fn walk_at(&mut self, place: usize) -> (&mut Walk, &GenerateItem) {
        let index = self.valid[self.walk.plan.sequence(place)];
        (&mut self.walk, &self.items[index])
    }
}

/// What the model reads for an item.
pub(super) fn tokens(item: &GenerateItem) -> Tokens<'_> {
    Tokens { head: &item.prompt, tail: &[] }
}
