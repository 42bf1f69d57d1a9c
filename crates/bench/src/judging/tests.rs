use std::collections::BTreeSet;

use super::rows::{Answers, Label, read_rows};
use super::votes::pair_number;

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
