//! How Python writes values: `json.dumps` for document hashes, `repr` for target hashes.

use std::fmt::Write as _;

use serde_json::Value;

/// `json.dumps(value, indent=2, ensure_ascii=False)`, byte for byte: what lm-evaluation-harness hashes
/// into `doc_hash`.
#[must_use]
pub fn json_dumps(value: &Value) -> String {
    let mut out = String::new();
    write_json(value, 0, &mut out);
    out
}

fn write_json(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => out.push_str(&float_repr(float)),
            _ => {
                let _ = write!(out, "{number}");
            }
        },
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            write_items(items, b'[', b']', depth, out, |item, out| write_json(item, depth + 1, out));
        }
        Value::Object(map) => write_items(map, b'{', b'}', depth, out, |(key, item), out| {
            write_string(key, out);
            out.push_str(": ");
            write_json(item, depth + 1, out);
        }),
    }
}

fn write_items<I: IntoIterator>(
    items: I,
    open: u8,
    close: u8,
    depth: usize,
    out: &mut String,
    mut write: impl FnMut(I::Item, &mut String),
) {
    out.push(open as char);
    let mut any = false;
    for item in items {
        out.push_str(if any { ",\n" } else { "\n" });
        any = true;
        out.extend(std::iter::repeat_n("  ", depth + 1));
        write(item, out);
    }
    if any {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    }
    out.push(close as char);
}

/// Escapes `"`, `\` and control characters below U+0020, nothing else.
fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `repr(float)`: the shortest digits that round-trip, in scientific notation below 1e-4 and from 1e16.
#[must_use]
pub fn float_repr(float: f64) -> String {
    if !float.is_finite() {
        return if float.is_nan() { "nan" } else { ["inf", "-inf"][usize::from(float < 0.0)] }.to_owned();
    }
    let scientific = format!("{float:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{float}");
        if plain.contains('.') { plain } else { plain + ".0" }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{mantissa}e{sign}{:02}", exponent.abs())
    }
}

/// `repr(str)`: single quotes unless only single quotes occur inside; not-printable characters escaped.
#[must_use]
pub fn str_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => {
                let code = c as u32;
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
    out
}

/// `str.isprintable` for one character: not a control, format, surrogate, private-use or unassigned
/// character and no separator but the space.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    static HIDDEN: std::sync::LazyLock<Option<::regex::Regex>> =
        std::sync::LazyLock::new(|| ::regex::Regex::new(r"^[\p{C}\p{Z}]$").ok());
    !HIDDEN.as_ref().is_some_and(|hidden| hidden.is_match(c.encode_utf8(&mut [0; 4])))
}

/// `repr` (and `str`) of a list of strings.
#[must_use]
pub fn list_repr<S: AsRef<str>>(items: &[S]) -> String {
    let items: Vec<String> = items.iter().map(|item| str_repr(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `json.dumps({"a": [], "b": {}, "c": [1, {"x": 2.0, "é": "\x07\x7f\u2028\"\\"}], "d": 1e16,
    /// "e": True, "f": None}, indent=2, ensure_ascii=False)`
    #[test]
    fn dumps_as_python() {
        let value = json!({
            "a": [], "b": {}, "c": [1, {"x": 2.0, "é": "\u{7}\u{7f}\u{2028}\"\\"}], "d": 1e16, "e": true, "f": null
        });
        let expected = "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    {\n      \"x\": 2.0,\n      \"é\": \"\\u0007\u{7f}\u{2028}\\\"\\\\\"\n    }\n  ],\n  \"d\": 1e+16,\n  \"e\": true,\n  \"f\": null\n}";
        assert_eq!(json_dumps(&value), expected);
    }

    /// `[repr(x) for x in (...)]`, CPython 3.11.
    #[test]
    fn floats_as_python() {
        for (float, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (0.00001234, "1.234e-05"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (5e-324, "5e-324"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float_repr(float), expected);
        }
    }

    #[test]
    fn strings_as_python() {
        assert_eq!(
            list_repr(&["a", "it's", "\"", "both ' and \"", "é\n\u{a0}\u{200b}\u{1f600}"]),
            "['a', \"it's\", '\"', 'both \\' and \"', 'é\\n\\xa0\\u200b\u{1f600}']"
        );
    }
}
