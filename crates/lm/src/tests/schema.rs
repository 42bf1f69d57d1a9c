//! A random model writes under all sorts of JSON Schemas: what it writes is checked by reading it again.

use evalign_core::{AnswerForm, AnswerSchema, FinishReason, GenerateParams};
use serde_json::{Value, json};

use super::constrained::{directory, item, results};
use super::tiny;
use crate::{GenerateOutput, LmError};

pub(super) fn held(schema: &Value, seed: u64) -> GenerateParams {
    GenerateParams {
        max_tokens: 200,
        temperature: 1.0,
        seed,
        logprobs: true,
        form: Some(AnswerForm::Schema(Box::new(AnswerSchema {
            name: "answer".to_owned(),
            schema: schema.clone(),
        }))),
        ..GenerateParams::default()
    }
}

/// What the tiny model writes with twenty seeds.
fn written(schema: &Value) -> Vec<Result<GenerateOutput, LmError>> {
    let directory = directory();
    let tokenizer = tiny::tokenizer(directory.path());
    let end = tokenizer.encode("~", false).unwrap();
    let items: Vec<_> = (0..20)
        .map(|seed| {
            let mut item = item(&tokenizer, "Say it:", held(schema, seed));
            // The tilde ends an answer, as a token of its own would.
            item.stop_ids.clone_from(&end);
            item
        })
        .collect();
    results(directory.path(), &items)
}

fn documents(schema: &Value) -> Vec<Value> {
    let outputs = written(schema).into_iter().map(Result::unwrap);
    let whole: Vec<_> = outputs.filter(|output| output.finish == FinishReason::Stop).collect();
    whole.iter().map(|output| serde_json::from_str(&output.text).unwrap()).collect()
}

#[test]
fn numbers_lists_and_objects_in_objects_are_what_the_schema_says() {
    let schema = json!({
        "type": "object",
        "properties": {
            "count": {"type": "integer", "minimum": 3, "maximum": 40},
            "sure": {"type": "boolean"},
            "grade": {"enum": ["same", "sane", 7, null]},
            "places": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"$ref": "#/$defs/place"}},
        },
        "required": ["count", "sure", "grade", "places"],
        "additionalProperties": false,
        "$defs": {"place": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 5}, "share": {"type": "number", "minimum": 0, "maximum": 1}},
            "required": ["name"],
            "additionalProperties": false,
        }},
    });
    let found = documents(&schema);
    assert!(found.len() >= 5, "{found:?}");
    for document in found {
        assert_eq!(document.as_object().unwrap().len(), 4, "{document}");
        assert!((3..=40).contains(&document["count"].as_i64().unwrap()), "{document}");
        assert!(document["sure"].is_boolean(), "{document}");
        assert!(
            [json!("same"), json!("sane"), json!(7), Value::Null].contains(&document["grade"]),
            "{document}"
        );
        let places = document["places"].as_array().unwrap();
        assert!((1..=3).contains(&places.len()), "{document}");
        for place in places {
            assert!(place["name"].as_str().unwrap().chars().count() <= 5, "{document}");
            assert!(
                place.get("share").is_none_or(|share| (0.0..=1.0).contains(&share.as_f64().unwrap())),
                "{document}"
            );
        }
    }
}

/// After `12` another digit could follow: only the model says that it is over.
#[test]
fn what_could_go_on_ends_where_the_model_ends_it() {
    let found = written(&json!({"type": "integer", "minimum": 0}));
    let ended: Vec<_> =
        found.into_iter().map(Result::unwrap).filter(|o| o.finish == FinishReason::Stop).collect();
    assert!(!ended.is_empty());
    assert!(
        ended.iter().all(|output| output.text.parse::<u128>().is_ok() || output.text.len() > 30),
        "{ended:?}"
    );
    assert!(ended.iter().any(|output| output.text.len() > 1), "{ended:?}");
}

#[test]
fn a_schema_nobody_can_be_held_to_refuses_its_request_and_no_other() {
    for bad in [
        json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 5, "maximum": 4}}, "required": ["n"]}),
        json!({"type": "soup"}),
        json!({"type": "string", "pattern": "(unclosed"}),
        json!({"type": "array", "uniqueItems": true, "items": {"type": "integer"}}),
        json!(true),
    ] {
        let directory = directory();
        let tokenizer = tiny::tokenizer(directory.path());
        let good = held(&json!({"type": "boolean"}), 1);
        let items = [held(&bad, 1), good].map(|params| item(&tokenizer, "x", params));
        let found = results(directory.path(), &items);
        assert!(
            matches!(&found[0], Err(LmError::Request(why)) if why.contains("JSON Schema")),
            "{bad}: {:?}",
            found[0]
        );
        assert!(["true", "false"].contains(&found[1].as_ref().unwrap().text.as_str()));
    }
}
