//! What tokens write, byte for byte: text of an exact form is put together from them.

use evalign_core::{TokenLogprob, TopLogprob};

use super::Tokenizer;
use crate::LmError;
use crate::constraint::{TokenBytes, Vocabulary};

impl Tokenizer {
    /// The bytes of every token, worked out when they are first needed.
    pub(crate) fn token_bytes(&self) -> &TokenBytes {
        self.token_bytes.get_or_init(|| TokenBytes::new(self))
    }

    /// What grammars are compiled against, worked out when the first one is.
    ///
    /// # Errors
    /// Says why there is none for these tokens.
    pub(crate) fn grammar_vocabulary(&self) -> Result<&Vocabulary, &str> {
        self.grammar_vocabulary.get_or_init(|| Vocabulary::new(self)).as_ref().map_err(String::as_str)
    }

    /// The bytes that a token writes; `None` for special tokens, which write nothing, and for holes in the
    /// vocabulary.
    pub(crate) fn bytes_of(&self, id: u32) -> Option<Vec<u8>> {
        if let Some(added) = self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id) {
            return (!added.special).then(|| added.content.clone().into_bytes());
        }
        let spelling = self.inner.id_to_token(id)?;
        if self.is_byte_level() {
            return spelling.chars().map(byte_of).collect();
        }
        // SentencePiece: bytes that are no text are spelled `<0xE2>`, a space is U+2581.
        let hex = spelling.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            return Some(vec![byte]);
        }
        Some(spelling.replace('\u{2581}', " ").into_bytes())
    }

    /// A token as one that has this log-probability.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn with_logprob(&self, id: u32, logprob: f64) -> Result<TokenLogprob, LmError> {
        let (token, bytes) = self.named(id)?;
        Ok(TokenLogprob { bytes, ..TokenLogprob::new(token, logprob) })
    }

    /// Tokens and their log-probabilities, as what could stand at one place.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn alternatives(&self, tokens: &[(u32, f64)]) -> Result<Vec<TopLogprob>, LmError> {
        let named = |(id, logprob): &(u32, f64)| {
            let (token, bytes) = self.named(*id)?;
            Ok(TopLogprob { bytes, ..TopLogprob::new(token, *logprob) })
        };
        tokens.iter().map(named).collect()
    }

    /// What a token writes, as it stands in a text: a word of SentencePiece with the space before it. Its bytes beside it
    /// where they are no text of their own.
    fn named(&self, id: u32) -> Result<(String, Option<Vec<u8>>), LmError> {
        let bytes = self.token_bytes().of(id);
        match std::str::from_utf8(bytes) {
            // Special tokens write nothing, and are named by their spelling.
            Ok("") => Ok((self.decode(&[id], false)?, None)),
            Ok(text) => Ok((text.to_owned(), None)),
            Err(_) => Ok((String::from_utf8_lossy(bytes).into_owned(), Some(bytes.to_vec()))),
        }
    }

    /// Byte-level vocabularies spell the space `Ġ` and the line feed `Ċ`.
    fn is_byte_level(&self) -> bool {
        self.inner.token_to_id("\u{120}").is_some() && self.inner.token_to_id("\u{10a}").is_some()
    }

    /// Tokens that write exactly this text: those the tokeniser itself takes, unless it puts something of its
    /// own around them; then the longest that fit, one after the other.
    ///
    /// # Errors
    /// [`LmError::Request`] where no tokens write it.
    pub(crate) fn fixed_text(&self, text: &str) -> Result<Vec<u32>, LmError> {
        let ids = self.encode(text, false)?;
        let tokens = self.token_bytes();
        let written: Vec<u8> = ids.iter().flat_map(|id| tokens.of(*id)).copied().collect();
        if written == text.as_bytes() {
            return Ok(ids);
        }
        let mut ids = Vec::new();
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let fitting = tokens.all().filter(|(_, bytes)| rest.starts_with(bytes));
            let Some((id, bytes)) = fitting.max_by_key(|(_, bytes)| bytes.len()) else {
                return Err(LmError::Request(format!("no tokens of this model's vocabulary write `{text}`")));
            };
            ids.push(id);
            rest = &rest[bytes.len()..];
        }
        Ok(ids)
    }
}

/// The byte behind a character of a byte-level vocabulary (GPT-2's `bytes_to_unicode`): printable Latin-1
/// stands for itself, the others are numbered from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let is_own = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        code @ 0..0x100 => u8::try_from(code).ok().filter(|byte| is_own(*byte)),
        code => (0..=255u8).filter(|byte| !is_own(*byte)).nth(usize::try_from(code - 0x100).ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::byte_of;

    #[test]
    fn characters_stand_for_the_bytes_of_gpt2() {
        assert_eq!(byte_of('A'), Some(b'A'));
        assert_eq!(byte_of('\u{120}'), Some(b' '));
        assert_eq!(byte_of('\u{10a}'), Some(b'\n'));
        assert_eq!(byte_of('\u{143}'), Some(0xad));
        assert_eq!(byte_of('\u{144}'), None);
        assert_eq!(byte_of(' '), None);
        let all: std::collections::BTreeSet<u8> =
            (0..0x144).filter_map(char::from_u32).filter_map(byte_of).collect();
        assert_eq!(all.len(), 256);
    }
}
