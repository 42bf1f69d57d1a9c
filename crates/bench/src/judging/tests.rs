use std::collections::{BTreeMap, BTreeSet};

use evalign_core::Digest;
use evalign_judge::{Aggregation, ArenaReport};
use serde_json::json;

use super::arena::{ArenaOutcome, ArenaRequest};
use super::ratings::aggregation;
use super::rows::{Answers, Label, digest, read_rows};
use super::task::identity;
use super::votes::pair_number;
use crate::RunRequest;

fn rows(lines: &str) -> Result<Vec<super::JudgedRow>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    fs_err::write(&path, lines).unwrap();
    read_rows(&path, None).map_err(|error| error.to_string())
}

#[test]
fn every_pair_of_competitors_has_its_number() {
    for count in 2..7 {
        let pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
        let numbers: Vec<u32> = pairs.map(|(a, b)| pair_number(count, a, b)).collect();
        assert_eq!(numbers, (0..numbers.len() as u32).collect::<Vec<_>>());
    }
}

#[test]
fn rows_are_read_under_the_names_that_people_use() {
    let read = rows(
        "{\"question\": \"Q\", \"response\": \"x\", \"reference\": \"r\", \"context\": [\"one\", \"two\"], \"label\": 4}\n\
         {\"prompt\": [{\"role\": \"user\", \"content\": \"Q\"}], \"completion\": [{\"role\": \"assistant\", \"content\": \"y\"}], \"label\": false}\n",
    )
    .unwrap();
    assert_eq!(read[0].answers, Answers::One("x".to_owned()));
    assert_eq!((read[0].context.as_deref(), read[0].reference.as_deref()), (Some("one\n\ntwo"), Some("r")));
    assert_eq!((read[0].label, read[1].label), (Some(Label::Score(4.0)), Some(Label::Binary(false))));
    assert_eq!((read[1].prompt.as_str(), &read[1].answers), ("Q", &Answers::One("y".to_owned())));
    let pairs = rows(
        "{\"prompt\": \"Q\", \"chosen\": \"x\", \"rejected\": \"y\", \"winner\": \"model_b\"}\n\
         {\"prompt\": \"Q\", \"a\": \"x\", \"b\": \"y\", \"label\": \"Tie\"}\n{\"prompt\": \"Q\", \"a\": \"x\", \"b\": \"y\", \"label\": null}\n",
    )
    .unwrap();
    let labels: Vec<Option<Label>> = pairs.iter().map(|row| row.label).collect();
    assert_eq!(labels, [Some(Label::Points(0.0)), Some(Label::Points(0.5)), None]);
    let sources: BTreeSet<&str> = pairs.iter().map(|row| row.source.as_str()).collect();
    assert_eq!(sources.len(), 3);
}

#[test]
fn rows_that_say_nothing_are_refused_with_line_and_field() {
    for (lines, said) in [
        ("{\"prompt\": \"Q\", \"answer\": \"x\"}\n{\"answer\": \"x\"}\n", ["line 2", "`prompt`"]),
        ("{\"prompt\": \"Q\"}\n", ["line 1", "`answer`"]),
        ("{\"prompt\": \"Q\", \"answer\": 5}\n", ["line 1", "is no text"]),
        ("{\"prompt\": \"Q\", \"answer\": \"x\", \"label\": \"good\"}\n", ["line 1", "`label`"]),
    ] {
        let error = rows(lines).unwrap_err();
        assert!(said.iter().all(|part| error.contains(part)), "{error}");
    }
    assert!(rows("").is_err());
}

/// Runs are found again by it.
#[test]
fn the_digest_of_rows_is_that_of_their_canonical_json() {
    let read = rows(
        "{\"prompt\": \"Q \\u001f \\\"ü\\\"\", \"answer\": \"x\", \"reference\": \"r\"}\n{\"prompt\": \"\", \"answer\": \"y\", \"label\": 1}\n",
    )
    .unwrap();
    let said: Vec<_> =
        read.iter().map(|row| json!([row.prompt, row.answers, row.reference, row.context])).collect();
    assert_eq!(digest(&read), Digest::of_json(&json!(said)));
    let pairs = rows("{\"prompt\": \"Q\", \"a\": \"x\", \"b\": \"y\", \"context\": \"c\"}\n").unwrap();
    assert_eq!(digest(&pairs), Digest::of_json(&json!([["Q", {"two": ["x", "y"]}, null, "c"]])));
}

/// Runs are found again, resumed and compared by it.
#[test]
fn a_task_with_one_judge_is_what_it_was_before_juries() {
    let asked = serde_json::from_value(json!({ "rubric": "helpfulness" })).unwrap();
    let kept = json!({ "rubric": "helpfulness", "question": null, "reference": null, "context": null });
    let (one, other) = (json!({ "judge": "1" }), json!({ "judge": "2" }));
    assert_eq!(identity(&asked, std::slice::from_ref(&one)), json!({ "asked": kept, "judge": one }));
    let jury = [one, other];
    assert_eq!(identity(&asked, &jury), json!({ "asked": kept, "judges": jury }));
}

/// A vote must not change what judges came to before the outcome said how.
#[test]
fn an_arena_kept_without_its_aggregation_is_rated_as_it_was_asked() {
    let model: evalign_core::ModelRef = "local/x".parse().unwrap();
    let request = |asked: serde_json::Value| ArenaRequest {
        procedure: ArenaRequest::PROCEDURE.to_owned(),
        run: RunRequest::new(model.clone(), Vec::new()),
        competitors: vec![model.clone(), model.clone()],
        judges: vec![model.clone()],
        asked,
        prompts: "prompts.jsonl".into(),
        weights: Vec::new(),
    };
    let outcome = ArenaOutcome {
        prompts: 1,
        unanswered: 0,
        aggregation: Some(Aggregation::Median),
        report: ArenaReport::of(&["a".to_owned(), "b".to_owned()], &[], &BTreeMap::new(), 1),
        votes: 0,
        judges: Vec::new(),
        jury: None,
    };
    let asked = request(json!({ "aggregate": Aggregation::Majority }));
    assert_eq!(aggregation(&outcome, &asked).unwrap(), Aggregation::Median);
    let mut kept = serde_json::to_value(&outcome).unwrap();
    kept.as_object_mut().unwrap().remove("aggregation").unwrap();
    let kept: ArenaOutcome = serde_json::from_value(kept).unwrap();
    assert_eq!(aggregation(&kept, &asked).unwrap(), Aggregation::Majority);
    assert!(aggregation(&kept, &request(json!(null))).is_err());
}
