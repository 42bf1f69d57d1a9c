//! Texts of servers while they are written: what is told is what is answered, whatever becomes of the stream.

use std::sync::Arc;
use std::time::Duration;

use evalign_core::{FinishReason, GenerateParams, Output, Request, Response, Role};
use evalign_model::{Budget, BudgetLimits, LoadOptions, Model, RetryPolicy, load};
use evalign_testkit::openai_server::{
    Behaviour, Capabilities, Fault, Reasoning, Route, ScriptedServer, Support, What, When,
};

use crate::common;
use crate::openai::{chat, options, sent, text};
use crate::streaming::{Told, told};

const POEM: &str = "Roses are red. Violets are blue.";

/// The model behind everything that stands around a server, with a quick second attempt.
fn model(server: &ScriptedServer, change: impl FnOnce(&mut LoadOptions)) -> Arc<dyn Model> {
    let quick = Duration::from_millis(1);
    let retry = RetryPolicy { attempts: 4, base: quick, cap: quick, retry_after_cap: quick };
    let mut options = LoadOptions { openai: options(server), retry, ..LoadOptions::default() };
    change(&mut options);
    load(&"openai/scripted".parse().unwrap(), &options, &evalign_fetch::silent).unwrap()
}

fn poet() -> Behaviour {
    Behaviour::default().rule("poem", POEM)
}

fn requests(params: &GenerateParams) -> [Request; 2] {
    [text("A poem:", params.clone()), chat(&[(Role::User, "Write a poem.")], params.clone())]
}

fn answer(told: &Told) -> &Response {
    &told.answers[&0]
}

fn pieces(told: &Told) -> String {
    told.pieces.get(&0).map(|pieces| pieces.concat()).unwrap_or_default()
}

/// Asks once where nobody listens, once where somebody does; what is told and answered must be the same.
fn heard(model: &dyn Model, request: &Request) -> Told {
    let whole = told(model.submit(vec![request.clone()]));
    let heard = told(model.submit_streamed(vec![request.clone()]));
    assert!(whole.pieces.is_empty(), "nobody asked for pieces");
    assert_eq!(answer(&heard).output, answer(&whole).output);
    assert_eq!(pieces(&heard), common::text(answer(&heard)));
    heard
}

fn attempts(told: &Told) -> u32 {
    answer(told).latency.unwrap().attempts
}

#[test]
fn a_server_is_asked_for_pieces_only_where_somebody_listens() {
    let server = ScriptedServer::start(poet());
    let model = model(&server, |_| {});
    for request in requests(&GenerateParams::default()) {
        server.forget();
        let heard = heard(&model, &request);
        assert_eq!((heard.pieces[&0].len(), heard.withdrawn, attempts(&heard)), (6, 0, 1));
        let usage = told(model.submit(vec![request])).answers[&0].usage;
        assert!(usage.is_some() && answer(&heard).usage == usage);
        let mut sent = sent(&server, "poem");
        let streamed = sent[1].as_object_mut().unwrap();
        assert_eq!(streamed.remove("stream"), Some(true.into()));
        assert_eq!(streamed.remove("stream_options"), Some(serde_json::json!({"include_usage": true})));
        assert_eq!((&sent[0], &sent[2]), (&sent[1], &sent[1]), "nothing else differs");
    }
}

/// A broken stream costs an attempt. What was told is not told again, and the next attempt does not rely on streams.
#[test]
fn an_answer_whose_stream_broke_off_is_asked_for_whole() {
    for what in [
        What::EndStream { after_events: 4 },
        What::ErrorEvent,
        What::ResetMidBody,
        What::TruncateBody,
        What::NoDone,
    ] {
        let when = When { first_attempts: Some(1), ..When::text("poem") };
        let server = ScriptedServer::start(poet().fault(Fault { when, what: what.clone() }));
        let budget = Arc::new(Budget::default());
        let model = model(&server, |options| options.budget = Some(budget.clone()));
        for request in requests(&GenerateParams::default()) {
            server.forget();
            let before = budget.spent();
            let heard = told(model.submit_streamed(vec![request]));
            assert_eq!(common::text(answer(&heard)), POEM, "{what:?}");
            assert_eq!((pieces(&heard).as_str(), heard.withdrawn), (POEM, 0), "{what:?}");
            let sent = sent(&server, "poem");
            let streamed: Vec<bool> = sent.iter().map(|body| body.get("stream").is_some()).collect();
            assert!(
                streamed[0] && streamed.len() > 1 && !streamed[1..].contains(&true),
                "{what:?}: {streamed:?}"
            );
            // Every attempt is a request of the budget's, and one answer was paid for.
            assert_eq!(u64::from(attempts(&heard)), streamed.len() as u64);
            let usage = answer(&heard).usage.unwrap();
            let spent = budget.spent();
            assert_eq!(spent.requests - before.requests, streamed.len() as u64);
            assert_eq!(spent.tokens - before.tokens, usage.prompt_tokens + usage.generated_tokens);
        }
    }
}

#[test]
fn an_answer_that_never_comes_fails_as_it_does_whole() {
    let server =
        ScriptedServer::start(poet().fault(Fault { when: When::text("poem"), what: What::ErrorEvent }));
    let model = model(&server, |_| {});
    for request in requests(&GenerateParams::default()) {
        let whole = common::collect(model.submit(vec![request.clone()])).remove(0).unwrap_err();
        let heard = common::collect(model.submit_streamed(vec![request])).remove(0).unwrap_err();
        assert_eq!((heard.kind(), heard.attempts(), heard.to_string()), (whole.kind(), 4, whole.to_string()));
    }
}

