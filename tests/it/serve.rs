//! The service as a process: starting, ending, dying, and what it writes. Tests of a promise carry its number.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use evalign_testkit::{Sandbox, Script};
use serde_json::{Value, json};

/// A server on a port of its own, with a scripted model called `small`.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) key: String,
}

impl Server {
    pub(crate) fn start(sandbox: &Sandbox, script: &Script, key: Option<&str>) -> Self {
        let model = format!("small={}", sandbox.model(script));
        let mut command =
            sandbox.command(&["serve", "--address", "127.0.0.1:0", "--model", &model, "--offline"]);
        Self::spawn(&mut command, key)
    }

    pub(crate) fn spawn(command: &mut Command, key: Option<&str>) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let (mut key, mut address) = (key.map(str::to_owned), None);
        while address.is_none() {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the server ended");
            if let Some(shown) = line.trim().strip_prefix("evk_") {
                key = Some(format!("evk_{shown}"));
            }
            let listening = line.trim().strip_prefix("listening on http://");
            address = listening.map(|rest| rest.split(' ').next().unwrap().to_owned());
        }
        // Whoever does not read what a process says stops it.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, address: address.unwrap(), key: key.unwrap() }
    }

    fn open(&self, method: &str, path: &str, body: Option<&Value>) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    /// The whole answer, as it came.
    pub(crate) fn ask_raw(&self, method: &str, path: &str) -> String {
        let mut answer = String::new();
        self.open(method, path, None).read_to_string(&mut answer).unwrap();
        answer
    }

    /// Status and body.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut answer = String::new();
        self.open(method, path, body).read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
    }

    fn start_run(&self, limit: u32) -> String {
        let body = json!({"model": "small", "tasks": ["samples_knowledge"], "limit": limit});
        let (status, run) = self.ask("POST", "/v1/runs", Some(&body));
        assert_eq!(status, 202, "{run}");
        run["id"].as_str().unwrap().to_owned()
    }

    fn until(&self, run: &str, done: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let (_, answer) = self.ask("GET", &format!("/v1/runs/{run}"), None);
            if done(&answer) {
                return answer;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{answer}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn terminate(&mut self) -> i32 {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn slow() -> Script {
    Script::seeded(3).with("delay_ms", json!(100))
}

#[test]
fn promise_18_sigterm_with_an_open_stream_ends_well_and_the_run_goes_on() {
    let sandbox = Sandbox::new();
    let mut first = Server::start(&sandbox, &slow(), None);
    let run = first.start_run(40);
    first.until(&run, |run| run["samples_done"].as_u64().unwrap() > 1);
    let mut stream = first.open("GET", &format!("/v1/runs/{run}/events"), None);
    let started = Instant::now();
    assert_eq!(first.terminate(), 0);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    assert!(told.contains("event: sample.completed"), "{told}");
    assert_eq!(sandbox.ok(&["runs", "--json"]).json()[0]["status"], "queued", "it waits for the next server");
    let second = Server::start(&sandbox, &slow(), Some(&first.key));
    second.until(&run, |run| run["status"] == "completed");
    assert_eq!(sandbox.ok(&["runs", "--json"]).json().as_array().unwrap().len(), 1);
}

/// Promises 1 and 2, for the service: kill -9 loses no sample that was told, and the next server goes on at
/// once with what is missing, and with nothing else.
#[test]
fn promise_1_kill_9_loses_nothing_that_was_told() {
    let sandbox = Sandbox::new();
    let script = slow().with("count_file", json!("asked.txt"));
    let mut first = Server::start(&sandbox, &script, None);
    let run = first.start_run(30);
    let told =
        first.until(&run, |run| run["samples_done"].as_u64().unwrap() > 3)["samples_done"].as_u64().unwrap();
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let second = Server::start(&sandbox, &script, Some(&first.key));
    let (_, now) = second.ask("GET", &format!("/v1/runs/{run}"), None);
    assert!(now["samples_done"].as_u64().unwrap() >= told);
    second.until(&run, |run| run["status"] == "completed");
    let asked = fs_err::read_to_string(sandbox.path().join("asked.txt")).unwrap();
    let in_flight_at_the_kill = 1;
    assert!(asked.lines().count() <= 30 + in_flight_at_the_kill, "{}", asked.lines().count());
}

#[test]
fn runs_of_the_service_are_runs_of_the_command_line() {
    let sandbox = Sandbox::new();
    let mut server = Server::start(&sandbox, &Script::seeded(3), None);
    let run = server.start_run(5);
    server.until(&run, |run| run["status"] == "completed");
    let (_, over_rest) = server.ask("GET", &format!("/v1/runs/{run}/results"), None);
    assert_eq!(server.terminate(), 0);
    let model = sandbox.model(&Script::seeded(3));
    let again =
        sandbox.ok(&["eval", "samples_knowledge", "--limit", "5", "--model", &model, "--offline", "--json"]);
    assert_eq!(again.json()["run_id"], run.as_str(), "the same run: {}", again.stderr);
    assert_eq!(again.json()["results"], over_rest["results"]);
}

/// The first key is shown once: a start that comes to nothing must not use that up.
#[test]
fn a_start_that_cannot_listen_leaves_the_first_key_to_the_next() {
    let sandbox = Sandbox::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = sandbox.run(&["serve", "--address", &address]);
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("cannot listen") && !refused.stderr.contains("evk_"), "{refused:?}");
    assert_eq!(sandbox.ok(&["keys", "list", "--json"]).json(), json!([]));
    let server = Server::start(&sandbox, &Script::seeded(1), None);
    assert_eq!(server.ask("GET", "/v1/runs", None).0, 200, "the key that was printed");
}

#[test]
fn what_cannot_be_served_is_said_at_the_start() {
    let sandbox = Sandbox::new();
    let refused =
        sandbox.run(&["serve", "--address", "127.0.0.1:0", "-M", "ghost=local//nowhere/ghost.gguf"]);
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("`ghost` is served from /nowhere/ghost.gguf"), "{refused:?}");
    // By the rule by which models are loaded, not only by how the name begins.
    let refused = sandbox.run(&["serve", "--address", "127.0.0.1:0", "-M", "ghost=local/models/ghost.gguf"]);
    assert!(
        refused.status == 2 && refused.stderr.contains("models/ghost.gguf, which is not there"),
        "{refused:?}"
    );
    let output = sandbox.command(&["serve"]).env("EVALIGN_SERVE__WORKRES", "3").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("`EVALIGN_SERVE__WORKERS` is one"), "{told}");
}

