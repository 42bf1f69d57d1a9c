use serde_json::{Map, Value};

use crate::python;
use crate::task::OptionsDefinition;

/// Moves the options of a row up by `places`, the first ones to the end, and the right answer with
/// them: place i then shows option (i + places) mod k. A row with k options has k orders; `places` of k
/// or more repeat them.
pub(crate) fn rotate(
    row: &mut Map<String, Value>,
    definition: &OptionsDefinition,
    places: u32,
) -> Result<(), String> {
    let OptionsDefinition { column, answer, labels } = definition;
    let Some(Value::Array(options)) = row.get_mut(column) else {
        return Err(format!("the column `{column}` is no list"));
    };
    let count = options.len();
    if count == 0 || count > labels.len() {
        return Err(format!("`{column}` has {count} options, and there are {} labels", labels.len()));
    }
    let shift = places as usize % count;
    options.rotate_left(shift);
    let gold = row.get_mut(answer).ok_or_else(|| format!("there is no column `{answer}`"))?;
    let index = right_option(gold, labels)
        .filter(|index| *index < count)
        .ok_or_else(|| format!("`{answer}` is {gold}, neither an index below {count} nor a label"))?;
    let moved = (index + count - shift) % count;
    *gold = match &*gold {
        Value::String(text) if labels.contains(text) => Value::String(labels[moved].clone()),
        Value::String(_) => Value::String(moved.to_string()),
        _ => Value::from(moved),
    };
    Ok(())
}

/// The option that place `place` showed after [`rotate`] by `places`.
pub(super) fn option_at(place: usize, places: u32, count: usize) -> usize {
    (place + places as usize % count) % count
}

/// The index an `answer` column means. A text that is a label is a label, also where it is a number.
pub(super) fn right_option(value: &Value, labels: &[String]) -> Option<usize> {
    match value {
        Value::Number(number) => usize::try_from(number.as_u64()?).ok(),
        Value::String(text) => labels
            .iter()
            .position(|label| label == text)
            .or_else(|| text.parse().ok().filter(|_| python::is_digits(text))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn definition(labels: &[&str]) -> OptionsDefinition {
        OptionsDefinition {
            column: "choices".to_owned(),
            answer: "answer".to_owned(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        }
    }

    fn rotated(row: Value, places: u32) -> Result<Value, String> {
        let Value::Object(mut row) = row else { panic!("a row is an object") };
        rotate(&mut row, &definition(&["A", "B", "C", "D"]), places)?;
        Ok(Value::Object(row))
    }

    #[test]
    fn options_move_up_and_take_the_answer_with_them() {
        let row = json!({"q": "?", "choices": ["w", "x", "y", "z"], "answer": 0});
        assert_eq!(
            rotated(row.clone(), 1),
            Ok(json!({"q": "?", "choices": ["x", "y", "z", "w"], "answer": 3}))
        );
        assert_eq!(rotated(row.clone(), 0), Ok(row.clone()));
        assert_eq!(rotated(row.clone(), 4), Ok(row));
    }

    #[test]
    fn answers_keep_their_kind() {
        for (answer, moved) in [(json!(2), json!(1)), (json!("2"), json!("1")), (json!("C"), json!("B"))] {
            let row = json!({"choices": ["w", "x", "y"], "answer": answer});
            assert_eq!(rotated(row, 1).unwrap()["answer"], moved);
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_errors() {
        for row in [
            json!({"choices": "w", "answer": 0}),
            json!({"choices": [], "answer": 0}),
            json!({"choices": ["a", "b", "c", "d", "e"], "answer": 0}),
            json!({"choices": ["a", "b"]}),
            json!({"choices": ["a", "b"], "answer": 2}),
            json!({"choices": ["a", "b"], "answer": "C"}),
            json!({"choices": ["a", "b"], "answer": -1}),
            json!({"choices": ["a", "b"], "answer": null}),
        ] {
            assert!(rotated(row.clone(), 1).is_err(), "{row}");
        }
    }

    proptest! {
        /// Whatever is chosen by its place in a rotated item is the content that the place maps back to,
        /// and the right answer stays the right content.
        #[test]
        fn places_map_back_to_the_same_content(count in 1usize..=4, gold in 0usize..4, places in 0u32..9) {
            let gold = gold % count;
            let options: Vec<String> = (0..count).map(|i| format!("option {i}")).collect();
            let row = rotated(json!({"choices": options, "answer": gold}), places).unwrap();
            for place in 0..count {
                prop_assert_eq!(&row["choices"][place], &options[option_at(place, places, count)]);
            }
            let moved = row["answer"].as_u64().unwrap() as usize;
            prop_assert_eq!(option_at(moved, places, count), gold);
        }
    }
}
