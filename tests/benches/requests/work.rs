//! The task that is measured: short prompts, short answers.

use std::fmt::Write as _;

use evalign_testkit::Sandbox;
use evalign_testkit::openai_server::ScriptedServer;

use super::process::{Measured, measure};

/// A task of so many documents in a directory of its own.
pub(crate) struct Work {
    pub(crate) sandbox: Sandbox,
}

impl Work {
    /// How every prompt begins.
    pub(crate) const PROMPT: &str = "What is ";

    pub(crate) fn of(documents: usize) -> Self {
        let sandbox = Sandbox::new();
        let mut rows = String::new();
        for document in 0..documents {
            let _ =
                writeln!(rows, "{{\"q\": \"{}{document} + 1?\", \"a\": \"{}\"}}", Self::PROMPT, document + 1);
        }
        sandbox.write("tasks/rows.jsonl", rows);
        sandbox.write(
            "tasks/short.yaml",
            "task: short\nversion: \"1\"\nsummary: \"Short prompts, short answers\"\n\
             dataset: {file: rows.jsonl}\noutput: generate_until\nprompt: \"{{q}}\"\ntarget: \"{{a}}\"\n\
             generation: {until: [\"\\n\"], max_tokens: 16}\nmetrics: [{name: exact_match}]\n",
        );
        Self { sandbox }
    }

    /// The real binary over all documents.
    pub(crate) fn evaluate(&self, server: &ScriptedServer, more: &[&str]) -> Measured {
        let base_url = server.base_url();
        let mut arguments = vec!["eval", "short", "--include-path", "tasks", "--model", "openai/scripted"];
        arguments.extend(["--no-chat-template", "--json", "--base-url", &base_url]);
        arguments.extend(more);
        measure(self.sandbox.command(&arguments).env("OPENAI_API_KEY", "sk-bench"))
    }
}
