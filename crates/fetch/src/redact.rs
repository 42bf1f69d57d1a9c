//! Keeping secrets out of everything people or log files read.

use std::fmt;

use reqwest::Url;
use reqwest::header::HeaderValue;

/// Longest text of a server or a child process that is repeated in an error.
const MAX_TEXT_CHARS: usize = 300;

/// A token. It can be sent, but neither `Debug` nor any error prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// `None` for a blank text, which in an environment variable means "not set".
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The secret behind a prefix (`Bearer `), as a header whose value nothing prints. `None` where it
    /// holds characters that no header can carry.
    #[must_use]
    pub fn header(&self, prefix: &str) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("{prefix}{}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// A digest to tell secrets apart by, which does not lead back to them.
    #[must_use]
    pub fn digest(&self) -> evalign_core::Digest {
        evalign_core::Digest::of(format!("evalign secret\0{}", self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An address as people may see it: without user name and password, with the values of its query
/// hidden (download addresses carry signatures there).
pub(crate) fn url(address: &Url) -> String {
    let mut shown = address.clone();
    if !shown.username().is_empty() || shown.password().is_some() {
        // Fails only for addresses that cannot have a user name, which then have none to hide.
        let _ = shown.set_username("***");
        let _ = shown.set_password(None);
    }
    if shown.query().is_some() {
        shown.set_query(Some("***"));
    }
    shown.to_string()
}

/// Text from a server or a child process: control characters removed (they can rewrite a terminal),
/// credentials in addresses hidden, the token hidden should the other side echo it, and cut.
pub(crate) fn text(raw: &str, token: Option<&Secret>) -> String {
    let mut text = match token {
        Some(token) => raw.replace(token.expose(), "***"),
        None => raw.to_owned(),
    };
    let mut from = 0;
    while let Some(found) = text.get(from..).and_then(|rest| rest.find("://")) {
        let start = from + found + 3;
        let rest = text.get(start..).unwrap_or_default();
        let authority =
            rest.split(|c: char| c == '/' || c == '?' || c.is_whitespace()).next().unwrap_or_default();
        if let Some(at) = authority.rfind('@') {
            text.replace_range(start..start + at, "***");
        }
        from = start;
    }
    printable(&text)
}

/// One line, at most 300 characters, no control or direction-changing characters.
pub(crate) fn printable(text: &str) -> String {
    let is_direction =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .filter(|c| !is_direction(*c))
        .take(MAX_TEXT_CHARS)
        .collect();
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_secrets() {
        let address: Url = "https://me:pass@cdn.example/a/b?X-Signature=abc&c=d".parse().unwrap();
        assert_eq!(url(&address), "https://***@cdn.example/a/b?***");
    }

    #[test]
    fn echoed_tokens_and_credentials_are_hidden() {
        let token = Secret::new(" hf_canary\n").unwrap();
        assert_eq!(format!("{token:?}"), "***");
        let shown = text("bad hf_canary at https://u:p@h/x and \u{1b}[31mhttp://v@i", Some(&token));
        assert_eq!(shown, "bad *** at https://***@h/x and  [31mhttp://***@i");
        assert!(text(&"x".repeat(9999), None).len() == 300);
    }
}
