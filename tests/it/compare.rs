//! Comparing runs: paired statistics against statsmodels and numbers worked out by hand (promises 15 and
//! 16), and what is refused.

use evalign_testkit::{Ran, Sandbox, Script};
use serde_json::{Value, json};

/// What the two models do with document `i` of 50: both right 20, only A 3, only B 11, neither 6; then A
/// fails on 4, B on 3, both on 3.
fn outcome(doc: usize) -> [Option<bool>; 2] {
    match doc {
        0..20 => [Some(true), Some(true)],
        20..23 => [Some(true), Some(false)],
        23..34 => [Some(false), Some(true)],
        34..40 => [Some(false), Some(false)],
        40..44 => [None, Some(true)],
        44..47 => [Some(true), None],
        _ => [None, None],
    }
}

/// A task of 50 questions about 10 passages, and two models that answer as [`outcome`] says.
fn sandbox() -> (Sandbox, [String; 2]) {
    let sandbox = Sandbox::new();
    let row = |doc: usize| {
        json!({"q": format!("question {doc:02}?"), "passage": format!("p{}", doc / 5)}).to_string()
    };
    sandbox.write("tasks/rows.jsonl", (0..50).map(row).collect::<Vec<_>>().join("\n"));
    sandbox.write("tasks/quiz.yaml", task("quiz", "{{q}}"));
    let model = |side: usize| {
        let rule = |doc: usize| match outcome(doc)[side] {
            Some(right) => {
                json!({"match": format!("question {doc:02}?"), "log_likelihoods": [if right { -1.0 } else { -3.0 }, -2.0]})
            }
            None => json!({"match": format!("question {doc:02}?"), "error": "no answer"}),
        };
        let script = json!({"seed": side, "rules": (0..50).map(rule).collect::<Vec<_>>()});
        let path = sandbox.write(&format!("m{side}.json"), script.to_string());
        format!("scripted/{}", path.display())
    };
    let models = [model(0), model(1)];
    (sandbox, models)
}

fn task(name: &str, prompt: &str) -> String {
    format!(
        "task: {name}\nversion: \"1\"\nsummary: \"Quiz\"\ndataset: {{file: rows.jsonl}}\noutput: multiple_choice\n\
         prompt: \"{prompt}\"\nchoices: [\"yes\", \"no\"]\ntarget: \"0\"\nmetrics: [{{name: acc}}]\n"
    )
}

fn eval(sandbox: &Sandbox, model: &str, more: &[&str]) -> String {
    let arguments =
        ["eval", "quiz", "--model", model, "--include-path", "tasks", "--json", "--fail-on-error", "false"];
    let ran = sandbox.ok(&[&arguments[..], more].concat());
    ran.json()["run_id"].as_str().unwrap().to_owned()
}

fn close(value: &Value, expected: f64) {
    let value = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
}

fn refused(ran: &Ran, words: &[&str]) {
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stdout.is_empty() && ran.stderr.contains("hint:"), "{ran:?}");
    for word in words {
        assert!(ran.stderr.contains(word), "no `{word}`: {ran:?}");
    }
}

