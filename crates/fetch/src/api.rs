//! An HTTP client for the interface of one server, for crates that speak a protocol of their own.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderMap;

use crate::FetchError;
use crate::client::{choose_cryptography, error_chain};
use crate::egress::is_this_machine;
use crate::redact::{self, Secret};

/// An address below which a server answers, given by the operator: `http` or `https`, no query, no
/// slash at its end, and never shown with its credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiBase(Url);

impl std::fmt::Debug for ApiBase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for ApiBase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(redact::url(&self.0).trim_end_matches('/'))
    }
}

impl ApiBase {
    /// `what` is what errors call the address, for example the option it was given with.
    ///
    /// # Errors
    /// [`FetchError::Invalid`] for what is no http address, or holds a query, a fragment or a password
    /// (which would end up in every stored run).
    pub fn parse(what: &'static str, text: &str) -> Result<Self, FetchError> {
        let refuse = |reason: &str, hint: &str| FetchError::Invalid {
            what,
            value: redact::text(text, None),
            reason: reason.to_owned(),
            hint: Some(hint.to_owned()),
        };
        let example = "it looks like https://api.openai.com/v1 or http://localhost:8000/v1";
        let mut url: Url = text.trim().parse().map_err(|_| refuse("not an address", example))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(refuse("not an http or https address", example));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("it holds a user name or a password", "give the key in OPENAI_API_KEY"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("it holds a query", "name query parameters as `query:` in the settings file"));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }

    /// The address as text, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    /// A secret may travel there: the way is encrypted, or does not leave this machine.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.0.scheme() == "https" || is_this_machine(&self.0)
    }

    /// A client for it. Redirects are not followed (a request with a body and a key goes where the
    /// operator said, or nowhere), nothing is asked twice, and connections are kept for the next
    /// request.
    ///
    /// # Errors
    /// [`FetchError::Network`] where the system's certificates cannot be read.
    pub fn client(&self, connect: Duration, idle: Duration) -> Result<reqwest::Client, FetchError> {
        choose_cryptography();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("evalign/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(connect)
            .read_timeout(idle)
            .pool_max_idle_per_host(usize::MAX);
        if is_this_machine(&self.0) {
            builder = builder.no_proxy();
        }
        builder.build().map_err(|error| FetchError::Network {
            url: self.to_string(),
            reason: format!("no https client can be set up: {}", redact::text(&error_chain(&error), None)),
        })
    }
}

/// An error of the client with its causes on one line, without the address. What a server has to do with
/// it may be repeated in it: show it through [`shown_text`].
#[must_use]
pub fn network_error(error: reqwest::Error) -> String {
    error_chain(&error.without_url())
}

/// Text from a server as people may read it: one line, at most 300 characters, no control characters,
/// without credentials in addresses and without these secrets.
#[must_use]
pub fn shown_text(raw: &str, secrets: &[Secret]) -> String {
    let hidden = |text: String, secret: &Secret| text.replace(secret.expose(), "***");
    redact::text(&secrets.iter().fold(raw.to_owned(), hidden), None)
}

/// `Retry-After` as time from now: seconds or an HTTP date (RFC 9110, section 10.2.3), or in
/// milliseconds as `retry-after-ms`. `None` where there is none, or none that can be read.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let milliseconds = headers.get("retry-after-ms").and_then(|value| value.to_str().ok());
    let milliseconds =
        milliseconds.and_then(|text| text.trim().parse::<u64>().ok()).map(Duration::from_millis);
    milliseconds.or_else(|| crate::retry::retry_after(headers, jiff::Timestamp::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_never_show_secrets() {
        let base = ApiBase::parse("--base-url", " http://localhost:8000/v1/ ").unwrap();
        assert_eq!((base.as_str(), base.to_string()), ("http://localhost:8000/v1", base.as_str().to_owned()));
        for bad in ["", "localhost:8000", "ftp://h/v1", "https://u:canary@h/v1", "https://h/v1?key=canary"] {
            let error = ApiBase::parse("--base-url", bad).unwrap_err();
            assert!(error.to_string().contains("--base-url"), "{error}");
            assert!(!error.to_string().contains("u:canary"), "{error}");
        }
    }

    #[test]
    fn keys_travel_encrypted_or_not_at_all() {
        let private = |text| ApiBase::parse("--base-url", text).unwrap().is_private();
        assert!(private("https://api.example/v1") && private("http://127.0.0.1:1/v1"));
        assert!(!private("http://gpu.example:8000/v1"));
    }

    #[test]
    fn waits_are_read_in_three_forms() {
        let asked = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(asked("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(asked("retry-after", "Sun, 22 Nov 2020 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("retry-after", "soon"), None);
    }
}
