//! `evalign rag query` with a model on a server: what is said while the server still writes.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use evalign_testkit::openai_server::{Behaviour, Fault, ScriptedServer, What, When};
use evalign_testkit::{Sandbox, embedding_model};

const QUESTION: &str = "When does the gate close?";
const CLAIM: &str = "The gate closes at 18:30.";
const ANSWER: &str =
    "The gate closes at 18:30. The lamp burns all night. The lamp burns all night, and the keeper sleeps.";

/// What reads never waits for longer.
const PATIENCE: Duration = Duration::from_secs(60);

struct Asking {
    sandbox: Sandbox,
    server: ScriptedServer,
}

impl Asking {
    /// Something goes wrong the first so many times the question is put to the model.
    fn with(test: &str, what: What, first_attempts: Option<u32>) -> Option<Self> {
        let embedder = embedding_model(test)?.display().to_string();
        let sandbox = Sandbox::new();
        sandbox.write("docs/gate.md", format!("{CLAIM} The lamp burns all night."));
        sandbox.ok(&["rag", "index", "docs", "--json", "--embedder", &embedder]);
        let fault = Fault { when: When { first_attempts, ..When::text(QUESTION) }, what };
        let server = ScriptedServer::start(Behaviour::default().rule(QUESTION, ANSWER).fault(fault));
        Some(Self { sandbox, server })
    }

    fn query(&self) -> Command {
        let url = self.server.base_url();
        let model = ["--model", "openai/scripted", "--base-url", &url, "--min-confidence", "0"];
        self.sandbox.command(&[&["rag", "query", QUESTION][..], &model].concat())
    }
}

/// What a process writes, as it comes.
fn output(child: &mut Child) -> Receiver<String> {
    let mut stdout = child.stdout.take().unwrap();
    let (heard, output) = channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut bytes)
            && heard.send(String::from_utf8_lossy(&bytes[..length]).into_owned()).is_ok()
        {}
    });
    output
}

/// The server stops in the middle of its answer, for ever: what is seen is seen before the end.
#[test]
fn a_claim_is_seen_while_the_server_writes() {
    let test = "a_claim_is_seen_while_the_server_writes";
    let Some(asking) = Asking::with(test, What::StallMidBody, None) else { return };
    let mut child = asking.query().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let output = output(&mut child);
    let mut seen = String::new();
    while !seen.contains(CLAIM)
        && let Ok(more) = output.recv_timeout(PATIENCE)
    {
        seen.push_str(&more);
    }
    let in_flight = asking.server.requests().in_flight;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen.starts_with(CLAIM), "{seen}");
    assert_eq!(in_flight, 1, "the server has not finished");
}

/// What was shown before the stream broke off is not shown again.
#[test]
fn a_stream_that_breaks_off_leaves_one_answer() {
    let test = "a_stream_that_breaks_off_leaves_one_answer";
    let broken = What::EndStream { after_events: 12 };
    let Some(asking) = Asking::with(test, broken, Some(1)) else { return };
    let ran = asking.query().output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{stdout}{stderr}");
    assert!(stdout.starts_with(&format!("{CLAIM} The lamp burns all night.")), "{stdout}");
    assert!(!stderr.contains("otherwise than it began"), "{stderr}");
    let asked = asking.server.requests().only(|entry| entry.text.contains(QUESTION));
    assert!(asked.len() > 1, "the stream did not break off");
}
