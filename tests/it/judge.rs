//! Judges at work in the real binary: arenas, scores, labels and votes, and judges that are no use.

use std::io::Write;
use std::process::Stdio;

use evalign_store::Store;
use evalign_testkit::{Ran, Sandbox};
use serde_json::{Value, json};

use crate::kill::{Moments, kill_after_requests};

/// A scripted model of a name; returns its reference.
pub(crate) fn model(sandbox: &Sandbox, name: &str, script: &Value) -> String {
    format!("scripted/{}", sandbox.write(&format!("{name}.json"), script.to_string()).display())
}

/// A rubric by which a judge has to decide.
pub(crate) fn rubric(sandbox: &Sandbox) -> String {
    let text = "rubric: plain\nversion: '1'\nsummary: Which is better.\nexplanation_tokens: 0\n\
                scale: {lowest: 1, highest: 3}\ncriteria:\n  - {name: good, question: Is it?, levels: {1: a, 2: b, 3: c}}\n";
    sandbox.write("plain.yaml", text).display().to_string()
}

fn says(text: &str) -> Value {
    json!({"rules": [{"match": "", "text": text}]})
}

pub(crate) fn jsonl(sandbox: &Sandbox, name: &str, rows: &[Value]) -> String {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    sandbox.write(name, text).display().to_string()
}

pub(crate) fn prompts(sandbox: &Sandbox, count: usize) -> String {
    let rows: Vec<Value> = (0..count).map(|i| json!({"prompt": format!("Question {i}?")})).collect();
    jsonl(sandbox, "prompts.jsonl", &rows)
}

pub(crate) fn lines(sandbox: &Sandbox, file: &str) -> usize {
    std::fs::read_to_string(sandbox.path().join(file)).map_or(0, |text| text.lines().count())
}

/// Three competitors of different answers and a judge that draws its verdicts; all of them count what they are asked.
struct Arena {
    sandbox: Sandbox,
    arguments: Vec<String>,
}

impl Arena {
    fn new(count: usize, delay_ms: u64) -> Self {
        let sandbox = Sandbox::new();
        let mut arguments = vec!["judge".to_owned(), "compare".to_owned()];
        for (seed, name) in [(1, "ada"), (2, "bob"), (3, "cyd")] {
            let script = json!({"seed": seed, "delay_ms": delay_ms, "count_file": "asked"});
            arguments.push(model(&sandbox, name, &script));
        }
        let judge = json!({"seed": 9, "delay_ms": delay_ms, "count_file": "asked", "concurrency": 2});
        let judge = model(&sandbox, "judge", &judge);
        let (prompts, rubric) = (prompts(&sandbox, count), rubric(&sandbox));
        let more = ["--prompts", &prompts, "--judge", &judge, "--rubric", &rubric, "--json"];
        arguments.extend(more.map(str::to_owned));
        Self { sandbox, arguments }
    }

    fn command(&self, home: &str) -> std::process::Command {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let mut command = self.sandbox.command(&arguments);
        command.env("EVALIGN_HOME", self.sandbox.path().join(home));
        command
    }

    fn run(&self, home: &str) -> Ran {
        self.command(home).output().unwrap().into()
    }
}

#[test]
fn an_arena_rates_everybody_and_asks_nothing_twice() {
    let arena = Arena::new(12, 0);
    let ran = arena.run("home");
    assert_eq!(ran.status, 0, "{ran:?}");
    let report = &ran.json()["report"];
    let standings = report["standings"].as_array().unwrap();
    assert_eq!(standings.len(), 3);
    for standing in standings {
        assert_eq!(standing["battles"], 24);
        let rating = &standing["rating"];
        assert!(rating["ci95"][0].as_f64() < rating["value"].as_f64(), "{standing}");
        assert!(standing["rating_bootstrap95"].is_array() && standing["rank"].is_array());
    }
    let mean: f64 = standings.iter().map(|s| s["rating"]["value"].as_f64().unwrap()).sum::<f64>() / 3.0;
    assert!((mean - 1000.0).abs() < 1e-6);
    assert_eq!(report["pairs"].as_array().unwrap().len(), 3);
    let bias = &report["judges"][0]["bias"];
    assert_eq!(bias["pairs"], 36);
    assert!(bias["entropy_nats"]["value"].as_f64().unwrap() > 0.0);
    // 36 answers, 36 comparisons in two orders.
    assert_eq!(lines(&arena.sandbox, "asked"), 36 + 72);
    let again = arena.run("home");
    assert_eq!(again.json(), ran.json());
    assert_eq!(lines(&arena.sandbox, "asked"), 36 + 72);
    let board = arena.sandbox.ok(&["leaderboard", "--task", "arena", "--format", "json"]).stdout;
    assert!(board.contains("ada.json") && board.contains("\"rating\""), "{board}");
    let table = arena.sandbox.ok(&["resume"]).stdout;
    assert!(table.contains("bias of scripted/") && table.contains("length-controlled"), "{table}");
}

