use std::rc::Rc;

use evalign_core::ResponseFormat;

use crate::constraint::Grammar;
use crate::{GenerateItem, LmError, Tokenizer};

/// Forms that are kept though nobody is held to them at the moment.
const MOST_KEPT: usize = 64;

/// The forms that items ask for, each compiled once while it is in use.
pub(super) struct Grammars<'a> {
    tokenizer: &'a Tokenizer,
    known: Vec<(ResponseFormat, Rc<Grammar>)>,
}

impl<'a> Grammars<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, known: Vec::new() }
    }

    /// The form that an item is held to, if any.
    ///
    /// # Errors
    /// [`LmError::Request`] for a form that cannot be written.
    pub(super) fn of(&mut self, item: &GenerateItem) -> Result<Option<Rc<Grammar>>, LmError> {
        let Some(format) = &item.params.response_format else { return Ok(None) };
        if let Some((_, grammar)) = self.known.iter().find(|(known, _)| known == format) {
            return Ok(Some(Rc::clone(grammar)));
        }
        let grammar = Rc::new(Grammar::new(format, self.tokenizer)?);
        if self.known.len() >= MOST_KEPT {
            self.known.retain(|(_, grammar)| Rc::strong_count(grammar) > 1);
        }
        self.known.push((format.clone(), Rc::clone(&grammar)));
        Ok(Some(grammar))
    }
}
