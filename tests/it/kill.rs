//! `kill -9` at random moments: nothing finished is lost, nothing finished is asked again, and the
//! result is byte for byte that of a run that nobody disturbed.
//!
//! Every run is killed several times and then left to finish. The seed of a failing run is printed.
//! `EVALIGN_KILLS=1000 cargo test --release -p evalign kill` does it more often than the default.

#![cfg(unix)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use evalign_core::SampleKey;
use evalign_store::Store;
use evalign_testkit::{Sandbox, Script, real_model};
use serde_json::json;

const KILLS_PER_RUN: usize = 5;

/// What is measured, and how long a kill may wait.
struct Case {
    model: String,
    arguments: Vec<&'static str>,
    latest_kill: Duration,
    /// Where the scripted model writes one line for each request it is asked.
    asked: Option<std::path::PathBuf>,
}

/// SplitMix64 (Steele et al. 2014), enough to choose moments.
pub(crate) struct Moments(pub(crate) u64);

impl Moments {
    pub(crate) fn next(&mut self, latest: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        latest.mul_f64((z ^ (z >> 31)) as f64 / u64::MAX as f64)
    }
}

/// Kills a process that writes a line into `asked` for each request, when it has issued a few more: at most `latest`.
/// Returns whether it was still running.
pub(crate) fn kill_after_requests(
    mut child: std::process::Child,
    asked: &Path,
    moments: &mut Moments,
    latest: u64,
) -> bool {
    let more = 1 + moments.next(Duration::from_millis(latest)).as_millis() as usize;
    let wanted = lines(Some(asked)) + more;
    while lines(Some(asked)) < wanted && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let alive = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    alive
}

pub(crate) fn finished(home: &Path) -> BTreeSet<SampleKey> {
    let store = Store::open(home).expect("the database opens after a kill");
    match store.find_run("last") {
        Ok(run) => store.finished(&run).expect("finished samples"),
        // Killed before the run was created.
        Err(_) => BTreeSet::new(),
    }
}

fn lines(path: Option<&Path>) -> usize {
    let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    text.lines().count()
}

/// The evaluation in `home`, so that runs of one case do not see each other.
fn evaluate(sandbox: &Sandbox, case: &Case, home: &Path) -> Command {
    let mut arguments = vec!["eval"];
    arguments.extend(&case.arguments);
    arguments.extend(["--model", &case.model, "--json"]);
    let mut command = sandbox.command(&arguments);
    command.env("EVALIGN_HOME", home);
    command
}

fn exported(sandbox: &Sandbox, home: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let out = home.join("export");
    let mut command = sandbox.command(&["export", "last", "--format", "jsonl", "--out"]);
    let ended = command.arg(&out).env("EVALIGN_HOME", home).output().expect("export starts");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    ["run.json", "samples.jsonl"].map(|file| (file, std::fs::read(out.join(file)).expect("exported"))).into()
}

/// Kills one run [`KILLS_PER_RUN`] times, lets it finish, and compares. Returns how often it was still
/// running when it was killed.
fn kill_and_resume(sandbox: &Sandbox, case: &Case, seed: u64, whole: &[(&'static str, Vec<u8>)]) -> usize {
    let home = sandbox.path().join(format!("home-{seed}"));
    let mut moments = Moments(seed);
    let mut kept = BTreeSet::new();
    let mut killed_alive = 0;
    for _ in 0..KILLS_PER_RUN {
        let mut child = evaluate(sandbox, case, &home)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        std::thread::sleep(moments.next(case.latest_kill));
        killed_alive += usize::from(child.try_wait().expect("a child").is_none());
        child.kill().expect("SIGKILL is sent");
        child.wait().expect("a dead child");
        let now = if home.exists() { finished(&home) } else { BTreeSet::new() };
        assert!(kept.is_subset(&now), "seed {seed}: lost {:?}", kept.difference(&now).collect::<Vec<_>>());
        kept = now;
    }
    let asked_before = lines(case.asked.as_deref());
    let ended = evaluate(sandbox, case, &home).output().expect("the binary starts");
    assert!(ended.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&ended.stderr));
    let all = finished(&home);
    if case.asked.is_some() {
        // One request a sample (or none, where the answer was cached but its sample not yet committed).
        let (asked, open) = (lines(case.asked.as_deref()) - asked_before, all.len() - kept.len());
        assert!(asked <= open, "seed {seed}: {asked} requests for {open} unfinished samples");
    }
    for ((file, want), (_, got)) in whole.iter().zip(exported(sandbox, &home)) {
        assert!(*want == got, "seed {seed}: {file} differs from the undisturbed run");
    }
    killed_alive
}

fn kill_many(sandbox: &Sandbox, case: &Case, kills: usize) {
    let home = sandbox.path().join("undisturbed");
    let ended = evaluate(sandbox, case, &home).output().expect("the binary starts");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let whole = exported(sandbox, &home);
    assert!(!finished(&home).is_empty());
    let runs = kills.div_ceil(KILLS_PER_RUN);
    let alive: usize = (0..runs as u64).map(|seed| kill_and_resume(sandbox, case, seed, &whole)).sum();
    // A harness that always comes too late proves nothing.
    assert!(
        alive * 2 > runs * KILLS_PER_RUN,
        "only {alive} of {} kills met a running process",
        runs * KILLS_PER_RUN
    );
}

#[test]
fn promise_1_and_2_and_3_a_hundred_kills_with_the_scripted_model() {
    let kills = std::env::var("EVALIGN_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(100);
    let sandbox = Sandbox::new();
    let script = Script::seeded(11)
        .with("delay_ms", json!(8))
        .with("concurrency", json!(4))
        .with("count_file", json!("asked.txt"));
    let case = Case {
        model: sandbox.model(&script),
        arguments: vec!["samples"],
        latest_kill: Duration::from_millis(160),
        asked: Some(sandbox.path().join("asked.txt")),
    };
    kill_many(&sandbox, &case, kills);
}

#[test]
fn promise_1_and_3_ten_kills_with_the_real_model() {
    let Some(model) = real_model("promise_1_and_3_ten_kills_with_the_real_model") else { return };
    let sandbox = Sandbox::new();
    let case = Case {
        model: format!("local/{}", model.display()),
        arguments: vec!["samples_completion", "--limit", "40"],
        latest_kill: Duration::from_millis(1500),
        asked: None,
    };
    kill_many(&sandbox, &case, 10);
}