#[test]
fn pairs_are_counted_and_undecided_ones_left_out_with_bounds() {
    let (sandbox, models) = sandbox();
    let [a, b] = models.map(|model| eval(&sandbox, &model, &[]));
    let document = sandbox.ok(&["compare", &a, &b, "--json"]).json();
    assert_eq!((&document["a"]["run_id"], &document["b"]["run_id"]), (&json!(a), &json!(b)));
    let comparisons = document["comparisons"].as_array().unwrap();
    assert_eq!(comparisons.len(), 1);
    let found = &comparisons[0];
    assert_eq!(found["n"], 40);
    assert_eq!(found["agreement"], json!({"both": 20, "only_a": 3, "only_b": 11, "neither": 6}));
    // from statsmodels.stats.contingency_tables import mcnemar; mcnemar([[20, 3], [11, 6]]).pvalue
    close(&found["mcnemar"]["exact"], 0.057_373_046_875);
    // The same less binom.pmf(3, 14, 0.5).
    close(&found["mcnemar"]["mid_p"], 0.035_156_25);
    close(&found["difference"], 0.2);
    close(&found["q"], 0.057_373_046_875);
    assert_eq!((&found["p"], &found["test"]), (&found["mcnemar"]["exact"], &json!("mcnemar")));
    // import numpy as np; from scipy.stats import sem; sem(np.repeat([1, -1, 0], [11, 3, 26]))
    close(&found["stderr"], 0.089_155_582_824_172_88);
    // Bonett & Price: p = 4/42, q = 12/42.
    let half = 1.959_963_984_540_054 * ((16.0 / 42.0 - (8.0f64 / 42.0).powi(2)) / 42.0).sqrt();
    close(&found["ci95"][0], 8.0 / 42.0 - half);
    close(&found["ci95"][1], 8.0 / 42.0 + half);
    let [low, high] = [0, 1].map(|i| found["bootstrap_ci95"][i].as_f64().unwrap());
    assert!((0.0..0.1).contains(&low) && (0.3..0.45).contains(&high), "{low} {high}");
    // (1.95996 + 0.84162) sqrt(16/42 / 40)
    close(&found["detectable"], 2.801_585_218_112_969 * (16.0f64 / 42.0 / 40.0).sqrt());
    assert_eq!(
        found["left_out"],
        json!({"undecided_a": 4, "undecided_b": 3, "undecided_both": 3, "only_in_a": 0, "only_in_b": 0})
    );
    // Decided: +8. A undecided, B right: 0 to 1 each; B undecided, A right: -1 to 0; both: -1 to 1.
    close(&found["bounds"][0], (8.0 - 3.0 - 3.0) / 50.0);
    close(&found["bounds"][1], (8.0 + 4.0 + 3.0) / 50.0);
    let text = sandbox.ok(&["compare", &a, &b]).stdout;
    for part in ["+0.2000", "3 : 11", "0.0574", "not shown", "10 documents", "McNemar, exact"] {
        assert!(text.contains(part), "no `{part}`: {text}");
    }
    // The other way round everything turns its sign.
    let turned = sandbox.ok(&["compare", &b, &a, "--json"]).json();
    close(&turned["comparisons"][0]["difference"], -0.2);
    assert_eq!(turned["comparisons"][0]["p"], found["p"]);
    assert_eq!(sandbox.ok(&["compare", &a, &b, "--json"]).json(), document, "the bootstrap is seeded");
}

#[test]
fn clusters_widen_what_is_not_independent() {
    let (sandbox, models) = sandbox();
    let [a, b] = models.map(|model| eval(&sandbox, &model, &[]));
    let found = sandbox.ok(&["compare", &a, &b, "--cluster", "passage", "--json"]).json();
    let found = &found["comparisons"][0];
    assert_eq!((&found["clusters"], &found["test"]), (&json!(8), &json!("clustered-t")));
    // import numpy as np; from scipy.stats import t
    // d = np.repeat([0, -1, 1, 0], [20, 3, 11, 6]) * 1.0; c = np.arange(40) // 5; e = d - d.mean()
    // s = np.array([e[c == k].sum() for k in range(8)]); se = np.sqrt(d.var(ddof=1) / 40 + ((s**2).sum() - (e**2).sum()) / 40**2)
    // print(se, 2 * t.cdf(-d.mean() / se, 7))
    close(&found["stderr"], 0.14645380824245557);
    close(&found["p"], 0.21431708865122373);
    refused(&sandbox.run(&["compare", &a, &b, "--cluster", "page"]), &["`page`", "passage", "subject"]);
}

