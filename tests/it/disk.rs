//! A full disk, and a store that cannot be written. Each test mounts a small memory disk over the store's
//! directory, in a name space of its own, so that nothing else sees it and nothing needs to be cleaned up.

#![cfg(target_os = "linux")]

use std::process::Command;

use evalign_testkit::{Ran, Sandbox, Script, binary, embedding_model, skipped};
use serde_json::json;

/// Runs a shell script in a name space in which it may mount. `$E` is the binary, `$M` a model. `None`, said
/// on stderr, where this machine does not allow it.
fn with_mounts(test: &str, sandbox: &Sandbox, script: &str) -> Option<Ran> {
    let unshared = |line: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", line]);
        command.current_dir(sandbox.path());
        command
    };
    fs_err::create_dir_all(sandbox.home()).unwrap();
    let allowed = unshared("mount -t tmpfs -o size=1m tmpfs home").output();
    if !allowed.is_ok_and(|ran| ran.status.success()) {
        skipped(test, "no memory disk can be mounted here");
        return None;
    }
    // Answers one after the other, so that they are not all committed together.
    let paced = Script::seeded(3).with("delay_ms", json!(5)).with("concurrency", json!(1));
    let model = sandbox.model(&paced);
    let mut command = unshared(script);
    command
        .env("E", binary())
        .env("M", model)
        .env("EVALIGN_HOME", sandbox.home())
        .env("HOME", sandbox.path());
    Some(command.env("HF_HUB_OFFLINE", "1").output().unwrap().into())
}

fn exported(sandbox: &Sandbox, directory: &str) -> Vec<Vec<u8>> {
    let read = |file: &str| fs_err::read(sandbox.path().join(directory).join(file)).unwrap();
    ["run.json", "samples.jsonl"].map(read).into()
}

