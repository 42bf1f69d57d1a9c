//! `evalign rag index` and `evalign rag query` as a user runs them: kills in the middle, the shared documents and
//! their questions, bad input.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use evalign_rag::{EdgeStore, Record, STAGED_FIELD, Scope, VectorStore, With};
use evalign_testkit::{Sandbox, Script, embedding_model, shared};
use serde_json::Value;

/// Kills of the default run; `EVALIGN_KILLS=50` makes it longer.
const KILLS: u64 = 8;
const LATEST_KILL: Duration = Duration::from_millis(1500);

/// SplitMix64 (Steele et al. 2014), enough to choose moments.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Invented prose, another for each seed.
fn prose(seed: u64) -> String {
    const WORDS: [&str; 16] = [
        "the",
        "keeper",
        "measured",
        "a",
        "tide",
        "of",
        "four",
        "metres",
        "before",
        "dawn",
        "and",
        "wrote",
        "it",
        "down",
        "beside",
        "yesterday's",
    ];
    let word = |index: u64| WORDS[(mixed(seed * 1000 + index) % 16) as usize];
    let sentence = |line: u64| (0..12).map(|at| word(line * 12 + at)).collect::<Vec<_>>().join(" ");
    (0..40).map(|line| sentence(line) + ".\n").collect()
}

fn write_documents(sandbox: &Sandbox, version: u64) {
    for document in 0..60 {
        // Half of them change.
        let version = if document % 2 == 0 { version } else { 0 };
        sandbox.write(&format!("docs/{document}.md"), prose(document * 10 + version));
    }
}

fn index(sandbox: &Sandbox, home: &Path, embedder: &Path) -> Command {
    let embedder = embedder.display().to_string();
    let mut command = sandbox.command(&["rag", "index", "docs", "--json", "--embedder", &embedder]);
    command.env("EVALIGN_HOME", home).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Every point with payload and vectors; none may be hidden.
fn content(home: &Path) -> BTreeMap<String, Record> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = EdgeStore::new(home.join("vectors"));
    let with = With { payload: true, vectors: true };
    let page =
        runtime.block_on(store.scroll("default", &Scope::of("default"), None, 1_000_000, with)).unwrap();
    assert!(page.records.iter().all(|record| record.payload[STAGED_FIELD] == false));
    page.records.into_iter().map(|record| (record.id.to_string(), record)).collect()
}

