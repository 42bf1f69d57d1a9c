//! How a run on a server ends before its time: what is under way is paid for and kept, and the rest can be
//! asked another time.

#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use evalign_testkit::openai_server::{Behaviour, ErrorBody, Outcome, Requests, What};
use evalign_testkit::{Ran, Sandbox};

use crate::openai::{Exam, on};

fn slow() -> Behaviour {
    Behaviour { latency_ms: 400.0, ..Behaviour::default() }
}

/// Requests that were sent and whose answer nobody waited for.
fn broken(requests: &Requests) -> usize {
    requests.with_outcome(Outcome::Broken)
}

fn stored(sandbox: &Sandbox) -> (u64, String) {
    let runs = sandbox.ok(&["runs", "--json"]).json();
    (runs[0]["samples_done"].as_u64().unwrap(), runs[0]["status"].as_str().unwrap().to_owned())
}

#[test]
fn answers_under_way_are_kept_when_the_account_is_empty() {
    let quota = What::Status {
        status: 429,
        retry_after: None,
        code: Some("insufficient_quota".to_owned()),
        message: None,
        body: ErrorBody::OpenAi,
    };
    // Refused at once, while the others are still being answered.
    let exam = Exam::of(20, slow().fault(on(7, None, quota))).patient();
    let ran = exam.eval(&["--max-concurrency", "10"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("no credit left"), "{ran:?}");
    let asked = exam.asked();
    assert_eq!(broken(&asked), 0);
    assert_eq!(stored(&exam.sandbox), (asked.with_outcome(Outcome::Answered) as u64, "failed".to_owned()));
    assert!(asked.len() <= 20, "{}", asked.len());
}

fn start(exam: &Exam, more: &[&str]) -> Child {
    let mut child = exam.command(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("run_") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "ended before it began");
    }
    child.stderr = Some(lines.into_inner());
    let deadline = Instant::now() + Duration::from_secs(20);
    while exam.asked().is_empty() {
        assert!(Instant::now() < deadline, "nothing is asked");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn the_first_ctrl_c_takes_what_is_under_way_and_the_second_does_not() {
    let exam = Exam::of(200, slow()).patient();
    let child = start(&exam, &["--max-concurrency", "8"]);
    interrupt(&child);
    let ended: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ended.status, 130, "{ended:?}");
    let asked = exam.asked();
    assert_eq!(broken(&asked), 0);
    assert_eq!(stored(&exam.sandbox), (asked.len() as u64, "cancelled".to_owned()));
    assert!(asked.len() < 50, "{} asked", asked.len());

    let exam = Exam::of(200, Behaviour { latency_ms: 5_000.0, ..Behaviour::default() }).patient();
    let child = start(&exam, &["--max-concurrency", "8"]);
    let started = Instant::now();
    interrupt(&child);
    std::thread::sleep(Duration::from_millis(400));
    interrupt(&child);
    let ended: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ended.status, 130, "{ended:?}");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn a_server_that_is_gone_ends_the_run_and_nothing_is_recorded_as_failed() {
    let exam = Exam::of(500, Behaviour { latency_ms: 20.0, ..Behaviour::default() });
    let child = start(&exam, &["--max-concurrency", "4", "--max-retries", "2"]);
    std::thread::sleep(Duration::from_millis(200));
    let Exam { sandbox, server } = exam;
    let address = server.address().to_string();
    drop(server);
    let ended: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ended.status, 2, "{ended:?}");
    assert!(ended.stderr.contains(&address) && ended.stderr.contains("hint:"), "{ended:?}");
    let (done, status) = stored(&sandbox);
    assert!(done > 0 && done < 500 && status == "failed", "{done} {status}");
    let failed = sandbox.ok(&["show", "last", "--samples", "--outcome", "error", "--json"]).json();
    assert!(failed.as_array().unwrap().len() <= 4, "{failed:?}");
}

#[test]
fn one_document_that_breaks_its_connection_ends_nothing() {
    let exam = Exam::of(12, Behaviour::default().fault(on(11, None, What::Reset)));
    let ran = exam.eval(&["--max-concurrency", "1", "--max-retries", "1", "--fail-on-error", "1"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(crate::openai::outcome(&ran.json(), "error"), 1);
}

#[test]
fn the_environment_s_address_holds_beside_a_settings_file_without_one() {
    let exam = Exam::of(3, Behaviour::default());
    let arguments =
        ["eval", "sums", "--include-path", "tasks", "--model", "openai/scripted", "--chat-template"];
    let mut command = exam.evalign(&[&arguments[..], &["--model-settings", "settings.yaml"]].concat());
    let ran: Ran = command.env("OPENAI_BASE_URL", exam.server.base_url()).output().unwrap().into();
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(exam.asked().len(), 3);
}

#[test]
fn answers_from_the_cache_are_said_and_can_be_refused() {
    let exam = Exam::of(3, Behaviour::default());
    exam.ok(&[]);
    let again = exam.eval(&["--fork"]);
    assert!(again.stderr.contains("3 of 3 answers were known"), "{again:?}");
    assert_eq!(exam.asked().len(), 3);
    let asked = exam.eval(&["--fork", "--no-cache"]);
    assert!(asked.status == 0 && !asked.stderr.contains("were known"), "{asked:?}");
    assert_eq!(exam.asked().len(), 6);
}
