//! YAML as people write it by hand: what is wrong with it is said with place, field and value.

use serde_saphyr::Error;

use crate::error::BenchError;

/// Longest piece of a file that a message quotes, in characters.
const QUOTED: usize = 60;

/// Deserializes YAML; an error says `file:line:column`, the field, what was expected and what stands there.
///
/// # Errors
/// The text is not YAML, or not what `T` asks for.
pub(crate) fn parse_yaml<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T, BenchError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let plain = error.without_snippet();
        let Some(place) = plain.location() else {
            return BenchError::TaskFile { at: name.to_owned(), message: plain.to_string() };
        };
        let at = format!("{name}:{}:{}", place.line(), place.column());
        let spot = Spot::new(text, place.line(), place.column());
        let message = explain(plain, &spot);
        let named = |field: &String| message.contains(&format!("`{field}`"));
        let message = match spot.field().filter(|field| !named(field)) {
            Some(field) => format!("field `{field}`: {message}"),
            None => message,
        };
        BenchError::TaskFile { at, message }
    })
}

fn explain(error: &Error, spot: &Spot<'_>) -> String {
    let found = |wanted: &str| match spot.value() {
        Some(value) => format!("expected {wanted}, found `{value}`"),
        None => format!("expected {wanted}, found nothing"),
    };
    match error {
        Error::Unexpected { expected, .. } => found(structure(expected)),
        Error::InvalidScalar { ty, .. } => found(scalar(ty)),
        Error::InvalidBooleanStrict { .. } => found(scalar("bool")),
        Error::NullIntoString { .. } => found("text"),
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            found(expected)
        }
        Error::SerdeUnknownField { field, expected, .. } => unknown("field", field, expected),
        Error::SerdeUnknownVariant { variant, expected, .. } => unknown("value", variant, expected),
        Error::MultipleDocuments { .. } => {
            "a second YAML document begins here (`---`); one file holds one: put it into a file of its own"
                .to_owned()
        }
        other => {
            // The place is said in front already.
            let message = other.to_string();
            message.rsplit_once(" at line ").map_or(message.clone(), |(message, _)| message.to_owned())
        }
    }
}

fn unknown(what: &str, typed: &str, known: &[&str]) -> String {
    let near = known.iter().map(|name| (strsim::jaro_winkler(typed, name), name));
    let near = near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness > 0.8);
    let meant = near.map(|(_, name)| format!(" (did you mean `{name}`?)")).unwrap_or_default();
    format!("unknown {what} `{typed}`{meant}, expected one of {}", known.join(", "))
}

fn structure(expected: &str) -> &str {
    match expected {
        "string scalar" => "text",
        "mapping start" => "a mapping (`name: value`)",
        "sequence start" => "a list",
        other => other,
    }
}

fn scalar(kind: &str) -> &str {
    match kind {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of at least 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "bool" | "boolean" => "true or false",
        other => other,
    }
}

/// A place in a text that an error points to.
struct Spot<'a> {
    /// All lines up to the one pointed to.
    above: Vec<&'a str>,
    before: String,
    after: String,
}

impl<'a> Spot<'a> {
    /// `line` and `column` count from 1, columns in characters.
    fn new(text: &'a str, line: u64, column: u64) -> Self {
        let at = |number: u64| usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
        let mut lines = text.lines().skip(at(line));
        let line_text = lines.next().unwrap_or_default();
        Self {
            above: text.lines().take(at(line)).collect(),
            before: line_text.chars().take(at(column)).collect(),
            after: line_text.chars().skip(at(column)).collect(),
        }
    }

    /// What stands there: the rest of the line, within `{...}` and `[...]` only up to the next item.
    fn value(&self) -> Option<String> {
        let inside = self.before.matches(['[', '{']).count() > self.before.matches([']', '}']).count();
        let mut depth = 0;
        let mut quote = None;
        let mut last = ' ';
        let mut value = String::new();
        for c in self.after.chars() {
            match (quote, c) {
                (Some(open), _) if c == open => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') if !last.is_alphanumeric() => quote = Some(c),
                (None, '#') if last.is_whitespace() => break,
                (None, '[' | '{') => depth += 1,
                (None, ']' | '}' | ',') if inside && depth == 0 => break,
                (None, ']' | '}') => depth -= 1,
                (None, _) => {}
            }
            value.push(c);
            last = c;
        }
        let value = value.trim();
        let mut short: String = value.chars().take(QUOTED).collect();
        if short.len() < value.len() {
            short.push('…');
        }
        (!short.is_empty()).then_some(short)
    }

