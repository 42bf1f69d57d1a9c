//! `str` methods whose results differ from Rust's.

/// `str.isspace` for one character: Unicode white space, and the four separators U+001C to U+001F that
/// Rust does not count.
#[must_use]
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
#[must_use]
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.lstrip()`.
#[must_use]
pub fn lstrip(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

/// `str.rstrip()`.
#[must_use]
pub fn rstrip(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `str.split()` without arguments.
pub fn split_whitespace(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|part| !part.is_empty())
}

/// `str.lower()`: full Unicode mapping with the final-sigma rule, which Rust's `to_lowercase` shares.
#[must_use]
pub fn lower(text: &str) -> String {
    text.to_lowercase()
}

/// Not empty and ASCII digits only. (`str.isdigit` also accepts digits of other scripts, which the
/// reference then fails to read as a number.)
#[must_use]
pub fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Removes the characters of `string.punctuation`, which is ASCII only.
#[must_use]
pub fn strip_punctuation(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_punctuation()).collect()
}

/// `str.capitalize()`: the first character in title case (`ß` becomes `Ss`, `ǆ` becomes `ǅ`), all others
/// in lower case. Whether a sigma is final is decided in the whole original text.
#[must_use]
pub fn capitalize(text: &str) -> String {
    let Some(first) = text.chars().next() else {
        return String::new();
    };
    let lowered = text.to_lowercase();
    let first_lowered: usize = first.to_lowercase().map(char::len_utf8).sum();
    let mut out = titlecase(first);
    // The first character has no cased letter before it, so a sigma there is never final and its
    // lower case is the context-free one.
    out.push_str(lowered.get(first_lowered..).unwrap_or_default());
    out
}

/// Full title-case mapping of one character: upper case, except where Unicode's `Titlecase_Mapping`
/// differs (digraphs, Georgian, Greek with iota below, and letters that expand).
fn titlecase(c: char) -> String {
    let shifted = |by: i32| char::from_u32((c as i32 + by) as u32).unwrap_or(c).to_string();
    let text = match c {
        'ß' => "Ss",
        '\u{1c4}' | '\u{1c5}' | '\u{1c6}' => "\u{1c5}",
        '\u{1c7}' | '\u{1c8}' | '\u{1c9}' => "\u{1c8}",
        '\u{1ca}' | '\u{1cb}' | '\u{1cc}' => "\u{1cb}",
        '\u{1f1}' | '\u{1f2}' | '\u{1f3}' => "\u{1f2}",
        '\u{587}' => "\u{535}\u{582}",
        '\u{10d0}'..='\u{10fa}'
        | '\u{10fd}'..='\u{10ff}'
        | '\u{1f88}'..='\u{1f8f}'
        | '\u{1f98}'..='\u{1f9f}'
        | '\u{1fa8}'..='\u{1faf}'
        | '\u{1fbc}'
        | '\u{1fcc}'
        | '\u{1ffc}' => return c.to_string(),
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => return shifted(8),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => return shifted(9),
        '\u{1fb2}' => "\u{1fba}\u{345}",
        '\u{1fb4}' => "\u{386}\u{345}",
        '\u{1fb7}' => "\u{391}\u{342}\u{345}",
        '\u{1fc2}' => "\u{1fca}\u{345}",
        '\u{1fc4}' => "\u{389}\u{345}",
        '\u{1fc7}' => "\u{397}\u{342}\u{345}",
        '\u{1ff2}' => "\u{1ffa}\u{345}",
        '\u{1ff4}' => "\u{38f}\u{345}",
        '\u{1ff7}' => "\u{3a9}\u{342}\u{345}",
        '\u{fb00}' => "Ff",
        '\u{fb01}' => "Fi",
        '\u{fb02}' => "Fl",
        '\u{fb03}' => "Ffi",
        '\u{fb04}' => "Ffl",
        '\u{fb05}' | '\u{fb06}' => "St",
        '\u{fb13}' => "\u{544}\u{576}",
        '\u{fb14}' => "\u{544}\u{565}",
        '\u{fb15}' => "\u{544}\u{56b}",
        '\u{fb16}' => "\u{54e}\u{576}",
        '\u{fb17}' => "\u{544}\u{56d}",
        _ => return c.to_uppercase().collect(),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `s.capitalize()`, CPython 3.11.
    #[test]
    fn capitalize_as_python() {
        for (text, expected) in [
            ("", ""),
            ("iPhone IS", "Iphone is"),
            ("ßA", "Ssa"),
            ("ǆX", "ǅx"),
            ("ﬁN", "Fin"),
            ("ŉA", "ʼNa"),
            ("ΑΣ", "Ας"),
            ("ΣΑΣ ΣΑ", "Σας σα"),
            ("Σ", "Σ"),
            ("ΑΣ.", "Ας."),
            ("AΣ'B", "Aσ'b"),
            ("ᾳΒ", "ᾼβ"),
            ("ა", "ა"),
            ("İZ", "İz"),
            ("a\u{307}Σ", "A\u{307}ς"),
            (" He", " he"),
        ] {
            assert_eq!(capitalize(text), expected, "{text:?}");
        }
    }

    #[test]
    fn strip_takes_the_information_separators() {
        assert_eq!(strip("\u{1c}\u{1f} \u{a0}a b\u{85}\u{2028}"), "a b");
        assert_eq!(strip("\u{200b}a"), "\u{200b}a");
        assert_eq!(split_whitespace(" a\u{1d}b ").collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn punctuation_is_ascii() {
        assert_eq!(strip_punctuation("(A). it's \u{2019}x_y$"), "A its \u{2019}xy");
    }
}
