/// Text without anything that a terminal or a page obeys: escape sequences lose their ESC, other C0 and C1
/// characters (line feed and tab excepted) and those that turn the direction of text become visible.
#[must_use]
pub fn sanitize(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\n' | '\t') || !is_obeyed(c) {
            clean.push(c);
        } else {
            clean.extend(c.escape_unicode());
        }
    }
    clean
}

/// C0 and C1 control characters, and those that turn the direction of text.
#[must_use]
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_told_what_to_do() {
        let hostile = "a\u{1b}]52;c;ZXZpbA==\u{7}b\rc\u{9b}31m\u{202e}d\u{0}\u{7f}\n\tend ü 漢";
        let clean = sanitize(hostile);
        assert!(!clean.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{clean:?}");
        assert!(!clean.contains('\u{202e}'));
        assert!(clean.ends_with("\n\tend ü 漢"));
    }
}