#[test]
fn an_address_that_others_reach_needs_a_key() {
    let sandbox = Sandbox::new();
    let refused = sandbox.run(&["serve", "--address", "0.0.0.0:0"]);
    assert_eq!(refused.status, 2);
    assert!(
        refused.stderr.contains("no key exists") && refused.stderr.contains("evalign keys create"),
        "{refused:?}"
    );
}

#[test]
fn keys_are_shown_once_listed_without_their_secret_and_revoked() {
    let sandbox = Sandbox::new();
    let key =
        sandbox.ok(&["keys", "create", "--scope", "read", "--tenant", "lab-1", "--name", "mine"]).stdout;
    let (id, secret) = key.trim().strip_prefix("evk_").unwrap().split_once('_').unwrap();
    let listed = sandbox.ok(&["keys", "list", "--json"]);
    assert!(!listed.stdout.contains(secret));
    let row = &listed.json()[0];
    assert_eq!(
        (&row["tenant"], &row["scope"], &row["state"]),
        (&json!("lab-1"), &json!("read"), &json!("good"))
    );
    assert!(sandbox.ok(&["keys", "login", id]).stdout.starts_with("/login/"));
    sandbox.ok(&["keys", "revoke", id]);
    assert_eq!(sandbox.ok(&["keys", "list", "--json"]).json()[0]["state"], "revoked");
    assert_eq!(sandbox.run(&["keys", "login", id]).status, 2);
    assert_eq!(sandbox.run(&["keys", "revoke", "nobody"]).status, 2);
    let limits = ["--requests-per-day", "10", "--tokens-per-day", "1000", "--max-active-runs", "2"];
    sandbox.ok(&[&["keys", "create"], &limits[..]].concat());
    let row = &sandbox.ok(&["keys", "list", "--json"]).json()[1];
    let shown = ["requests_per_day", "tokens_per_day", "max_active_runs", "requests_today", "tokens_today"];
    assert_eq!(shown.map(|field| row[field].as_u64()), [10, 1000, 2, 0, 0].map(Some), "{row}");
    let table = sandbox.ok(&["keys", "list"]).stdout;
    assert!(
        table.contains("0 of 10") && table.contains("0 of 1000") && table.contains("at most 2"),
        "{table}"
    );
    assert_eq!(sandbox.run(&["keys", "create", "--tokens-per-day", "0"]).status, 2);
    let id = row["id"].as_str().unwrap();
    let set = |options: &[&str]| sandbox.run(&[&["keys", "set-quota"], options].concat()).status;
    assert_eq!(set(&[id, "--requests-per-day", "20", "--tokens-per-day", "none"]), 0);
    let row = &sandbox.ok(&["keys", "list", "--json"]).json()[1];
    assert_eq!(shown.map(|field| row[field].as_u64()), [Some(20), None, Some(2), Some(0), Some(0)], "{row}");
    for wrong in [&[id][..], &[id, "--tokens-per-day", "0"], &["nobody", "--tokens-per-day", "1"]] {
        assert_eq!(set(wrong), 2, "{wrong:?}");
    }
    let out = sandbox.path().join("key");
    sandbox.ok(&["keys", "create", "--out", out.to_str().unwrap()]);
    assert!(fs_err::read_to_string(&out).unwrap().starts_with("evk_"));
    sandbox.ok(&["keys", "create", "--if-none", "--out", "/nonexistent/key"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs_err::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn settings_say_where_they_come_from() {
    let sandbox = Sandbox::new();
    sandbox.write("home/config.toml", "[serve]\nworkers = 3\n[serve.models]\nsmall = \"local/x\"\n");
    let shown = sandbox
        .command(&["config", "show", "--json"])
        .env("EVALIGN_SERVE__MAX_STREAMS", "7")
        .output()
        .unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let serve = &shown["serve"];
    assert_eq!(serve["workers"]["value"], "3");
    assert!(serve["workers"]["origin"].as_str().unwrap().ends_with("config.toml"));
    assert_eq!(serve["max_streams"], json!({"value": "7", "origin": "EVALIGN_SERVE__MAX_STREAMS"}));
    assert_eq!(serve["address"], json!({"value": "127.0.0.1:8080", "origin": "built in"}));
    assert_eq!(serve["models"]["value"], "small=local/x");
    sandbox.write("home/config.toml", "[serve]\nworkres = 3\n");
    let refused = sandbox.run(&["serve"]);
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("workres") && refused.stderr.contains("hint:"), "{refused:?}");
}

/// Promise 29: at the most talkative, over everything that a client does with it, the secret of a key is nowhere.
#[test]
fn promise_29_no_log_and_no_file_has_a_secret() {
    let sandbox = Sandbox::new();
    let key = sandbox.ok(&["keys", "create", "--scope", "admin"]).stdout.trim().to_owned();
    let model = format!("small={}", sandbox.model(&Script::seeded(3)));
    let log = sandbox.path().join("log");
    let mut command = sandbox.command(&["serve", "--address", "127.0.0.1:0", "--model", &model, "--offline"]);
    command.env("RUST_LOG", "trace").env("OPENAI_API_KEY", "sk-canary-0123456789");
    // Through a shell, so that everything that is written is kept as well as read.
    let line = format!("exec \"$0\" \"$@\" 2> >(tee '{}' >&2)", log.display());
    let mut through = Command::new("bash");
    through.arg("-c").arg(line).arg(command.get_program()).args(command.get_args()).env_clear();
    through
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(sandbox.path());
    let mut server = Server::spawn(&mut through, Some(&key));
    let run = server.start_run(3);
    server.until(&run, |run| run["status"] == "completed");
    let link = sandbox.ok(&["keys", "login", key.split('_').nth(1).unwrap()]).stdout.trim().to_owned();
    server.ask_raw("GET", &link);
    server.ask("GET", "/v1/nothing", None);
    server.ask("POST", "/v1/runs", Some(&json!({"model": 3})));
    server.terminate();
    std::thread::sleep(Duration::from_millis(300));
    let canaries =
        [key.rsplit_once('_').unwrap().1, link.trim_start_matches("/login/"), "sk-canary-0123456789"];
    let mut looked = 0;
    let mut dirs = vec![sandbox.path().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs_err::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let bytes = fs_err::read(&path).unwrap();
            for canary in canaries {
                let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
                assert!(!found, "{canary} in {}", path.display());
            }
            looked += 1;
        }
    }
    assert!(looked > 2, "{looked} files");
    assert!(fs_err::read_to_string(&log).unwrap().contains("status=202"), "the log is the server's");
}

/// Bad input: another process holds the database's write lock for a while: requests wait, nothing is lost.
#[test]
fn readers_are_answered_while_another_process_writes() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &slow(), None);
    let run = server.start_run(10);
    let model = sandbox.model(&slow());
    let other =
        sandbox.command(&["eval", "samples_arithmetic", "--limit", "10", "--model", &model, "--offline"]);
    let mut other = { other }.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    server.until(&run, |run| run["status"] == "completed");
    assert!(other.wait().unwrap().success());
    let (_, listed) = server.ask("GET", "/v1/runs", None);
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
}
