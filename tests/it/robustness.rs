//! Questions asked in other ways, and runs looked at from other sides: option order, perturbations,
//! calibration, contamination, breakdowns. The scripted model's answers are chosen so that every number
//! can be worked out by hand.

use evalign_testkit::{Ran, Sandbox, Script};
use serde_json::{Value, json};

/// Six lettered questions. The right option is `yes`; the third one has only two options.
const ROWS: &str = r#"{"id": 1, "level": "easy", "passage": "p1", "q": "Which of these words means that somebody agrees with what was said to them?", "opts": ["yes", "no", "maybe", "never"], "right": 0}
{"id": 2, "level": "easy", "passage": "p1", "q": "Second question?", "opts": ["no", "yes", "maybe", "never"], "right": 1}
{"id": 3, "level": "hard", "passage": "p2", "q": "Third question?", "opts": ["no", "yes"], "right": 1}
{"id": 4, "level": "hard", "passage": "p2", "q": "Fourth question?", "opts": ["no", "maybe", "never", "yes"], "right": 3}
{"id": 5, "level": "hard", "passage": "p3", "q": "Fifth question, which is about as long as it has to be to count?", "opts": ["no", "maybe", "yes", "never"], "right": 2}
{"id": 6, "passage": "p3", "q": "Sixth question?", "opts": ["yes", "no", "maybe", "never"], "right": 0}
"#;

const TASK: &str = r#"task: lettered
version: "1"
summary: "Six lettered questions"
dataset: {file: rows.jsonl}
output: multiple_choice
prompt: "{{q}}\n{% for o in opts %}{{'ABCD'[loop.index0]}}. {{o}}\n{% endfor %}Answer:"
choices: "['A', 'B', 'C', 'D'][:opts|length]"
target: "{{right}}"
question: [q]
options: {column: opts, answer: right, labels: [A, B, C, D]}
paraphrases:
  - prompt: "Q: {{q}}\n{% for o in opts %}{{'ABCD'[loop.index0]}}. {{o}}\n{% endfor %}A:"
metrics: [{name: acc}]
"#;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("tasks/rows.jsonl", ROWS);
    sandbox.write("tasks/lettered.yaml", TASK);
    sandbox
}

/// Log-likelihoods for four or two letters. `first` belongs to the first.
fn letters(sums: [f64; 4]) -> Value {
    json!(sums)
}

fn eval(sandbox: &Sandbox, script: &Script, more: &[&str]) -> Ran {
    let model = sandbox.model(script);
    let mut arguments = vec!["eval", "lettered", "--model", &model, "--include-path", "tasks", "--json"];
    arguments.extend(more);
    sandbox.run(&arguments)
}

fn good(ran: &Ran) -> Value {
    assert_eq!(ran.status, 0, "{ran:?}");
    ran.json()
}

fn metric<'a>(document: &'a Value, name: &str) -> &'a Value {
    let metrics = document["results"][0]["metrics"].as_array().unwrap();
    metrics.iter().find(|metric| metric["name"] == name).unwrap_or_else(|| panic!("no {name}: {document:#}"))
}

fn close(value: &Value, expected: f64) {
    let value = value.as_f64().unwrap();
    assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
}

/// Always the first letter, with probabilities 0.7, 0.1, 0.1, 0.1 (and 0.875, 0.125 for two options).
fn takes_the_first() -> Script {
    let ln = |p: f64| p.ln();
    Script::seeded(1).with(
        "rules",
        json!([
            {"match": "Third", "log_likelihoods": [ln(0.875), ln(0.125)]},
            {"match": "", "log_likelihoods": letters([ln(0.7), ln(0.1), ln(0.1), ln(0.1)])},
        ]),
    )
}

