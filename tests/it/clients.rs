//! The examples, and the script that asks a deployed server for one of everything, against a server without docker.

use std::path::PathBuf;
use std::process::{Command, Output};

use evalign_testkit::{Sandbox, Script, skipped};

use crate::serve::Server;

#[expect(dead_code, reason = "an example of its own; the test does what its `main` does")]
#[path = "../../examples/rust/client.rs"]
mod client;

fn of_repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Whether a program is on this machine and says so.
fn is_there(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

fn started() -> (Sandbox, Server) {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &Script::seeded(3), None);
    (sandbox, server)
}

fn run(command: &mut Command, server: &Server) -> Output {
    let url = format!("http://{}", server.address);
    let vars = [("EVALIGN_URL", url.as_str()), ("EVALIGN_KEY", &server.key), ("EVALIGN_MODEL", "small")];
    command.envs(vars).env("EVALIGN_SMOKE_MODEL", "small").output().unwrap()
}

/// What it printed, where it ended well.
fn printed(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out.into_owned()
}

#[test]
fn the_smoke_script_finds_all_well_without_docker() {
    if !is_there("curl", &["--version"]) || !is_there("python3", &["--version"]) {
        return skipped("the_smoke_script_finds_all_well_without_docker", "curl or python3 is not here");
    }
    let (_sandbox, server) = started();
    let mut smoke = Command::new(of_repository("scripts/smoke"));
    smoke.arg(format!("http://{}", server.address)).arg(&server.key);
    assert!(printed(&run(&mut smoke, &server)).contains("all well: run_"));
    // A server that is not well is told from one that is.
    let mut smoke = Command::new(of_repository("scripts/smoke"));
    smoke.arg(format!("http://{}", server.address)).arg("evk_0123456789abcdef_wrong");
    assert!(!run(&mut smoke, &server).status.success());
}

#[test]
fn the_example_with_curl_runs() {
    if !is_there("curl", &["--version"]) {
        return skipped("the_example_with_curl_runs", "curl is not here");
    }
    let (_sandbox, server) = started();
    let said = printed(&run(&mut Command::new(of_repository("examples/curl/run.sh")), &server));
    assert!(said.contains("run.completed") && said.contains("\"samples_knowledge\""), "{said}");
}

#[test]
fn the_examples_with_python_run() {
    for (example, module, says) in [("run.py", "httpx", "samples_knowledge"), ("chat.py", "openai", "")] {
        if !is_there("python3", &["-c", &format!("import {module}")]) {
            skipped("the_examples_with_python_run", &format!("python3 has no {module}"));
            continue;
        }
        let (_sandbox, server) = started();
        let mut python = Command::new("python3");
        python.arg(of_repository("examples/python").join(example));
        assert!(printed(&run(&mut python, &server)).contains(says), "{example}");
    }
}

#[tokio::test]
async fn the_example_in_rust_runs() {
    let (_sandbox, server) = started();
    // As its `main` does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut said = Vec::new();
    client::watch(&format!("http://{}", server.address), &server.key, "small", &mut said).await.unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("\"run.completed\"") && said.contains("n=5"), "{said}");
}
