//! Who judges: several judges of a task, people alone, the judge's own family; and that a run goes on as itself only.

use std::io::Write;
use std::process::Stdio;

use evalign_testkit::{Ran, Sandbox};
use serde_json::{Value, json};

use crate::judge::{jsonl, judged_task, lines, metric, model, prompts, rubric};

fn eval(sandbox: &Sandbox, model: &str, judges: &str) -> Ran {
    sandbox.run(&["eval", "sums", "--include-path", "tasks", "--model", model, "--json", "--judge", judges])
}

#[test]
fn a_jury_scores_a_task() {
    let sandbox = Sandbox::new();
    let [answering, first] = judged_task(&sandbox);
    let second = model(&sandbox, "second", &json!({"seed": 5, "count_file": "judged"}));
    let jury = format!("{first},{second}");
    let alone: Vec<f64> = [&first, &second]
        .map(|judge| {
            metric(&eval(&sandbox, &answering, judge).json(), "plain").unwrap()["value"].as_f64().unwrap()
        })
        .into();
    let ran = eval(&sandbox, &answering, &jury);
    assert_eq!(ran.status, 0, "{ran:?}");
    let both = metric(&ran.json(), "plain").unwrap()["value"].as_f64().unwrap();
    assert!((both - (alone[0] + alone[1]) / 2.0).abs() < 1e-9, "{both} {alone:?}");
    let judging = &ran.json()["judging"]["sums"];
    assert_eq!(judging["judges"].as_array().unwrap().len(), 2, "{judging}");
    assert_eq!((&judging["rows"], &judging["jury"]["judges"]), (&json!(6), &json!(2)));
    // Six answers, asked once of every judge: the second time the verdicts were known.
    assert_eq!((lines(&sandbox, "asked"), lines(&sandbox, "judged")), (6, 12));
    let again = eval(&sandbox, &answering, &jury);
    assert_eq!(again.json(), ran.json());
    let text = sandbox.ok(&["resume", "last"]).stdout;
    assert!(
        text.contains("verdicts on the answers to sums") && text.contains("jury of 2 over 6 items"),
        "{text}"
    );
    // What is shown later is what was told at the end, also when rules have scored the answers again.
    assert_eq!(sandbox.ok(&["show", "last", "--json"]).json()["judging"], ran.json()["judging"]);
    sandbox.ok(&["rescore", "last", "--include-path", "tasks"]);
    assert!(sandbox.ok(&["show", "last"]).stdout.contains("jury of 2 over 6 items"));
    assert!(!sandbox.ok(&["show", "last", "--task", "other"]).stdout.contains("jury of 2"));
}

/// It would agree with itself, and have two votes.
#[test]
fn a_jury_has_no_member_twice() {
    let sandbox = Sandbox::new();
    let [answering, judge] = judged_task(&sandbox);
    let twice = format!("{judge},{judge}");
    let file = prompts(&sandbox, 1);
    let compare = ["judge", "compare", &answering, &judge, "--prompts", &file, "--judge", &twice];
    for ran in [eval(&sandbox, &answering, &twice), sandbox.run(&compare)] {
        assert!(ran.status == 2 && ran.stderr.contains("is named twice"), "{ran:?}");
    }
}

#[test]
fn a_task_asks_its_judge_several_times() {
    let sandbox = Sandbox::new();
    let [answering, judge] = judged_task(&sandbox);
    let file = sandbox.path().join("tasks/sums.yaml");
    let plain = std::fs::read_to_string(&file).unwrap();
    let with = |fields: &str| {
        std::fs::write(&file, plain.replace("{rubric: plain,", &format!("{{rubric: plain, {fields},")))
            .unwrap();
    };
    with("repeats: 3");
    let refused = eval(&sandbox, &answering, &judge);
    assert!(refused.status == 2 && refused.stderr.contains("`temperature`"), "{refused:?}");
    for how in ["median", "dawid-skene"] {
        with(&format!("repeats: 3, temperature: 1, aggregate: {how}"));
        let ran = eval(&sandbox, &answering, &judge);
        assert_eq!(ran.status, 0, "{ran:?}");
        let value = metric(&ran.json(), "plain").unwrap()["value"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&value), "{value}");
        let judging = &ran.json()["judging"]["sums"];
        assert_eq!((&judging["jury"]["judges"], judging["judges"].as_array().unwrap().len()), (&json!(3), 1));
    }
    // The aggregation is part of what was measured, but changes no verdict.
    assert_eq!(lines(&sandbox, "judged"), 18);
}

