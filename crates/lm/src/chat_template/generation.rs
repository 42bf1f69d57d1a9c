//! `{% generation %}` and `{% endgeneration %}` mark the assistant's words for training. They change no
//! output, and minijinja does not know them: they become an empty `{% with %}`, which trims white space
//! and scopes variables the same way. Where the words are asked for, each tag also leaves a mark in the text.

use std::ops::Range;

/// What stands where a tag stood: code points that no text has (Unicode non-characters).
pub(super) const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// The template without generation tags. Strings inside tags and expressions, and comments, are left
/// alone.
pub(super) fn without_generation_tags(source: &str) -> String {
    rewritten(source, replacement)
}

/// The template with a mark where each generation tag was, and white space trimmed as around the tag.
pub(super) fn with_marks(source: &str) -> String {
    rewritten(source, marked)
}

/// The text without marks, and the bytes between each pair of them. `None`: they do not come in pairs.
pub(super) fn unmarked(text: &str) -> Option<(String, Vec<Range<usize>>)> {
    let mut clean = String::with_capacity(text.len());
    let (mut spans, mut open) = (Vec::new(), None);
    for c in text.chars() {
        if c == MARKS[0] {
            if open.replace(clean.len()).is_some() {
                return None;
            }
        } else if c == MARKS[1] {
            spans.push(open.take()?..clean.len());
        } else {
            clean.push(c);
        }
    }
    open.is_none().then_some((clean, spans))
}

fn rewritten(source: &str, replacement: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (before, from_brace) = rest.split_at(start);
        out.push_str(before);
        let length = match from_brace.as_bytes().get(1) {
            Some(b'#') => from_brace.find("#}").map(|end| end + 2),
            Some(b'{') => closing(from_brace, "}}"),
            Some(b'%') => closing(from_brace, "%}"),
            _ => Some(1),
        };
        // An unclosed tag is for the parser to complain about.
        let (tag, after) = from_brace.split_at(length.unwrap_or(from_brace.len()));
        out.push_str(&replacement(tag).unwrap_or_else(|| tag.to_owned()));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// End of a tag or expression that `text` starts with, past its closing delimiter outside of strings.
fn closing(text: &str, delimiter: &str) -> Option<usize> {
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if text[at..].starts_with(delimiter) => return Some(at + delimiter.len()),
            None => {}
        }
    }
    None
}

fn replacement(tag: &str) -> Option<String> {
    let (open, word, close) = generation_tag(tag)?;
    let word = if word == "generation" { "with" } else { "endwith" };
    Some(format!("{{%{open} {word} {close}%}}"))
}

/// An empty block takes the trimming on the mark's inner side.
fn marked(tag: &str) -> Option<String> {
    let (open, word, close) = generation_tag(tag)?;
    Some(match word {
        "generation" => format!("{{%{open} with %}}{}{{% if true %}}{{% endif {close}%}}", MARKS[0]),
        _ => format!("{{%{open} if true %}}{{% endif %}}{}{{% endwith {close}%}}", MARKS[1]),
    })
}

/// White space control before, the word, white space control after.
fn generation_tag(tag: &str) -> Option<(&'static str, &str, &'static str)> {
    let inside = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let (open, inside) = strip_sign(inside, |s, sign| s.strip_prefix(sign));
    let (close, inside) = strip_sign(inside, |s, sign| s.strip_suffix(sign));
    let word = inside.trim();
    matches!(word, "generation" | "endgeneration").then_some((open, word, close))
}

/// White space control: `-` or `+` right inside the delimiters.
fn strip_sign<'a>(
    inside: &'a str,
    strip: impl Fn(&'a str, &str) -> Option<&'a str>,
) -> (&'static str, &'a str) {
    ["-", "+"]
        .into_iter()
        .find_map(|sign| strip(inside, sign).map(|stripped| (sign, stripped)))
        .unwrap_or(("", inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generation_tags_change() {
        let source = "a{%- generation -%}b{% endgeneration +%}{{ '{% generation %}' }}{# {% generation %} #}{% set x = '%}' %}{";
        assert_eq!(
            without_generation_tags(source),
            "a{%- with -%}b{% endwith +%}{{ '{% generation %}' }}{# {% generation %} #}{% set x = '%}' %}{"
        );
        assert_eq!(without_generation_tags("{% if"), "{% if");
    }
}