/// Nothing for too long, in the middle of a stream.
#[test]
fn a_stream_that_stalls_is_given_up() {
    let when = When { first_attempts: Some(1), ..When::text("poem") };
    let server = ScriptedServer::start(poet().fault(Fault { when, what: What::StallMidBody }));
    for total in [true, false] {
        server.forget();
        let patience = |options: &mut LoadOptions| {
            let settings = &mut options.openai.settings;
            let deadline =
                if total { &mut settings.total_timeout_secs } else { &mut settings.idle_timeout_secs };
            *deadline = Some(2.0);
        };
        let prompt = format!("A poem: {total}");
        let heard =
            told(model(&server, patience).submit_streamed(vec![text(&prompt, GenerateParams::default())]));
        assert_eq!((common::text(answer(&heard)), pieces(&heard).as_str()), (POEM, POEM));
        assert!(attempts(&heard) > 1 && heard.withdrawn == 0);
    }
}

#[test]
fn servers_that_do_not_stream_are_asked_whole() {
    let can = |stream, stream_options| Capabilities { stream, stream_options, ..Capabilities::default() };
    for (capabilities, refused, is_counted) in [
        (can(Support::Ignored, Support::Yes), 0, true),
        (can(Support::Refused, Support::Yes), 1, true),
        (can(Support::Yes, Support::Refused), 1, false),
        (can(Support::Yes, Support::Ignored), 0, false),
    ] {
        let server = ScriptedServer::start(Behaviour { capabilities: capabilities.clone(), ..poet() });
        // What is found out on the way is no failure of the request.
        let model = model(&server, |options| options.retry.attempts = 1);
        let [request, _] = requests(&GenerateParams::default());
        server.forget();
        let (first, second) = (heard(&model, &request), heard(&model, &request));
        assert_eq!((attempts(&first), attempts(&second)), (1, 1), "{capabilities:?}");
        // What a server refuses is refused once.
        assert_eq!(sent(&server, "poem").len(), 4 + refused, "{capabilities:?}");
        assert_eq!(answer(&second).usage.is_some(), is_counted, "{capabilities:?}");
        assert_eq!(second.pieces[&0].len() > 1, capabilities.stream == Support::Yes, "{capabilities:?}");
    }
}

/// Who has settled for whole answers gets them, and who has to count tokens too.
#[test]
fn pieces_are_not_asked_for_where_they_are_not_wanted() {
    let server = ScriptedServer::start(poet());
    let limits = BudgetLimits { tokens: Some(1000), ..BudgetLimits::default() };
    let counted = Arc::new(Budget::new(limits, None, "m").unwrap());
    let budget = |options: &mut LoadOptions| options.budget = Some(counted.clone());
    let whole = |options: &mut LoadOptions| options.openai.settings.stream = Some(false);
    for model in [model(&server, budget), model(&server, whole)] {
        let [request, _] = requests(&GenerateParams::default());
        assert_eq!(common::text(answer(&told(model.submit_streamed(vec![request])))), POEM);
    }
    assert!(sent(&server, "poem").iter().all(|body| body.get("stream").is_none()));
    assert!(counted.spent().tokens > 0);
}

/// What is cut, told apart or withheld in the end is not told before.
#[test]
fn only_the_answer_is_told() {
    let thinking = |reasoning| Capabilities { reasoning, ..Capabilities::default() };
    let faulty = |what, route| {
        let when = When { route: Some(route), ..When::text("poem") };
        poet().fault(Fault { when, what })
    };
    let behaviours = [
        poet(),
        Behaviour { capabilities: thinking(Reasoning::Inline), ..poet() },
        Behaviour { capabilities: thinking(Reasoning::ReasoningContent), ..poet() },
        faulty(What::Declined, Route::Chat),
        faulty(What::Filtered, Route::Chat),
        faulty(What::Filtered, Route::Completions),
    ];
    // The second one is looked for here.
    let stop = vec!["never".to_owned(), " Violets are".to_owned()];
    for behaviour in behaviours {
        let server = ScriptedServer::start(behaviour.clone());
        let model = model(&server, |options| options.openai.settings.max_stop_strings = Some(1));
        for stop in [Vec::new(), stop.clone()] {
            for max_tokens in [3, 15, 100] {
                let params = GenerateParams { stop: stop.clone(), max_tokens, ..GenerateParams::default() };
                for request in requests(&params) {
                    assert_eq!(heard(&model, &request).withdrawn, 0, "{behaviour:?}");
                }
            }
        }
    }
}

/// Where a template has opened the thoughts itself, only their end shows what they were.
#[test]
fn thoughts_that_looked_like_an_answer_are_withdrawn() {
    let server =
        ScriptedServer::start(Behaviour::default().rule("poem", &format!("I rhyme.\n</think>\n\n{POEM}")));
    let [_, request] = requests(&GenerateParams::default());
    let heard = heard(&model(&server, |_| {}), &request);
    assert_eq!((pieces(&heard).as_str(), heard.withdrawn), (POEM, 1));
    let Output::Text { reasoning, finish, .. } = &answer(&heard).output else { panic!() };
    assert_eq!((reasoning.as_deref(), *finish), (Some("I rhyme."), FinishReason::Stop));
}
