//! Small made-up vocabularies: every pre-tokeniser kind, SentencePiece, files of a Hugging Face directory,
//! and metadata that is wrong in every way.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use proptest::prelude::*;
use serde_json::json;

use crate::{LmError, Tokenizer};

type Metadata = HashMap<String, Value>;

const KINDS: [&str; 9] =
    ["gpt-2", "smollm", "starcoder", "llama-bpe", "smaug-bpe", "qwen2", "tekken", "gpt-4o", "default"];

fn strings(items: &[&str]) -> Value {
    Value::Array(items.iter().map(|item| Value::String((*item).to_owned())).collect())
}

/// All bytes as the characters of GPT-2's table, some merges, and three added tokens.
fn byte_level(pre: &str) -> Metadata {
    let merges = ["h e", "l l", "Ġ Ġ", "Ġ w", "1 2", "12 3", "Ċ Ċ", ". Ċ", "he ll", "hell o", "' s", "/ /"];
    let mut tokens: Vec<String> = byte_alphabet();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    // Whole words without a merge that leads to them.
    tokens.push("whole".to_owned());
    let normal = tokens.len();
    tokens.extend(["<s>", "</s>", "<tool>"].map(str::to_owned));
    let kinds = (0..tokens.len()).map(|id| Value::I32(if id < normal { 1 } else { 3 }));
    let mut kinds: Vec<Value> = kinds.collect();
    kinds[normal + 2] = Value::I32(4);
    let id = |offset: usize| Value::U32(u32::try_from(normal + offset).unwrap());
    Metadata::from([
        ("tokenizer.ggml.model".to_owned(), Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre".to_owned(), Value::String(pre.to_owned())),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(tokens.into_iter().map(Value::String).collect())),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(kinds)),
        ("tokenizer.ggml.merges".to_owned(), strings(&merges)),
        ("tokenizer.ggml.bos_token_id".to_owned(), id(0)),
        ("tokenizer.ggml.eos_token_id".to_owned(), id(1)),
        ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(true)),
    ])
}

/// GPT-2's spelling of the 256 bytes.
fn byte_alphabet() -> Vec<String> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 256;
    let spelled = |b: u8| {
        let code = if printable(b) {
            u32::from(b)
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap().to_string()
    };
    (0..=u8::MAX).map(spelled).collect()
}

fn texts(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, false).unwrap();
    ids.into_iter().map(|id| tokenizer.id_to_token(id).unwrap()).collect()
}

#[test]
fn kinds_cut_as_their_models_do() {
    let cases = [
        ("gpt-2", "123 hello\n\nw", vec!["123", "Ġ", "hello", "Ċ", "Ċ", "w"]),
        ("starcoder", "123", vec!["1", "2", "3"]),
        ("starcoder", "  1", vec!["ĠĠ", "1"]),
        ("smollm", "  1", vec!["Ġ", "Ġ", "1"]),
        ("llama-bpe", "1231", vec!["123", "1"]),
        ("qwen2", "123", vec!["1", "2", "3"]),
        ("qwen2", "e\u{301}", vec!["Ã", "©"]),
        ("llama-bpe", "\n\nw", vec!["ĊĊ", "w"]),
        ("llama-bpe", "!.\nw", vec!["!", ".Ċ", "w"]),
        // Pieces that are tokens: taken whole only where merges are ignored.
        ("llama-bpe", "whole", vec!["whole"]),
        ("gpt-2", "whole", vec!["w", "h", "o", "l", "e"]),
        ("tekken", "!//", vec!["!", "//"]),
        ("default", "12312", vec!["123", "12"]),
        ("gpt-2", "a's", vec!["a", "'s"]),
    ];
    for (kind, text, expected) in cases {
        let tokenizer = Tokenizer::from_gguf(&byte_level(kind)).unwrap();
        assert_eq!(texts(&tokenizer, text), expected, "{kind} {text:?}");
    }
}

