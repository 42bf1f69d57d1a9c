//! What tests of models behind a server share: a task, the scripted server, and the real binary between
//! the two. The numbers in the names of the tests (`promise_9_...`) are those of the promises about
//! models in the design notes; each says there in one line what it says here as a test.

use std::fmt::Write as _;
use std::process::Command;

use evalign_testkit::openai_server::{Behaviour, Fault, Requests, ScriptedServer, What, When};
use evalign_testkit::{Ran, Sandbox};
use serde_json::Value;

/// A key that is found wherever it is written to.
pub(crate) const KEY: &str = "sk-canary-8d1f0c5e7ab94263";

/// Deadlines short enough for tests.
const SETTINGS: &str = "connect_timeout_secs: 1\nidle_timeout_secs: 0.5\ntotal_timeout_secs: 2\n";

/// A task of numbered documents, and a server that is asked about them.
pub(crate) struct Exam {
    pub(crate) sandbox: Sandbox,
    pub(crate) server: ScriptedServer,
}

impl Exam {
    /// Document 3 is asked for as `Document 3: what is 3 + 1?`, and its right answer is 4.
    pub(crate) fn of(documents: usize, behaviour: Behaviour) -> Self {
        let sandbox = Sandbox::new();
        let mut rows = String::new();
        for document in 0..documents {
            let _ = writeln!(rows, "{{\"n\": {document}, \"a\": \"{}\"}}", document + 1);
        }
        sandbox.write("tasks/rows.jsonl", rows);
        sandbox.write(
            "tasks/sums.yaml",
            "task: sums\nversion: \"1\"\nsummary: \"Sums\"\ndataset: {file: rows.jsonl}\n\
             output: generate_until\nprompt: \"Document {{n}}: what is {{n}} + 1?\"\ntarget: \"{{a}}\"\n\
             generation: {until: [\"\\n\"], max_tokens: 32}\nmetrics: [{name: exact_match}]\n",
        );
        sandbox.write("settings.yaml", SETTINGS);
        Self { sandbox, server: ScriptedServer::start(behaviour) }
    }

    /// Adds lines to the model's settings file.
    pub(crate) fn settings(self, more: &str) -> Self {
        self.sandbox.write("settings.yaml", format!("{SETTINGS}{more}\n"));
        self
    }

    /// Without the short deadlines: for servers that are slow and not broken.
    pub(crate) fn patient(self) -> Self {
        self.sandbox.write("settings.yaml", "connect_timeout_secs: 5\n");
        self
    }

    /// `evalign COMMAND...` with the key in its environment.
    pub(crate) fn evalign(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command(arguments);
        command.env("OPENAI_API_KEY", KEY);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.evalign(arguments).output().unwrap().into()
    }

    /// The evaluation of the task on the server.
    pub(crate) fn command(&self, more: &[&str]) -> Command {
        self.command_at(&self.server.base_url(), more)
    }

    /// The evaluation on whatever answers at an address.
    pub(crate) fn command_at(&self, base_url: &str, more: &[&str]) -> Command {
        let mut arguments = vec!["eval", "sums", "--include-path", "tasks", "--model", "openai/scripted"];
        arguments.extend(["--base-url", base_url, "--model-settings", "settings.yaml"]);
        arguments.extend(["--chat-template", "--json"]);
        arguments.extend(more);
        self.evalign(&arguments)
    }

    pub(crate) fn eval(&self, more: &[&str]) -> Ran {
        self.command(more).output().unwrap().into()
    }

    /// The evaluation, which must end well.
    pub(crate) fn ok(&self, more: &[&str]) -> Value {
        let ran = self.eval(more);
        assert_eq!(ran.status, 0, "{ran:?}");
        ran.json()
    }

    /// What was asked about documents; finding out what the server can do does not count.
    pub(crate) fn asked(&self) -> Requests {
        self.server.requests().only(|entry| entry.text.contains("Document "))
    }

    /// The requests about one document, in order.
    pub(crate) fn asked_about(&self, document: usize) -> Requests {
        let start = format!("Document {document}:");
        self.server.requests().only(|entry| entry.text.contains(&start))
    }
}

/// A fault that happens to one document, the first so many times.
pub(crate) fn on(document: usize, attempts: Option<u32>, what: What) -> Fault {
    let text = Some(format!("Document {document}:"));
    Fault { when: When { text, first_attempts: attempts, ..When::default() }, what }
}

/// A refusal with a status, in OpenAI's words.
pub(crate) fn status(status: u16) -> What {
    serde_json::from_value(serde_json::json!({"kind": "status", "status": status})).unwrap()
}

/// The only metric of the only task.
pub(crate) fn metric(document: &Value) -> &Value {
    let results = document["results"].as_array().unwrap();
    let sums = results.iter().find(|result| result["task"] == "sums").unwrap();
    &sums["metrics"][0]
}

pub(crate) fn outcome(document: &Value, outcome: &str) -> u64 {
    metric(document)["outcomes"][outcome].as_u64().unwrap_or(0)
}
