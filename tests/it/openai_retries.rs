//! What is asked again, when, how often, and what never (promises 9, 10 and 12). The waits themselves,
//! up to the caps, are tested on a paused clock beside the code (`evalign-model`, `evalign-fetch`).

use std::time::{Duration, Instant};

use evalign_testkit::Ran;
use evalign_testkit::openai_server::{
    Behaviour, ErrorBody, Fault, Outcome, RetryAfter, ScriptedServer, What, When,
};

use crate::openai::{Exam, KEY, metric, on, outcome, status};

/// Asked again at most so often, here; and so many requests for one sample in all.
const RETRIES: [&str; 2] = ["--max-retries", "3"];
const MOST_REQUESTS: usize = 4;

fn with_retry_after(code: u16, retry_after: RetryAfter) -> What {
    let body = ErrorBody::OpenAi;
    What::Status { status: code, retry_after: Some(retry_after), code: None, message: None, body }
}

fn coded(code: u16, name: &str) -> What {
    let (retry_after, message) = (None, None);
    What::Status { status: code, retry_after, code: Some(name.to_owned()), message, body: ErrorBody::OpenAi }
}

/// Everything that may pass by itself.
fn passing() -> Vec<What> {
    let mut faults: Vec<What> = [408, 409, 429, 500, 502, 503, 504, 529].map(status).into();
    faults.extend([
        What::Reset,
        What::ResetMidBody,
        What::TruncateBody,
        What::StallBeforeHeaders,
        What::StallMidBody,
        What::WrongLength { difference: 100 },
        What::NotHttp { bytes: "220 mail.example ESMTP\r\n".to_owned() },
    ]);
    let body = ErrorBody::Html;
    faults.push(What::Status { status: 502, retry_after: None, code: None, message: None, body });
    faults
}

#[test]
fn promise_9_failures_that_pass_are_asked_again() {
    let faults = passing();
    let behaviour = faults.iter().enumerate().fold(Behaviour::default(), |behaviour, (document, what)| {
        behaviour.fault(on(document, Some(1), what.clone()))
    });
    let exam = Exam::of(faults.len() + 1, behaviour);
    let document = exam.ok(&["--max-concurrency", "32"]);
    assert_eq!(metric(&document)["n"], faults.len() as u64 + 1, "{document:#}");
    assert_eq!(outcome(&document, "error"), 0);
    for (index, what) in faults.iter().enumerate() {
        assert_eq!(exam.asked_about(index).len(), 2, "{what:?}");
    }
    assert_eq!(exam.asked_about(faults.len()).len(), 1, "what did not fail is not asked again");
}

#[test]
fn promise_9_broken_streams_are_asked_again() {
    let faults = [
        What::EndStream { after_events: 3 },
        What::EndStream { after_events: 0 },
        What::NoDone,
        What::TruncateBody,
        What::ResetMidBody,
        What::StallMidBody,
        What::ErrorEvent,
    ];
    let behaviour = faults.iter().enumerate().fold(Behaviour::default(), |behaviour, (document, what)| {
        behaviour.fault(on(document, Some(1), what.clone()))
    });
    let exam = Exam::of(faults.len(), behaviour).settings("stream: true");
    let document = exam.ok(&[]);
    assert_eq!(outcome(&document, "error"), 0, "{document:#}");
    for (index, what) in faults.iter().enumerate() {
        let asked = exam.asked_about(index);
        // All was said but for the last word, so either is right for it.
        let least = if matches!(what, What::NoDone) { 1 } else { 2 };
        assert!((least..=2).contains(&asked.len()), "{what:?}: {}", asked.len());
        assert_eq!(asked.entries[0].json()["stream"], true);
    }
    // A broken stream is not taken for a short answer: all texts are whole.
    let again = Exam::of(faults.len(), Behaviour::default()).settings("stream: true");
    again.ok(&[]);
    assert_eq!(answers(&exam), answers(&again));
}

/// The text of every answer, in the order of documents.
fn answers(exam: &Exam) -> Vec<String> {
    let shown = exam.run(&["show", "last", "--samples", "--limit", "1000", "--json"]).json();
    let text = |record: &serde_json::Value| record["output"]["text"]["text"].as_str().unwrap().to_owned();
    shown.as_array().unwrap().iter().map(text).collect()
}

#[test]
fn promise_9_waiting_times_that_servers_name_are_kept() {
    let forms = [
        (RetryAfter::Seconds(2), 2000),
        // A date has no fractions: up to a second may be lost.
        (RetryAfter::DateInSeconds(3), 2000),
        (RetryAfter::Milliseconds(1500), 1500),
        // What cannot be read, and what has passed, is as if it were not there.
        (RetryAfter::Literal("soon".to_owned()), 0),
        (RetryAfter::Literal("-5".to_owned()), 0),
        (RetryAfter::Literal("1e400".to_owned()), 0),
        (RetryAfter::DateInSeconds(-60), 0),
        (RetryAfter::Seconds(0), 0),
    ];
    for code in [429, 503] {
        let behaviour = forms.iter().enumerate().fold(Behaviour::default(), |behaviour, (document, form)| {
            behaviour.fault(on(document, Some(1), with_retry_after(code, form.0.clone())))
        });
        let exam = Exam::of(forms.len(), behaviour);
        exam.ok(&["--max-concurrency", "16"]);
        for (document, (form, least)) in forms.iter().enumerate() {
            let asked = exam.asked_about(document).entries;
            assert_eq!(asked.len(), 2, "{form:?}");
            let waited = asked[1].came - asked[0].came;
            assert!(waited >= Duration::from_millis(*least), "{form:?}: asked again after {waited:?}");
            // The wait of its own is below half a second at the first time, but after a 429 the whole account
            // waits for the longest time that any answer named.
            let most = if code == 429 { 3000 } else { *least } + 2000;
            assert!(waited < Duration::from_millis(most), "{form:?}: waited {waited:?}");
        }
    }
}

