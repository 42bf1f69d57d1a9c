use std::sync::OnceLock;

/// A regular expression with the meaning Python's `re` gives it.
///
/// The engine is `fancy-regex` (lookaround, backtracking semantics); the pattern is translated where the
/// two disagree: `$` also matches before a final newline, `\Z` is the very end, `\s` includes U+001C to
/// U+001F, `[` inside a class is literal, `{,n}` counts from 0, a brace that is no quantifier is literal.
#[derive(Debug)]
pub struct Regex {
    source: String,
    search: fancy_regex::Regex,
    /// Finds a match that does not end where the search starts; see [`Regex::findall`].
    advancing: OnceLock<Option<fancy_regex::Regex>>,
}

/// Backtracking steps before a match is given up, so that no pattern can hang a run.
const BACKTRACK_LIMIT: usize = 2_000_000;

impl Regex {
    /// Compiles a Python pattern.
    ///
    /// # Errors
    /// The engine's message where it does not compile.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let search = compile(&translate(pattern))?;
        Ok(Self { source: pattern.to_owned(), search, advancing: OnceLock::new() })
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// `re.findall`: for each match its groups, or the whole match where the pattern has no group.
    /// Groups that took no part are empty. As in Python since 3.7, an empty match may follow a non-empty
    /// one directly, and after an empty match the next one must not end at the same place.
    ///
    /// # Errors
    /// When matching exceeds the backtracking limit.
    pub fn findall(&self, text: &str) -> Result<Vec<Vec<String>>, String> {
        let groups = self.search.captures_len() - 1;
        let mut found = Vec::new();
        self.each(text, |captures| {
            let group = |i: usize| captures.get(i).map_or("", |m| m.as_str()).to_owned();
            found.push(if groups == 0 { vec![group(0)] } else { (1..=groups).map(group).collect() });
            true
        })?;
        Ok(found)
    }

    /// `re.sub(pattern, replacement, text, count)`; `count` 0 replaces all. In the replacement `\1`,
    /// `\g<1>` and `\g<name>` stand for groups.
    ///
    /// # Errors
    /// When matching exceeds the backtracking limit.
    pub fn sub(&self, replacement: &str, text: &str, count: usize) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        let (mut copied, mut replaced) = (0, 0);
        self.each(text, |captures| {
            if let Some(whole) = captures.get(0) {
                out.push_str(&text[copied..whole.start()]);
                expand(replacement, captures, &mut out);
                copied = whole.end();
            }
            replaced += 1;
            count == 0 || replaced < count
        })?;
        out.push_str(&text[copied..]);
        Ok(out)
    }

    /// Whether the pattern matches anywhere (`re.search`).
    ///
    /// # Errors
    /// When matching exceeds the backtracking limit.
    pub fn is_match(&self, text: &str) -> Result<bool, String> {
        self.search.is_match(text).map_err(|error| error.to_string())
    }

    /// Calls `visit` for every match until it returns false.
    fn each(
        &self,
        text: &str,
        mut visit: impl FnMut(&fancy_regex::Captures<'_>) -> bool,
    ) -> Result<(), String> {
        let mut from = 0;
        let mut must_advance = false;
        while from <= text.len() {
            let captures = if must_advance {
                self.next_advancing(text, from)?
            } else {
                self.search.captures_from_pos(text, from).map_err(|error| error.to_string())?
            };
            let Some(captures) = captures else { break };
            let Some(whole) = captures.get(0) else { break };
            (from, must_advance) = (whole.end(), whole.start() == whole.end());
            if !visit(&captures) {
                break;
            }
        }
        Ok(())
    }

    fn next_advancing<'t>(
        &self,
        text: &'t str,
        from: usize,
    ) -> Result<Option<fancy_regex::Captures<'t>>, String> {
        let advancing =
            self.advancing.get_or_init(|| compile(&format!("(?:{})(?!\\G)", translate(&self.source))).ok());
        if let Some(advancing) = advancing {
            return advancing.captures_from_pos(text, from).map_err(|error| error.to_string());
        }
        let next = text[from..].chars().next().map_or(text.len() + 1, |c| from + c.len_utf8());
        if next > text.len() {
            return Ok(None);
        }
        self.search.captures_from_pos(text, next).map_err(|error| error.to_string())
    }
}