#[test]
fn kills_in_the_middle_change_nothing_in_the_end() {
    let Some(embedder) = embedding_model("kills_in_the_middle_change_nothing_in_the_end") else { return };
    let kills = std::env::var("EVALIGN_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let sandbox = Sandbox::new();
    let (undisturbed, killed) = (sandbox.path().join("undisturbed"), sandbox.path().join("killed"));
    let mut seed = 0;
    for version in [1, 2] {
        write_documents(&sandbox, version);
        assert!(index(&sandbox, &undisturbed, embedder).status().unwrap().success());
        for _ in 0..kills / 2 {
            seed += 1;
            let mut child = index(&sandbox, &killed, embedder).spawn().unwrap();
            std::thread::sleep(LATEST_KILL.mul_f64(mixed(seed) as f64 / u64::MAX as f64));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(index(&sandbox, &killed, embedder).status().unwrap().success(), "after kill {seed}");
        assert_eq!(content(&killed), content(&undisturbed), "after kill {seed}");
    }
}

#[test]
fn the_shared_questions_are_answered_from_the_right_place_or_not_at_all() {
    let test = "the_shared_questions_are_answered_from_the_right_place_or_not_at_all";
    let (Some(shared), Some(embedder)) = (shared(test), embedding_model(test)) else { return };
    let sandbox = Sandbox::new();
    let folder = shared.join("data/documents");
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    for name in expected["documents"].as_object().unwrap().keys() {
        let mut bytes = std::fs::read(folder.join(name)).unwrap();
        if name == "one-line-3mb.txt" {
            // The neighbourhood of its first fact: embedding all of it takes minutes.
            bytes = bytes[280_000..320_000].to_vec();
        }
        sandbox.write(&format!("docs/{name}"), bytes);
    }
    let embedder = embedder.display().to_string();
    let report = sandbox.ok(&["rag", "index", "docs", "--json", "--prefix", "--embedder", &embedder]).json();
    assert_eq!(report["failed"], serde_json::json!([]));
    assert_eq!(report["duplicates"].as_array().unwrap().len(), 1);
    let suspicious = |note: &&Value| note["suspicious"] == true;
    assert_eq!(report["notes"].as_array().unwrap().iter().filter(suspicious).count(), 1);
    let mut wrong = Vec::new();
    for question in expected["questions"].as_array().unwrap() {
        let answer = sandbox.ok(&["rag", "query", question["question"].as_str().unwrap(), "--json"]).json();
        if let Some(problem) = problem(question, &answer) {
            wrong.push(format!("{problem}: {} -> {}", question["question"], answer["text"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is wrong with an answer: abstained or not, its document, its page and what it says.
fn problem(question: &Value, answer: &Value) -> Option<String> {
    if question["answerable"] == false {
        return answer["text"].is_string().then(|| format!("answered at {}", answer["confidence"]));
    }
    if !answer["text"].is_string() {
        return Some(format!("abstained at {}", answer["confidence"]));
    }
    let citation = &answer["claims"][0]["citations"][0];
    let document = citation["document"].as_str().unwrap_or_default();
    let right = question["documents"].as_array().unwrap();
    if !right.iter().any(|name| document.ends_with(name.as_str().unwrap())) {
        return Some(format!("cites {document}"));
    }
    if !question["page"].is_null() && question["page"] != citation["page"] {
        return Some(format!("cites page {}", citation["page"]));
    }
    let text = answer["text"].as_str().unwrap();
    if text.contains("CANARY") {
        return Some("follows an injected order".to_owned());
    }
    let right = question["answer"].as_str().unwrap();
    (!says(text, right)).then(|| format!("does not say `{right}`"))
}

/// Whether a text has every number of an answer and at least half of its words: the documents do not always use the
/// key's own (`3 months` below `Checked every`).
fn says(text: &str, answer: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let words = text.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
        words.map(str::to_lowercase).collect()
    };
    let (text, answer) = (words(text), words(answer));
    let said = answer.iter().filter(|word| text.contains(word)).count();
    let number = |word: &&String| word.starts_with(|c: char| c.is_ascii_digit());
    answer.iter().filter(number).all(|word| text.contains(word)) && said * 2 >= answer.len()
}

#[test]
fn mistakes_are_told_with_a_way_out() {
    let Some(embedder) = embedding_model("mistakes_are_told_with_a_way_out") else { return };
    let sandbox = Sandbox::new();
    let embedder = embedder.display().to_string();
    sandbox.write("docs/a.md", "# A\nThe lamp is green.");
    sandbox.write("empty/.hidden/b.md", "Nobody reads this.");
    for (arguments, told) in [
        (vec!["rag", "query", "what?"], "there is no such index"),
        (vec!["rag", "index", "empty", "--embedder", &embedder], "nothing to read"),
        (vec!["rag", "index", "docs", "--embedder", "/no/such/encoder"], "there is no such directory"),
        (vec!["rag", "search", "what?", "--filter", "kind=Markdown"], "of the kind \"Markdown\""),
        (vec!["rag", "index", "nowhere", "--embedder", &embedder], "`nowhere`"),
        (vec!["rag", "index", "docs/*.pdf", "--embedder", &embedder], "no file fits"),
        (vec!["rag", "index", "docs", "--chunk-tokens", "300", "--embedder", &embedder], "256 tokens"),
        (vec!["rag", "index", "docs", "--embedder", "./docs"], "config.json"),
        (vec!["rag", "index", "docs", "--index", "No Good", "--embedder", &embedder], "No Good"),
    ] {
        let ran = sandbox.run(&arguments);
        assert_eq!(ran.status, 2, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(told) && ran.stderr.contains("hint: "), "{arguments:?}: {}", ran.stderr);
    }
    sandbox.ok(&["rag", "index", "docs", "--embedder", &embedder]);
    let lamp = ["rag", "query", "What colour is the lamp?"];
    let answer = sandbox.ok(&lamp);
    assert!(
        answer.stdout.contains("The lamp is green.") && answer.stdout.contains("bytes 4 to 22"),
        "{answer:?}"
    );
    let explained = sandbox.ok(&[&lamp[..], &["--explain"]].concat());
    assert!(explained.stdout.contains("   dense: rank 1"), "{explained:?}");
    // Another tenant has nothing.
    let other = sandbox.ok(&[&lamp[..], &["--tenant", "other"]].concat());
    assert!(other.stdout.contains("No answer"), "{other:?}");
    assert!(
        other.stderr.contains("`other` has no documents in `default`; tenants with some: default"),
        "{other:?}"
    );
    assert!(!answer.stderr.contains("has no documents"), "{answer:?}");
    let moved = sandbox.ok(&["rag", "search", "lamp", "--explain"]);
    assert!(moved.stdout.contains("(of a vector moved towards the first hits)"), "{moved:?}");
    let model = sandbox.model(&Script::default());
    let short = sandbox.run(&["rag", "generate-tests", "--model", &model, "--out", "questions.jsonl"]);
    assert!(short.status == 2 && short.stderr.contains("long enough to ask about"), "{short:?}");
    let empty = sandbox.run(&["rag", "search", " "]);
    assert!(empty.status == 2 && empty.stderr.contains("holds no word"), "{empty:?}");
    // The vectors are lost, the record is not.
    std::fs::remove_dir_all(sandbox.home().join("vectors")).unwrap();
    for lost in [&lamp[..], &["rag", "search", "lamp"]] {
        let ran = sandbox.run(lost);
        assert!(ran.status == 2 && ran.stderr.contains("recorded documents: 1;"), "{ran:?}");
    }
    assert_eq!(sandbox.ok(&["rag", "index", "docs", "--json"]).json()["added"], 1);
    assert!(sandbox.ok(&lamp).stdout.contains("The lamp is green."));
}

#[test]
fn questions_are_made_verified_and_answered_and_judged() {
    let test = "questions_are_made_verified_and_answered_and_judged";
    let Some(embedder) = embedding_model(test) else { return };
    let sandbox = Sandbox::new();
    let embedder = embedder.display().to_string();
    let gate = "The gate closes at 18:30 every evening. The keeper opens it again at six in the morning, except on \
                Sundays, when it stays shut all day long.";
    let lamp = "The lamp on the pier head is green. It was red until the storm of last winter broke its glass, and \
                nobody had another red one in the village.";
    sandbox.write("docs/gate.md", gate);
    sandbox.write("docs/lamp.md", lamp);
    sandbox.ok(&["rag", "index", "docs", "--embedder", &embedder]);
    let rule = |part: &str, text: &str| serde_json::json!({"match": part, "text": text});
    let model = sandbox.model(&Script::default().with(
        "rules",
        serde_json::json!([
            rule("Is the statement in the answer block supported", r#"{"explanation": "-", "support": "2"}"#),
            rule("Do the statements of the answer agree", r#"{"explanation": "-", "correctness": "5"}"#),
            rule("Does the answer answer the question", "no verdict"),
            rule(
                "The gate closes",
                r#"{"quote": "18:30", "question": "At which time does the gate close?"}"#
            ),
            rule("The lamp on", r#"{"quote": "blue", "question": "Which colour does the lamp have?"}"#),
        ]),
    ));
    let made = [
        "rag",
        "generate-tests",
        "--model",
        &model,
        "--count",
        "2",
        "--out",
        "questions.jsonl",
        "--unanswerable",
        "1",
    ];
    let made = sandbox.run(&made);
    assert_eq!(made.status, 1, "one of two was made: {made:?}");
    // The question names nothing that could be put in another's place.
    assert!(made.stdout.contains("and 0 that no document answers"), "{made:?}");
    assert!(
        made.stderr.contains("1 thrown away: the answer does not stand in the chunk exactly once"),
        "{made:?}"
    );
    let path = sandbox.path().join("questions.jsonl");
    let mut questions = std::fs::read_to_string(&path).unwrap();
    let question: Value = serde_json::from_str(questions.trim()).unwrap();
    assert_eq!(question["evidence"][0]["bytes"], serde_json::json!([19, 24]));
    questions += "{\"id\": \"none\", \"question\": \"Who painted the ceiling of the town hall?\"}\n";
    std::fs::write(&path, questions).unwrap();
    let evaluate = ["rag", "eval-answers", "questions.jsonl", "--judge", &model, "--json"];
    let report = sandbox.ok(&evaluate).json();
    let value = |metric: &str| report["metrics"][metric]["value"].as_f64();
    for (metric, expected) in [
        ("abstention", Some(1.0)),
        ("citation_precision", Some(1.0)),
        ("citation_recall", Some(1.0)),
        ("context_recall", Some(1.0)),
        ("faithfulness", Some(0.5)),
        ("answer_correctness", Some(1.0)),
        ("noise_sensitivity", Some(0.0)),
        ("answer_relevance", None),
    ] {
        assert_eq!(value(metric), expected, "{metric}: {report:#}");
    }
    assert_eq!(report["unscored"], serde_json::json!({"answer_relevance": 1}));
    assert_eq!((&report["n_questions"], &report["n_answered"]), (&Value::from(2), &Value::from(1)));
    // The same is not measured again, and it is a run like any other.
    assert_eq!(sandbox.ok(&evaluate).json()["run_id"], report["run_id"]);
    let board = sandbox.ok(&["leaderboard", "--format", "json"]).stdout;
    assert!(board.contains("answers/questions"), "{board}");
    // Another way of answering is another run.
    let filtered = sandbox.ok(&[&evaluate[..], &["--filter", "kind=pdf"]].concat()).json();
    assert_eq!(filtered["n_answered"], 0, "{filtered}");
    assert_ne!(filtered["run_id"], report["run_id"]);
    let expanded =
        ["rag", "query", "When does the gate close?", "--expand", "hyde", "--model", &model, "--json"];
    assert_eq!(sandbox.ok(&expanded).json()["notes"], Value::Null);
    let explained = sandbox.ok(&[&expanded[..], &["--explain"]].concat()).json();
    assert!(explained["notes"][0].as_str().unwrap().starts_with("query 1 of dense: "), "{explained}");
    let alone = sandbox.run(&expanded[..5]);
    assert!(alone.status == 2 && alone.stderr.contains("--model"), "{alone:?}");
}
