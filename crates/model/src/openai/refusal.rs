//! What a server's refusals mean.

use evalign_fetch::retry_after;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION};
use serde_json::Value;

use super::endpoint::Endpoint;
use crate::error::{ErrorKind, ModelError, ServerError};

/// What an error body says, in any of the forms in use.
#[derive(Debug, Default, PartialEq)]
struct Said {
    /// It looks like an error of an OpenAI-compatible interface.
    familiar: bool,
    message: String,
    code: Option<String>,
    kind: Option<String>,
    param: Option<String>,
}

/// The error for an answer with a status that is no success. `proven`: this server has answered as it
/// should before, so that a single odd answer is not taken for the wrong address.
pub(super) fn refusal(
    endpoint: &Endpoint,
    proven: bool,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> ModelError {
    let said = Said::of(body);
    let verdict = judge(endpoint, proven, status, headers, &said);
    server_error(endpoint, status.as_u16(), &said, verdict, headers)
}

/// The error for an `error` object where an answer was expected, as gateways send it with status 200.
pub(super) fn refusal_in_answer(endpoint: &Endpoint, error: &Value) -> ModelError {
    let body = serde_json::json!({"error": error}).to_string();
    let said = Said::of(body.as_bytes());
    let status = said.code.as_deref().and_then(|code| code.parse::<u16>().ok());
    let status =
        status.and_then(|code| StatusCode::from_u16(code).ok()).filter(|status| status.as_u16() >= 400);
    // Without a status of its own it is the gateway's trouble, which passes.
    let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = HeaderMap::new();
    let verdict = judge(endpoint, true, status, &headers, &said);
    server_error(endpoint, status.as_u16(), &said, verdict, &headers)
}

/// The error for an answer that shows that there is no OpenAI-compatible server.
pub(super) fn not_a_model_server(endpoint: &Endpoint, status: u16, what: &str) -> ModelError {
    ServerError {
        server: endpoint.place.clone(),
        status,
        code: None,
        message: format!("this is not an OpenAI-compatible server: {}", endpoint.shown(what)),
        retry_after: None,
        kind: ErrorKind::Unavailable,
        unknown_model: false,
        hint: Some(address_hint(endpoint)),
    }
    .into()
}

/// The parameter that a refusal is about: the one it names, or the one in quotes in its message.
pub(super) fn names_field(error: &ModelError, field: &str) -> bool {
    let ModelError::Server(error) = error else { return false };
    error.code.as_deref() == Some(field) || is_quoted(&error.message, field)
}

fn is_quoted(message: &str, field: &str) -> bool {
    ['\'', '"', '`'].iter().any(|quote| message.contains(&format!("{quote}{field}{quote}")))
}

fn server_error(
    endpoint: &Endpoint,
    status: u16,
    said: &Said,
    verdict: Verdict,
    headers: &HeaderMap,
) -> ModelError {
    let Verdict { kind, unknown_model, hint } = verdict;
    let message = match (said.message.trim(), &said.param) {
        ("", _) => "it gave no reason".to_owned(),
        (text, Some(param)) if !is_quoted(text, param) => {
            format!("{} (parameter '{}')", endpoint.shown(text), endpoint.shown(param))
        }
        (text, _) => endpoint.shown(text),
    };
    ServerError {
        server: endpoint.place.clone(),
        status,
        code: said.code.as_ref().or(said.kind.as_ref()).map(|code| endpoint.shown(code)),
        message,
        retry_after: retry_after(headers),
        kind,
        unknown_model,
        hint,
    }
    .into()
}

/// What a refusal means for who asked.
struct Verdict {
    kind: ErrorKind,
    unknown_model: bool,
    hint: Option<String>,
}

fn judge(endpoint: &Endpoint, proven: bool, status: StatusCode, headers: &HeaderMap, said: &Said) -> Verdict {
    use ErrorKind::{Permanent, Retryable, Unavailable};
    let verdict = |kind, hint| Verdict { kind, unknown_model: false, hint };
    if said.is_quota() || status == StatusCode::PAYMENT_REQUIRED {
        let hint = "the account has no credit left; add some, then go on with `evalign resume`";
        return verdict(Unavailable, Some(hint.to_owned()));
    }
    if matches!(status.as_u16(), 400 | 404 | 422) && said.is_about_model(&endpoint.model) {
        let hint = format!("check the name `{}`: the server does not know it", endpoint.model);
        return Verdict { kind: Unavailable, unknown_model: true, hint: Some(hint) };
    }
    let (kind, hint) = match status.as_u16() {
        401 => (Unavailable, Some(key_hint(endpoint))),
        403 if said.is_moderation() => (Permanent, None),
        403 => (Unavailable, Some(key_hint(endpoint))),
        501 => (Unavailable, Some(address_hint(endpoint))),
        408 | 409 | 425 | 429 | 500.. => (Retryable, None),
        300..=399 => {
            let to = headers.get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let to = endpoint.shown(to);
            (Unavailable, Some(format!("the address moved to {to}: give that one with `--base-url`")))
        }
        404 | 405 if !said.familiar || !proven => (Unavailable, Some(address_hint(endpoint))),
        _ => (Permanent, None),
    };
    verdict(kind, hint)
}

fn key_hint(endpoint: &Endpoint) -> String {
    match &endpoint.keyless {
        Some(why) => why.to_string(),
        None => {
            "the key was refused: check the variable that holds it (OPENAI_API_KEY, or `api_key_env` of the \
                 settings file) and what the key may do"
                .to_owned()
        }
    }
}

fn address_hint(endpoint: &Endpoint) -> String {
    if endpoint.base.as_str().ends_with("/v1") {
        "check `--base-url`: requests go to ADDRESS/chat/completions and ADDRESS/completions".to_owned()
    } else {
        format!("check `--base-url`; for most servers it ends in /v1, as in {}/v1", endpoint.place)
    }
}

impl Said {
    fn of(body: &[u8]) -> Self {
        let text = |value: &Value, name: &str| match value.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let Ok(body_json) = serde_json::from_slice::<Value>(body) else {
            return Self { message: plain(body), ..Self::default() };
        };
        match body_json.get("error") {
            // OpenAI, vLLM, llama.cpp, OpenRouter, Ollama.
            Some(error @ Value::Object(_)) => Self {
                familiar: true,
                message: text(error, "message").unwrap_or_default(),
                code: text(error, "code"),
                kind: text(error, "type"),
                param: text(error, "param"),
            },
            // TGI: {"error": "...", "error_type": "..."}.
            Some(Value::String(message)) => Self {
                familiar: body_json.get("error_type").is_some(),
                message: message.clone(),
                kind: text(&body_json, "error_type"),
                ..Self::default()
            },
            // Older vLLM and SGLang: {"object": "error", "message": ..., "type": ..., "code": 404}; FastAPI:
            // {"detail": ...}.
            _ => Self {
                familiar: body_json.get("object").and_then(Value::as_str) == Some("error"),
                message: text(&body_json, "message")
                    .or_else(|| {
                        body_json
                            .get("detail")
                            .map(|detail| detail.as_str().map_or_else(|| detail.to_string(), str::to_owned))
                    })
                    .unwrap_or_else(|| plain(body)),
                code: text(&body_json, "code"),
                kind: text(&body_json, "type"),
                param: text(&body_json, "param"),
            },
        }
    }

    fn mentions(&self, words: &[&str]) -> bool {
        let all = [Some(&self.message), self.code.as_ref(), self.kind.as_ref()];
        let all: Vec<String> = all.into_iter().flatten().map(|text| text.to_lowercase()).collect();
        words.iter().any(|word| all.iter().any(|text| text.contains(word)))
    }

    fn is_quota(&self) -> bool {
        self.mentions(&[
            "insufficient_quota",
            "billing_hard_limit",
            "exceeded your current quota",
            "insufficient credits",
        ])
    }

    fn is_moderation(&self) -> bool {
        self.mentions(&["moderation", "flagged", "content_policy", "content policy"])
    }

    fn is_about_model(&self, model: &str) -> bool {
        let unknown = [
            "not found",
            "does not exist",
            "not exist",
            "not a valid model",
            "invalid model",
            "unknown model",
        ];
        self.mentions(&["model_not_found"])
            || (self.mentions(&unknown) && self.mentions(&["model"]) && self.message.contains(model))
    }
}

/// The text of a body that is not JSON; of a web page its title, because the rest says nothing.
fn plain(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..4096).unwrap_or(body)).into_owned();
    let lower = text.to_ascii_lowercase();
    match (lower.find("<title>"), lower.find("</title>")) {
        (Some(start), Some(end)) if start + 7 <= end => {
            text.get(start + 7..end).unwrap_or_default().to_owned()
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::settings::ModelSettings;
    use evalign_core::Hint;
    use std::time::Duration;

    fn endpoint() -> Endpoint {
        let reference = "openai/gpt-x".parse().unwrap();
        let env = |name: &str| (name == "OPENAI_API_KEY").then(|| "sk-canary".to_owned());
        Endpoint::resolve(&reference, Some("https://h.example/v1"), None, &ModelSettings::default(), &env)
            .unwrap()
    }

    fn error(status: u16, body: &str, proven: bool) -> ModelError {
        let status = StatusCode::from_u16(status).unwrap();
        refusal(&endpoint(), proven, status, &HeaderMap::new(), body.as_bytes())
    }

    /// Promise 9: what is worth another try and what is not.
    #[test]
    fn promise_9_statuses_are_sorted() {
        use ErrorKind::{Permanent, Retryable, Unavailable};
        let oai = |code: &str| format!(r#"{{"error": {{"message": "no", "type": "t", "code": "{code}"}}}}"#);
        for (status, code, kind) in [
            (400, "invalid_value", Permanent),
            (401, "invalid_api_key", Unavailable),
            (402, "x", Unavailable),
            (403, "x", Unavailable),
            (403, "moderation", Permanent),
            (404, "x", Permanent),
            (404, "model_not_found", Unavailable),
            (408, "x", Retryable),
            (409, "x", Retryable),
            (413, "x", Permanent),
            (422, "x", Permanent),
            (429, "rate_limit_exceeded", Retryable),
            (429, "insufficient_quota", Unavailable),
            (500, "x", Retryable),
            (501, "x", Unavailable),
            (502, "x", Retryable),
            (503, "x", Retryable),
            (529, "x", Retryable),
            (307, "x", Unavailable),
        ] {
            let error = error(status, &oai(code), true);
            assert_eq!(error.kind(), kind, "{status} {code}: {error}");
        }
    }

    #[test]
    fn unknown_models_and_wrong_addresses_are_told_apart() {
        for body in [
            r#"{"object":"error","message":"The model `gpt-x` does not exist.","type":"NotFoundError","param":null,"code":404}"#,
            r#"{"error":{"message":"model \"gpt-x\" not found, try pulling it first","type":"api_error","param":null,"code":null}}"#,
            r#"{"error":{"message":"The model `gpt-x` does not exist or you do not have access to it.","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
        ] {
            let error = error(404, body, true);
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.hint().unwrap().contains("check the name `gpt-x`"), "{error}");
        }
        let nowhere = error(404, "<html><head><title>404 Not Found</title></head><body>long</body>", false);
        assert_eq!(nowhere.to_string(), "https://h.example/v1 answered HTTP 404: 404 Not Found");
        assert!(nowhere.hint().unwrap().contains("--base-url"));
        assert_eq!(error(404, r#"{"detail":"Not Found"}"#, true).kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn messages_are_cut_and_without_the_key() {
        let said = format!("bad key sk-canary \u{1b}[31m {}", "x".repeat(10_000));
        let error = error(401, &serde_json::json!({"error": {"message": said}}).to_string(), true);
        let text = error.to_string();
        assert!(text.len() < 500 && !text.contains("canary") && !text.contains('\u{1b}'), "{text}");
        assert!(!format!("{error:?}").contains("canary"));
    }

    #[test]
    fn waits_come_with_the_error() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "7".parse().unwrap());
        let error = refusal(&endpoint(), true, StatusCode::TOO_MANY_REQUESTS, &headers, b"slow down");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(error.status(), Some(429));
    }

    #[test]
    fn errors_inside_answers_keep_their_status() {
        let inner = serde_json::json!({"message": "upstream is down", "code": 503});
        let error = refusal_in_answer(&endpoint(), &inner);
        assert_eq!((error.status(), error.kind()), (Some(503), ErrorKind::Retryable));
        let quota = serde_json::json!({"message": "Insufficient credits", "code": 402});
        assert_eq!(refusal_in_answer(&endpoint(), &quota).kind(), ErrorKind::Unavailable);
        let odd = refusal_in_answer(&endpoint(), &serde_json::json!("what"));
        assert_eq!((odd.status(), odd.kind()), (Some(502), ErrorKind::Retryable));
    }

    #[test]
    fn refusals_name_their_parameter() {
        let body = r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"#;
        let bare = r#"{"error":{"message":"stream is not supported","param":"stream"}}"#;
        assert!(names_field(&error(400, bare, true), "stream"));
        let error = error(400, body, true);
        assert!(names_field(&error, "max_tokens") && names_field(&error, "max_completion_tokens"));
        assert!(!names_field(&error, "temperature"));
    }
}
