//! The two sides of a generation: where items come from, and who hears what becomes of them.

use std::ops::ControlFlow;

use evalign_core::{Seconds, TokenLogprob};

use crate::request::Event;
use crate::{GenerateItem, GenerateOutput, LmError};

/// What was written of a text since the last piece: whole characters, and nothing that may turn out to be part
/// of a stop string. Put together, the pieces of an item are its text, and their log-probabilities those of its
/// tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    pub text: String,
    /// Of tokens whose text is shown; empty where none are asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// The caller's side of [`crate::LanguageModel::generate_fed`]. Everything is called between two steps, on the
/// thread that computes.
pub trait Feed {
    /// Items that came since the last call. They are numbered in the order in which they come, over all calls
    /// and from 0.
    fn arrivals(&mut self) -> Vec<GenerateItem>;

    /// Whether anybody waits for this item's result. One that is not wanted is not computed any further, and
    /// nothing more is said of it.
    fn is_wanted(&mut self, item: usize) -> bool;

    /// Whether this item's text is told as it is written.
    fn is_streamed(&mut self, item: usize) -> bool;

    /// A step is about to be computed in which `sequences` texts are written or begun. `Break` ends the call.
    fn step(&mut self, sequences: usize) -> ControlFlow<()>;

    /// That step is computed, and took so long; what came of it is told next.
    fn computed(&mut self, seconds: Seconds);

    /// More of an item's text.
    fn piece(&mut self, item: usize, piece: Piece);

    /// The item has its result, or the reason why it will never have one; all of its pieces were told.
    /// `Break` ends the call.
    fn done(&mut self, item: usize, result: Result<GenerateOutput, LmError>) -> ControlFlow<()>;
}

/// A fixed set of items, which is all there when the call begins.
pub(super) struct Fixed<'a> {
    pub(super) on_event: &'a mut dyn FnMut(Event<GenerateOutput>) -> ControlFlow<()>,
}

impl Feed for Fixed<'_> {
    fn arrivals(&mut self) -> Vec<GenerateItem> {
        Vec::new()
    }

    fn is_wanted(&mut self, _: usize) -> bool {
        true
    }

    fn is_streamed(&mut self, _: usize) -> bool {
        false
    }

    fn step(&mut self, _: usize) -> ControlFlow<()> {
        (self.on_event)(Event::Step)
    }

    fn computed(&mut self, _: Seconds) {}

    fn piece(&mut self, _: usize, _: Piece) {}

    fn done(&mut self, item: usize, result: Result<GenerateOutput, LmError>) -> ControlFlow<()> {
        (self.on_event)(Event::Done(item, result))
    }
}
