//! Token ids, masks and kept rows of every golden TRL case, and the layouts that the cases do not have.

use std::path::Path;

use evalign_data::{DataRoots, Dataset, DatasetSpec};
use evalign_lm::Tokenizer;
use serde_json::Value;

use super::*;

fn dataset(path: &Path) -> Dataset {
    let spec = DatasetSpec { files: Some(path.display().to_string()), ..DatasetSpec::default() };
    evalign_data::open(&DataRoots { offline: true, ..DataRoots::default() }, &spec).unwrap()
}

fn options(purpose: Purpose) -> DatasetOptions {
    DatasetOptions {
        purpose,
        max_length: Some(64),
        keep_end: false,
        completion_only: None,
        assistant_only: false,
        text_field: "text".to_owned(),
        soft_labels: false,
        compat_trl: true,
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// What `tokenized.json` says an item is, after truncation.
fn expected(row: &Value, purpose: Purpose) -> Item {
    let side = |name: &str| match purpose {
        Purpose::Preference => {
            let prompt = ids(&row["prompt_ids"]);
            let mut side = Sequence::new([prompt.clone(), ids(&row[name])].concat(), prompt.len());
            side.truncate(64);
            side
        }
        _ => Sequence::new(ids(&row[name]), 0),
    };
    match purpose {
        Purpose::Sft => {
            let labels: Vec<i64> = serde_json::from_value(row["labels"].clone()).unwrap();
            let trained = labels.iter().map(|label| *label != -100).collect();
            Item::Single {
                text: Sequence { ids: ids(&row["input_ids"]), trained },
                desirable: None,
                beyond: Vec::new(),
            }
        }
        _ => Item::Pair {
            chosen: side("chosen_ids"),
            rejected: side("rejected_ids"),
            margin: row["margin"].as_f64().map(|margin| margin as f32),
            label: None,
        },
    }
}

#[test]
fn every_golden_case_has_trls_ids_and_masks() {
    let Some(shared) = evalign_testkit::shared("TRL tokenisation") else { return };
    let root = shared.join("golden/trl");
    for entry in fs_err::read_dir(root.join("cases")).unwrap() {
        let case = entry.unwrap().path();
        let description = json(&case.join("case.json"));
        let purpose = match description["trainer"].as_str().unwrap() {
            "SFTTrainer" => Purpose::Sft,
            "RewardTrainer" => Purpose::Reward,
            _ => Purpose::Preference,
        };
        let tokenizer =
            Tokenizer::from_directory(&root.join(description["model"].as_str().unwrap())).unwrap();
        let rows = dataset(&root.join(description["data"].as_str().unwrap()));
        let prepared = prepare(&rows, &tokenizer, None, &options(purpose)).unwrap();
        let tokenized = json(&case.join("tokenized.json"));
        let kept: Vec<u64> = serde_json::from_value(description["rows_kept"].clone()).unwrap();
        assert_eq!(prepared.rows, kept, "{}", case.display());
        for (item, row) in prepared.items.iter().zip(tokenized.as_array().unwrap()) {
            assert_eq!(item, &expected(row, purpose), "{} row {}", case.display(), row["row"]);
        }
        assert_eq!(prepared.rows.len() + prepared.report.too_long.len(), prepared.report.rows as usize);
    }
}

/// `conversational.json` was written by `conversational.py` beside it, with TRL's own functions.
#[test]
fn conversations_have_trls_ids_and_masks() {
    let Some(shared) = evalign_testkit::shared("TRL tokenisation of conversations") else { return };
    let tokenizer = Tokenizer::from_directory(&shared.join("golden/trl/models/tiny-llama")).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dataset/fixtures");
    let expected_all = json(&fixtures.join("conversational.json"));
    for case in expected_all.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let source = case["template"].as_str().unwrap();
        let template = ChatTemplate::parse(source, tokenizer.bos_text(), tokenizer.eos_text()).unwrap();
        let (purpose, assistant_only) = match case["trainer"].as_str().unwrap() {
            "sft" => (Purpose::Sft, case["assistant_only_loss"].as_bool().unwrap()),
            "reward" => (Purpose::Reward, false),
            "kto" => (Purpose::Unpaired, false),
            _ => (Purpose::Preference, false),
        };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rows.jsonl");
        let lines: String = case["rows"].as_array().unwrap().iter().map(|row| format!("{row}\n")).collect();
        fs_err::write(&file, lines).unwrap();
        let limits = DatasetOptions { assistant_only, ..options(purpose) };
        let prepared = prepare(&dataset(&file), &tokenizer, Some(&template), &limits).unwrap();
        let tokenized = case["tokenized"].as_array().unwrap();
        assert_eq!(prepared.items.len(), tokenized.len(), "{name}");
        for (item, row) in prepared.items.iter().zip(tokenized) {
            // Completions of KTO are written down like SFT's.
            let purpose = if purpose == Purpose::Unpaired { Purpose::Sft } else { purpose };
            assert!(item.sequences().eq(expected(row, purpose).sequences()), "{name}: {item:?}");
        }
    }
}

/// A prompt that a template renders in another way where an answer follows is told apart from tokens that merge; a row is
/// told once, whatever its two sides have.
#[test]
fn prompts_that_are_rendered_apart_are_reported() {
    let Some(shared) = evalign_testkit::shared("templates that do not render beginnings") else { return };
    let tokenizer = Tokenizer::from_directory(&shared.join("golden/trl/models/tiny-llama")).unwrap();
    let report = |source: &str, purpose| {
        let template = ChatTemplate::parse(source, tokenizer.bos_text(), tokenizer.eos_text()).unwrap();
        let turn = |role: &str, text: &str| serde_json::json!([{"role": role, "content": text}]);
        let said = |text: &str| turn("assistant", &text.repeat(30));
        let row = serde_json::json!({"prompt": turn("user", "hi"), "chosen": said("yes "), "rejected": said("no ")});
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rows.jsonl");
        fs_err::write(&file, format!("{row}\n")).unwrap();
        prepare(&dataset(&file), &tokenizer, Some(&template), &options(purpose)).unwrap().report
    };
    let counts = "{{ messages|length }}:{% for m in messages %}{{ m.content }}{% endfor %}";
    let plain = "{% for m in messages %}{{ m.content }}:{% endfor %}";
    for purpose in [Purpose::Preference, Purpose::Unpaired] {
        let apart = report(counts, purpose);
        assert_eq!((apart.rendered_apart, apart.boundary_moved), (vec![0], vec![]), "{purpose:?}");
        assert_eq!(apart.cut, [0], "{purpose:?}");
        assert_eq!(report(plain, purpose).rendered_apart, [0u64; 0], "{purpose:?}");
    }
}