#[test]
fn specials_are_found_in_text_and_put_around_it() {
    let mut metadata = byte_level("gpt-2");
    metadata.insert("tokenizer.ggml.add_eos_token".to_owned(), Value::Bool(true));
    metadata.insert("tokenizer.ggml.eot_token_id".to_owned(), Value::U64(5));
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    let (bos, eos) = (tokenizer.bos().unwrap(), tokenizer.eos().unwrap());
    assert_eq!(tokenizer.encode("", true).unwrap(), [bos, eos]);
    assert_eq!(tokenizer.encode("", false).unwrap(), [0_u32; 0]);
    assert!(tokenizer.adds_bos_by_default());
    assert_eq!(tokenizer.eos_ids(), [eos, 5]);
    let ids = tokenizer.encode("a</s><tool>b", false).unwrap();
    assert_eq!(ids[1], eos);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a<tool>b");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "a</s><tool>b");
    assert_eq!(tokenizer.decode(&[bos, 9_999_999], true).unwrap(), "");
}

#[test]
fn digests_follow_what_matters() {
    let digest = |metadata: &Metadata| Tokenizer::from_gguf(metadata).unwrap().digest().clone();
    let base = byte_level("gpt-2");
    assert_eq!(digest(&base), digest(&byte_level("gpt-2")));
    assert_ne!(digest(&base), digest(&byte_level("smollm")));
    let changes: [(&str, Option<Value>); 3] = [
        ("tokenizer.ggml.add_bos_token", Some(Value::Bool(false))),
        ("tokenizer.ggml.eot_token_id", Some(Value::U32(3))),
        ("tokenizer.ggml.merges", Some(strings(&["h e"]))),
    ];
    for (key, value) in changes {
        let mut changed = base.clone();
        changed.extend(value.map(|value| (key.to_owned(), value)));
        assert_ne!(digest(&base), digest(&changed), "{key}");
    }
    let mut renamed = base.clone();
    renamed.insert("general.name".to_owned(), Value::String("another".to_owned()));
    assert_eq!(digest(&base), digest(&renamed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn byte_level_text_survives(text in "(?s).{0,100}", kind in 0..KINDS.len()) {
        // `qwen2` composes characters, which is a change of text.
        prop_assume!(KINDS[kind] != "qwen2");
        let tokenizer = Tokenizer::from_gguf(&byte_level(KINDS[kind])).unwrap();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }

    #[test]
    fn lines_never_change_ids(
        text in "([ \\n\\r\t/]{0,3}([a-zA-Z'.!?,]{0,4}|[0-9]{1,4}|\\PC|<tool>|\u{301}|\u{85}|日)){0,25}",
        kind in 0..KINDS.len(),
    ) {
        let tokenizer = Tokenizer::from_gguf(&byte_level(KINDS[kind])).unwrap();
        prop_assert_eq!(tokenizer.encode(&text, false).unwrap(), tokenizer.encode_plain(&text).unwrap());
    }

    #[test]
    fn random_values_never_panic(
        key in 0..8_usize,
        value in prop_oneof![
            any::<i32>().prop_map(Value::I32),
            any::<bool>().prop_map(Value::Bool),
            ".{0,5}".prop_map(Value::String),
            proptest::collection::vec(".{0,3} ?.{0,3}".prop_map(Value::String), 0..300).prop_map(Value::Array),
            proptest::collection::vec((0..8_u32).prop_map(Value::U32), 250..290).prop_map(Value::Array),
        ],
    ) {
        let mut metadata = byte_level("gpt-2");
        let mut keys: Vec<String> = metadata.keys().cloned().collect();
        keys.sort();
        metadata.insert(keys[key].clone(), value);
        if let Ok(tokenizer) = Tokenizer::from_gguf(&metadata) {
            let _ = tokenizer.encode("hello <s> 123", true).unwrap();
        }
    }
}

fn problem(metadata: &Metadata) -> String {
    match Tokenizer::from_gguf(metadata) {
        Err(LmError::Tokenizer(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn wrong_metadata_is_named() {
    let missing = ["model", "pre", "tokens", "token_type", "merges", "bos_token_id"];
    for name in missing {
        let key = format!("tokenizer.ggml.{name}");
        let mut metadata = byte_level("gpt-2");
        metadata.remove(&key);
        assert!(problem(&metadata).contains(&key), "{key}: {}", problem(&metadata));
    }
    let wrong = [
        ("model", Value::String("t5".to_owned()), "`t5`"),
        ("model", Value::Bool(true), "should be a string"),
        ("pre", Value::String("brand-new".to_owned()), "unknown pre-tokenizer `brand-new`"),
        ("tokens", Value::U32(3), "should be an array"),
        ("tokens", Value::Array(vec![Value::U32(3)]), "element 0"),
        ("tokens", strings(&[]), "is empty"),
        ("tokens", strings(&["a", "b"]), "2 tokens but"),
        ("merges", strings(&["he"]), "merge 0"),
        ("merges", strings(&["h e", "zz zz"]), "merge 1 of the GGUF file, `zz zz`, needs `zz`"),
        ("merges", strings(&["whole whole"]), "needs `wholewhole`"),
        ("bos_token_id", Value::U32(1_000_000), "is 1000000, but there are"),
        ("bos_token_id", Value::I32(-1), "non-negative"),
        ("add_bos_token", Value::U32(1), "should be a boolean"),
    ];
    for (name, value, expected) in wrong {
        let mut metadata = byte_level("gpt-2");
        metadata.insert(format!("tokenizer.ggml.{name}"), value);
        assert!(problem(&metadata).contains(expected), "{name}: {}", problem(&metadata));
    }
    let mut twice = byte_level("gpt-2");
    if let Some(Value::Array(tokens)) = twice.get_mut("tokenizer.ggml.tokens") {
        tokens[7] = tokens[5].clone();
    }
    assert!(problem(&twice).contains("tokens 5 and 7"), "{}", problem(&twice));
    let mut small = byte_level("gpt-2");
    small.insert("general.architecture".to_owned(), Value::String("llama".to_owned()));
    small.insert("llama.vocab_size".to_owned(), Value::U32(100));
    assert!(problem(&small).contains("`llama.vocab_size` is 100"), "{}", problem(&small));
}

/// A SentencePiece vocabulary: `<unk>`, `<s>`, `</s>`, 256 bytes, then pieces with falling scores.
fn sentencepiece() -> Metadata {
    let pieces =
        ["\u{2581}t", "he", "in", "\u{2581}the", "ll", "\u{2581}", "t", "h", "e", "i", "n", "l", "o"];
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(pieces.map(str::to_owned));
    let kinds = (0..tokens.len()).map(|id| match id {
        0 => 2,
        1 | 2 => 3,
        3..=258 => 6,
        _ => 1,
    });
    let kinds = kinds.map(Value::I32).collect();
    let scores = (0..tokens.len()).map(|id| Value::F32(if id < 259 { 0.0 } else { 259.0 - id as f32 }));
    Metadata::from([
        ("tokenizer.ggml.model".to_owned(), Value::String("llama".to_owned())),
        ("tokenizer.ggml.pre".to_owned(), Value::String("default".to_owned())),
        ("tokenizer.ggml.scores".to_owned(), Value::Array(scores.collect())),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(kinds)),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(tokens.into_iter().map(Value::String).collect())),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(1)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(2)),
    ])
}

#[test]
fn sentencepiece_merges_by_score_and_falls_back_to_bytes() {
    let tokenizer = Tokenizer::from_gguf(&sentencepiece()).unwrap();
    assert_eq!(texts(&tokenizer, "the inn"), ["\u{2581}the", "\u{2581}", "in", "n"]);
    assert_eq!(texts(&tokenizer, "hé\n"), ["\u{2581}", "h", "<0xC3>", "<0xA9>", "<0x0A>"]);
    assert_eq!(texts(&tokenizer, ""), [""; 0]);
    assert_eq!(tokenizer.encode("t", true).unwrap(), [1, 259]);
    for text in ["the inn", " two  spaces\n", "日本 é", "<s>inside</s>"] {
        let ids = tokenizer.encode(text, false).unwrap();
        let plain = text.replace("<s>", "").replace("</s>", "");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), plain, "{text}");
    }
    let mut bare = sentencepiece();
    bare.insert("tokenizer.ggml.add_space_prefix".to_owned(), Value::Bool(false));
    let bare = Tokenizer::from_gguf(&bare).unwrap();
    assert_eq!(texts(&bare, "the"), ["t", "he"]);
    assert_ne!(bare.digest(), tokenizer.digest());
}

#[test]
fn sentencepiece_needs_sound_scores_and_a_way_to_spell_anything() {
    let mut metadata = sentencepiece();
    metadata.remove("tokenizer.ggml.scores");
    assert!(problem(&metadata).contains("tokenizer.ggml.scores"));
    metadata.insert("tokenizer.ggml.scores".to_owned(), Value::Array(vec![Value::F32(0.0)]));
    assert!(problem(&metadata).contains("but 1 scores"));
    metadata.insert("tokenizer.ggml.scores".to_owned(), Value::Array(vec![Value::F32(f32::NAN)]));
    assert!(problem(&metadata).contains("finite"));
    let mut metadata = sentencepiece();
    if let Some(Value::Array(kinds)) = metadata.get_mut("tokenizer.ggml.token_type") {
        kinds[0] = Value::I32(1);
        kinds[70] = Value::I32(1);
    }
    assert!(problem(&metadata).contains("unknown token"));
}

/// A directory as `transformers` writes it; `files` come beside a small `tokenizer.json`.
fn directory(files: &[(&str, serde_json::Value)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let vocabulary: serde_json::Map<String, serde_json::Value> = byte_alphabet()
        .into_iter()
        .chain(["he".to_owned(), "<s>".to_owned(), "</s>".to_owned()])
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [added(257, "<s>"), added(258, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [257], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [["h", "e"]]},
    });
    let write = |name: &str, value: &serde_json::Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        fs_err::write(directory.path().join(name), text).unwrap();
    };
    write("tokenizer.json", &tokenizer);
    for (name, value) in files {
        write(name, value);
    }
    directory
}

