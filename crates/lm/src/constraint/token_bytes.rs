use crate::tokenizer::Tokenizer;

/// What every token writes, as bytes, and which tokens may stand inside of a JSON string.
#[derive(Debug)]
pub(crate) struct TokenBytes {
    /// All bytes, token after token.
    bytes: Vec<u8>,
    /// Where each token's bytes end. Tokens that write nothing (special ones, holes) have none.
    ends: Vec<usize>,
    /// By token: allowed in a string.
    plain: Vec<bool>,
    /// By token: allowed after a backslash.
    escaped: Vec<bool>,
}

impl TokenBytes {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let mut found = Self { bytes: Vec::new(), ends: Vec::new(), plain: Vec::new(), escaped: Vec::new() };
        for id in 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX) {
            let bytes = tokenizer.bytes_of(id).unwrap_or_default();
            found.bytes.extend_from_slice(&bytes);
            found.ends.push(found.bytes.len());
            found.plain.push(in_string(&bytes, false).is_some());
            found.escaped.push(in_string(&bytes, true).is_some());
        }
        found
    }

    /// The bytes of a token; empty where it writes nothing.
    pub(crate) fn of(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let begin = id.checked_sub(1).map_or(0, |before| self.ends.get(before).copied().unwrap_or(0));
        self.ends.get(id).and_then(|end| self.bytes.get(begin..*end)).unwrap_or_default()
    }

    /// Every token that writes something.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..self.ends.len()).filter_map(|id| {
            let id = u32::try_from(id).ok()?;
            let bytes = self.of(id);
            (!bytes.is_empty()).then_some((id, bytes))
        })
    }

    /// By token, whether it may come next in a string, after a backslash or not.
    pub(crate) fn in_string(&self, escaped: bool) -> &[bool] {
        if escaped { &self.escaped } else { &self.plain }
    }

    /// Whether a string ends in a backslash after this token, and whether it was closed by it. `None` for
    /// tokens that may not stand there.
    pub(crate) fn after(&self, id: u32, escaped: bool) -> Option<(bool, bool)> {
        in_string(self.of(id), escaped)
    }
}

/// Walks through a JSON string's characters (RFC 8259, section 7). Escapes of four digits are left out: half
/// a surrogate pair would be no text. A quote may only be the last byte: it closes the string.
fn in_string(bytes: &[u8], mut escaped: bool) -> Option<(bool, bool)> {
    let last = bytes.len().checked_sub(1)?;
    for (index, byte) in bytes.iter().enumerate() {
        match (escaped, *byte) {
            (true, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => escaped = false,
            (true, _) | (false, 0..0x20) => return None,
            (false, b'"') => return (index == last).then_some((false, true)),
            (false, byte) => escaped = byte == b'\\',
        }
    }
    Some((escaped, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quote_closes_and_controls_are_no_text() {
        assert_eq!(in_string(b"abc", false), Some((false, false)));
        assert_eq!(in_string(b".\"", false), Some((false, true)));
        assert_eq!(in_string(b"\",", false), None);
        assert_eq!(in_string(b"\n", false), None);
        assert_eq!(in_string(b"", false), None);
        assert_eq!(in_string(b"a\\", false), Some((true, false)));
        assert_eq!(in_string(b"\"b", true), Some((false, false)));
        assert_eq!(in_string(b"u0041", true), None);
        assert_eq!(in_string("\u{e9}".as_bytes(), false), Some((false, false)));
    }

    proptest! {
        /// What is let through is a JSON string.
        #[test]
        fn strings_are_json(pieces in prop::collection::vec("[a\"\\\\\n\u{1}nu0/ é]{1,4}", 0..12)) {
            let (mut text, mut escaped) = (String::new(), false);
            for piece in &pieces {
                if let Some((now_escaped, closed)) = in_string(piece.as_bytes(), escaped) {
                    text.push_str(if closed { &piece[..piece.len() - 1] } else { piece });
                    escaped = now_escaped;
                    if closed {
                        break;
                    }
                }
            }
            if escaped {
                text.push('\\');
            }
            let document = format!("\"{text}\"");
            prop_assert!(serde_json::from_str::<String>(&document).is_ok(), "{document}");
        }
    }
}
