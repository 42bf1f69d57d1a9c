//! What the `openai` provider finds out before the first sample, and how it says what cannot work.

use evalign_core::{GenerateParams, Hint, Role};
use evalign_model::{Call, ErrorKind, ModelError, Needs, OpenAiOptions};
use evalign_testkit::openai_server::{
    Behaviour, Capabilities, ErrorBody, Fault, MaxTokens, ScriptedServer, Support, What, When,
};

use crate::openai::{chat, connect, options, wait};

fn with(change: impl FnOnce(&mut Capabilities)) -> ScriptedServer {
    let mut capabilities = Capabilities::default();
    change(&mut capabilities);
    ScriptedServer::start(Behaviour { capabilities, ..Behaviour::default() })
}

fn status(status: u16, code: Option<&str>, body: ErrorBody) -> What {
    What::Status { status, retry_after: None, code: code.map(str::to_owned), message: None, body }
}

fn failing(options: &OpenAiOptions, env: &[(&str, &str)]) -> (ModelError, String) {
    let error = wait(connect(options, env)).unwrap_err();
    let hint = error.hint().unwrap_or_default();
    (error, hint)
}

#[test]
fn a_server_that_can_everything_is_asked_as_it_should_be() {
    let server = with(|_| {});
    let options = options(&server);
    let model = wait(connect(&options, &[])).unwrap();
    let can = model.capabilities();
    assert!(can.chat && can.completion && can.generate && can.log_likelihood);
    assert!(!can.chat_log_likelihood && !can.perplexity);
    assert!(model.notes().is_empty(), "{:?}", model.notes());
    // Models, likelihoods (two in one), a chat.
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn only_what_is_needed_is_tried() {
    let server = with(|_| {});
    let needs = Needs { completion: false, log_likelihood: false, ..Needs::default() };
    let model = wait(connect(&OpenAiOptions { needs, ..options(&server) }, &[])).unwrap();
    assert!(model.capabilities().chat && !model.capabilities().log_likelihood);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn what_a_server_lacks_is_found_out() {
    for (name, server, log_likelihood, completion, chat) in [
        ("no echo", with(|can| can.echo = Support::Refused), false, true, true),
        ("echo ignored", with(|can| can.echo = Support::Ignored), false, true, true),
        ("no logprobs", with(|can| can.logprobs = Support::Refused), false, true, true),
        ("logprobs ignored", with(|can| can.logprobs = Support::Ignored), false, true, true),
        ("chat only", with(|can| can.completions = false), false, false, true),
        ("completions only", with(|can| can.chat = false), true, true, false),
        ("no list of models", with(|can| can.list_models = false), true, true, true),
    ] {
        let model = wait(connect(&options(&server), &[])).unwrap();
        let can = model.capabilities();
        let found = (can.log_likelihood, can.completion, can.chat);
        assert_eq!(found, (log_likelihood, completion, chat), "{name}");
    }
}

#[test]
fn requests_are_shaped_after_what_the_server_takes() {
    let server = with(|can| {
        can.max_tokens = MaxTokens::MaxCompletionTokens;
        can.temperature = Support::Refused;
        can.seed = Support::Refused;
        can.system_role = Support::Refused;
        can.completions = false;
    });
    wait(async {
        let model = connect(&options(&server), &[]).await.unwrap();
        let notes = model.notes().join("\n");
        for part in ["`temperature`", "`seed`", "system role"] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
        let turns = [(Role::System, "Be brief."), (Role::User, "hello")];
        let params = GenerateParams { temperature: 0.5, max_tokens: 9, ..GenerateParams::default() };
        model.call(&chat(&turns, params)).await.unwrap();
    });
    let requests = server.requests().only(|entry| entry.text.contains("hello"));
    let body = requests.entries[0].json();
    assert_eq!(body["max_completion_tokens"], 9);
    assert_eq!(body["messages"], serde_json::json!([{"role": "user", "content": "Be brief.\n\nhello"}]));
    for absent in ["temperature", "seed", "max_tokens"] {
        assert!(body.get(absent).is_none(), "{absent}");
    }
}

#[test]
fn answers_depend_on_what_the_identity_says() {
    let plain = with(|_| {});
    let identity =
        |options: &OpenAiOptions| wait(connect(options, &[("OPENAI_API_KEY", "k")])).unwrap().identity();
    let first = identity(&options(&plain));
    assert_eq!(first, identity(&options(&plain)));
    assert_eq!((first.dtype.as_str(), first.device), ("unknown", plain.base_url()));
    let mut other = options(&plain);
    other.settings.body.insert("reasoning_effort".to_owned(), "low".into());
    assert_ne!(first.weights, identity(&other).weights);
    let mut streamed = options(&plain);
    streamed.settings.stream = Some(true);
    streamed.settings.idle_timeout_secs = Some(9.0);
    assert_eq!(first.weights, identity(&streamed).weights);
    let elsewhere = with(|_| {});
    assert_ne!(first.weights, identity(&options(&elsewhere)).weights);
}

#[test]
fn a_wrong_key_stops_at_once_and_says_what_to_do() {
    let behaviour = Behaviour { api_key: Some("right".to_owned()), ..Behaviour::default() };
    let server = ScriptedServer::start(behaviour);
    let (error, hint) = failing(&options(&server), &[("OPENAI_API_KEY", "wrong-canary")]);
    assert_eq!((error.kind(), error.status()), (ErrorKind::Unavailable, Some(401)));
    assert!(
        hint.contains("OPENAI_API_KEY") && !format!("{error:?}{hint}").contains("canary"),
        "{error:?} {hint}"
    );
    assert_eq!(server.requests().len(), 1);
    let (_, hint) = failing(&options(&server), &[]);
    assert!(hint.contains("OPENAI_API_KEY is not set"), "{hint}");
}

#[test]
fn an_unknown_model_is_named_with_those_there_are() {
    let behaviour = Behaviour { models: vec!["alpha".to_owned(), "beta".to_owned()], ..Behaviour::default() };
    let server = ScriptedServer::start(behaviour);
    let (error, hint) = failing(&options(&server), &[]);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("scripted") && hint.contains("`alpha`, `beta`"), "{error} {hint}");
}

#[test]
fn addresses_without_a_model_server_are_recognised() {
    let html =
        ScriptedServer::start(Behaviour::default().fault(Fault { when: When::always(), what: What::Html }));
    let (error, hint) = failing(&options(&html), &[]);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("not an OpenAI-compatible server"), "{error}");
    assert!(hint.contains("--base-url"), "{hint}");

    let server = with(|_| {});
    for instead in ["/v2", "", "/v1/chat/completions"] {
        let base_url = Some(server.base_url().replace("/v1", instead));
        let (error, hint) = failing(&OpenAiOptions { base_url, ..options(&server) }, &[]);
        assert_eq!((error.kind(), error.status()), (ErrorKind::Unavailable, Some(404)), "{instead}");
        assert!(hint.contains("--base-url") && hint.contains("/v1"), "{instead}: {hint}");
    }

    let nobody = OpenAiOptions { base_url: Some(ScriptedServer::nobody()), ..OpenAiOptions::default() };
    let (error, hint) = failing(&nobody, &[]);
    assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
    assert!(hint.contains("--base-url"), "{hint}");

    let location = "https://elsewhere.example/v1".to_owned();
    let moved = Fault { when: When::always(), what: What::Redirect { location } };
    let moved = ScriptedServer::start(Behaviour::default().fault(moved));
    let (error, hint) = failing(&options(&moved), &[("OPENAI_API_KEY", "k")]);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(hint.contains("elsewhere.example"), "{hint}");
}

#[test]
fn a_busy_server_is_asked_again_by_the_probe_and_a_quota_is_not() {
    let busy = Fault { when: When::first_attempts(1), what: status(503, None, ErrorBody::OpenAi) };
    let server = ScriptedServer::start(Behaviour::default().fault(busy));
    wait(connect(&options(&server), &[])).unwrap();
    let broke =
        Fault { when: When::always(), what: status(429, Some("insufficient_quota"), ErrorBody::OpenAi) };
    let server = ScriptedServer::start(Behaviour::default().fault(broke));
    let (error, _) = failing(&options(&server), &[]);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn a_server_that_stalls_does_not_hang_the_start() {
    let stall = Fault { when: When::always(), what: What::StallBeforeHeaders };
    let server = ScriptedServer::start(Behaviour::default().fault(stall));
    let mut options = options(&server);
    options.settings.idle_timeout_secs = Some(0.1);
    let started = std::time::Instant::now();
    let (error, _) = failing(&options, &[]);
    assert!(matches!(error, ModelError::Transport { .. }), "{error}");
    assert!(started.elapsed().as_secs() < 30);
}