    /// The key in front of it, else the key that its line begins with, else the key of the lines it
    /// belongs to.
    fn field(&self) -> Option<String> {
        if let Some(key) = self.before.trim_end().strip_suffix(':') {
            let begin = key.rfind(|c: char| !is_name(c)).map_or(0, |at| at + 1);
            let key = key.trim_end_matches(['"', '\'']);
            return (begin < key.len()).then(|| key[begin..].to_owned());
        }
        let line = format!("{}{}", self.before, self.after);
        let indent = |line: &str| line.len() - line.trim_start_matches([' ', '-']).len();
        let own = indent(&line);
        key_of(&line).or_else(|| {
            self.above.iter().rev().filter(|line| !line.trim().is_empty()).find_map(|above| {
                let outer = indent(above) < own;
                outer.then(|| key_of(above)).flatten()
            })
        })
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The key of a `key: value` line.
fn key_of(line: &str) -> Option<String> {
    let (key, _) = line.trim_start_matches([' ', '-']).split_once(':')?;
    let key = key.trim_matches(['"', '\'']);
    (!key.is_empty() && key.chars().all(is_name)).then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskFile;

    fn refused(text: &str) -> String {
        parse_yaml::<TaskFile>("t.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_value_is_shown_with_its_place_and_what_was_expected() {
        for (text, said) in [
            ("task: a\nprompt: [1, 2]", "t.yaml:2:9: field `prompt`: expected text, found `[1, 2]`"),
            (
                "repeats: many # so",
                "t.yaml:1:10: field `repeats`: expected a whole number of at least 0, found `many`",
            ),
            (
                "repeats: -1",
                "t.yaml:1:10: field `repeats`: expected a whole number of at least 0, found `-1`",
            ),
            ("shots: 5", "t.yaml:1:8: field `shots`: expected a mapping (`name: value`), found `5`"),
            (
                "shots:\n  count: \"five\"",
                "t.yaml:2:10: field `count`: expected a whole number of at least 0, found `\"five\"`",
            ),
            ("tags: hello", "t.yaml:1:7: field `tags`: expected a list, found `hello`"),
            ("weight_by_size: perhaps", "field `weight_by_size`: expected true or false, found `perhaps`"),
            ("choices: {a: 1}", "field `choices`: expected a list of texts, or an expression"),
            (
                "metrics: [{name: acc}, {name: exact}]",
                "unknown value `exact` (did you mean `exact_match`?), expected one of acc,",
            ),
            (
                "filters:\n  - name: a\n    steps:\n      - regex: {pattern: [1], fallback: x}",
                "t.yaml:4:26: field `pattern`: expected text, found `[1]`",
            ),
            (
                "task: a\nprompts: x",
                "t.yaml:2:1: unknown field `prompts` (did you mean `prompt`?), expected one of include,",
            ),
        ] {
            let error = refused(text);
            assert!(error.contains(said), "{text:?}\n got {error}\nwant {said}");
            assert!(!error.contains("at line"), "{error}");
        }
    }

    #[test]
    fn long_values_are_cut_and_lists_name_their_field() {
        let error = refused(&format!("prompt: [{}]", "1, ".repeat(200)));
        assert!(error.len() < 200 && error.contains('…'), "{error}");
        let error = refused("tags:\n  - [a]\n");
        assert!(error.contains("field `tags`") && error.contains("`[a]`"), "{error}");
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_place() {
        let error = refused("task: a\n---\ntask: b\n");
        assert!(error.starts_with("t.yaml:") && error.contains("second YAML document"), "{error}");
        assert!(!error.contains("from_str"), "{error}");
        for text in ["task: [", "prompt: \"{{q}}", "  prompt: x: y: z", "task: a\ntask: b"] {
            let error = refused(text);
            assert!(error.starts_with("t.yaml:"), "{text:?}: {error}");
        }
    }
}
