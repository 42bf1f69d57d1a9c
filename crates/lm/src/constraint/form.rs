//! A form ([`ResponseFormat`]), as tokens.
//!
//! What the form fixes is not drawn at all: its tokens are put into the sequence together and computed in
//! one step. Where the model decides, tokens that the form does not allow are masked: inside of a text
//! everything that JSON allows in a string, at a choice only what one of the labels begins with. A text that
//! has used up its tokens is closed. So every generation that is not cut off is a document of the form, and
//! holding to it costs less than writing it freely.

use std::rc::Rc;

use evalign_core::{ResponseFormat, ResponseValue, TopLogprob};

use super::TokenBytes;
use crate::{LmError, Tokenizer};

/// The pieces of a form.
#[derive(Debug)]
pub(crate) struct Grammar {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    /// Text that is always the same.
    Fixed {
        ids: Vec<u32>,
        /// Without the quote it begins with: a text before it may have brought that along.
        without_quote: Vec<u32>,
    },
    Text {
        most_tokens: u32,
    },
    Choice {
        labels: Vec<String>,
        deciding: Vec<Deciding>,
    },
}

/// A token that decides for a label, and what is left of the label after it.
#[derive(Debug)]
struct Deciding {
    id: u32,
    label: usize,
    rest: Vec<u32>,
}

impl Grammar {
    /// # Errors
    /// [`LmError::Request`] for a form that contradicts itself, or that this tokeniser cannot write.
    pub(super) fn new(format: &ResponseFormat, tokenizer: &Tokenizer) -> Result<Self, LmError> {
        format.check().map_err(LmError::Request)?;
        let fixed = |text: &str| {
            let ids = tokenizer.fixed_text(text)?;
            let without_quote = tokenizer.fixed_text(text.strip_prefix('"').unwrap_or(text))?;
            Ok::<_, LmError>(Piece::Fixed { ids, without_quote })
        };
        let mut pieces = Vec::with_capacity(format.fields.len() * 2 + 1);
        for (index, field) in format.fields.iter().enumerate() {
            pieces.push(fixed(&format.text_before(index))?);
            pieces.push(match &field.value {
                ResponseValue::Text { max_tokens } => Piece::Text { most_tokens: *max_tokens },
                ResponseValue::OneOf(labels) => choice(labels, tokenizer)?,
            });
        }
        pieces.push(fixed(ResponseFormat::END)?);
        Ok(Self { pieces })
    }
}

fn choice(labels: &[String], tokenizer: &Tokenizer) -> Result<Piece, LmError> {
    let mut deciding = Vec::new();
    for (id, bytes) in tokenizer.token_bytes().all() {
        // Labels differ in their first byte: at most one begins like this.
        let label = labels.iter().position(|label| label.as_bytes().starts_with(bytes));
        if let Some(label) = label {
            let rest = labels[label].get(bytes.len()..).unwrap_or_default();
            deciding.push(Deciding { id, label, rest: tokenizer.fixed_text(rest)? });
        }
    }
    match labels.iter().enumerate().find(|(i, _)| !deciding.iter().any(|token| token.label == *i)) {
        Some((_, label)) => {
            Err(LmError::Request(format!("no token of this model's vocabulary begins the label `{label}`")))
        }
        None => Ok(Piece::Choice { labels: labels.to_vec(), deciding }),
    }
}

/// Where one generation is in its form.
#[derive(Debug)]
pub(crate) struct Written {
    grammar: Rc<Grammar>,
    /// The piece that comes next or is being written.
    piece: usize,
    /// Tokens written into the text that is being written.
    written: u32,
    /// The text's last character was a backslash.
    escaped: bool,
    /// The text's last token was its closing quote, too.
    closed: bool,
}

impl Written {
    pub(super) fn new(grammar: Rc<Grammar>) -> Self {
        Self { grammar, piece: 0, written: 0, escaped: false, closed: false }
    }

