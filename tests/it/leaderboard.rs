//! The leaderboard: ranks that the samples support, and a page that needs nothing else (promise 32); what
//! repeats and dry runs say about chance (promises 15 and 16).

use evalign_testkit::{Sandbox, Script};
use serde_json::{Value, json};

const QUESTIONS: usize = 60;

/// Four models that get the first 50, 48, 20 and 5 of 60 questions right.
fn board() -> Sandbox {
    let sandbox = Sandbox::new();
    let row = |doc: usize| json!({"q": format!("question {doc:02}?")}).to_string();
    sandbox.write("tasks/rows.jsonl", (0..QUESTIONS).map(row).collect::<Vec<_>>().join("\n"));
    sandbox.write(
        "tasks/quiz.yaml",
        "task: quiz\nversion: \"1\"\nsummary: \"Quiz\"\ndataset: {file: rows.jsonl}\noutput: multiple_choice\n\
         prompt: \"{{q}}\"\nchoices: [\"yes\", \"no\"]\ntarget: \"0\"\nmetrics: [{name: acc}]\n",
    );
    for (name, right) in [("best", 50), ("good", 48), ("poor", 20), ("=cmd|'<script>&\u{202e}", 5)] {
        let rule = |doc: usize| {
            let first = if doc < right { -1.0 } else { -3.0 };
            json!({"match": format!("question {doc:02}?"), "log_likelihoods": [first, -2.0]})
        };
        let script = json!({"rules": (0..QUESTIONS).map(rule).collect::<Vec<_>>()});
        let path = sandbox.write(&format!("{name}.json"), script.to_string());
        let model = format!("scripted/{}", path.display());
        sandbox.ok(&["eval", "quiz", "--model", &model, "--include-path", "tasks"]);
    }
    sandbox
}

#[test]
fn ranks_are_the_places_that_paired_tests_leave_open() {
    let sandbox = board();
    let document = sandbox.ok(&["leaderboard", "--format", "json"]).json();
    let block = document.as_array().unwrap().iter().find(|block| block["metric"] == "acc").unwrap();
    let rows = block["rows"].as_array().unwrap();
    let ranks: Vec<&Value> = rows.iter().map(|row| &row["rank"]).collect();
    // 2 of 60 discordant: p = 0.5. 28 and 30 discordant one way: shown. 15 one way: p = 6e-5.
    assert_eq!(ranks, [&json!([1, 2]), &json!([1, 2]), &json!([3, 3]), &json!([4, 4])]);
    assert_eq!(rows[0]["behind_first"], Value::Null);
    let gap = rows[1]["behind_first"]["difference"].as_f64().unwrap();
    assert!((gap + 2.0 / 60.0).abs() < 1e-12, "{gap}");
    let table = sandbox.ok(&["leaderboard"]).stdout;
    assert!(table.contains(" 1–2 ┆") && table.contains(" 3 ┆"), "{table}");
    // What has no score by document cannot be tested.
    let calibration = document.as_array().unwrap().iter().find(|block| block["metric"] == "ece").unwrap();
    assert!(
        calibration["rows"].as_array().unwrap().iter().all(|row| row["rank"].is_null()),
        "{calibration:#}"
    );
}

#[test]
fn the_page_needs_nothing_else_and_stays_text() {
    let sandbox = board();
    let page = sandbox.ok(&["leaderboard", "--format", "html"]).stdout;
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    // Promise 32: nothing is loaded, nothing runs, names stay text.
    for forbidden in
        ["<script", "http://", "https://", "<img", "<link", "@import", "url(", "onerror", "\u{202e}"]
    {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert!(page.contains("=cmd|&#39;&lt;script&gt;&amp;"), "the name is shown, escaped");
    assert!(page.contains("default-src 'none'") && page.contains("prefers-color-scheme: dark"));
    // Every plot says in words what it shows: value, interval, n.
    let board = sandbox.ok(&["leaderboard", "--format", "json"]).json();
    let rows: usize =
        board.as_array().unwrap().iter().map(|block| block["rows"].as_array().unwrap().len()).sum();
    assert_eq!(page.matches("role=\"img\"").count(), rows);
    assert!(page.contains("aria-label=\"83.3 %, 95 % interval 72.0 % to 90.7 %, n 60\""), "{page}");
    let ran = sandbox.ok(&["leaderboard", "--format", "html", "--out", "board.html"]);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("board.html"), "{ran:?}");
    let written = fs_err::read_to_string(sandbox.path().join("board.html")).unwrap();
    assert_eq!(written, page);
}

