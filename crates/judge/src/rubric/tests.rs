use std::path::Path;

use super::*;

const GOOD: &str = "rubric: tone
version: '1'
summary: How friendly an answer is.
explanation_tokens: 8
scale: {lowest: 1, highest: 3}
criteria:
  - name: tone
    weight: 2
    question: Is it friendly?
    levels: {1: rude, 2: neutral, 3: friendly}
";

fn refused(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    Rubric::parse("tone.yaml", &GOOD.replace(from, to)).unwrap_err().to_string()
}

#[test]
fn every_file_of_the_directory_is_embedded_and_bears_its_name() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rubrics");
    let mut found: Vec<String> = fs_err::read_dir(directory)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".yaml").map(str::to_owned))
        .collect();
    found.sort();
    assert_eq!(found, Rubric::shipped().collect::<Vec<_>>());
    for name in Rubric::shipped() {
        assert_eq!(Rubric::find(name, &[]).unwrap().name, name);
    }
}

#[test]
fn the_shipped_schema_is_the_one_of_the_type() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rubrics/schema.json");
    let ours = serde_json::to_string_pretty(&Rubric::schema()).unwrap() + "\n";
    if std::env::var_os("EVALIGN_WRITE_SCHEMA").is_some() {
        fs_err::write(&path, &ours).unwrap();
    }
    assert_eq!(fs_err::read_to_string(&path).unwrap(), ours, "write it anew with EVALIGN_WRITE_SCHEMA=1");
}

#[test]
fn a_rubric_one_cannot_judge_by_is_refused_with_its_field() {
    for (from, to, said) in [
        ("2: neutral, ", "", "field `criteria[0].levels`: `tone` does not say what level 2 of 1..=3 is"),
        ("3: friendly", "3: friendly, 4: adoring", "a level 4 outside of the scale"),
        ("weight: 2", "weight: 0", "field `criteria[0].weight`: the weight of `tone` is 0"),
        ("highest: 3", "highest: 10", "field `scale`"),
        ("rubric: tone", "rubric: ../tone", "field `rubric`"),
        ("name: tone", "name: explanation", "field `criteria[0].name`"),
        ("name: tone", "name: to ne", "not a name of letters"),
        ("question:", "questions:", "unknown field `questions`"),
        ("explanation_tokens: 8", "explanation_tokens: many", "tone.yaml:4:"),
    ] {
        let error = refused(from, to);
        assert!(error.starts_with("tone.yaml") && error.contains(said), "{error}\nwant {said}");
    }
    let twice = "    levels: {1: rude, 2: neutral, 3: friendly}\n";
    let error = refused(twice, &format!("{twice}  - name: tone\n    question: Again?\n{twice}"));
    assert!(error.contains("`tone` occurs twice"), "{error}");
}

#[test]
fn files_of_an_include_path_come_before_those_that_ship() {
    let dir = tempfile::tempdir().unwrap();
    fs_err::create_dir(dir.path().join("rubrics")).unwrap();
    fs_err::write(dir.path().join("rubrics/honesty.yaml"), GOOD).unwrap();
    let include = [dir.path().to_owned()];
    assert_eq!(Rubric::find("honesty", &include).unwrap().name, "tone");
    assert_eq!(Rubric::find("honesty", &[]).unwrap().name, "honesty");
    let error = Rubric::find("kindness", &include).unwrap_err().to_string();
    assert!(error.contains("unknown rubric `kindness`") && error.contains("helpfulness"), "{error}");
    // All of them: what cannot be read hides no other, and what has no name of a rubric is none.
    for (file, text) in
        [("tone.yaml", GOOD), ("broken.yaml", "rubric: 1"), ("No name.yaml", GOOD), ("notes.txt", "")]
    {
        fs_err::write(dir.path().join("rubrics").join(file), text).unwrap();
    }
    let all = Rubric::all(&include).unwrap();
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    let mut expected: Vec<&str> = Rubric::shipped().chain(["broken", "tone"]).collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    let of = |name: &str| all.iter().find(|(known, _)| known == name).unwrap().1.as_ref();
    assert_eq!(of("honesty").unwrap().name, "tone", "the operator's");
    assert!(of("broken").is_err() && of("helpfulness").is_ok());
}

#[test]
fn a_changed_anchor_is_another_rubric() {
    let digest = |text: &str| Rubric::parse("tone.yaml", text).unwrap().digest();
    assert_eq!(digest(GOOD), digest(GOOD));
    assert_ne!(digest(GOOD), digest(&GOOD.replace("rude", "harsh")));
}