#[test]
fn a_model_that_always_takes_the_first_letter_is_found_out() {
    let sandbox = sandbox();
    let plain = good(&eval(&sandbox, &takes_the_first(), &[]));
    // Right where `yes` comes first: 2 of 6.
    close(&metric(&plain, "acc")["value"], 2.0 / 6.0);
    assert!(plain.get("option_order").is_none(), "{plain:#}");

    let cyclic = good(&eval(&sandbox, &takes_the_first(), &["--option-order", "cyclic"]));
    assert_ne!(plain["run_id"], cyclic["run_id"]);
    // The plain task is in the run as it was; its orders are numbers of another protocol.
    assert_eq!(plain["results"], cyclic["results"]);
    let found = &cyclic["option_order"][0];
    assert_eq!((&found["task"], &found["metric"]), (&json!("lettered"), &json!("acc")));
    assert_ne!(found["protocol"], cyclic["results"][0]["protocol"]);
    // Every item is right in exactly one of its orders.
    for (places, right, n) in [(0, 2, 6), (1, 2, 6), (2, 1, 5), (3, 1, 5)] {
        let order = &found["orders"][places];
        assert_eq!((&order["n"], &order["outcomes"]["correct"]), (&json!(n), &json!(right)), "{found:#}");
    }
    close(&found["mean"]["value"], 6.0 / 22.0);
    assert_eq!((&found["changed"]["value"], &found["changed"]["n"]), (&json!(1.0), &json!(6)));
    close(&found["recall_by_place"][0]["value"], 1.0);
    close(&found["recall_by_place"][1]["value"], 0.0);
    // The mean probability of every option is the same: the model knows nothing but places.
    assert_eq!((&found["debiased"]["n"], &found["debiased"]["outcomes"]["unparsed"]), (&json!(0), &json!(6)));
    assert!(found["debiased"]["value"].is_null());

    let table = sandbox.ok(&["show", "last"]).stdout;
    for text in ["order of options", "moved up by 3", "order averaged out", "answer changes with the order"] {
        assert!(table.contains(text), "{text}: {table}");
    }
}

#[test]
fn averaging_over_orders_finds_what_the_model_prefers() {
    let sandbox = sandbox();
    // Takes the first letter unless `yes` comes second, then hesitates: it knows, but prefers A.
    let rules = json!([
        {"match": "B. yes", "log_likelihoods": letters([-1.0, -1.1, -5.0, -5.0])},
        {"match": "", "log_likelihoods": letters([-1.0, -2.0, -5.0, -5.0])},
    ]);
    let rows: String =
        ROWS.lines().filter(|line| !line.contains("Third")).map(|line| format!("{line}\n")).collect();
    sandbox.write("tasks/rows.jsonl", rows);
    let document =
        good(&eval(&sandbox, &Script::seeded(1).with("rules", rules), &["--option-order", "cyclic"]));
    let found = &document["option_order"][0];
    close(&found["mean"]["value"], 0.25);
    close(&found["debiased"]["value"], 1.0);
}

#[test]
fn an_interrupted_order_is_undecided_and_failures_count() {
    let sandbox = sandbox();
    let rules = json!([
        {"match": "Second question?\nA. never", "error": "no"},
        {"match": "Third", "log_likelihoods": [-1.0, -2.0]},
        {"match": "", "log_likelihoods": letters([-1.0, -2.0, -3.0, -4.0])},
    ]);
    let ran = eval(&sandbox, &Script::seeded(1).with("rules", rules), &["--option-order", "cyclic"]);
    assert_eq!(ran.status, 1, "a failed call fails the gate, also in another order: {ran:?}");
    let document = ran.json();
    let found = &document["option_order"][0];
    assert_eq!((&found["undecided"], &found["changed"]["n"]), (&json!(1), &json!(5)), "{found:#}");
    assert_eq!(found["debiased"]["outcomes"]["error"], 1);
    assert_eq!(found["orders"][3]["outcomes"]["error"], 1);
}