#[test]
fn promise_6_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_room() {
    let sandbox = Sandbox::new();
    let script = "mount -t tmpfs -o size=600k tmpfs home
        set +e; $E eval samples --model $M; status=$?; set -e
        test $status = 2
        $E runs --json > runs.json
        $E show last > shown.txt
        mount -o remount,size=64m home
        $E resume last > /dev/null
        $E export last --format jsonl --out resumed
        rm -r home/*
        $E eval samples --model $M > /dev/null
        $E export last --format jsonl --out whole";
    let test = "promise_6_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_room";
    let Some(ran) = with_mounts(test, &sandbox, script) else { return };
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains("no space left") && ran.stderr.contains("evalign resume last"), "{ran:?}");
    let runs = fs_err::read_to_string(sandbox.path().join("runs.json")).unwrap();
    let runs: serde_json::Value = serde_json::from_str(&runs).unwrap();
    let (done, total) =
        (runs[0]["samples_done"].as_u64().unwrap(), runs[0]["samples_total"].as_u64().unwrap());
    assert!(done > 0 && done < total, "the disk was full too early or too late: {runs}");
    assert!(ran.stderr.contains(&format!("going on after {done} of {total}")), "{ran:?}");
    assert!(exported(&sandbox, "resumed") == exported(&sandbox, "whole"), "the exports differ");
}

#[test]
fn promise_6_and_17_a_full_disk_leaves_whole_checkpoints_and_training_goes_on_when_there_is_room() {
    let test =
        "promise_6_and_17_a_full_disk_leaves_whole_checkpoints_and_training_goes_on_when_there_is_room";
    let Some(shared) = evalign_testkit::shared(test) else { return };
    let golden = shared.join("golden/trl");
    let sandbox = Sandbox::new();
    // A checkpoint of this adapter takes almost half a megabyte.
    let script = format!(
        "train() {{ $E train dpo --model local/{}/models/tiny-llama --data {}/data/preference_standard.jsonl --offline \\
            --max-length 64 --batch-size 4 --lora-r 16 --max-steps 8 --save-steps 1 --samples 0 --out $1; }}
        mkdir small; mount -t tmpfs -o size=2m tmpfs small
        set +e; train small/out 2> err.txt; status=$?; set -e
        test $status = 2
        grep -q 'hint: .*make room' err.txt
        ls -A small/out > left.txt
        test ! -e small/out/adapter_model.safetensors
        mount -o remount,size=64m small
        train small/out > /dev/null
        train whole > /dev/null
        cmp small/out/adapter_model.safetensors whole/adapter_model.safetensors
        cmp small/out/checkpoint-8/optimizer.safetensors whole/checkpoint-8/optimizer.safetensors",
        golden.display(),
        golden.display()
    );
    let Some(ran) = with_mounts(test, &sandbox, &script) else { return };
    assert_eq!(ran.status, 0, "{ran:?}");
    let left = fs_err::read_to_string(sandbox.path().join("left.txt")).unwrap();
    assert!(left.contains("checkpoint-1") && !left.contains("partial"), "{left}");
}

#[test]
fn promise_6_a_store_that_cannot_be_written_can_be_read() {
    let sandbox = Sandbox::new();
    let script = "mount -t tmpfs -o size=64m tmpfs home
        $E eval samples --model $M --json > results.json
        mount -o remount,ro home
        $E runs > out.txt
        $E show last >> out.txt
        $E show last --samples >> out.txt
        $E leaderboard >> out.txt
        $E export last --format jsonl --out exported
        for command in 'eval samples --seed 7' 'eval samples' 'rescore last' 'resume last'; do
            case $command in eval*) command=\"$command --model $M\";; esac
            set +e; $E $command 2> err.txt; status=$?; set -e
            test $status = 2
            grep -q EVALIGN_HOME err.txt
            grep -q 'hint:' err.txt
        done";
    let test = "promise_6_a_store_that_cannot_be_written_can_be_read";
    let Some(ran) = with_mounts(test, &sandbox, script) else { return };
    assert_eq!(ran.status, 0, "{ran:?}");
    let shown = fs_err::read_to_string(sandbox.path().join("out.txt")).unwrap();
    assert!(shown.contains("completed") && shown.contains("samples_knowledge"), "{shown}");
    assert!(!exported(&sandbox, "exported")[1].is_empty());
}

#[test]
fn a_store_that_was_not_closed_and_cannot_be_written_says_what_it_needs() {
    let sandbox = Sandbox::new();
    // A log that was never folded in, and no shared memory file that could stand for it.
    let script = "mount -t tmpfs -o size=64m tmpfs home
        $E eval samples_completion --model $M > /dev/null
        echo leftover > home/evalign.db-wal
        mount -o remount,ro home
        set +e; $E runs; status=$?; set -e
        test $status = 2";
    let test = "a_store_that_was_not_closed_and_cannot_be_written_says_what_it_needs";
    let Some(ran) = with_mounts(test, &sandbox, script) else { return };
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains("evalign.db-wal") && ran.stderr.contains("hint:"), "{ran:?}");
}

#[test]
fn promise_6_an_index_that_the_disk_has_no_room_for_is_refused_and_found_again_when_there_is() {
    let test = "promise_6_an_index_that_the_disk_has_no_room_for_is_refused_and_found_again_when_there_is";
    let Some(embedder) = embedding_model(test) else { return };
    let sandbox = Sandbox::new();
    sandbox.write("docs/gate.md", "The gate closes at 18:30.");
    // The engine maps files with holes: a disk that holds what is written may have no room for what is mapped.
    let script = format!(
        "refused() {{
            set +e; \"$@\" > out.txt 2> err.txt; status=$?; set -e
            cat err.txt >&2
            test $status = 2
            grep -q 'no space left' err.txt
            grep -q 'hint: make room' err.txt
        }}
        index() {{ $E rag index docs --embedder {}; }}
        mount -t tmpfs -o size=10m tmpfs home
        refused index
        mount -o remount,size=20m home
        refused index
        mount -o remount,size=400m home
        index
        $E rag search gate > found.txt
        # What stays free is enough for the database.
        free=$(df -k --output=avail home | tail -n 1)
        head -c $(( (free - 8192) * 1024 )) /dev/zero > home/fill
        refused $E rag search gate
        refused $E rag list
        echo 'The bell rings at noon.' > docs/bell.md
        refused index
        rm home/fill
        index
        $E rag search bell >> found.txt",
        embedder.display()
    );
    let Some(ran) = with_mounts(test, &sandbox, &script) else { return };
    assert_eq!(ran.status, 0, "{ran:?}");
    let found = fs_err::read_to_string(sandbox.path().join("found.txt")).unwrap();
    assert!(found.contains("18:30") && found.contains("bell rings"), "{found}");
}
