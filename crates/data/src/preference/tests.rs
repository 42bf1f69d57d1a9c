use std::path::Path;

use evalign_core::{Message, Prompt, Role};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Limits, Row};

fn row(value: Value) -> Row {
    match value {
        Value::Object(row) => row,
        other => panic!("{other} is no row"),
    }
}

fn example(value: Value) -> Result<Example, Misfit> {
    Example::from_row(&row(value))
}

fn say(role: Role, content: &str) -> Message {
    Message { role, content: content.to_owned() }
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> Example {
    Example::Preference {
        prompt: Prompt::Chat(vec![say(Role::User, prompt)]),
        chosen: Prompt::Chat(vec![say(Role::Assistant, chosen)]),
        rejected: Prompt::Chat(vec![say(Role::Assistant, rejected)]),
    }
}

fn read_back(path: &Path) -> Vec<(u64, Example, Row)> {
    numbered_rows(path, &Limits::default())
        .unwrap()
        .map(|(line, row)| {
            let row = row.unwrap();
            (line, Example::from_row(&row).unwrap(), row)
        })
        .collect()
}

#[test]
fn a_row_has_the_layout_of_its_columns() {
    for (columns, expected) in [
        (json!({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 1}), Some(Layout::Preference)),
        (json!({"chosen": "qa", "rejected": "qb"}), Some(Layout::Preference)),
        (json!({"prompt": "q", "completion": "a", "label": true}), Some(Layout::Unpaired)),
        (json!({"prompt": "q", "completion": "a"}), Some(Layout::PromptCompletion)),
        (json!({"prompt": "q"}), Some(Layout::PromptOnly)),
        (json!({"messages": []}), Some(Layout::LanguageModeling)),
        (json!({"text": "t"}), Some(Layout::LanguageModeling)),
        (json!({"prompt": "q", "chosen": "a"}), None),
        (json!({"question": "q"}), None),
    ] {
        assert_eq!(
            Layout::of_columns(row(columns.clone()).keys().map(String::as_str)),
            expected,
            "{columns}"
        );
    }
}

#[test]
fn what_is_wrong_with_a_row_names_its_field() {
    for (value, field, said) in [
        (json!({"prompt": "q", "chosen": "a"}), "rejected", "none of TRL's layouts"),
        (json!({"prompt": 3, "chosen": "a", "rejected": "b"}), "prompt", "found `3`"),
        (json!({"prompt": "q", "completion": "a", "label": "yes"}), "label", "found `\"yes\"`"),
        (json!({"prompt": [{"role": "robot", "content": "q"}]}), "prompt[0]", "unknown role `robot`"),
        (json!({"prompt": []}), "prompt", "holds no message"),
        (json!({"messages": [{"role": "user", "content": 3}]}), "messages[0]", "no text"),
        (json!({"prompt": "q", "completion": "a", "label": 2}), "label", "found `2`"),
        (
            json!({"prompt": "q", "chosen": "a", "rejected": [{"role": "user", "content": "b"}]}),
            "rejected",
            "kind",
        ),
        (json!({"prompt": [{"role": "user"}]}), "prompt[0]", "a role and a content"),
        (json!({"chosen": "", "rejected": "y"}), "prompt", "a side of the pair is empty"),
    ] {
        let misfit = example(value).unwrap_err();
        assert_eq!(misfit.field, field);
        assert!(misfit.message.contains(said), "{}", misfit.message);
    }
}

/// The examples of TRL's `extract_prompt` and what 1.16 makes of a space in front of the difference.
#[test]
fn a_prompt_that_both_sides_begin_with_is_taken_out() {
    let turns =
        |answer: &str| json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]);
    assert_eq!(
        example(json!({"chosen": turns("blue"), "rejected": turns("green")})).unwrap(),
        pair("q", "blue", "green")
    );
    let Ok(Example::Preference { prompt: Prompt::Text(prompt), chosen: Prompt::Text(chosen), .. }) =
        example(json!({"chosen": "The sky is blue.", "rejected": "The sky is green."}))
    else {
        panic!("a preference of texts")
    };
    assert_eq!((prompt.as_str(), chosen.as_str()), ("The sky is", " blue."));
}

