//! A JSON Schema as a grammar of tokens (llguidance: an Earley parser over lazily built automata).
//!
//! Between values stand `, ` and `: ` and nothing else: a small model that may write spaces as it likes goes on with them
//! for ever. Properties come in the order of the schema.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::{LmError, Tokenizer};

/// What a tokeniser's tokens write, as grammars are compiled against it. The token after the last one stands for the end
/// of an answer: which tokens end one is said with each request.
pub(crate) struct Vocabulary {
    factory: ParserFactory,
    end: u32,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").field("end", &self.end).finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// # Errors
    /// Says why no grammar can be compiled for these tokens.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self, String> {
        let end = u32::try_from(tokenizer.vocab_size()).map_err(|error| error.to_string())?;
        let tokens = tokenizer.token_bytes();
        let mut words: Vec<Vec<u8>> = (0..end).map(|id| tokens.of(id).to_vec()).collect();
        words.push(b"\xff<|end of the answer|>".to_vec());
        let made = catch_unwind(AssertUnwindSafe(|| {
            let trie = TokTrie::from(&TokRxInfo::new(end + 1, end), &words);
            let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            let slices = SlicedBiasComputer::json_slices();
            let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices)?;
            factory.quiet();
            Ok(factory)
        }));
        made.map(|factory| Self { factory, end }).map_err(|error| first_line(&error))
    }
}

/// A schema that is compiled and of which nothing is written.
pub(crate) struct Grammar {
    start: Matcher,
    end: u32,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").field("end", &self.end).finish_non_exhaustive()
    }
}

impl Grammar {
    /// # Errors
    /// [`LmError::Request`] for a schema that says nothing, contradicts itself, or says what no grammar can.
    pub(super) fn new(schema: &Value, tokenizer: &Tokenizer) -> Result<Self, LmError> {
        let refused = |why: &str| LmError::Request(format!("the JSON Schema cannot be held to: {why}"));
        let mut schema = schema.clone();
        let fields = schema.as_object_mut().ok_or_else(|| refused("it is no object"))?;
        let spacing = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
        fields.insert("x-guidance".to_owned(), spacing);
        let vocabulary = tokenizer.grammar_vocabulary().map_err(refused)?;
        let parser = catch_unwind(AssertUnwindSafe(|| {
            vocabulary.factory.create_parser(TopLevelGrammar::from_json_schema(schema))
        }));
        let parser = parser.map_err(|error| refused(&first_line(&error)))?;
        Ok(Self { start: Matcher::new(Ok(parser)), end: vocabulary.end })
    }
}

/// The library's errors carry a trace after their first line where it met a fault of its own.
fn first_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// What one generation has written of its document.
pub(crate) struct Written {
    matcher: Matcher,
    end: u32,
    /// Kept: it holds the grammar in the list of those that are in use.
    _grammar: Rc<Grammar>,
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Written").field("done", &self.is_done()).finish_non_exhaustive()
    }
}

impl Written {
    pub(super) fn new(grammar: Rc<Grammar>) -> Self {
        Self { matcher: grammar.start.deep_clone(), end: grammar.end, _grammar: grammar }
    }

    /// The document is whole and nothing could be added to it.
    pub(super) fn is_done(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    pub(super) fn mask(&mut self, ends: &[u32], logits: &mut [f32]) -> Result<(), LmError> {
        let allowed = self.matcher.compute_mask().map_err(failed)?;
        let may_end = allowed.is_allowed(self.end);
        for (id, logit) in logits.iter_mut().enumerate() {
            let is_allowed = match ends.iter().any(|end| *end as usize == id) {
                // Whatever else it writes: it would end the answer in the middle.
                true => may_end,
                // Rows of the output layer may be more than the tokens that there are.
                false => id < self.end as usize && allowed.get(id),
            };
            if !is_allowed {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    pub(super) fn take(&mut self, id: u32) -> Result<(), LmError> {
        self.matcher.consume_token(id).map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> LmError {
    LmError::Request(format!("no token goes on with the JSON Schema: {}", first_line(&error)))
}
