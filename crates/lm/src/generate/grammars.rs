use evalign_core::AnswerForm;

use crate::constraint::Grammar;
use crate::{GenerateItem, LmError, Tokenizer};

/// Grammars that are kept though nobody is held to them at the moment.
const MOST_KEPT: usize = 64;

/// What items are held to, each compiled once while it is in use.
pub(super) struct Grammars<'a> {
    tokenizer: &'a Tokenizer,
    known: Vec<(AnswerForm, Grammar)>,
}

impl<'a> Grammars<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, known: Vec::new() }
    }

    /// What an item is held to, if anything.
    ///
    /// # Errors
    /// [`LmError::Request`] for what cannot be written.
    pub(super) fn of(&mut self, item: &GenerateItem) -> Result<Option<Grammar>, LmError> {
        let Some(held) = &item.params.form else { return Ok(None) };
        if let Some((_, grammar)) = self.known.iter().find(|(known, _)| known == held) {
            return Ok(Some(grammar.clone()));
        }
        let grammar = Grammar::new(held, self.tokenizer)?;
        if self.known.len() >= MOST_KEPT {
            self.known.retain(|(_, grammar)| grammar.is_in_use());
        }
        self.known.push((held.clone(), grammar.clone()));
        Ok(Some(grammar))
    }
}
