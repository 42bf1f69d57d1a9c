use evalign_data::{DataError, Row};
use serde_json::{Value, json};

use super::*;

fn linted(rows: &[Value]) -> (Vec<(u64, Check)>, LintReport) {
    let mut linter = Linter::default();
    let mut found = Vec::new();
    for (place, row) in (1u64..).zip(rows) {
        let row: Result<Row, DataError> = Ok(row.as_object().cloned().unwrap());
        linter.row(place, &row, &mut |finding| found.push((finding.place, finding.check)));
    }
    let report = linter.finish(&mut |finding| found.push((finding.place, finding.check)));
    assert_eq!(report.findings.values().sum::<u64>(), found.len() as u64);
    (found, report)
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

fn says(text: &str) -> Value {
    json!([{"role": "assistant", "content": text}])
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> Value {
    json!({"prompt": user(prompt), "chosen": says(chosen), "rejected": says(rejected)})
}

#[test]
fn nothing_is_found_in_good_rows_of_any_layout() {
    let rows: Vec<Value> =
        (0..60).map(|i| pair(&format!("q{i}"), &format!("a{i}"), &format!("b{i}x"))).collect();
    let alternating: Vec<Value> = rows
        .iter()
        .enumerate()
        .map(|(i, row)| match i % 2 {
            0 => row.clone(),
            _ => json!({"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]}),
        })
        .collect();
    let (found, report) = linted(&alternating);
    assert_eq!((found, report.rows, report.layout), (vec![], 60, Some("preference")));
    assert_eq!(report.lengths.chosen_longer_share(), Some(0.5));
    assert_eq!(linted(&[json!({"prompt": "q", "completion": "a", "label": false})]).0, []);
    assert_eq!(linted(&[json!({"text": "any"}), json!({"text": "text"})]).0, []);
}

#[test]
fn each_fault_is_found_where_it_is() {
    let good = pair("q", "a", "b");
    let scored = |good: f64, bad: f64| {
        let mut row = pair("s", "a", "b");
        row["score_chosen"] = json!(good);
        row["score_rejected"] = json!(bad);
        row
    };
    let long = "Explain at length how a bicycle stays upright while it moves.";
    let far = "word ".repeat(60);
    for (row, check) in [
        (json!({"question": "q"}), Check::Unreadable),
        (json!({"prompt": user("q")}), Check::MixedLayouts),
        (json!({"prompt": "q", "chosen": "a", "rejected": "b"}), Check::MixedStyles),
        (pair("q", " \n", "b"), Check::Empty),
        (pair("q", "The same  one", "The same one\n"), Check::Identical),
        (json!({"prompt": says("q"), "chosen": says("a"), "rejected": says("c")}), Check::WrongRole),
        (json!({"prompt": user("q"), "chosen": user("a"), "rejected": says("c")}), Check::WrongRole),
        (scored(1.0, 2.0), Check::Reversed),
        (pair("q", "b", "a"), Check::Contradiction),
        (pair("q", "a", "b"), Check::Duplicate),
        (pair(long, &format!("{long} It leans."), "It leans."), Check::PromptInAnswer),
        (pair("q", "a<|im_end|>", "c"), Check::TemplateMarks),
        (pair("q", &far, "c"), Check::LengthRatio),
    ] {
        let found = linted(&[good.clone(), row.clone()]).0;
        assert!(found.contains(&(2, check)), "{check:?} in {found:?}");
        assert!(found.iter().all(|(place, _)| *place == 2), "{found:?}");
    }
    assert_eq!(linted(&[scored(2.0, 1.0), pair("q", long, "It leans.")]).0, []);
}

#[test]
fn a_file_with_swapped_columns_and_one_of_long_answers_are_noticed_as_a_whole() {
    let reversed: Vec<Value> = (0..20)
        .map(|i| {
            let mut row = pair(&format!("q{i}"), &format!("bad{i}"), &format!("fine{i}"));
            row["margin"] = json!(-0.5);
            row
        })
        .collect();
    let (found, report) = linted(&reversed);
    assert_eq!(found.last(), Some(&(0, Check::ReversedColumns)));
    assert_eq!((report.scored_pairs, report.reversed_pairs), (20, 20));
    let long: Vec<Value> =
        (0..60).map(|i| pair(&format!("q{i}"), &format!("quite long {i}"), "short")).collect();
    assert_eq!(linted(&long).0, [(0, Check::LengthSkew)]);
    assert_eq!(linted(&long[..40]).0, []);
}

/// Behind the bound nothing new is remembered; what is remembered is still found, and what may be missed is counted.
#[test]
fn rows_behind_the_bound_are_counted_as_not_compared() {
    let mut linter = Linter::default();
    linter.most = 2;
    let mut found = Vec::new();
    let rows = [
        pair("q1", "a", "b"),
        pair("q2", "a", "b"),
        pair("q3", "a", "b"),
        pair("q3", "b", "a"),
        pair("q1", "b", "a"),
        pair("q2", "a", "b"),
    ];
    for (place, row) in (1u64..).zip(&rows) {
        linter.row(place, &Ok(row.as_object().cloned().unwrap()), &mut |f| found.push((f.place, f.check)));
    }
    let report = linter.finish(&mut |_| {});
    assert_eq!(found, [(5, Check::Contradiction), (6, Check::Duplicate)]);
    // Rows 3 and 4, and row 5 as a whole.
    assert_eq!((report.rows, report.not_compared), (6, 3));
}

#[test]
fn errors_in_place_of_rows_are_findings() {
    let mut linter = Linter::default();
    let mut found = Vec::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pairs.jsonl");
    fs_err::write(&path, "{\"prompt\": \"a\"}\n{broken\n").unwrap();
    for (place, row) in evalign_data::numbered_rows(&path, &evalign_data::Limits::default()).unwrap() {
        linter.row(place, &row, &mut |finding| found.push(finding));
    }
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].place, found[0].check), (2, Check::Unreadable));
    assert!(!found[0].message.contains("pairs.jsonl"), "{}", found[0].message);
}
