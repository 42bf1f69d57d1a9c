//! Holding a generation to what its caller can read, token by token: a form of our own ([`ResponseFormat`]) or any JSON
//! Schema ([`AnswerSchema`]).

mod form;
mod schema;
mod token_bytes;

use std::rc::Rc;

use evalign_core::{AnswerForm, TopLogprob};

use crate::{LmError, Tokenizer};
pub(crate) use schema::Vocabulary;
pub(crate) use token_bytes::TokenBytes;

/// What an answer is held to, compiled for one tokeniser.
#[derive(Clone, Debug)]
pub(crate) enum Grammar {
    Form(Rc<form::Grammar>),
    Schema(Rc<schema::Grammar>),
}

impl Grammar {
    /// # Errors
    /// [`LmError::Request`] for what contradicts itself, cannot be compiled, or cannot be written by this tokeniser.
    pub(crate) fn new(held: &AnswerForm, tokenizer: &Tokenizer) -> Result<Self, LmError> {
        Ok(match held {
            AnswerForm::Fields(format) => Self::Form(Rc::new(form::Grammar::new(format, tokenizer)?)),
            AnswerForm::Schema(schema) => {
                Self::Schema(Rc::new(schema::Grammar::new(&schema.schema, tokenizer)?))
            }
        })
    }

    /// Whether anything else holds on to it.
    pub(crate) fn is_in_use(&self) -> bool {
        match self {
            Self::Form(grammar) => Rc::strong_count(grammar) > 1,
            Self::Schema(grammar) => Rc::strong_count(grammar) > 1,
        }
    }
}

/// Where one generation is in what it is held to.
#[derive(Debug)]
pub(crate) enum Constraint {
    Form(form::Written),
    Schema(Box<schema::Written>),
}

impl Constraint {
    pub(crate) fn new(grammar: Grammar) -> Self {
        match grammar {
            Grammar::Form(grammar) => Self::Form(form::Written::new(grammar)),
            Grammar::Schema(grammar) => Self::Schema(Box::new(schema::Written::new(grammar))),
        }
    }

    /// Everything is written.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Form(written) => written.is_done(),
            Self::Schema(written) => written.is_done(),
        }
    }

    /// The tokens that come next without a choice: none where one is to be made.
    pub(crate) fn forced(&mut self, tokenizer: &Tokenizer) -> Result<Vec<u32>, LmError> {
        match self {
            Self::Form(written) => written.forced(tokenizer),
            Self::Schema(_) => Ok(Vec::new()),
        }
    }

    /// Makes every token impossible that is not allowed here. `ends`: the tokens that end an answer.
    pub(crate) fn mask(
        &mut self,
        tokens: &TokenBytes,
        ends: &[u32],
        logits: &mut [f32],
    ) -> Result<(), LmError> {
        match self {
            Self::Form(written) => {
                written.mask(tokens, logits);
                Ok(())
            }
            Self::Schema(written) => written.mask(ends, logits),
        }
    }

    /// Log-probability of each label where one of a form is about to be chosen.
    pub(crate) fn labels(&self, logits: &[f32], log_sum_exp: f64) -> Vec<TopLogprob> {
        match self {
            Self::Form(written) => written.labels(logits, log_sum_exp),
            Self::Schema(_) => Vec::new(),
        }
    }

    /// Takes in the token that was drawn, which ends no answer. What follows from it is in [`Constraint::forced`], after
    /// what is returned.
    pub(crate) fn take(&mut self, tokens: &TokenBytes, id: u32) -> Result<Vec<u32>, LmError> {
        match self {
            Self::Form(written) => written.take(tokens, id),
            Self::Schema(written) => written.take(id).map(|()| Vec::new()),
        }
    }
}