fn compile(pattern: &str) -> Result<fancy_regex::Regex, String> {
    fancy_regex::RegexBuilder::new(pattern)
        .backtrack_limit(BACKTRACK_LIMIT)
        .build()
        .map_err(|error| error.to_string())
}

fn translate(pattern: &str) -> String {
    let chars: Vec<char> = pattern.chars().collect();
    let multiline = inline_flags(pattern).contains('m');
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut class_start = None;
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        let in_class = class_start.is_some();
        match c {
            '\\' => {
                let next = chars.get(i + 1).copied();
                out.push_str(&translate_escape(next, in_class));
                i += 1;
            }
            '[' if in_class => out.push_str("\\["),
            '[' => {
                out.push('[');
                if chars.get(i + 1) == Some(&'^') {
                    out.push('^');
                    i += 1;
                }
                class_start = Some(i + 1);
            }
            // A `]` right after the opening is a member of the class.
            ']' if class_start == Some(i) => out.push_str("\\]"),
            ']' => {
                class_start = None;
                out.push(']');
            }
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
            }
            '$' if !in_class && !multiline => out.push_str("(?=\\n?\\z)"),
            '{' if !in_class => out.push_str(match quantifier(&chars[i..]) {
                Quantifier::FromZero => "{0",
                Quantifier::Plain => "{",
                Quantifier::None => "\\{",
            }),
            c => out.push(c),
        }
        i += 1;
    }
    out
}

fn translate_escape(next: Option<char>, in_class: bool) -> String {
    match next {
        None => "\\\\".to_owned(),
        Some('Z') if !in_class => "\\z".to_owned(),
        Some('s') if in_class => "\\s\\x1c-\\x1f".to_owned(),
        Some('s') => "[\\s\\x1c-\\x1f]".to_owned(),
        Some('S') if !in_class => "[^\\s\\x1c-\\x1f]".to_owned(),
        // In Python these are the characters themselves, here they would be word boundaries.
        Some(c @ ('<' | '>')) => c.to_string(),
        Some(c) => format!("\\{c}"),
    }
}

enum Quantifier {
    Plain,
    FromZero,
    None,
}

/// What stands at a `{`: `{3}`, `{3,}`, `{3,5}`; `{,5}`; or a literal brace.
fn quantifier(at: &[char]) -> Quantifier {
    let inside: String = at.iter().skip(1).take_while(|c| c.is_ascii_digit() || **c == ',').collect();
    let closed = at.get(1 + inside.len()) == Some(&'}');
    match inside.split_once(',') {
        _ if !closed || inside.is_empty() || inside == "," => Quantifier::None,
        Some((_, rest)) if rest.contains(',') => Quantifier::None,
        Some(("", _)) => Quantifier::FromZero,
        Some(_) | None => Quantifier::Plain,
    }
}

/// Letters of the flag group a pattern starts with, `(?im)` for example.
fn inline_flags(pattern: &str) -> &str {
    let Some(rest) = pattern.strip_prefix("(?") else { return "" };
    match rest.split_once(')') {
        Some((flags, _)) if flags.bytes().all(|b| b.is_ascii_alphabetic()) => flags,
        _ => "",
    }
}

