//! `kill -9` while a server is asked (promises 1 to 3 where requests cost money).

#![cfg(unix)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use evalign_core::{Digest, SampleKey};
use evalign_store::Store;
use evalign_testkit::openai_server::{Behaviour, Outcome};

use crate::openai::Exam;

const DOCUMENTS: usize = 300;
const IN_FLIGHT: usize = 16;

/// Samples that are on disk.
fn finished(home: &Path) -> BTreeSet<SampleKey> {
    let store = Store::open(home).expect("the database opens after a kill");
    match store.find_run("last") {
        Ok(run) => store.finished(&run).expect("finished samples"),
        // Killed before the run was created.
        Err(_) => BTreeSet::new(),
    }
}

fn exported(exam: &Exam, home: &Path) -> [Vec<u8>; 2] {
    let out = home.join("export");
    let mut command = exam.evalign(&["export", "last", "--format", "jsonl", "--out"]);
    let ended = command.arg(&out).env("EVALIGN_HOME", home).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    ["run.json", "samples.jsonl"].map(|file| fs_err::read(out.join(file)).unwrap())
}

/// Contents that were answered in full.
fn answered(exam: &Exam) -> BTreeSet<Digest> {
    let asked = exam.asked().entries.into_iter();
    asked.filter(|entry| entry.outcome == Some(Outcome::Answered)).map(|entry| entry.content).collect()
}

#[test]
fn promise_1_and_2_and_3_a_killed_run_pays_for_nothing_twice() {
    let behaviour = Behaviour { latency_ms: 10.0, latency_jitter: 0.5, ..Behaviour::default() };
    let exam = Exam::of(DOCUMENTS, behaviour);
    let limit = IN_FLIGHT.to_string();
    let more = ["--max-concurrency", limit.as_str()];
    let undisturbed = exam.sandbox.path().join("undisturbed");
    assert!(exam.command(&more).env("EVALIGN_HOME", &undisturbed).output().unwrap().status.success());
    let whole = exported(&exam, &undisturbed);
    let mut met_alive = 0;
    for kill in 0..12_u64 {
        exam.server.forget();
        let home = exam.sandbox.path().join(format!("home-{kill}"));
        let mut child = exam
            .command(&more)
            .env("EVALIGN_HOME", &home)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(60 + 17 * kill));
        met_alive += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        // The server notices that nobody listens any more.
        std::thread::sleep(Duration::from_millis(50));
        let kept = finished(&home).len();
        let (asked, sent) = (exam.asked(), answered(&exam).len());
        assert!(kept <= sent, "kill {kill}: {kept} samples on disk, {sent} answers sent");

        let ended = exam.command(&more).env("EVALIGN_HOME", &home).output().unwrap();
        assert!(ended.status.success(), "kill {kill}: {}", String::from_utf8_lossy(&ended.stderr));
        let twice = exam.asked().by_content().values().filter(|count| **count > 1).count();
        let again = exam.asked().len() - asked.len();
        assert!(again <= DOCUMENTS - kept, "kill {kill}: {again} requests for {} samples", DOCUMENTS - kept);
        assert!(twice <= 2 * IN_FLIGHT, "kill {kill}: {twice} requests were made twice");
        assert!(exported(&exam, &home) == whole, "kill {kill}: not the undisturbed run");
    }
    // A harness that always comes too late (or too early) proves nothing.
    assert!(met_alive >= 6, "only {met_alive} of 12 kills met a running process");
}
