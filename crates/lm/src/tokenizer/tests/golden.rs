//! The real SmolLM2 tokeniser, from its GGUF file alone, against token ids of the model's own
//! `tokenizer.json`.

use std::time::Instant;

use candle_core::quantized::gguf_file::Content;
use proptest::prelude::*;

use crate::{ChatTemplate, Tokenizer};

fn metadata() -> Option<Content> {
    let path = evalign_testkit::real_model("a test of the real tokeniser")?;
    let mut file = std::io::BufReader::new(fs_err::File::open(path).unwrap());
    Some(Content::read(&mut file).unwrap())
}

/// The real model's tokeniser, from the metadata of its file.
fn smollm2() -> Option<Tokenizer> {
    metadata().map(|content| Tokenizer::from_gguf(&content.metadata).unwrap())
}

fn golden_lines() -> Option<Vec<(String, Vec<u32>)>> {
    let shared = evalign_testkit::shared("a test of the real tokeniser")?;
    let text = fs_err::read_to_string(shared.join("golden/tokens/smollm2.jsonl")).unwrap();
    let line = |line: &str| -> (String, Vec<u32>) {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        (row["text"].as_str().unwrap().to_owned(), serde_json::from_value(row["ids"].clone()).unwrap())
    };
    Some(text.lines().map(line).collect())
}

#[test]
fn every_golden_text_gets_the_same_ids() {
    let (Some(tokenizer), Some(lines)) = (smollm2(), golden_lines()) else { return };
    assert!(lines.len() > 400);
    // Twice: from the pipeline, then from the memory of lines.
    for _ in 0..2 {
        for (text, ids) in &lines {
            assert_eq!(&tokenizer.encode(text, true).unwrap(), ids, "{text:?}");
            assert_eq!(&tokenizer.decode(ids, false).unwrap(), text);
        }
    }
    println!("{} texts, {} tokens", lines.len(), lines.iter().map(|(_, ids)| ids.len()).sum::<usize>());
}

#[test]
fn special_tokens_and_settings() {
    let Some(tokenizer) = smollm2() else { return };
    assert_eq!(tokenizer.vocab_size(), 49152);
    assert_eq!((tokenizer.bos(), tokenizer.bos_text()), (Some(1), Some("<|im_start|>")));
    assert_eq!((tokenizer.eos(), tokenizer.eos_text()), (Some(2), Some("<|im_end|>")));
    assert_eq!(tokenizer.eos_ids(), [2]);
    assert!(!tokenizer.adds_bos_by_default());
    let ids = tokenizer.encode("<|im_start|>user\nHi<|im_end|>\n", true).unwrap();
    assert_eq!(ids, [1, 4093, 198, 26843, 2, 198]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "user\nHi\n");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<|im_start|>user\nHi<|im_end|>\n");
    assert_eq!(tokenizer.token_to_id("Ġthe"), Some(260));
    assert_eq!(tokenizer.id_to_token(260).as_deref(), Some("Ġthe"));
}

#[test]
fn the_template_in_the_file_is_the_one_tested_against_python() {
    let Some(tokenizer) = smollm2() else { return };
    let source = tokenizer.chat_template_source().unwrap();
    assert_eq!(source, include_str!("../../chat_template/fixtures/smollm2.jinja"));
    let again = ChatTemplate::parse(source, tokenizer.bos_text(), tokenizer.eos_text()).unwrap();
    assert_eq!(tokenizer.chat_template(None).unwrap().unwrap().digest(), again.digest());
}

#[test]
fn encoding_line_by_line_is_encoding_in_one_piece() {
    let Some(tokenizer) = smollm2() else { return };
    let piece = "[ \\n\\r\\t/]{0,3}([a-zA-Z'.!?,]{0,4}|[0-9]{1,3}|\\PC|<\\|im_end\\|>|é|ß|\u{301}|\u{85}|\u{2028}|日本)";
    let text = proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.join(""));
    proptest!(ProptestConfig::with_cases(2000), |(text in text)| {
        prop_assert_eq!(tokenizer.encode(&text, false).unwrap(), tokenizer.encode_plain(&text).unwrap());
    });
}

#[test]
fn text_survives_where_the_vocabulary_has_its_bytes() {
    let Some(tokenizer) = smollm2() else { return };
    // SmolLM2's vocabulary lacks some control characters, and the lead bytes of planes 4 to 11.
    let lacking = |c: char| {
        matches!(c, '\u{4}' | '\u{6}' | '\u{13}' | '\u{14}' | '\u{16}' | '\u{1d}')
            || ('\u{40000}'..'\u{c0000}').contains(&c)
    };
    proptest!(ProptestConfig::with_cases(500), |(text in "(?s).{0,200}")| {
        let text: String = text.chars().filter(|&c| !lacking(c)).collect();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    });
}

/// Prints speed; asserts only what no slow machine breaks. Run with `--nocapture`, in release.
#[test]
fn speed_of_prompts_with_a_shared_beginning() {
    let (Some(tokenizer), Some(lines)) = (smollm2(), golden_lines()) else { return };
    let shots: String =
        lines.iter().take(5).map(|(text, _)| format!("Question: {text}\nAnswer: B\n\n")).collect();
    let start = Instant::now();
    let (mut tokens, mut prompts) = (0, 0);
    while prompts < 2000 {
        for (text, _) in &lines {
            tokens += tokenizer.encode(&format!("{shots}Question: {text}\nAnswer:"), true).unwrap().len();
            prompts += 1;
        }
    }
    let shared = tokens as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut plain = 0;
    for (text, _) in &lines {
        plain += tokenizer.encode_plain(&format!("{shots}Question: {text}\nAnswer:")).unwrap().len();
    }
    let plain = plain as f64 / start.elapsed().as_secs_f64();
    let Some(content) = metadata() else { return };
    let load = (0..5)
        .map(|_| {
            let start = Instant::now();
            Tokenizer::from_gguf(&content.metadata).unwrap();
            start.elapsed()
        })
        .min();
    println!("load {load:?}; {shared:.0} tokens/s with lines remembered, {plain:.0} without");
}