#[test]
fn what_a_judge_thinks_of_its_own_family_is_said() {
    let sandbox = Sandbox::new();
    let judge = model(&sandbox, "smollm2", &json!({"seed": 3}));
    let row = |i: usize| {
        let writer = ["local/SmolLM2-1.7B", "openai/o3-mini"][i % 2];
        json!({"prompt": format!("Q{i}"), "answer": format!("answer {i}"), "model": writer})
    };
    let file = jsonl(&sandbox, "answers.jsonl", &(0..20).map(row).collect::<Vec<_>>());
    let rubric = rubric(&sandbox);
    let score = |more: &[&str]| {
        let mut arguments = vec!["judge", "score", &file, "--judge", &judge, "--rubric", &rubric];
        arguments.extend(more);
        sandbox.ok(&arguments)
    };
    let report = score(&["--json"]).json()["report"]["judges"][0].clone();
    assert_eq!(report["own_rows"], 10, "{report}");
    let [low, high] = [0, 1].map(|side| report["own_family"]["ci95"][side].as_f64().unwrap());
    let value = report["own_family"]["value"].as_f64().unwrap();
    assert!(low < value && value < high, "{report}");
    assert!(score(&[]).stdout.contains("answers of its own family score"));
}

#[test]
fn a_judge_that_goes_by_the_order_makes_no_pairs_and_is_found_out() {
    let sandbox = Sandbox::new();
    let answering = model(&sandbox, "model", &json!({"seed": 3}));
    let always =
        json!({"rules": [{"match": "", "text": r#"{"explanation": "it is first", "verdict": "A"}"#}]});
    let (judge, file) = (model(&sandbox, "judge", &always), prompts(&sandbox, 4));
    let build = |more: &[&str]| {
        let mut arguments =
            vec!["pairs", "build", "--prompts", &file, "--model", &answering, "--judge", &judge];
        arguments.extend(["--samples", "2", "--out", "out", "--no-decontamination"]);
        arguments.extend(more);
        sandbox.ok(&arguments)
    };
    let report = build(&["--json"]).json()["report"].clone();
    let bias = &report["bias"];
    assert_eq!(
        (&report["pairs"], &bias["flip_rate"]["value"], &bias["first_share"]["value"]),
        (&json!(0), &json!(1.0), &json!(1.0))
    );
    let told = build(&[]);
    assert!(
        told.stderr.contains("the judge goes by the order") && told.stdout.contains("bias of the judge"),
        "{told:?}"
    );
}

/// Questions are made when their turn comes, some thousands at a time.
#[test]
fn a_long_file_is_judged_row_by_row_and_once() {
    const ROWS: usize = 16_500;
    let sandbox = Sandbox::new();
    let judge = model(&sandbox, "judge", &json!({"seed": 3, "count_file": "asked"}));
    let rows: Vec<Value> =
        (0..ROWS).map(|i| json!({"prompt": format!("Q{i}"), "answer": i.to_string()})).collect();
    let (file, rubric) = (jsonl(&sandbox, "long.jsonl", &rows), rubric(&sandbox));
    let arguments = ["judge", "score", &file, "--judge", &judge, "--rubric", &rubric, "--json"];
    let whole = sandbox.ok(&arguments).json();
    let report = &whole["report"];
    let unscored: u64 = report["unscored"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(report["decided"].as_u64().unwrap() + unscored, ROWS as u64);
    assert_eq!(lines(&sandbox, "asked"), ROWS);
    assert_eq!(sandbox.ok(&arguments).json(), whole);
    assert_eq!(lines(&sandbox, "asked"), ROWS);
}

/// Two competitors and no judge.
fn people_only(sandbox: &Sandbox) -> Ran {
    let [ada, bob] = ["ada", "bob"].map(|name| {
        let answer = json!({"rules": [{"match": "", "text": format!("{name} says so")}]});
        model(sandbox, name, &answer)
    });
    let prompts = prompts(sandbox, 3);
    sandbox.run(&["judge", "compare", &ada, &bob, "--prompts", &prompts, "--json"])
}

/// Votes for what `ada` said.
fn vote(sandbox: &Sandbox, voter: &str, count: usize) -> Ran {
    let mut child = sandbox
        .command(&["judge", "vote", "--voter", voter])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all("1\n".repeat(count).as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn an_arena_without_a_judge_is_rated_by_people() {
    let sandbox = Sandbox::new();
    let ran = people_only(&sandbox);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains("nobody has judged yet") && ran.stderr.contains("judge vote"), "{ran:?}");
    let report = &ran.json()["report"];
    assert_eq!((&report["votes"], &report["pairs"][0]["unscored"]), (&json!(0), &json!(3)));
    let arena = ran.json()["run_id"].as_str().unwrap().to_owned();
    let voted = vote(&sandbox, "eva", 3);
    assert!(voted.stderr.contains("3 votes kept and counted"), "{voted:?}");
    // No model was loaded for it: the kept report has the votes, and so has the leaderboard.
    std::fs::remove_file(sandbox.path().join("ada.json")).unwrap();
    let shown = sandbox.ok(&["show", &arena, "--json"]).json();
    assert_eq!((&shown["votes"], &shown["pairs"][0]["unscored"]), (&json!(3), &json!(0)), "{shown}");
    assert_eq!(shown["standings"][0]["battles"], 3);
    let board = sandbox.ok(&["leaderboard", "--task", "arena", "--format", "json"]).json();
    assert!(board.to_string().contains("\"n\":3"), "{board}");
}

#[test]
fn a_run_of_steps_does_not_go_on_as_another() {
    let sandbox = Sandbox::new();
    let [ada, bob, judge] = [(1, "ada"), (2, "bob"), (3, "judge")]
        .map(|(seed, name)| model(&sandbox, name, &json!({"seed": seed})));
    let (file, rules) = (prompts(&sandbox, 3), rubric(&sandbox));
    let arguments =
        ["judge", "compare", &ada, &bob, "--prompts", &file, "--judge", &judge, "--rubric", &rules, "--json"];
    let whole = sandbox.ok(&arguments).json();
    let path = |reference: &str| reference.trim_start_matches("scripted/").to_owned();
    for (place, what) in [
        (file.clone(), "arena/answer/dataset"),
        (rules.clone(), "arena/verdict-1/definition"),
        (path(&judge), "arena/verdict-1/definition"),
        (path(&bob), "arena/answer/definition"),
    ] {
        let before = std::fs::read_to_string(&place).unwrap();
        let after = before
            .replace("Question 1", "Question one")
            .replace("better", "best")
            .replace("seed\":", "seed\":1");
        assert_ne!(before, after);
        std::fs::write(&place, after).unwrap();
        let refused = sandbox.run(&["resume", "last"]);
        assert!(refused.status == 2 && refused.stderr.contains(what), "{place}: {refused:?}");
        assert!(refused.stderr.contains("the command that started it"), "{refused:?}");
        std::fs::write(&place, before).unwrap();
    }
    assert_eq!(sandbox.ok(&["resume", "last", "--json"]).json(), whole);
    assert_eq!(sandbox.ok(&["runs", "--json"]).json().as_array().unwrap().len(), 1, "no other run was begun");
}