#[test]
fn drops_are_paired_item_by_item() {
    let sandbox = sandbox();
    // In lower case two questions are not recognised any more.
    let right = |place: usize| {
        let mut sums = [-3.0; 4];
        sums[place] = -1.0;
        letters(sums)
    };
    let rules = json!([
        {"match": "A. no\nB. yes\nA", "log_likelihoods": [-2.0, -1.0]},
        {"match": "Which of", "log_likelihoods": right(0)},
        {"match": "Second", "log_likelihoods": right(1)},
        {"match": "ourth", "log_likelihoods": right(3)},
        {"match": "ifth", "log_likelihoods": right(2)},
        {"match": "", "log_likelihoods": right(3)},
    ]);
    let script = Script::seeded(1).with("rules", rules);
    let document = good(&eval(&sandbox, &script, &["--perturb", "all", "--typo-rate", "0.3"]));
    let kinds: Vec<String> = document["perturbations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| found["perturbation"].to_string())
        .collect();
    assert_eq!(kinds, ["\"typos\"", "\"case\"", "\"whitespace\"", "{\"paraphrase\":1}"]);
    let case = &document["perturbations"][1];
    close(&case["plain"]["value"], 5.0 / 6.0);
    close(&case["perturbed"]["value"], 3.0 / 6.0);
    close(&case["drop"]["value"], 2.0 / 6.0);
    assert_eq!((&case["lost"], &case["gained"], &case["drop"]["n"]), (&json!(2), &json!(0), &json!(6)));
    assert_eq!((&case["touched"], &case["undecided"]), (&json!(6), &json!(0)));
    // Two one-sided changes: 2 * 0.5^2.
    close(&case["p_value"], 0.5);
    assert!(case["drop"]["ci95"][0].as_f64().unwrap() < 0.0);
    close(&document["perturbations"][0]["rate"], 0.3);
    // Again is the same run, another seed another text.
    let again = good(&eval(
        &sandbox,
        &script,
        &["--perturb", "paraphrase,whitespace,case,typos", "--typo-rate", "0.3"],
    ));
    assert_eq!(again["run_id"], document["run_id"]);
    let prompts = |run: &str| {
        let shown = sandbox.ok(&["show", run, "--samples", "--task", "lettered@typos", "--json"]).json();
        shown.as_array().unwrap().iter().map(|s| s["doc"]["q"].to_string()).collect::<Vec<_>>()
    };
    let first = prompts(document["run_id"].as_str().unwrap());
    let other = good(&eval(&sandbox, &script, &["--perturb", "typos", "--typo-rate", "0.3", "--seed", "5"]));
    assert_ne!(first, prompts(other["run_id"].as_str().unwrap()));
    assert!(sandbox.ok(&["show", "last"]).stdout.contains("perturbed questions"));
}

#[test]
fn calibration_is_that_of_the_softmax() {
    let sandbox = sandbox();
    let document = good(&eval(&sandbox, &takes_the_first(), &[]));
    // Five answers at 0.7 (two right) and one at 0.875 (wrong): bins (0.6, 0.7] and (0.8, 0.9].
    let ece = metric(&document, "ece");
    close(&ece["value"], (5.0 * (0.7 - 0.4) + 0.875) / 6.0);
    assert_eq!(ece["n"], 6);
    let [low, high] = [ece["ci95"][0].as_f64().unwrap(), ece["ci95"][1].as_f64().unwrap()];
    assert!(low <= ece["value"].as_f64().unwrap() && ece["value"].as_f64().unwrap() <= high && high > low);
    // Right: 0.3^2 + 3 * 0.1^2 = 0.12; wrong: 0.7^2 + 0.9^2 + 2 * 0.1^2 = 1.32; of two: 2 * 0.875^2.
    let brier = metric(&document, "brier");
    close(&brier["value"], (2.0 * 0.12 + 3.0 * 1.32 + 2.0 * 0.875 * 0.875) / 6.0);
    assert_eq!(brier["outcomes"]["wrong"], 4);

    let shown = sandbox.ok(&["show", "last", "--calibration", "equal-mass:2", "--json"]).json();
    assert_eq!(shown["calibration"][0]["bins"].as_array().unwrap().len(), 2, "{shown:#}");
    assert_eq!(shown["run_id"], document["run_id"]);
    assert!(sandbox.ok(&["show", "last", "--calibration"]).stdout.contains("expected calibration error"));
    assert_eq!(sandbox.run(&["show", "last", "--calibration", "ten"]).status, 2);

    // The reference knows neither metric.
    let compat = good(&eval(&sandbox, &takes_the_first(), &["--compat", "lm-eval"]));
    assert!(
        compat["results"][0]["metrics"].as_array().unwrap().iter().all(|m| m["name"] == "acc"),
        "{compat:#}"
    );
}

#[test]
fn a_corpus_splits_every_score() {
    let sandbox = sandbox();
    good(&eval(&sandbox, &takes_the_first(), &[]));
    // The first question stands in the corpus (14 words, other case and punctuation), the fifth but for its
    // last words (12 in a row, of 13), the second whole but with two words.
    sandbox.write(
        "corpus/a.txt",
        "... WHICH of these words means, that somebody agrees with\nwhat was said to THEM (quoted). And a second question!",
    );
    sandbox.write(
        "corpus/deep/b.jsonl",
        "{\"text\": \"fifth question which is about as long as it has to be\"}\n{\"other\": 1}\n",
    );
    let shown = sandbox.ok(&["show", "last", "--corpus", "corpus", "--json"]).json();
    let found = &shown["contamination"];
    assert_eq!(found["corpus"]["files"], 2);
    assert_eq!((&found["corpus"]["texts"], &found["corpus"]["rows_without_text"]), (&json!(2), &json!(1)));
    let split = &found["results"][0];
    assert_eq!(
        (&split["all"]["n"], &split["clean"]["n"], &split["dirty"]["n"]),
        (&json!(6), &json!(4), &json!(1))
    );
    assert_eq!(split["undecided"]["n"], 1, "{split:#}");
    close(&split["dirty"]["value"], 1.0);
    close(&split["clean"]["value"], 0.25);
    let places = found["found"].as_array().unwrap();
    assert_eq!((places.len(), &places[0]["doc"], &places[0]["dirty"]), (2, &json!(0), &json!(true)));
    assert!(
        places[0]["ngram"].as_str().unwrap().starts_with("which of these words means that somebody agrees")
    );
    let text = sandbox.ok(&["show", "last", "--corpus", "corpus"]).stdout;
    assert!(text.contains("clean") && text.contains("cannot be told") && text.contains("a.txt"), "{text}");

    for (arguments, says) in [
        (vec!["show", "last", "--corpus", "nowhere.txt"], "nowhere.txt"),
        (vec!["show", "last", "--corpus", "tasks/lettered.yaml"], ".jsonl"),
        (vec!["show", "last", "--corpus", "tasks/rows.jsonl"], "`text`"),
        (vec!["show", "last", "--corpus", "corpus", "--corpus-field", "body"], "body"),
    ] {
        let ran = sandbox.run(&arguments);
        assert_eq!(ran.status, 2, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(says), "{arguments:?}: {ran:?}");
    }
    // The rows of the task itself, by their question's column: everything is found.
    let own =
        sandbox.ok(&["show", "last", "--corpus", "tasks/rows.jsonl", "--corpus-field", "q", "--json"]).json();
    assert_eq!(own["contamination"]["results"][0]["clean"]["n"], 0);
}

#[test]
fn scores_by_a_column_with_clustered_errors() {
    let sandbox = sandbox();
    good(&eval(&sandbox, &takes_the_first(), &[]));
    let shown = sandbox.ok(&["show", "last", "--by", "level", "--cluster", "passage", "--json"]).json();
    let found = &shown["breakdown"]["results"][0];
    let groups = found["groups"].as_array().unwrap();
    let values: Vec<&Value> = groups.iter().map(|group| &group["label"]).collect();
    assert_eq!(values, [&json!("easy"), &json!("hard"), &Value::Null]);
    close(&groups[0]["value"], 0.5);
    assert_eq!((&groups[1]["n"], &groups[2]["n"]), (&json!(3), &json!(1)));
    // Both easy items are about one passage: nothing independent to tell an error from.
    assert!(groups[0]["stderr"].is_null() && groups[1]["stderr"].is_f64(), "{found:#}");
    assert_eq!(found["overall"]["n"], 6);
    let ran = sandbox.run(&["show", "last", "--by", "difficulty"]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("level, passage"), "{ran:?}");
    assert_eq!(sandbox.run(&["show", "last", "--by", "level", "--cluster", "none"]).status, 2);
    let text = sandbox.ok(&["show", "last", "--by", "level"]).stdout;
    assert!(text.contains("(no level)") && text.contains("hard"), "{text}");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let sandbox = sandbox();
    for (more, says) in [
        (vec!["--option-order", "random"], "possible values"),
        (vec!["--perturb", "noise"], "possible values"),
        (vec!["--perturb", "typos", "--typo-rate", "2"], "--typo-rate"),
        (vec!["--option-order", "cyclic", "--compat", "lm-eval"], "lm-evaluation-harness"),
    ] {
        let ran = eval(&sandbox, &takes_the_first(), &more);
        assert_eq!(ran.status, 2, "{more:?}: {ran:?}");
        assert!(ran.stderr.contains(says), "{more:?}: {ran:?}");
    }
    // A row that does not fit is named.
    sandbox.write("tasks/rows.jsonl", ROWS.replace("\"right\": 3", "\"right\": 7"));
    let ran = eval(&sandbox, &takes_the_first(), &["--option-order", "cyclic"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("row 4") && ran.stderr.contains("options"), "{ran:?}");
}