#[test]
fn people_vote_without_knowing_whose_answers_they_are() {
    let arena = Arena::new(4, 0);
    assert_eq!(arena.run("home").status, 0);
    let vote = |input: &str| {
        let mut child = arena
            .sandbox
            .command(&["judge", "vote", "--voter", "eva"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran::from(child.wait_with_output().unwrap())
    };
    let first = vote("1\nwhat\n2\nt\nq\n");
    assert_eq!(first.status, 0, "{first:?}");
    assert!(
        first.stderr.contains("12 pairs") && first.stderr.contains("3 votes kept and counted"),
        "{first:?}"
    );
    assert!(!first.stdout.contains("ada") && !first.stdout.contains("scripted"), "{}", first.stdout);
    let rest = vote("");
    assert!(rest.stderr.contains("9 pairs"), "{rest:?}");
    let report = arena.run("home").json();
    assert_eq!(report["report"]["votes"], 3);
    let battles: u64 = report["report"]["standings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["battles"].as_u64().unwrap())
        .sum();
    assert_eq!(battles, 2 * (12 + 3));
}

#[test]
fn an_arena_that_is_killed_goes_on_where_it_was() {
    let arena = Arena::new(10, 15);
    let whole = arena.run("undisturbed").json();
    let asked_by_whole = lines(&arena.sandbox, "asked");
    let samples = |home: &str| {
        let home = arena.sandbox.path().join(home);
        let found = home.exists().then(|| {
            let store = Store::open(&home).unwrap();
            store.find_run("last").map(|run| store.finished(&run).unwrap())
        });
        found.and_then(Result::ok).unwrap_or_default()
    };
    let mut kept = std::collections::BTreeSet::new();
    let mut moments = Moments(5);
    for _ in 0..10 {
        let child = arena.command("killed").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let asked = arena.sandbox.path().join("asked");
        assert!(kill_after_requests(child, &asked, &mut moments, 9), "it ended before it was killed");
        let now = samples("killed");
        assert!(now.is_superset(&kept), "lost {:?}", kept.difference(&now).collect::<Vec<_>>());
        kept = now;
    }
    assert!(!kept.is_empty(), "nothing was ever finished before a kill");
    let before = lines(&arena.sandbox, "asked");
    let ended = arena.run("killed").json();
    let asked = lines(&arena.sandbox, "asked") - before;
    assert!(asked <= asked_by_whole - kept.len(), "{asked} asked, {} kept of {asked_by_whole}", kept.len());
    assert_eq!(ended["report"], whole["report"]);
}

fn pairs_with_labels(sandbox: &Sandbox) -> String {
    let rows: Vec<Value> = (0..20)
        .map(|i| {
            let mut row =
                json!({"prompt": format!("Q{i}"), "a": format!("first {i}"), "b": format!("second {i}")});
            if i < 14 {
                row["label"] = json!(["A", "B", "tie"][i % 3]);
            }
            row
        })
        .collect();
    jsonl(sandbox, "pairs.jsonl", &rows)
}

#[test]
fn a_judge_is_held_against_people() {
    let sandbox = Sandbox::new();
    let judge = model(&sandbox, "judge", &json!({"seed": 4}));
    let file = pairs_with_labels(&sandbox);
    let rubric = rubric(&sandbox);
    let arguments = [
        "judge",
        "calibrate",
        "--labels",
        &file,
        "--judge",
        &judge,
        "--rubric",
        &rubric,
        "--diagram",
        "r.svg",
        "--json",
    ];
    let report = sandbox.ok(&arguments).json()["report"].clone();
    let found = &report["calibration"];
    assert_eq!((found["labelled"].as_u64(), found["unlabelled"].as_u64()), (Some(14), Some(6)));
    for field in ["agreement", "agreement_without_ties", "kappa", "judged_mean", "corrected_mean"] {
        assert_eq!(found[field]["ci95"].as_array().map(Vec::len), Some(2), "{field}: {found}");
    }
    assert!(found["reliability"].as_array().is_some_and(|bins| !bins.is_empty()));
    let svg = std::fs::read_to_string(sandbox.path().join("r.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("n = "));
    let unlabelled = jsonl(&sandbox, "none.jsonl", &[json!({"prompt": "Q", "a": "x", "b": "y"})]);
    let ran = sandbox.run(&["judge", "calibrate", "--labels", &unlabelled, "--judge", &judge]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("no row has a label") && ran.stderr.contains("hint:"), "{ran:?}");
}

#[test]
fn a_jury_says_how_far_it_agrees() {
    let sandbox = Sandbox::new();
    let judges: Vec<String> =
        (1..4).map(|seed| model(&sandbox, &format!("j{seed}"), &json!({"seed": seed}))).collect();
    let rows: Vec<Value> =
        (0..15).map(|i| json!({"prompt": format!("Q{i}"), "answer": format!("answer {i}")})).collect();
    let file = jsonl(&sandbox, "answers.jsonl", &rows);
    for how in ["mean", "median", "majority", "dawid-skene"] {
        let ran = sandbox.ok(&[
            "judge",
            "score",
            &file,
            "--judge",
            &judges.join(","),
            "--rubric",
            "summarisation",
            "--aggregate",
            how,
            "--json",
        ]);
        let report = &ran.json()["report"];
        assert_eq!(report["judges"].as_array().unwrap().len(), 3);
        let score = report["score"]["value"].as_f64().unwrap();
        assert!((1.0..=5.0).contains(&score), "{how}: {score}");
        assert_eq!(report["criteria"].as_array().unwrap().len(), 3);
        assert!(report["jury"]["krippendorff"].is_number() && report["jury"]["items"].is_u64());
        assert_eq!(report["decided"].as_u64().unwrap() + counts(&report["unscored"]), 15, "{report}");
    }
}

fn counts(reasons: &Value) -> u64 {
    reasons.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
}

#[test]
fn a_judge_that_never_answers_in_the_form_scores_nothing() {
    let sandbox = Sandbox::new();
    let mut script = says("I like both. [[A]] GRADE: 5");
    script["count_file"] = json!("asked");
    let judge = model(&sandbox, "judge", &script);
    let rows: Vec<Value> = (0..5).map(|i| json!({"prompt": format!("Q{i}"), "answer": "x"})).collect();
    let file = jsonl(&sandbox, "answers.jsonl", &rows);
    let ran = sandbox.run(&["judge", "score", &file, "--judge", &judge, "--json"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let report = &ran.json()["report"];
    assert_eq!((&report["decided"], &report["score"]), (&json!(0), &Value::Null));
    assert_eq!(report["unscored"], json!({"malformed": 5}));
    assert!(ran.stderr.contains("everything is unscored"), "{}", ran.stderr);
    // Each was asked for again twice.
    assert_eq!(lines(&sandbox, "asked"), 15);
    let samples = sandbox.ok(&["show", "last", "--samples", "--json"]).json();
    for sample in samples.as_array().unwrap() {
        let score = &sample["scores"][0];
        assert_eq!((&score["outcome"], score.get("value")), (&json!("unparsed"), None));
    }
}

#[test]
fn a_judge_that_always_says_a_decides_nothing_and_is_found_out() {
    let sandbox = Sandbox::new();
    let judge = model(&sandbox, "judge", &says(r#"{"explanation": "it is first", "verdict": "A"}"#));
    let file = pairs_with_labels(&sandbox);
    let report = sandbox.ok(&["judge", "score", &file, "--judge", &judge, "--json"]).json()["report"].clone();
    let bias = &report["judges"][0]["bias"];
    assert_eq!((&bias["flip_rate"]["value"], &bias["first_share"]["value"]), (&json!(1.0), &json!(1.0)));
    assert_eq!((&bias["position"], report["score"]["value"].as_f64()), (&Value::Null, Some(0.5)));
}

#[test]
fn what_cannot_be_judged_is_refused_with_its_place() {
    let sandbox = Sandbox::new();
    let judge = model(&sandbox, "judge", &json!({"seed": 1}));
    let answers = jsonl(&sandbox, "answers.jsonl", &[json!({"prompt": "Q", "answer": "x"})]);
    let lacking = "rubric: mine\nversion: '1'\nsummary: s\nexplanation_tokens: 0\nscale: {lowest: 1, highest: 3}\n\
                   criteria:\n  - {name: c, question: q, levels: {1: a, 3: b}}\n";
    let lacking = sandbox.write("lacking.yaml", lacking).display().to_string();
    let mixed = [json!({"prompt": "Q", "answer": "x"}), json!({"prompt": "Q", "a": "x", "b": "y"})];
    let mixed = jsonl(&sandbox, "mixed.jsonl", &mixed);
    let odd = jsonl(&sandbox, "odd.jsonl", &[json!({"prompt": "Q", "a": "x", "b": "y", "label": "C++"})]);
    let lonely = jsonl(&sandbox, "lonely.jsonl", &[json!({"prompt": "Q", "a": "x"})]);
    let late =
        [json!({"prompt": "Q", "answer": "x", "reference": "r"}), json!({"prompt": "Q", "answer": "x"})];
    let late = jsonl(&sandbox, "late.jsonl", &late);
    for (file, rubric, said) in [
        (&answers, lacking.as_str(), "does not say what level 2"),
        (&answers, "kindness", "unknown rubric `kindness`"),
        (&answers, "factual_correctness", "judges with a reference answer, and this material has none"),
        (
            &late,
            "factual_correctness",
            "late.jsonl:2: rubric `factual_correctness` judges with a reference answer",
        ),
        (&mixed, "helpfulness", "another number of answers"),
        (&odd, "helpfulness", "`A`, `B` or `tie`"),
        (&lonely, "helpfulness", "give the row two answers"),
    ] {
        let ran = sandbox.run(&["judge", "score", file, "--judge", &judge, "--rubric", rubric]);
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.stderr.contains(said) && ran.stderr.contains("hint:"), "{said}: {}", ran.stderr);
    }
    let one = sandbox.run(&["judge", "compare", &judge, "--prompts", &answers, "--judge", &judge]);
    assert_eq!(one.status, 2);
}

#[test]
fn rubrics_are_listed_with_their_schema() {
    let sandbox = Sandbox::new();
    let listed = sandbox.ok(&["judge", "rubrics"]).stdout;
    for name in ["helpfulness", "rag_faithfulness", "factual_correctness"] {
        assert!(listed.contains(name), "{listed}");
    }
    assert!(sandbox.ok(&["judge", "rubrics", "--schema"]).json()["properties"]["criteria"].is_object());
}

/// A task that asks for a judge, answered by a scripted model; a second one judges.
pub(crate) fn judged_task(sandbox: &Sandbox) -> [String; 2] {
    rubric(sandbox);
    let text = std::fs::read_to_string(sandbox.path().join("plain.yaml")).unwrap();
    sandbox.write("tasks/rubrics/plain.yaml", text);
    let rows: String = (0..6).map(|n| format!("{}\n", json!({"n": n, "a": n + 1}))).collect();
    sandbox.write("tasks/rows.jsonl", rows);
    sandbox.write(
        "tasks/sums.yaml",
        "task: sums\nversion: \"1\"\nsummary: \"Sums\"\ndataset: {file: rows.jsonl}\noutput: generate_until\n\
         prompt: \"What is {{n}} + 1?\"\ntarget: \"{{a}}\"\ngeneration: {until: [\"\\n\"], max_tokens: 32}\n\
         metrics: [{name: exact_match}]\njudge: {rubric: plain, question: \"Add 1 to {{n}}.\"}\n",
    );
    let answers = json!({"seed": 1, "count_file": "asked"});
    [model(sandbox, "model", &answers), model(sandbox, "judge", &json!({"seed": 2, "count_file": "judged"}))]
}

pub(crate) fn metric<'a>(document: &'a Value, name: &str) -> Option<&'a Value> {
    let metrics = document["results"][0]["metrics"].as_array().unwrap();
    metrics.iter().find(|metric| metric["name"] == name)
}

#[test]
fn a_judge_scores_a_task_beside_its_rules() {
    let sandbox = Sandbox::new();
    let [model, judge] = judged_task(&sandbox);
    let eval = |more: &[&str]| {
        let mut arguments = vec!["eval", "sums", "--include-path", "tasks", "--model", &model, "--json"];
        arguments.extend(more);
        sandbox.run(&arguments)
    };
    let plain = eval(&[]);
    assert!(plain.stderr.contains("`--judge REF`") && metric(&plain.json(), "plain").is_none(), "{plain:?}");
    let judged = eval(&["--judge", &judge]);
    assert_eq!(judged.status, 0, "{judged:?}");
    let found = metric(&judged.json(), "plain").unwrap().clone();
    assert_eq!(
        (&found["filter"], &found["n"], &found["bounds"]),
        (&json!("judge"), &json!(6), &Value::Null),
        "{found}"
    );
    assert!((0.0..=1.0).contains(&found["value"].as_f64().unwrap()), "{found}");
    assert!(metric(&judged.json(), "exact_match").is_some());
    // Another judge is another measurement, and the model's answers were known.
    assert_ne!(judged.json()["results"][0]["protocol"], plain.json()["results"][0]["protocol"]);
    assert_eq!((lines(&sandbox, "asked"), lines(&sandbox, "judged")), (6, 6));
    let again = eval(&["--judge", &judge]);
    assert_eq!(again.json()["results"], judged.json()["results"]);
    assert_eq!(lines(&sandbox, "judged"), 6);
    // Verdicts are shown, survive scoring by the rules again, and travel with the run.
    let shown = sandbox.ok(&["show", "last", "--samples", "--json"]).json();
    assert!(shown.as_array().unwrap().iter().any(|sample| sample["key"]["task"] == "sums/judge"), "{shown}");
    sandbox.ok(&["rescore", "last"]);
    let shown = |sandbox: &Sandbox| sandbox.ok(&["show", "last", "--json"]).json()["results"].clone();
    assert_eq!(shown(&sandbox), judged.json()["results"]);
    sandbox.ok(&["export", "last", "--format", "jsonl", "--out", "out"]);
    let other = Sandbox::new();
    let (out, tasks) = (sandbox.path().join("out"), sandbox.path().join("tasks"));
    other.ok(&["import", out.to_str().unwrap(), "--include-path", tasks.to_str().unwrap()]);
    assert_eq!(shown(&other), judged.json()["results"]);
}

#[test]
fn a_judge_that_no_task_asks_for_is_refused() {
    let sandbox = Sandbox::new();
    let model = model(&sandbox, "model", &json!({"seed": 1}));
    let ran = sandbox.run(&["eval", "samples", "--model", &model, "--judge", &model]);
    assert!(ran.status == 2 && ran.stderr.contains("no task of the run asks for a judge"), "{ran:?}");
}

#[test]
fn runs_of_steps_are_exported_and_come_back() {
    let arena = Arena::new(3, 0);
    assert_eq!(arena.run("home").status, 0);
    let sandbox = &arena.sandbox;
    sandbox.ok(&["export", "last", "--format", "jsonl", "--out", "out"]);
    sandbox.ok(&["export", "last", "--format", "parquet", "--out", "out"]);
    assert_eq!(lines(sandbox, "out/samples.jsonl"), 9 + 18);
    let refused = sandbox.run(&["export", "last", "--format", "lm-eval", "--out", "no"]);
    assert!(refused.status == 2 && refused.stderr.contains("--format jsonl"), "{refused:?}");
    let other = Sandbox::new();
    let out = sandbox.path().join("out").display().to_string();
    assert!(other.ok(&["import", &out]).stderr.contains("27 samples"));
    assert_eq!(other.ok(&["show", "last", "--json"]).json(), sandbox.ok(&["show", "last", "--json"]).json());
}