#[test]
fn spreadsheets_get_no_formulas_and_terminals_no_commands() {
    let sandbox = Sandbox::new();
    sandbox.write("tasks/rows.jsonl", "{\"q\": \"1+1?\", \"a\": \"2\"}\n{\"q\": \"2+2?\", \"a\": \"4\"}\n");
    sandbox.write(
        "tasks/mine.yaml",
        "task: mine\nversion: \"1\"\nsummary: \"Mine\"\ndataset: {file: rows.jsonl}\noutput: generate_until\n\
         prompt: \"{{q}}\"\ntarget: \"{{a}}\"\ngeneration: {until: [\"\\n\"], max_tokens: 8}\n\
         filters: [{name: \"=HYPERLINK(1)\", steps: [take_first]}]\nmetrics: [{name: exact_match}]\n",
    );
    let model = sandbox.model(&Script::seeded(1));
    sandbox.ok(&["eval", "mine", "--model", &model, "--include-path", "tasks"]);
    let csv = sandbox.ok(&["leaderboard", "--format", "csv"]).stdout;
    assert!(csv.contains(",'=HYPERLINK(1),"), "promise 32: {csv}");
    for format in ["table", "json", "markdown", "csv", "html"] {
        let out = sandbox.ok(&["leaderboard", "--format", format]).stdout;
        assert!(!out.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')), "{format}");
    }
}

#[test]
fn a_dry_run_says_what_could_be_shown() {
    let sandbox = board();
    let path = sandbox.write("next.json", json!({"seed": 9}).to_string());
    let model = format!("scripted/{}", path.display());
    let dry = ["eval", "quiz", "--model", &model, "--include-path", "tasks", "--dry-run"];
    let document = sandbox.ok(&[&dry[..], &["--json"]].concat()).json();
    let found = &document["detectable"][0];
    assert_eq!((&found["task"], &found["n"], &found["measured"]), (&json!("quiz"), &json!(60), &json!(true)));
    // 2.8016 sqrt(2 / 4 / 60); the two newest runs disagreed on 15 documents: sqrt((15 + 2) / 62 / 60).
    let close = |value: &Value, expected: f64| {
        assert!((value.as_f64().unwrap() - expected).abs() < 1e-9, "{value} is not {expected}");
    };
    close(&found["unpaired"], 2.801_585_218_112_969 * (0.5f64 / 60.0).sqrt());
    close(&found["paired"], 2.801_585_218_112_969 * (17.0f64 / 62.0 / 60.0).sqrt());
    let other = sandbox.ok(&["eval", "samples", "--model", &model, "--dry-run", "--json"]).json();
    let assumed = other["detectable"].as_array().unwrap();
    assert!(
        assumed.iter().all(|found| found["measured"] == false && found["discordance"] == 0.25),
        "{other:#}"
    );
    assert!(assumed.iter().any(|found| found["task"] == "samples"), "the group too: {other:#}");
    let text = sandbox.ok(&dry).stdout;
    assert!(text.contains("detects paired") && text.contains("0.2557"), "{text}");
}

/// n choose k as a float.
fn choose(n: u64, k: u64) -> f64 {
    (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

#[test]
fn repeats_say_how_much_is_chance() {
    let sandbox = Sandbox::new();
    // Numbers from 1 to 90: some of them right by luck.
    let row = |doc: usize| {
        json!({"q": format!("question {doc:02}?"), "a": format!("{}", 40 + doc % 3)}).to_string()
    };
    sandbox.write("tasks/rows.jsonl", (0..30).map(row).collect::<Vec<_>>().join("\n"));
    sandbox.write(
        "tasks/sums.yaml",
        "task: sums\nversion: \"1\"\nsummary: \"Sums\"\ndataset: {file: rows.jsonl}\noutput: generate_until\nprompt: \"{{q}}\"\n\
         target: \"{{a}}\"\ngeneration: {until: [\"Q:\"], max_tokens: 64, temperature: 1.0}\nrepeats: 16\n\
         filters: [{name: last-digit, steps: [{regex: {pattern: '(\\d)\\D*$'}}, {map: {\"0\": \"40\", \"1\": \"41\", \"2\": \"42\", \
         \"3\": \"40\", \"4\": \"41\", \"5\": \"42\"}}, take_first]}]\nmetrics: [{name: exact_match}]\n",
    );
    let model = sandbox.model(&Script::seeded(3));
    let document =
        sandbox.ok(&["eval", "sums", "--model", &model, "--include-path", "tasks", "--json"]).json();
    let [found] = document["repeats"].as_array().unwrap().as_slice() else { panic!("{document:#}") };
    let records = sandbox.ok(&["show", "last", "--samples", "--limit", "1000", "--json"]).json();
    // Worked out again from the samples: (right, decided) of each document.
    let mut documents = vec![(0u64, 0u64); 30];
    for record in records.as_array().unwrap() {
        let doc = record["key"]["doc"].as_u64().unwrap() as usize;
        let outcome = record["scores"][0]["outcome"].as_str().unwrap();
        documents[doc].0 += u64::from(outcome == "correct");
        documents[doc].1 += u64::from(matches!(outcome, "correct" | "wrong"));
    }
    assert!(documents.iter().any(|(_, decided)| *decided < 16), "some answers cannot be read");
    for step in found["pass"].as_array().unwrap() {
        let k = step["k"].as_u64().unwrap();
        let with: Vec<f64> = documents
            .iter()
            .filter(|(_, decided)| *decided >= k)
            .map(|(right, decided)| 1.0 - choose(decided - right, k) / choose(*decided, k))
            .collect();
        assert_eq!(step["n"].as_u64(), Some(with.len() as u64), "{step}");
        if let Some(value) = step["value"].as_f64() {
            let expected = with.iter().sum::<f64>() / with.len() as f64;
            assert!((value - expected).abs() < 1e-9, "{step}: {expected}");
            let [low, high] = [0, 1].map(|i| step["bounds"][i].as_f64().unwrap());
            assert!(low <= value && value <= high, "{step}");
        }
    }
    let steps: Vec<u64> =
        found["pass"].as_array().unwrap().iter().map(|s| s["k"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 4, 8, 16]);
    assert_eq!(found["majority"].as_array().unwrap().len(), 4);
    // Answers are drawn anew each time and do not depend on the question: all of the spread is sampling.
    let (within, between) =
        (found["within_variance"].as_f64().unwrap(), found["between_variance"].as_f64().unwrap());
    assert!(within > 0.15 && between < 0.03, "{within} {between}");
    let agreement = found["agreement"]["value"].as_f64().unwrap();
    assert!(agreement > 0.2 && agreement < 0.6, "{agreement}");
    let text = sandbox.ok(&["show", "last"]).stdout;
    for part in ["pass@16", "maj@16", "agreement", "within samples"] {
        assert!(text.contains(part), "no `{part}`: {text}");
    }
}
