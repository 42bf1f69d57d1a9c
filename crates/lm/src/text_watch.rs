//! Watching a growing text for stop strings.

use evalign_core::FinishReason;

use crate::{LmError, Tokenizer};

/// Of a character in UTF-8, in bytes: an incomplete one has at most so many tokens.
const LONGEST_CHARACTER: usize = 4;

/// Decodes tokens as they come and notices the first stop string.
///
/// Special tokens are kept here, as transformers' stopping criteria keep them: a stop string may be the
/// text of one.
#[derive(Debug)]
pub(crate) struct TextWatch {
    stop: Vec<String>,
    /// End of the text so far: as many bytes as a stop string may straddle.
    tail: String,
    growth: Growth,
}

/// The text of tokens as they come, UTF-8 safe.
#[derive(Debug)]
struct Growth {
    skip_special: bool,
    /// The text of tokens before this one is known for good; decoding restarts a little earlier because a
    /// token's text may depend on its neighbours.
    settled: usize,
    context: usize,
}

impl Growth {
    fn new(skip_special: bool) -> Self {
        Self { skip_special, settled: 0, context: 0 }
    }

    /// What `ids` write beyond what was settled: what of it is settled now, and what is not. An incomplete UTF-8
    /// sequence decodes to U+FFFD, and waits for the rest of it, but not for longer than a character is. What is
    /// settled stays so, also where a tokenizer reads bytes together and one that is missing spoils the whole
    /// characters before it.
    fn next(&mut self, tokenizer: &Tokenizer, ids: &[u32]) -> Result<(String, String), LmError> {
        let text = |from: usize, end: usize| tokenizer.decode(&ids[from..end], self.skip_special);
        let before = text(self.context, self.settled)?;
        let beyond = |end: usize| match text(self.context, end)?.strip_prefix(&before) {
            Some(new) => Ok(new.to_owned()),
            None => text(self.settled, end),
        };
        let mut new = beyond(ids.len())?;
        let (mut known, mut settled) = (new.len(), ids.len());
        if new.ends_with('\u{fffd}') {
            (known, settled) = (0, ids.len().saturating_sub(LONGEST_CHARACTER));
            if settled > self.settled + LONGEST_CHARACTER {
                let first = beyond(settled)?;
                known = if new.starts_with(&first) { first.len() } else { 0 };
            }
        }
        if known > 0 {
            self.context = self.settled;
            self.settled = settled;
        }
        let open = new.split_off(known);
        Ok((new, open))
    }
}

impl TextWatch {
    pub(crate) fn new(stop: &[String]) -> Self {
        let stop = stop.iter().filter(|text| !text.is_empty()).cloned().collect();
        Self { stop, tail: String::new(), growth: Growth::new(false) }
    }

    /// Whether a stop string occurs in the text of `ids`, of which the last was just added.
    pub(crate) fn stops(&mut self, tokenizer: &Tokenizer, ids: &[u32]) -> Result<bool, LmError> {
        if self.stop.is_empty() {
            return Ok(false);
        }
        let (known, open) = self.growth.next(tokenizer, ids)?;
        self.tail.push_str(&known);
        let text = format!("{}{open}", self.tail);
        self.shorten();
        Ok(self.stop.iter().any(|stop| text.contains(stop.as_str())))
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
        cut(&mut text, &self.stop);
        Ok(text)
    }
}

fn cut(text: &mut String, stop: &[String]) {
    for stop in stop {
        if let Some(at) = text.find(stop.as_str()) {
            text.truncate(at);
        }
    }
}

/// What of a growing text may be shown: whole characters, and nothing that may turn out to be part of a stop
/// string. Special tokens are skipped, as in the finished text.
#[derive(Debug)]
pub(crate) struct Showing {
    stop: Vec<String>,
    growth: Growth,
    /// All that may be shown.
    free: String,
    /// Bytes of `free` that were taken.
    taken: usize,
    /// What comes after it, held back.
    held: String,
}

impl Showing {
    pub(crate) fn new(stop: &[String]) -> Self {
        let stop = stop.iter().filter(|text| !text.is_empty()).cloned().collect();
        Self { stop, growth: Growth::new(true), free: String::new(), taken: 0, held: String::new() }
    }

    /// Takes in the text of `ids`, of which the last was just added.
    pub(crate) fn add(&mut self, tokenizer: &Tokenizer, ids: &[u32]) -> Result<(), LmError> {
        let (known, _) = self.growth.next(tokenizer, ids)?;
        self.push(&known);
        Ok(())
    }

    fn push(&mut self, new: &str) {
        self.held.push_str(new);
        let may_stop = |rest: &str| {
            self.stop.iter().any(|stop| stop.starts_with(rest) || rest.starts_with(stop.as_str()))
        };
        let from = self.held.char_indices().map(|(at, _)| at).find(|at| may_stop(&self.held[*at..]));
        let rest = self.held.split_off(from.unwrap_or(self.held.len()));
        self.free.push_str(&self.held);
        self.held = rest;
    }

    /// What may be shown and was not taken yet.
    pub(crate) fn take(&mut self) -> Option<String> {
        let new = self.free.get(self.taken..).filter(|new| !new.is_empty())?.to_owned();
        self.taken = self.free.len();
        Some(new)
    }

    /// Whether the text of so many tokens may be shown in full.
    pub(crate) fn has_shown(&self, tokens: usize) -> bool {
        self.held.is_empty() && self.growth.settled == tokens
    }