fn expand(replacement: &str, captures: &fancy_regex::Captures<'_>, out: &mut String) {
    let mut rest = replacement;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 {
            let digits = digits.min(2);
            let number = rest[..digits].parse().unwrap_or(usize::MAX);
            out.push_str(captures.get(number).map_or("", |m| m.as_str()));
            rest = &rest[digits..];
        } else if let Some((name, after)) = rest.strip_prefix("g<").and_then(|r| r.split_once('>')) {
            let group = name.parse().map_or_else(|_| captures.name(name), |number| captures.get(number));
            out.push_str(group.map_or("", |m| m.as_str()));
            rest = after;
        } else if let Some(c) = rest.chars().next() {
            match c {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                '\\' => out.push('\\'),
                other => {
                    out.push('\\');
                    out.push(other);
                }
            }
            rest = &rest[c.len_utf8()..];
        } else {
            out.push('\\');
        }
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findall(pattern: &str, text: &str) -> Vec<Vec<String>> {
        Regex::new(pattern).unwrap().findall(text).unwrap()
    }

    fn firsts(pattern: &str, text: &str) -> Vec<String> {
        findall(pattern, text).into_iter().map(|groups| groups[0].clone()).collect()
    }

    /// `re.findall(pattern, text)`, CPython 3.11.
    #[test]
    fn findall_as_python() {
        assert_eq!(firsts("x*", "axb"), ["", "x", "", ""]);
        assert_eq!(firsts("|a", "ab"), ["", "a", "", ""]);
        assert_eq!(firsts("a|b*", "abb"), ["a", "bb", ""]);
        assert_eq!(firsts("^(.*?)(?=\\n|$)", "B\nC"), ["B"]);
        assert_eq!(firsts("^(.*?)\\s*$", "B \n"), ["B"]);
        assert_eq!(firsts("(?<=answer is )(.*)(?=.)", "The answer is (C).\nQ: answer is 5!"), ["(C)", "5"]);
        assert_eq!(
            findall("(-?[$0-9.,]{2,})|(-?[0-9]+)", "7 or 18."),
            [["", "7"], ["18.", ""]].map(|g| g.map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn dollar_matches_before_a_final_newline_only() {
        assert_eq!(firsts("a$", "a\n"), ["a"]);
        assert!(firsts("a$", "a\n\n").is_empty());
        assert!(firsts(r"a\Z", "a\n").is_empty());
        assert_eq!(firsts("(?m)a$", "a\nb\na"), ["a", "a"]);
        assert_eq!(firsts("[$]", "a$"), ["$"]);
    }

    #[test]
    fn classes_braces_and_escapes() {
        assert_eq!(firsts("[[a]", "x[a"), ["[", "a"]);
        assert_eq!(firsts("[]a]+", "x]a"), ["]a"]);
        assert_eq!(firsts("[^]]", "]x"), ["x"]);
        assert_eq!(firsts("a{,2}b", "aaab"), ["aab"]);
        assert_eq!(firsts("{x}", "{x}"), ["{x}"]);
        assert_eq!(firsts(r"a\sb", "a\u{1f}b"), ["a\u{1f}b"]);
        assert_eq!(firsts(r"\<a\>", "<a>"), ["<a>"]);
        assert_eq!(firsts("[a&&b~~]+", "a&b~"), ["a&b~"]);
    }

    #[test]
    fn sub_as_python() {
        let sub = |p: &str, r: &str, t: &str, n| Regex::new(p).unwrap().sub(r, t, n).unwrap();
        assert_eq!(sub("x*", "-", "abxd", 0), "-a-b--d-");
        assert_eq!(sub(r"\.$", "", "18.", 0), "18");
        assert_eq!(sub("(?s).*#### ", "", "a\n#### 5\nb #### 72", 0), "72");
        assert_eq!(sub(r"(\w)(?P<b>\w)", r"\2\g<1>\\", "abcd", 1), r"ba\cd");
    }

    #[test]
    fn hostile_patterns_end_in_an_error() {
        let regex = Regex::new("(?=(a+)+$)b").unwrap();
        assert!(regex.findall(&"a".repeat(40)).is_err());
        assert!(Regex::new("(").is_err());
    }
}
