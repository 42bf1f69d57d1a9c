//! HTTP with deadlines, checked redirects, bounded retries and clean errors.

use std::sync::OnceLock;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, Method, Response, StatusCode, Url};

use crate::egress::{check_redirect, is_this_machine, same_origin};
use crate::redact::{self, Secret};
use crate::retry::retry_after;
use crate::{FetchError, HubConfig, RetryPolicy};

const MAX_REDIRECTS: usize = 8;

/// Requests to one endpoint. It is built on first use: loading the system's certificates takes time
/// that commands working from the cache need not spend.
#[derive(Debug)]
pub(crate) struct HttpClient {
    config: HubConfig,
    token: Option<Secret>,
    client: OnceLock<Result<Client, String>>,
}

/// Why one try failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another try may succeed.
    Transient {
        reason: String,
        retry_after: Option<Duration>,
    },
    Final(FetchError),
}

/// One request as the hub client means it.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// What is asked for, as errors call it.
    pub(crate) what: &'a str,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, url: Url, what: &'a str) -> Self {
        Self { method, url, headers: HeaderMap::new(), what }
    }
}

/// To be called before a client of reqwest's is built, which is compiled without a choice of its own.
pub fn choose_cryptography() {
    // An error means that the process has chosen already: as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl HttpClient {
    pub(crate) fn new(config: &HubConfig) -> Self {
        Self { token: config.sendable_token().cloned(), config: config.clone(), client: OnceLock::new() }
    }

    pub(crate) fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    fn client(&self) -> Result<&Client, FetchError> {
        let built = self.client.get_or_init(|| {
            choose_cryptography();
            let deadlines = &self.config.deadlines;
            let mut builder = Client::builder()
                .user_agent(concat!("evalign/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(deadlines.connect)
                .read_timeout(deadlines.idle);
            if is_this_machine(&self.config.endpoint) {
                builder = builder.no_proxy();
            }
            builder.build().map_err(|error| error_chain(&error))
        });
        built.as_ref().map_err(|reason| FetchError::Network {
            url: redact::url(&self.config.endpoint),
            reason: format!("no https client can be set up: {}", redact::text(reason, self.token())),
        })
    }

    /// Sends a request once, following checked redirects. `enough` ends the chase early: it says that
    /// a redirect's own headers already answer.
    pub(crate) async fn once(
        &self,
        call: &Call<'_>,
        enough: fn(&HeaderMap) -> bool,
    ) -> Result<Response, Failure> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.hop(call, &url).await?;
            let status = response.status();
            if status.is_redirection() && !enough(response.headers()) {
                url = self.redirected(&url, response.headers()).map_err(Failure::Final)?;
            } else if status.is_success()
                || status.is_redirection()
                || status == StatusCode::RANGE_NOT_SATISFIABLE
            {
                return Ok(response);
            } else {
                return Err(self.refusal(call, &url, status, response.headers()));
            }
        }
        Err(Failure::Final(self.network(&url, "too many redirects")))
    }

    /// [`HttpClient::once`], repeated as the policy allows.
    pub(crate) async fn send(
        &self,
        call: &Call<'_>,
        enough: fn(&HeaderMap) -> bool,
        policy: &RetryPolicy,
    ) -> Result<Response, FetchError> {
        let mut failures = 0;
        loop {
            let failure = match self.once(call, enough).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            failures += 1;
            self.wait_or_give_up(failure, failures, policy, &call.url).await?;
        }
    }

    /// After the `failures`-th failure in a row: waits for the next try, or returns the error.
    pub(crate) async fn wait_or_give_up(
        &self,
        failure: Failure,
        failures: u32,
        policy: &RetryPolicy,
        url: &Url,
    ) -> Result<(), FetchError> {
        match failure {
            Failure::Final(error) => Err(error),
            Failure::Transient { reason, .. } if failures >= policy.attempts => {
                let tries = if failures > 1 { format!(" (tried {failures} times)") } else { String::new() };
                Err(self.network(url, &format!("{reason}{tries}")))
            }
            Failure::Transient { reason, retry_after } => {
                let wait = policy.delay(failures, retry_after);
                tracing::info!(
                    url = redact::url(url),
                    reason,
                    failures,
                    wait_ms = wait.as_millis() as u64,
                    "trying again"
                );
                tokio::time::sleep(wait).await;
                Ok(())
            }
        }
    }

    /// A body of at most `cap` bytes.
    pub(crate) async fn body(&self, mut response: Response, cap: usize) -> Result<Vec<u8>, FetchError> {
        let url = response.url().clone();
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= cap => body.extend_from_slice(&chunk),
                Ok(Some(_)) => {
                    return Err(self.network(&url, &format!("the answer is longer than {cap} bytes")));
                }
                Ok(None) => return Ok(body),
                Err(error) => return Err(self.network(&url, &error_chain(&error.without_url()))),
            }
        }
    }

    pub(crate) fn network(&self, url: &Url, reason: &str) -> FetchError {
        FetchError::Network { url: redact::url(url), reason: redact::text(reason, self.token()) }
    }

    async fn hop(&self, call: &Call<'_>, url: &Url) -> Result<Response, Failure> {
        let client = self.client().map_err(Failure::Final)?;
        let mut request = client
            .request(call.method.clone(), url.clone())
            .headers(call.headers.clone())
            .header(ACCEPT_ENCODING, "identity");
        if let Some(token) = self.token()
            && same_origin(&self.config.endpoint, url)
        {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| {
                Failure::Final(FetchError::invalid(
                    "HF_TOKEN",
                    "***",
                    "it holds characters that cannot be sent",
                ))
            })?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        match tokio::time::timeout(self.config.deadlines.headers, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let reason = redact::text(&error_chain(&error.without_url()), self.token());
                Err(Failure::Transient { reason, retry_after: None })
            }
            Err(_) => Err(Failure::Transient {
                reason: format!("no answer within {} s", self.config.deadlines.headers.as_secs_f64()),
                retry_after: None,
            }),
        }
    }

    fn redirected(&self, from: &Url, headers: &HeaderMap) -> Result<Url, FetchError> {
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if location.is_empty() {
            return Err(self.network(from, "redirect without an address"));
        }
        let to = from
            .join(location)
            .map_err(|_| self.network(from, "redirect to something that is no address"))?;
        check_redirect(&self.config.endpoint, from, &to)
            .map_err(|reason| self.network(from, &format!("{reason} ({})", redact::url(&to))))?;
        Ok(to)
    }

    fn refusal(&self, call: &Call<'_>, url: &Url, status: StatusCode, headers: &HeaderMap) -> Failure {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let detail =
            header("x-error-message").map(|text| redact::text(text, self.token())).filter(|t| !t.is_empty());
        match status.as_u16() {
            401 | 403 => Failure::Final(FetchError::Denied {
                what: call.what.to_owned(),
                status: status.as_u16(),
                detail,
                with_token: self.token.is_some(),
            }),
            404 => Failure::Final(FetchError::NotFound {
                what: match header("x-error-code") {
                    Some("RepoNotFound") => format!("the repository of {}", call.what),
                    Some("RevisionNotFound") => format!("the revision of {}", call.what),
                    _ => call.what.to_owned(),
                },
                place: redact::url(&self.config.endpoint),
                nearest: None,
            }),
            408 | 425 | 429 | 500..=599 => Failure::Transient {
                reason: format!("the server answered HTTP {status}"),
                retry_after: retry_after(headers, Timestamp::now()),
            },
            _ => {
                let detail = detail.map(|text| format!(": {text}")).unwrap_or_default();
                Failure::Final(self.network(url, &format!("the server answered HTTP {status}{detail}")))
            }
        }
    }
}

/// An error with its causes on one line; the outermost alone ("error sending request") says nothing.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