/// ShareGPT's names, blocks of text, UltraFeedback's string beside conversations, labels as numbers.
#[test]
fn other_spellings_mean_the_same() {
    let turns = |answer: &str| json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": answer}]);
    assert_eq!(
        example(json!({"prompt": "q", "chosen": turns("a"), "rejected": turns("b")})).unwrap(),
        pair("q", "a", "b")
    );
    let blocks = json!([{"type": "text", "text": "he"}, {"type": "text", "text": "llo"}]);
    let Ok(Example::LanguageModeling { text: Prompt::Chat(messages) }) =
        example(json!({"conversations": [{"role": "assistant", "content": blocks}]}))
    else {
        panic!("a conversation")
    };
    assert_eq!(messages, [say(Role::Assistant, "hello")]);
    let labelled = example(json!({"prompt": "q", "completion": "a", "label": 1})).unwrap();
    assert!(matches!(labelled, Example::Unpaired { label: true, .. }));
    // What begins with the other leaves no empty side.
    let Ok(Example::Preference { prompt: Prompt::Text(prompt), .. }) =
        example(json!({"chosen": "ab", "rejected": "abc"}))
    else {
        panic!("a preference of texts")
    };
    assert_eq!(prompt, "a");
}

#[test]
fn files_of_both_kinds_give_back_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut turns = vec![say(Role::System, "be brief"), say(Role::User, "q")];
    turns.extend([say(Role::Assistant, "a"), say(Role::User, "and \u{1f980}\n\"so\"?")]);
    let several = Example::Preference {
        prompt: Prompt::Chat(turns),
        chosen: Prompt::Chat(vec![say(Role::Assistant, "")]),
        rejected: Prompt::Chat(vec![say(Role::Assistant, "no")]),
    };
    let origin = row(json!({"margin": 0.25, "round": 2, "judge": "local/x", "seed": 7, "unknown": 1}));
    for kind in [FileKind::Jsonl, FileKind::Parquet] {
        let path = directory.path().join(format!("pairs.{}", kind.extension()));
        let mut file =
            PreferenceWriter::create(&path, kind, Layout::Preference, Style::Conversational).unwrap();
        file.push(&pair("q", "a", "b"), &Row::new()).unwrap();
        file.push(&several, &origin).unwrap();
        assert!(!path.exists(), "in place only when complete");
        assert_eq!(file.finish().unwrap(), 2);
        let rows = read_back(&path);
        assert_eq!(rows.iter().map(|(line, ..)| *line).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(rows[0].1, pair("q", "a", "b"));
        assert_eq!(rows[1].1, several);
        assert_eq!(rows[0].2["margin"], Value::Null);
        assert_eq!((&rows[1].2["margin"], &rows[1].2["seed"]), (&json!(0.25), &json!(7)));
        assert!(!rows[1].2.contains_key("unknown"));
    }
}

#[test]
fn every_layout_and_style_survives_both_kinds_of_files() {
    let directory = tempfile::tempdir().unwrap();
    let whole = pair("q", "a", "b");
    for layout in Layout::ALL {
        let examples = whole.converted(layout).unwrap();
        for style in [Style::Conversational, Style::Standard] {
            for kind in [FileKind::Jsonl, FileKind::Parquet] {
                if (layout, style) == (Layout::LanguageModeling, Style::Standard) {
                    // Two messages are no text without a chat template.
                    assert!(examples[0].to_row(style).is_err());
                    continue;
                }
                let path = directory.path().join(format!("file.{}", kind.extension()));
                let mut file = PreferenceWriter::create(&path, kind, layout, style).unwrap();
                examples.iter().for_each(|example| file.push(example, &Row::new()).unwrap());
                file.finish().unwrap();
                let written: Vec<Row> = examples.iter().map(|e| e.to_row(style).unwrap()).collect();
                let found: Vec<Row> =
                    read_back(&path).iter().map(|(_, e, _)| e.to_row(style).unwrap()).collect();
                assert_eq!(found, written, "{layout} {style:?} {kind:?}");
            }
        }
    }
    assert_eq!(whole.converted(Layout::Unpaired).unwrap().len(), 2);
    assert_eq!(Example::PromptOnly { prompt: Prompt::Text("q".into()) }.converted(Layout::Preference), None);
}

#[test]
fn a_broken_line_does_not_hide_those_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pairs.jsonl");
    fs_err::write(&path, "{\"prompt\": \"a\"}\n\n{\"prompt\": \n[1]\n{\"prompt\": \"b\"}\n").unwrap();
    let found: Vec<(u64, bool)> =
        numbered_rows(&path, &Limits::default()).unwrap().map(|(line, row)| (line, row.is_ok())).collect();
    assert_eq!(found, [(1, true), (3, false), (4, false), (5, true)]);
    assert!(numbered_rows(&directory.path().join("pairs.csv"), &Limits::default()).is_err());
}

proptest! {
    #[test]
    fn no_row_panics(text in "\\PC*", number in any::<f64>()) {
        for value in [json!(text), json!(number), json!([text]), json!([{"role": text, "content": text}]), json!(null)] {
            for name in ["prompt", "chosen", "rejected", "completion", "label", "messages", "text"] {
                let _ = example(json!({name: value.clone(), "prompt": text}));
                let _ = example(json!({name: value.clone(), "chosen": text, "rejected": value.clone()}));
            }
        }
    }
}