fn load(files: &[(&str, serde_json::Value)]) -> Result<Tokenizer, LmError> {
    Tokenizer::from_directory(directory(files).path())
}

#[test]
fn settings_beside_tokenizer_json_count() {
    let bare = load(&[]).unwrap();
    assert_eq!((bare.bos(), bare.eos()), (None, None));
    assert_eq!(bare.encode("hehehehehe", true).unwrap(), [257, 256, 256, 256, 256, 256]);
    assert!(bare.lines.is_some());

    let config = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": false,
        "add_eos_token": true, "add_prefix_space": true,
        "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}],
        "added_tokens_decoder": {"259": {"content": "<new>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}}});
    let generation = json!({"eos_token_id": [258, 42]});
    let full =
        load(&[("tokenizer_config.json", config.clone()), ("generation_config.json", generation.clone())])
            .unwrap();
    assert_eq!(full.encode("he<new>", true).unwrap(), [32, 256, 259, 258]);
    assert!(!full.adds_bos_by_default());
    assert_eq!(full.eos_ids(), [258, 42]);
    assert_eq!(full.vocab_size(), 260);
    assert_eq!(full.chat_template_source(), Some("d"));
    // Its prefix space would come before every line.
    assert!(full.lines.is_none());
    assert_ne!(full.digest(), bare.digest());

    let file =
        load(&[("tokenizer_config.json", config), ("chat_template.jinja", json!("from the file"))]).unwrap();
    assert_eq!(file.chat_template_source(), Some("from the file"));
    let by_id = load(&[("config.json", json!({"bos_token_id": 257, "eos_token_id": 258}))]).unwrap();
    assert_eq!((by_id.bos_text(), by_id.eos_text()), (Some("<s>"), Some("</s>")));
    assert!(by_id.adds_bos_by_default());
}

#[test]
fn wrong_directories_are_named() {
    let cases: [(&str, serde_json::Value, &str); 6] = [
        ("tokenizer.json", json!("{"), "tokenizer.json"),
        (
            "tokenizer.json",
            json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["aaaaaaa", "a"]]}}),
            "tokenizer.json",
        ),
        ("tokenizer_config.json", json!({"bos_token": "<nope>"}), "`<nope>` is not in the vocabulary"),
        ("tokenizer_config.json", json!({"add_bos_token": true}), "add_bos_token"),
        ("tokenizer_config.json", json!({"chat_template": [{"name": "x", "template": "y"}]}), "`default`"),
        ("generation_config.json", json!({"eos_token_id": "x"}), "eos_token_id"),
    ];
    for (name, value, expected) in cases {
        let error = load(&[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let empty = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_directory(empty.path()).unwrap_err().to_string();
    assert!(error.contains("no `tokenizer.json`"), "{error}");
}