    /// What of the finished text was not taken. `None` where it does not begin with what was taken.
    fn rest_of(&self, text: &str) -> Option<String> {
        Some(text.strip_prefix(self.free.get(..self.taken)?)?.to_owned())
    }

    /// What `ids` write that was not taken, and with it the finished text. That is `text`, unless the tokens write
    /// something else together than one after the other: what was taken stays the beginning.
    pub(crate) fn finish(
        mut self,
        tokenizer: &Tokenizer,
        ids: &[u32],
        text: String,
    ) -> Result<(String, String), LmError> {
        if let Some(rest) = self.rest_of(&text) {
            return Ok((rest, text));
        }
        let (known, open) = self.growth.next(tokenizer, ids)?;
        let mut rest = self.free.split_off(self.taken) + &self.held + &known + &open;
        cut(&mut rest, &self.stop);
        let text = self.free + &rest;
        Ok((rest, text))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the pieces: what is shown is a beginning of the text before its first stop string, and
        /// nothing is held back that no stop string begins with.
        #[test]
        fn nothing_of_a_stop_string_is_shown(
            pieces in prop::collection::vec("[abü]{0,3}", 0..12),
            stop in prop::collection::vec("[abü]{1,4}", 0..3),
        ) {
            let mut showing = Showing::new(&stop);
            let (mut text, mut shown) = (String::new(), String::new());
            for piece in &pieces {
                showing.push(piece);
                text.push_str(piece);
                shown.extend(showing.take());
                let end = stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
                prop_assert!(text[..end.unwrap_or(text.len())].starts_with(&shown));
                let held = &text[shown.len()..];
                let may_stop = stop.iter().any(|stop| stop.starts_with(held) || held.starts_with(stop.as_str()));
                prop_assert!(held.is_empty() || may_stop, "{held:?} is held back for nothing");
            }
            prop_assert_eq!(format!("{shown}{}", showing.rest_of(&text).unwrap()), text);
        }
    }

    /// One whose tokens are two letters and the four bytes of an emoji.
    fn byte_fallback() -> Tokenizer {
        let tokens = ["<unk>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "a", "b"];
        let vocab: serde_json::Map<String, serde_json::Value> =
            tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into())).collect();
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null,
            "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" }] },
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" }
        });
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tokenizer.json");
        fs_err::write(&file, tokenizer.to_string()).unwrap();
        Tokenizer::from_file(&file).unwrap()
    }

    /// The pieces in which a text is shown, the last one being its rest, and the finished text.
    fn streamed(tokenizer: &Tokenizer, ids: &[u32], stop: &[String]) -> (Vec<String>, String) {
        let mut showing = Showing::new(stop);
        let mut pieces = Vec::new();
        for end in 1..ids.len() {
            showing.add(tokenizer, &ids[..end]).unwrap();
            pieces.extend(showing.take());
        }
        let text = TextWatch::new(stop).finish(tokenizer, ids).unwrap();
        let (rest, text) = showing.finish(tokenizer, ids, text).unwrap();
        pieces.push(rest);
        (pieces, text)
    }

    const EMOJI: [u32; 4] = [1, 2, 3, 4];

    #[test]
    fn a_character_that_was_cut_off_spoils_nothing_that_was_shown() {
        let tokenizer = byte_fallback();
        let cut_off = [&EMOJI[..], &EMOJI[..2]].concat();
        let spoilt = "\u{fffd}".repeat(6);
        assert_eq!(tokenizer.decode(&cut_off, true).unwrap(), spoilt, "bytes are read together");
        let (pieces, text) = streamed(&tokenizer, &cut_off, &[]);
        assert_eq!(pieces, ["😀", "\u{fffd}\u{fffd}"]);
        assert_eq!(text, pieces.concat());
        // What follows is shown while it is written, and still ends before a stop string.
        let goes_on = [&cut_off[..], &[5, 6, 5, 5, 5][..]].concat();
        let (pieces, text) = streamed(&tokenizer, &goes_on, &["aa".to_owned()]);
        assert_eq!(text, "😀\u{fffd}\u{fffd}ab");
        assert_eq!((pieces.concat(), pieces[0].as_str()), (text, "😀"));
        assert!(pieces.len() > 2, "{pieces:?}");
    }

    /// Or each of them would be decoded again with every one that follows.
    #[test]
    fn bytes_that_never_become_a_character_are_shown() {
        let tokenizer = byte_fallback();
        let mut showing = Showing::new(&[]);
        for end in 1..=100 {
            showing.add(&tokenizer, &[1; 100][..end]).unwrap();
            assert!(showing.growth.settled + 2 * LONGEST_CHARACTER >= end, "{showing:?}");
        }
        let shown = showing.take().unwrap();
        assert_eq!(shown, "\u{fffd}".repeat(showing.growth.settled));
    }

    proptest! {
        /// Whatever tokens come: the pieces are the finished text, which is that of all tokens together unless
        /// something else had been shown already.
        #[test]
        fn pieces_are_the_text(ids in prop::collection::vec(1..7u32, 1..24), emojis in any::<bool>()) {
            let tokenizer = byte_fallback();
            let ids = if emojis { ids.iter().flat_map(|id| EMOJI[..*id as usize % 5].to_vec()).collect() } else { ids };
            let (pieces, text) = streamed(&tokenizer, &ids, &[]);
            prop_assert_eq!(pieces.concat(), text.as_str());
            let together = tokenizer.decode(&ids, true).unwrap();
            prop_assert!(text == together || together.contains('\u{fffd}'), "{text:?}, not {together:?}");
        }
    }
}
