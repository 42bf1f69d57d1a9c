//! Watching a growing text for stop strings.

use evalign_core::FinishReason;

use crate::{LmError, Tokenizer};

/// Decodes tokens as they come, UTF-8 safe, and notices the first stop string.
///
/// Special tokens are kept here, as transformers' stopping criteria keep them: a stop string may be the
/// text of one.
#[derive(Debug)]
pub(crate) struct TextWatch {
    stop: Vec<String>,
    /// End of the text so far: as many bytes as a stop string may straddle.
    tail: String,
    /// Tokens before this one are in `tail` for good; decoding restarts a little earlier because a
    /// token's text may depend on its neighbours.
    settled: usize,
    context: usize,
}

impl TextWatch {
    pub(crate) fn new(stop: &[String]) -> Self {
        let stop = stop.iter().filter(|text| !text.is_empty()).cloned().collect();
        Self { stop, tail: String::new(), settled: 0, context: 0 }
    }

    /// Whether a stop string occurs in the text of `ids`, of which the last was just added.
    pub(crate) fn stops(&mut self, tokenizer: &Tokenizer, ids: &[u32]) -> Result<bool, LmError> {
        if self.stop.is_empty() {
            return Ok(false);
        }
        let before = tokenizer.decode(&ids[self.context..self.settled], false)?;
        let with = tokenizer.decode(&ids[self.context..], false)?;
        let Some(new) = with.strip_prefix(before.as_str()) else { return Ok(false) };
        let text = format!("{}{new}", self.tail);
        let found = self.stop.iter().any(|stop| text.contains(stop.as_str()));
        // An incomplete UTF-8 sequence decodes to U+FFFD: wait for the rest of it.
        if !new.is_empty() && !new.ends_with('\u{fffd}') {
            self.tail = text;
            self.shorten();
            self.context = self.settled;
            self.settled = ids.len();
        }
        Ok(found)
    }

    fn shorten(&mut self) {
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        let mut from = self.tail.len().saturating_sub(longest);
        while !self.tail.is_char_boundary(from) {
            from -= 1;
        }
        self.tail.drain(..from);
    }

    /// The finished text: special tokens skipped, then cut at each stop string in turn, as
    /// lm-evaluation-harness cuts it (`models/utils.py`, `postprocess_generated_text`).
    pub(crate) fn finish(&self, tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, LmError> {
        let mut text = tokenizer.decode(ids, true)?;
        for stop in &self.stop {
            if let Some(at) = text.find(stop.as_str()) {
                text.truncate(at);
            }
        }
        Ok(text)
    }
}

/// Why a sequence ends after its latest token, or `None`.
pub(crate) fn finish_reason(is_stop_id: bool, stop_string: bool, is_last: bool) -> Option<FinishReason> {
    match (is_stop_id || stop_string, is_last) {
        (true, _) => Some(FinishReason::Stop),
        (false, true) => Some(FinishReason::Length),
        (false, false) => None,
    }
}
