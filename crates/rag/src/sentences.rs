//! The statements of a chunk: what an answer quotes.

use std::ops::Range;

/// Sentences, rows of tables, items of lists, and blocks of source code, without the white space around them, in
/// order. Together they hold everything but white space.
pub(crate) fn sentences(text: &str, is_code: bool) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut ends_sentence = false;
    for (at, char) in text.char_indices() {
        let next = at + char.len_utf8();
        let cut = match char {
            '\n' => line_ends_here(text, start, next, is_code) || (ends_sentence && !is_code),
            '。' | '！' | '？' => true,
            _ => char.is_whitespace() && ends_sentence && !is_code && !is_abbreviation(&text[start..at]),
        };
        if cut {
            push(text, start..next, &mut found);
            start = next;
        }
        ends_sentence = matches!(char, '.' | '!' | '?' | '…' | '؟' | '۔')
            || (ends_sentence && matches!(char, '"' | '\'' | ')' | ']' | '”' | '’' | '»' | '*' | '`'));
    }
    push(text, start..text.len(), &mut found);
    found
}

fn push(text: &str, range: Range<usize>, found: &mut Vec<Range<usize>>) {
    let part = &text[range.clone()];
    let start = range.start + part.len() - part.trim_start().len();
    let end = start + part.trim().len();
    if end > start {
        found.push(start..end);
    }
}

/// Prose is wrapped at any word; tables, lists and headings mean their line ends, source code its empty lines.
fn line_ends_here(text: &str, start: usize, next: usize, is_code: bool) -> bool {
    let following = text[next..].split('\n').next().unwrap_or_default().trim_start();
    if following.is_empty() || is_code {
        return following.is_empty();
    }
    let line = text[start..next].trim_start();
    is_structural(following) || line.starts_with(['|', '#'])
}

fn is_structural(line: &str) -> bool {
    let numbered = line.trim_start_matches(|char: char| char.is_ascii_digit());
    line.starts_with(['|', '#', '>'])
        || line.starts_with("- ")
        || line.starts_with("* ")
        || line.starts_with("```")
        || (numbered.len() < line.len() && (numbered.starts_with(". ") || numbered.starts_with(") ")))
}

/// A full stop after one letter, a usual title or the number of an item ends no sentence.
fn is_abbreviation(sentence: &str) -> bool {
    let word = sentence.rsplit(|char: char| char.is_whitespace() || char == '(').next().unwrap_or_default();
    let Some(word) = word.strip_suffix('.') else { return false };
    // The number of an item.
    if !word.is_empty() && word.len() + 1 == sentence.trim().len() && word.bytes().all(|b| b.is_ascii_digit())
    {
        return true;
    }
    let letters = word.chars().filter(|char| char.is_alphabetic()).count();
    matches!(word, "Dr" | "Mr" | "Mrs" | "Ms" | "St" | "No" | "Fig" | "vs" | "etc" | "cf" | "approx" | "ca")
        || (letters == 1 && word.chars().count() == 1)
        || word.contains('.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str, is_code: bool) -> Vec<&str> {
        sentences(text, is_code).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn prose_tables_lists_and_code() {
        assert_eq!(
            of("One two\nthree. Four (of J. Smith, e.g. him)!", false),
            ["One two\nthree.", "Four (of J. Smith, e.g. him)!"]
        );
        assert_eq!(
            of("| a | b |\n| c | d |\n\n- xx. yy\n- z\n1. n", false),
            ["| a | b |", "| c | d |", "- xx.", "yy", "- z", "1. n"]
        );
        assert_eq!(
            of("MAX = 9\n\n/// One. Two.\nfn f() {\n}\n", true),
            ["MAX = 9", "/// One. Two.\nfn f() {\n}"]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_but_space_is_lost(text in "[a-c .!?\n|#ü。-]{0,60}", is_code: bool) {
            let mut end = 0;
            for range in sentences(&text, is_code) {
                prop_assert!(text[end..range.start].trim().is_empty());
                end = range.end;
            }
            prop_assert!(text[end..].trim().is_empty());
        }
    }
}
