//! Standard error as JSON: every line is an object, whoever wrote it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use evalign_testkit::{Sandbox, Script};
use serde_json::Value;

use crate::serve::Server;

fn parsed(line: &str) -> Value {
    let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    line
}

#[test]
fn every_request_is_a_line_of_json_with_its_id() {
    let sandbox = Sandbox::new();
    let key = sandbox.ok(&["keys", "create"]).stdout.trim().to_owned();
    let model = format!("small={}", sandbox.model(&Script::seeded(3)));
    let mut command = sandbox.command(&["serve", "--address", "127.0.0.1:0", "--model", &model, "--offline"]);
    command.args(["--log-format", "json"]).env("RUST_LOG", "evalign_serve=info");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut next = || parsed(&lines.next().unwrap().unwrap());
    let address = loop {
        let line = next();
        if let Some(rest) = line["message"].as_str().unwrap_or_default().strip_prefix("listening on http://")
        {
            break rest.split(' ').next().unwrap().to_owned();
        }
    };
    let mut server = Server { child, address, key };
    server.ask("GET", "/v1/runs", None);
    let answered = loop {
        let line = next();
        if line["message"] == "answered" {
            break line;
        }
    };
    assert_eq!(
        (&answered["status"], &answered["span"]["path"]),
        (&200.into(), &"/v1/runs".into()),
        "{answered}"
    );
    assert!(answered["span"]["id"].as_str().unwrap().starts_with("req_"), "{answered}");
    assert_eq!(server.terminate(), 0);
    lines.for_each(|line| drop(parsed(&line.unwrap())));
}

#[test]
fn an_error_is_a_line_of_json_too() {
    let sandbox = Sandbox::new();
    let refused = sandbox.run(&["show", "run_0", "--log-format", "json"]);
    assert_eq!(refused.status, 2);
    let line = parsed(refused.stderr.trim());
    assert_eq!(line["level"], "ERROR");
    assert!(line["message"].as_str().unwrap().contains("error: "), "{line}");
}