#[test]
fn promise_9_what_a_request_is_at_fault_for_is_not_asked_again() {
    let flat = |code, body| What::Status { status: code, retry_after: None, code: None, message: None, body };
    let faults = [
        status(400),
        coded(400, "context_length_exceeded"),
        flat(400, ErrorBody::Html),
        flat(400, ErrorBody::Flat),
        flat(400, ErrorBody::Empty),
        status(422),
        flat(422, ErrorBody::Detail),
    ];
    let behaviour = faults.iter().enumerate().fold(Behaviour::default(), |behaviour, (document, what)| {
        behaviour.fault(on(document, None, what.clone()))
    });
    let exam = Exam::of(faults.len() + 3, behaviour);
    let ran = exam.eval(&[]);
    assert_eq!(ran.status, 1, "the run finished, with failures: {ran:?}");
    let document = ran.json();
    assert_eq!(outcome(&document, "error"), faults.len() as u64, "{document:#}");
    assert_eq!(metric(&document)["n"], 3, "what failed counts neither as right nor as wrong");
    for (index, what) in faults.iter().enumerate() {
        assert_eq!(exam.asked_about(index).len(), 1, "{what:?}");
    }
}

#[test]
fn promise_9_what_no_request_will_get_is_not_asked_again() {
    let unavailable = [
        (status(401), "401"),
        (status(403), "403"),
        (coded(404, "model_not_found"), "404"),
        (coded(429, "insufficient_quota"), "insufficient_quota"),
    ];
    for (what, said) in unavailable {
        let fault = Fault { when: When { ordinals: Some([30, u64::MAX]), ..When::default() }, what };
        let exam = Exam::of(200, Behaviour { latency_ms: 5.0, ..Behaviour::default() }.fault(fault));
        let ran = exam.eval(&["--max-concurrency", "4"]);
        assert_eq!(ran.status, 2, "{said}: {ran:?}");
        assert!(ran.stderr.contains(said) && ran.stderr.contains("hint:"), "{said}: {}", ran.stderr);
        let asked = exam.asked();
        assert!(asked.by_content().values().all(|count| *count == 1), "{said}: asked again");
        let refused = asked.len() - asked.with_outcome(Outcome::Answered);
        assert!(refused <= 4, "{said}: {refused} requests after the server had said no");
        // What was answered is kept, and the rest is asked for once the account is in order.
        exam.server.behave(Behaviour::default());
        exam.server.forget();
        let resumed = exam.run(&["resume", "last", "--json"]);
        assert_eq!(resumed.status, 0, "{said}: {resumed:?}");
        let finished_before = asked.with_outcome(Outcome::Answered);
        assert!(exam.asked().len() <= 200 - finished_before + 4, "{said}: {}", exam.asked().len());
    }
}

#[test]
fn promise_10_no_sample_is_asked_for_more_often_than_promised() {
    let mut behaviour = Behaviour::default();
    for (document, what) in [status(503), What::Reset, status(429)].into_iter().enumerate() {
        behaviour = behaviour.fault(on(document, None, what));
    }
    let exam = Exam::of(6, behaviour);
    let ran = exam.eval(&RETRIES);
    assert_eq!(ran.status, 1, "{ran:?}");
    for document in 0..3 {
        // Neither the HTTP client nor the runner multiplies what the retrying layer does.
        assert_eq!(exam.asked_about(document).len(), MOST_REQUESTS, "document {document}");
    }
    let document = ran.json();
    assert_eq!((outcome(&document, "error"), metric(&document)["n"].as_u64()), (3, Some(3)));
    let shown = exam.run(&["show", "last", "--samples", "--outcome", "error", "--json"]).json();
    let errors: Vec<&str> =
        shown.as_array().unwrap().iter().map(|record| record["error"].as_str().unwrap()).collect();
    assert!(errors.iter().all(|error| error.contains("4 attempts")), "{errors:?}");
}

#[test]
fn promise_12_a_server_that_stalls_ends_in_a_recorded_error() {
    let stalls = [
        What::StallBeforeHeaders,
        What::StallMidBody,
        // Never silent for long enough, and never done.
        What::Slow { pieces: 400, pause_ms: 100 },
    ];
    for stream in ["stream: false", "stream: true"] {
        let behaviour =
            stalls.iter().enumerate().fold(Behaviour::default(), |behaviour, (document, what)| {
                behaviour.fault(on(document, None, what.clone()))
            });
        let exam = Exam::of(stalls.len() + 2, behaviour).settings(stream);
        let started = Instant::now();
        let ran = exam.eval(&RETRIES);
        assert_eq!(ran.status, 1, "{ran:?}");
        // Four times two seconds and the waits between them.
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        assert_eq!(outcome(&ran.json(), "error"), stalls.len() as u64);
        assert_eq!(metric(&ran.json())["n"], 2);
    }
}

#[test]
fn promise_12_connecting_has_a_deadline() {
    let deaf = ScriptedServer::deaf();
    let exam = Exam::of(2, Behaviour::default());
    let started = Instant::now();
    let ran: Ran = exam.command_at(&deaf.base_url(), &[]).output().unwrap().into();
    assert!(ran.status == 2 && ran.stderr.contains("hint:"), "{ran:?}");
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    assert!(!ran.stderr.contains(KEY));
}
