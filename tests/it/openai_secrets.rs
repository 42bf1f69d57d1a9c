//! The key is in no byte that is written (promise 29, for what talks to servers).

use std::path::Path;
use std::process::Output;

use evalign_testkit::openai_server::{Behaviour, Fault, What, When};

use crate::openai::{Exam, KEY, status};

/// Parts of the key that would still lead to it.
fn holds_key(bytes: &[u8]) -> bool {
    let part = &KEY.as_bytes()[KEY.len() - 12..];
    bytes.windows(part.len()).any(|window| window == part)
}

fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs_err::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn promise_29_the_key_is_in_no_byte_that_is_written() {
    // A server that repeats the key it was given in its refusals.
    let echo = What::Status {
        status: 400,
        retry_after: None,
        code: None,
        message: Some(format!("Request with header `authorization: Bearer {KEY}` and key={KEY} refused.")),
        body: evalign_testkit::openai_server::ErrorBody::OpenAi,
    };
    let behaviours = [
        Behaviour { api_key: Some(KEY.to_owned()), ..Behaviour::default() },
        Behaviour { api_key: Some("sk-other".to_owned()), ..Behaviour::default() },
        Behaviour::default().fault(Fault { when: When::default(), what: echo }),
        Behaviour::default().fault(Fault { when: When::first_attempts(1), what: status(503) }),
        Behaviour::default().fault(Fault { when: When::first_attempts(1), what: What::Reset }),
        Behaviour::default()
            .fault(Fault { when: When::default(), what: What::NotHttp { bytes: format!("{KEY}\r\n") } }),
        Behaviour::default().fault(Fault { when: When::default(), what: What::Html }),
    ];
    for (index, behaviour) in behaviours.into_iter().enumerate() {
        let exam = Exam::of(3, behaviour).settings("header_env: {x-gateway: GATEWAY}");
        let mut printed: Vec<(String, Output)> = Vec::new();
        let base_url = exam.server.base_url();
        let commands: [&[&str]; 6] = [
            &["eval", "sums", "--include-path", "tasks", "--model", "openai/scripted", "--chat-template"],
            &["resume", "last"],
            &["show", "last", "--samples", "--json"],
            &["runs", "--json"],
            &["export", "last", "--format", "jsonl", "--out", "out-jsonl"],
            &["config", "show"],
        ];
        for arguments in commands {
            let mut arguments = arguments.to_vec();
            if arguments[0] == "eval" {
                arguments.extend(["--base-url", &base_url, "--model-settings", "settings.yaml"]);
            }
            let mut command = exam.evalign(&arguments);
            command.env("GATEWAY", KEY).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
            printed.push((arguments.join(" "), command.output().unwrap()));
        }
        let headers = exam.server.requests().identifying_headers;
        assert!(headers.iter().any(|(_, value)| value.contains(KEY)), "{index}: the key was used");
        for (command, output) in &printed {
            let traced = String::from_utf8_lossy(&output.stderr);
            assert!(!holds_key(&output.stdout), "{index}: `{command}` prints the key");
            assert!(!holds_key(&output.stderr), "{index}: `{command}` logs the key: {}", around(&traced));
        }
        let mut written = Vec::new();
        files(exam.sandbox.path(), &mut written);
        assert!(written.iter().any(|path| path.ends_with("evalign.db")) || index > 0, "{written:?}");
        for path in written {
            assert!(!holds_key(&fs_err::read(&path).unwrap()), "{index}: {} holds the key", path.display());
        }
    }
}

/// What stands around the key in a log.
fn around(log: &str) -> String {
    let at = log.find(&KEY[KEY.len() - 12..]).unwrap_or(0);
    log.chars().skip(log[..at].chars().count().saturating_sub(200)).take(260).collect()
}
