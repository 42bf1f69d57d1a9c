use proptest::prelude::*;
use serde_json::json;

use super::*;

fn of(fields: Value) -> (Value, Option<String>) {
    let Value::Object(fields) = fields else { panic!("no fields") };
    let mut unkept = Unkept::default();
    let kept = kept(fields, &mut unkept);
    let notes: Vec<String> = unkept.notes().map(|(_, note)| note).collect();
    (Value::Object(kept), (!notes.is_empty()).then(|| notes.join("\n")))
}

#[test]
fn what_is_small_and_flat_is_kept_and_the_rest_is_told() {
    let small = json!({"author": "Jane Doe", "year": 2001, "price": 1.5, "open": false, "tags": ["a", "b"]});
    assert_eq!(of(small.clone()), (small, None));
    assert_eq!(of(json!({"a": null, "b": "", "c": [], "d": [null], " e ": 1})), (json!({"e": 1}), None));
    for (value, reason) in [
        (json!({"deep": 1}), "of its own"),
        (json!([["deep"]]), "of its own"),
        (json!("x".repeat(257)), "256 bytes"),
        (json!(vec![1; 33]), "more than 32"),
        (json!(u64::MAX), "64 bits"),
    ] {
        let (kept, note) = of(json!({"field": value, "other": 1}));
        assert_eq!(kept, json!({"other": 1}));
        let note = note.unwrap();
        assert!(note.contains("`field`") && note.contains(reason), "{note}");
    }
}

#[test]
fn hostile_names_are_not_kept() {
    for name in ["", " ", "a\"].tenant", "a\\", "a\nb", &"x".repeat(65)] {
        let (kept, note) = of(json!({name: 1}));
        assert_eq!(kept, json!({}), "{name:?}");
        assert_eq!(note.unwrap().lines().count(), 1);
    }
    let many: Map<String, Value> = (0..100).map(|n| (format!("f{n:03}"), json!(n))).collect();
    let (kept, note) = of(Value::Object(many));
    assert_eq!(kept.as_object().unwrap().len(), MOST_FIELDS);
    assert!(note.unwrap().contains("and others"));
    let large: Map<String, Value> = (0..60).map(|n| (format!("f{n:03}"), json!("x".repeat(256)))).collect();
    assert!(of(Value::Object(large)).0.to_string().len() < MOST_BYTES + 1000);
}

#[test]
fn what_does_not_fit_takes_no_room_and_of_equal_names_the_first_is_kept() {
    let long = |n: usize| (format!("f{n:02}"), json!(vec!["x".repeat(250); 10]));
    let mut fields: Vec<(String, Value)> = (0..4).map(long).collect();
    fields.extend([("small".to_owned(), json!(1)), (" small ".to_owned(), json!(2))]);
    let mut unkept = Unkept::default();
    let kept = kept(fields, &mut unkept);
    assert_eq!((kept.len(), &kept["small"]), (4, &json!(1)));
    let notes: Vec<String> = unkept.notes().map(|(_, note)| note).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("`small` (a field before it has the same name"), "{notes:?}");
    assert!(notes[1].contains("`f03` (there is too much"), "{notes:?}");
}

#[test]
fn only_a_number_that_is_written_so_is_one() {
    for (text, value) in [
        ("2001", json!(2001)),
        ("-3", json!(-3)),
        ("1.50", json!(1.5)),
        ("1000.00", json!(1000.0)),
        ("10.0", json!(10.0)),
        ("-0.5", json!(-0.5)),
        ("true", json!(true)),
    ] {
        assert_eq!(as_written(text), value);
    }
    for text in ["007", "+5", "-0", "1e5", "1.", ".5", "01.5", "1.2.3", "nan", "inf", "True", "", " 1"] {
        assert_eq!(as_written(text), json!(text));
    }
    for text in ["12345678901234567890", "0.12345678901234567890", "9007199254740993.5", "+1.5", "1e.0"] {
        assert_eq!(as_written(text), json!(text));
    }
}

#[test]
fn front_matter_is_yaml_and_what_is_wrong_is_said() {
    let read = front_matter("---\nauthor: Jane Doe\nyear: 2001\ntags: [a, \"b\"]\ndate: 2024-05-01\n---\n");
    let wanted = json!({"author": "Jane Doe", "year": 2001, "tags": ["a", "b"], "date": "2024-05-01"});
    assert_eq!(Value::Object(read.unwrap()), wanted);
    let read = front_matter("---\nlang: no\nzip: 00123\nparts: 1_000\nbest: .nan\nopen: true\n---\n");
    let wanted = json!({"lang": "no", "zip": "00123", "parts": "1_000", "best": ".nan", "open": true});
    assert_eq!(Value::Object(read.unwrap()), wanted);
    for empty in ["---\n---\n", "---\n# nothing\n---"] {
        assert!(front_matter(empty).unwrap_or_default().is_empty());
    }
    for broken in ["---\n- a\n- b\n---\n", "---\na: [1\n---\n", "---\na: 1\na: 2\n---\n"] {
        assert!(!front_matter(broken).unwrap_err().contains('\n'), "{broken}");
    }
    front_matter(&format!("---\na: {}\n---\n", "x".repeat(LARGE))).unwrap_err();
    // Aliases that would multiply.
    let mut bomb = "a0: &a0 [x, x]\n".to_owned();
    for n in 1..60 {
        bomb += &format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1);
    }
    front_matter(&format!("---\n{bomb}---\n")).unwrap_err();
}

const LARGE: usize = 70_000;

proptest! {
    /// Whatever a document calls its fields: what is kept is found under its own name and no other.
    #[test]
    fn a_path_leads_to_its_own_field(name in "\\PC{1,20}") {
        let (kept, note) = of(json!({ name.as_str(): 1 }));
        match name.trim() {
            trimmed if usable_name(trimmed).is_ok() => {
                let typed = path(trimmed);
                prop_assert_eq!(name_of(&typed), Some(trimmed));
                prop_assert_eq!(kept, json!({ trimmed: 1 }));
                let path = qdrant_edge::JsonPath::try_from(typed.as_str()).unwrap();
                prop_assert_eq!((path.first_key.as_str(), path.rest.len()), ("meta", 1));
                prop_assert_eq!(format!("{:?}", path.rest[0]), format!("Key({trimmed:?})"));
            }
            _ => {
                prop_assert!(note.is_some());
                prop_assert_eq!(kept, json!({}));
            }
        }
    }
}