    /// All of the form is written.
    pub(super) fn is_done(&self) -> bool {
        self.piece >= self.grammar.pieces.len()
    }

    /// The tokens that come next without a choice: none where one is to be made.
    pub(super) fn forced(&mut self, tokenizer: &Tokenizer) -> Result<Vec<u32>, LmError> {
        let mut forced = Vec::new();
        while let Some(piece) = self.grammar.pieces.get(self.piece) {
            match piece {
                Piece::Fixed { without_quote, .. } if self.closed => forced.extend_from_slice(without_quote),
                Piece::Fixed { ids, .. } => forced.extend_from_slice(ids),
                Piece::Text { most_tokens } if self.closed || self.written >= *most_tokens => {
                    if self.escaped {
                        forced.extend(tokenizer.fixed_text("\\")?);
                    }
                    self.piece += 1;
                    (self.written, self.escaped) = (0, false);
                    continue;
                }
                Piece::Text { .. } | Piece::Choice { .. } => break,
            }
            self.closed = false;
            self.piece += 1;
        }
        Ok(forced)
    }

    /// Makes every token impossible that the form does not allow here.
    pub(super) fn mask(&self, tokens: &TokenBytes, logits: &mut [f32]) {
        match self.grammar.pieces.get(self.piece) {
            Some(Piece::Text { .. }) => {
                let allowed = tokens.in_string(self.escaped);
                for (logit, allowed) in logits.iter_mut().zip(allowed.iter().chain(std::iter::repeat(&false)))
                {
                    *logit = if *allowed { *logit } else { f32::NEG_INFINITY };
                }
            }
            Some(Piece::Choice { deciding, .. }) => {
                let kept: Vec<_> =
                    deciding.iter().map(|token| logits.get(token.id as usize).copied()).collect();
                logits.fill(f32::NEG_INFINITY);
                for (token, kept) in deciding.iter().zip(kept) {
                    if let (Some(logit), Some(kept)) = (logits.get_mut(token.id as usize), kept) {
                        *logit = kept;
                    }
                }
            }
            Some(Piece::Fixed { .. }) | None => {}
        }
    }

    /// Log-probability of each label where one is about to be chosen, from the unmasked logits and their
    /// log-sum-exp: that of all tokens together that decide for it. Labels of no probability are left out.
    pub(super) fn labels(&self, logits: &[f32], log_sum_exp: f64) -> Vec<TopLogprob> {
        let Some(Piece::Choice { labels, deciding }) = self.grammar.pieces.get(self.piece) else {
            return Vec::new();
        };
        let mut mass = vec![0.0_f64; labels.len()];
        for token in deciding {
            let logit = logits.get(token.id as usize).copied().unwrap_or(f32::NEG_INFINITY);
            mass[token.label] += (f64::from(logit) - log_sum_exp).exp();
        }
        let named = labels.iter().zip(mass).filter(|(_, mass)| *mass > 0.0);
        named.map(|(label, mass)| TopLogprob::new(label.clone(), mass.ln())).collect()
    }

    /// Takes in the token that was drawn. What follows from it is in [`Written::forced`], after what is
    /// returned: the rest of the label it decided for.
    pub(super) fn take(&mut self, tokens: &TokenBytes, id: u32) -> Result<Vec<u32>, LmError> {
        let refused =
            || LmError::Request("no token of the vocabulary goes on with the response format".to_owned());
        match self.grammar.pieces.get(self.piece) {
            Some(Piece::Text { .. }) => {
                let (escaped, closed) = tokens.after(id, self.escaped).ok_or_else(refused)?;
                self.written += 1;
                (self.escaped, self.closed) = (escaped, closed);
                Ok(Vec::new())
            }
            Some(Piece::Choice { deciding, .. }) => {
                let token = deciding.iter().find(|token| token.id == id).ok_or_else(refused)?;
                let rest = token.rest.clone();
                self.piece += 1;
                Ok(rest)
            }
            Some(Piece::Fixed { .. }) | None => Err(refused()),
        }
    }
}
