//! Lines that were encoded before are not encoded again.
//!
//! Benchmark prompts repeat themselves: the same description and worked examples stand before thousands
//! of questions, and every question is encoded once for each of its choices. The regular expression of
//! a pre-tokeniser costs microseconds a word, a hash lookup costs nanoseconds a line.
//!
//! A text may be cut between a newline and the next line when no token can reach over the cut and the
//! text before it encodes the same without the rest. For the pipelines of [`super::pre_tokenizer`] that
//! holds after a *single* newline between two visible characters: their patterns let a newline end a
//! piece (`[\r\n]*` after punctuation, `\s*[\r\n]+`) but never start one that goes on with a visible
//! character, look ahead only over white space, and both cut ends are settled by the one character
//! beyond the cut. `/` is excluded since Tekken and GPT-4o patterns continue punctuation with
//! `[\r\n/]*`. Unicode normalisation never joins a newline with anything. The property tests compare
//! with encoding in one piece.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::LmError;

/// What is remembered, at most, counting text and ids. Then everything is forgotten and collected anew,
/// which changes the time an encoding takes and nothing else.
const LARGEST_MEMORY_BYTES: usize = 32 << 20;

#[derive(Default)]
struct Remembered {
    ids_of_line: HashMap<Box<str>, Box<[u32]>>,
    bytes: usize,
}

pub(super) struct LineMemory {
    remembered: Mutex<Remembered>,
}

impl LineMemory {
    pub(super) fn new() -> Self {
        Self { remembered: Mutex::new(Remembered::default()) }
    }

    /// Appends the ids of `text` to `ids`; `encode` is asked for lines not seen before.
    pub(super) fn encode(
        &self,
        text: &str,
        ids: &mut Vec<u32>,
        encode: impl Fn(&str) -> Result<Vec<u32>, LmError>,
    ) -> Result<(), LmError> {
        for line in lines(text) {
            if self.recall(line, ids) {
                continue;
            }
            let fresh = encode(line)?;
            ids.extend_from_slice(&fresh);
            self.remember(line, fresh);
        }
        Ok(())
    }

    fn recall(&self, line: &str, ids: &mut Vec<u32>) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let found = remembered.ids_of_line.get(line);
        if let Some(known) = found {
            ids.extend_from_slice(known);
        }
        found.is_some()
    }

    fn remember(&self, line: &str, ids: Vec<u32>) {
        const ENTRY_BYTES: usize = 64;
        let bytes = line.len() + ids.len() * size_of::<u32>() + ENTRY_BYTES;
        if bytes > LARGEST_MEMORY_BYTES / 4 {
            return;
        }
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.bytes + bytes > LARGEST_MEMORY_BYTES {
            *remembered = Remembered::default();
        }
        if remembered.ids_of_line.insert(line.into(), ids.into()).is_none() {
            remembered.bytes += bytes;
        }
    }
}

/// Cuts a text where cutting does not change its encoding. The pieces put together are the text.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = cuts(rest).next().unwrap_or(rest.len());
        let (line, after) = rest.split_at(cut);
        rest = after;
        Some(line)
    })
}

/// Positions right after a newline where `text` may be cut.
fn cuts(text: &str) -> impl Iterator<Item = usize> {
    text.match_indices('\n')
        .map(|(at, _)| at)
        .filter(|&at| {
            let before = text[..at].chars().next_back();
            let after = text[at + 1..].chars().next();
            before.is_some_and(is_visible) && after.is_some_and(|c| is_visible(c) && c != '/')
        })
        .map(|at| at + 1)
}

/// Certainly not white space, under any version of Unicode.
fn is_visible(c: char) -> bool {
    c.is_ascii_graphic() || c.is_alphanumeric()
}

/// No added token can contain a cut or reach over one.
pub(super) fn survives_added_tokens(tokenizer: &tokenizers::Tokenizer) -> bool {
    tokenizer
        .get_added_tokens_decoder()
        .values()
        .all(|token| !token.lstrip && !token.rstrip && !token.content.contains('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_only_after_single_newlines_between_visible_characters() {
        let text = "a\nb\n\nc\r\nd\n e.\nf!\n/g\né\n";
        assert_eq!(lines(text).collect::<Vec<_>>(), ["a\n", "b\n\nc\r\nd\n e.\n", "f!\n/g\n", "é\n"]);
        assert_eq!(lines("").count(), 0);
        assert_eq!(lines("\na").collect::<Vec<_>>(), ["\na"]);
    }

    #[test]
    fn a_line_is_encoded_once_and_memory_is_bounded() {
        let memory = LineMemory::new();
        let calls = std::cell::Cell::new(0);
        let encode = |line: &str| {
            calls.set(calls.get() + 1);
            Ok(vec![u32::try_from(line.len()).unwrap()])
        };
        for _ in 0..3 {
            let mut ids = vec![7];
            memory.encode("one\nthree\none\n", &mut ids, encode).unwrap();
            assert_eq!(ids, [7, 4, 6, 4]);
        }
        assert_eq!(calls.get(), 2);
        for i in 0..100_000 {
            memory.encode(&format!("{i:01000}"), &mut Vec::new(), encode).unwrap();
        }
        assert!(memory.remembered.lock().unwrap().bytes <= LARGEST_MEMORY_BYTES);
    }
}