#[test]
fn other_protocols_are_refused_with_the_field_that_differs() {
    let (sandbox, models) = sandbox();
    let a = eval(&sandbox, &models[0], &[]);
    sandbox.write("tasks/quiz.yaml", task("quiz", "Q: {{q}}"));
    let b = eval(&sandbox, &models[1], &["--system-instruction", "Be brief."]);
    let ran = sandbox.run(&["compare", &a, &b]);
    refused(
        &ran,
        &["definition", "system_instruction: none in A, Be brief. in B", "--allow-different-protocols"],
    );
    let text = sandbox.ok(&["compare", &a, &b, "--allow-different-protocols"]).stdout;
    assert!(text.contains("not shown ≠") && text.contains("system_instruction"), "{text}");
    let document = sandbox.ok(&["compare", &a, &b, "--allow-different-protocols", "--json"]).json();
    assert_eq!(document["comparisons"][0]["same_protocol"], false);
    assert!(document["protocol_differences"].as_array().is_some_and(|list| list.len() == 2), "{document:#}");
}

#[test]
fn what_cannot_be_compared_says_why() {
    let (sandbox, models) = sandbox();
    let [a, b] = [0, 1].map(|side| eval(&sandbox, &models[side], &["--limit", "20"]));
    refused(&sandbox.run(&["compare", &a, &a]), &["with itself", "evalign runs"]);
    refused(&sandbox.run(&["compare", &a, "run_00"]), &["run_00"]);
    refused(&sandbox.run(&["compare", &a, &b, "--metric", "acc_norm"]), &["acc_norm", "they have acc"]);
    let other = sandbox.model(&Script::seeded(1));
    sandbox.ok(&["eval", "samples_knowledge", "--model", &other, "--limit", "3"]);
    refused(&sandbox.run(&["compare", &a, "last"]), &["no task in common", "samples_knowledge"]);
    let c = eval(&sandbox, &models[1], &["--samples", "20..40"]);
    refused(&sandbox.run(&["compare", &a, &c]), &["share no document", "0 to 20", "20 to 40"]);
    let d = eval(&sandbox, &models[1], &["--samples", "10..40"]);
    let found = sandbox.ok(&["compare", &a, &d, "--json"]).json()["comparisons"][0].clone();
    assert_eq!((&found["n"], &found["left_out"]["only_in_a"]), (&json!(10), &json!(10)));
    assert_eq!(found["left_out"]["only_in_b"], 20);
    // All ten right both times: no difference seen is not no difference.
    assert_eq!((&found["p"], found["difference"].as_f64()), (&json!(1.0), Some(0.0)));
    assert!(found["ci95"][1].as_f64().unwrap() > 0.1 && found["detectable"].as_f64().unwrap() > 0.1);
}

#[test]
fn groups_are_taken_together_and_tasks_adjusted_for_each_other() {
    let sandbox = Sandbox::new();
    let runs = [1, 2].map(|seed| {
        let path = sandbox.write(&format!("m{seed}.json"), json!({"seed": seed}).to_string());
        let model = format!("scripted/{}", path.display());
        sandbox.ok(&["eval", "samples", "--model", &model, "--json"]).json()["run_id"]
            .as_str()
            .unwrap()
            .to_owned()
    });
    let document = sandbox.ok(&["compare", &runs[0], &runs[1], "--cluster", "subject", "--json"]).json();
    let comparisons = document["comparisons"].as_array().unwrap();
    let leaves: Vec<&Value> =
        comparisons.iter().filter(|found| found["members"] == 0 && found["metric"] == "acc").collect();
    assert_eq!(leaves.len(), 2, "{document:#}");
    let group =
        comparisons.iter().find(|found| found["task"] == "samples" && found["metric"] == "acc").unwrap();
    assert_eq!((&group["clusters"], &group["test"]), (&json!(2), &json!("clustered-t")));
    assert!(group["q"].is_null() && leaves.iter().all(|leaf| leaf["clusters"].is_null()));
    assert_eq!(group["n"].as_u64(), leaves.iter().map(|leaf| leaf["n"].as_u64()).sum());
    let p: Vec<f64> = leaves.iter().map(|leaf| leaf["p"].as_f64().unwrap()).collect();
    let (small, large) = (p[0].min(p[1]), p[0].max(p[1]));
    for leaf in &leaves {
        let expected = if leaf["p"].as_f64() == Some(small) { (2.0 * small).min(large) } else { large };
        close(&leaf["q"], expected);
    }
}
