//! Expectations follow the reference's algorithm by hand, on a tokeniser small enough to do so: one
//! token for each character, and the merges `ab` and `␣a`.

use super::*;
use evalign_core::{Message, Role};
use serde_json::json;

const SPACE: u32 = 3;
const A: u32 = 4;
const B: u32 = 5;
const C: u32 = 6;
const AB: u32 = 7;
const SPACE_A: u32 = 8;
const NEWLINE: u32 = 9;
const BOS: u32 = 0;
const EOS: u32 = 1;
const TURN_END: u32 = 2;

fn tokenizer(settings: &serde_json::Value) -> Tokenizer {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let definition = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": {"type": "Fuse"},
        "added_tokens": [special(BOS, "<s>"), special(EOS, "</s>"), special(TURN_END, "<end>")],
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"<s>": BOS, "</s>": EOS, "<end>": TURN_END, " ": SPACE, "a": A, "b": B, "c": C,
                      "ab": AB, " a": SPACE_A, "\n": NEWLINE},
            "merges": [["a", "b"], [" ", "a"]],
        },
    });
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("tokenizer.json"), definition.to_string()).unwrap();
    fs_err::write(dir.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    Tokenizer::from_directory(dir.path()).unwrap()
}

fn plain() -> Tokenizer {
    tokenizer(&json!({"bos_token": "<s>", "eos_token": "</s>"}))
}

fn with_bos() -> Tokenizer {
    tokenizer(&json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true}))
}

fn encoder(tokenizer: &Tokenizer) -> Encoder<'_> {
    Encoder { tokenizer, template: None, context_length: 100, overlong: OverlongPrompt::Refuse }
}

fn prompt(text: &str) -> Prompt {
    Prompt::Text(text.to_owned())
}

/// Context ids and continuation ids of each continuation.
fn pairs(encoder: &Encoder<'_>, context: &str, continuations: &[&str]) -> Vec<(Vec<u32>, Vec<u32>)> {
    let continuations: Vec<String> = continuations.iter().map(|text| (*text).to_owned()).collect();
    let parts = encoder.score(&prompt(context), &continuations).unwrap();
    let mut pairs = vec![(Vec::new(), Vec::new()); continuations.len()];
    for part in parts {
        for (choice, ids) in part.choices.into_iter().zip(part.item.continuations) {
            pairs[choice] = (part.item.context.clone(), ids);
        }
    }
    pairs
}

#[test]
fn choices_share_one_context() {
    let tokenizer = plain();
    let parts = encoder(&tokenizer).score(&prompt("b"), &[" a".to_owned(), "c".to_owned()]).unwrap();
    let item = ScoreItem { context: vec![B], continuations: vec![vec![SPACE_A], vec![C]] };
    assert_eq!(parts, [ScorePart { item, choices: vec![0, 1], truncated: 0 }]);
    // (1 + 1 - 1) for each choice.
    assert_eq!(Encoded::Score(parts).prompt_tokens(), 2);
}

#[test]
fn trailing_whitespace_belongs_to_the_continuation() {
    let tokenizer = plain();
    let encoder = encoder(&tokenizer);
    assert_eq!(pairs(&encoder, "b ", &["a"]), [(vec![B], vec![SPACE_A])]);
    assert_eq!(pairs(&encoder, "b \n", &["a"]), [(vec![B], vec![SPACE, NEWLINE, A])]);
    for (text, head) in
        [("x\u{a0}\u{2003}", "x"), ("x\u{1c}\u{1f}", "x"), ("x\u{85}", "x"), ("x\u{200b}", "x\u{200b}")]
    {
        assert_eq!(split_trailing_space(text).0, head, "{text:?}");
    }
}

#[test]
fn a_token_across_the_joint_is_cut_at_the_contexts_length() {
    let tokenizer = plain();
    let encoder = encoder(&tokenizer);
    // whole = [ab, c], context = [a]: whole[1..] = [c], scored after the context as it is alone.
    assert_eq!(pairs(&encoder, "a", &["bc"]), [(vec![A], vec![C])]);
    let nothing_left = encoder.score(&prompt("a"), &["b".to_owned()]).unwrap_err();
    assert_eq!(nothing_left.to_string(), "continuation 0 has no tokens of its own");
    assert!(encoder.score(&prompt("a"), &[String::new()]).is_err());
    assert!(encoder.score(&prompt("a"), &[]).is_err());
}

#[test]
fn an_empty_context_is_bos_or_else_eos() {
    let tokenizer = plain();
    let bos = encoder(&tokenizer);
    assert_eq!(pairs(&bos, "", &["c", "<s>c"]), [(vec![BOS], vec![C]), (vec![BOS], vec![C])]);
    assert_eq!(pairs(&bos, " ", &["a"]), [(vec![BOS], vec![SPACE_A])]);
    assert!(bos.score(&prompt(""), &["<s>".to_owned()]).is_err());
    let without_bos = tokenizer_without_bos();
    assert_eq!(pairs(&encoder(&without_bos), "", &["c"]), [(vec![EOS], vec![C])]);
    let adding = with_bos();
    assert_eq!(pairs(&encoder(&adding), "", &["c"]), [(vec![BOS], vec![C])]);
}

fn tokenizer_without_bos() -> Tokenizer {
    tokenizer(&json!({"eos_token": "</s>"}))
}

#[test]
fn bos_is_added_as_the_tokenizer_does_and_never_twice() {
    let tokenizer = with_bos();
    let encoder = encoder(&tokenizer);
    assert_eq!(pairs(&encoder, "b", &[" a"]), [(vec![BOS, B], vec![SPACE_A])]);
    assert_eq!(pairs(&encoder, "<s>b", &[" a"]), [(vec![BOS, B], vec![SPACE_A])]);
    let plain = plain();
    assert_eq!(pairs(&super::tests::encoder(&plain), "<s>b", &[" a"]), [(vec![BOS, B], vec![SPACE_A])]);
    match encoder.encode(&RequestKind::Perplexity { text: "bc".to_owned() }).unwrap() {
        Encoded::Perplexity { ids, prefix } => assert_eq!((ids, prefix), (vec![BOS, B, C], BOS)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn overlong_contexts_are_refused_or_cut_for_each_choice() {
    let tokenizer = plain();
    let cut = Encoder { context_length: 4, overlong: OverlongPrompt::CutLeft, ..encoder(&tokenizer) };
    let choices = ["b".to_owned(), "cc".to_owned(), "bb".to_owned()];
    // The reference: (context + continuation)[-(4 + 1):][:-1].
    let parts = cut.score(&prompt("ccbcb"), &choices).unwrap();
    let item = |context: &[u32], continuations: &[&[u32]]| ScoreItem {
        context: context.to_vec(),
        continuations: continuations.iter().map(|ids| ids.to_vec()).collect(),
    };
    assert_eq!(
        parts,
        [
            ScorePart { item: item(&[C, B, C, B], &[&[B]]), choices: vec![0], truncated: 1 },
            ScorePart { item: item(&[B, C, B], &[&[C, C], &[B, B]]), choices: vec![1, 2], truncated: 2 },
        ]
    );
    assert_eq!(Encoded::Score(parts).truncated(), 2);
    let refuse = Encoder { overlong: OverlongPrompt::Refuse, ..cut };
    let error = refuse.score(&prompt("ccbcb"), &choices).unwrap_err();
    assert!(matches!(error, ModelError::TooLong { tokens: 5, context: 4 }), "{error:?}");
    assert!(refuse.score(&prompt("ccb"), &choices).is_ok());
    // Nothing of the context would be left: not even cutting helps.
    let cut = Encoder { overlong: OverlongPrompt::CutLeft, ..refuse };
    assert!(matches!(cut.score(&prompt("c"), &["bbbbb".to_owned()]), Err(ModelError::TooLong { .. })));
}

#[test]
fn generation_keeps_room_for_its_answer() {
    let tokenizer = plain();
    let cut = Encoder { context_length: 6, overlong: OverlongPrompt::CutLeft, ..encoder(&tokenizer) };
    let params = |max_tokens| GenerateParams { max_tokens, ..GenerateParams::default() };
    let generate = |encoder: &Encoder<'_>, text: &str, max_tokens| match encoder
        .generate(&prompt(text), &params(max_tokens))
    {
        Ok(Encoded::Generate { item, truncated }) => Ok((item.prompt, truncated)),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    assert_eq!(generate(&cut, "bcbcb", 3).unwrap(), (vec![B, C, B], 2));
    assert!(generate(&cut, "b", 6).is_err());
    assert!(generate(&cut, "b", 0).is_err());
    assert_eq!(generate(&cut, "", 3).unwrap(), (vec![BOS], 0));
    let refuse = Encoder { overlong: OverlongPrompt::Refuse, ..cut };
    // Fewer tokens than asked for fit: the engine ends with `length`.
    assert_eq!(generate(&refuse, "bcbcb", 3).unwrap(), (vec![B, C, B, C, B], 0));
    assert!(matches!(generate(&refuse, "bcbcbc", 3), Err(ModelError::TooLong { tokens: 7, context: 6 })));
}

#[test]
fn special_tokens_named_as_stop_strings_stop_by_id() {
    let tokenizer = plain();
    let params = GenerateParams {
        stop: ["<end>", "</s>", "c", "<end>c"].map(str::to_owned).to_vec(),
        ..GenerateParams::default()
    };
    match encoder(&tokenizer).generate(&prompt("b"), &params).unwrap() {
        Encoded::Generate { item, .. } => assert_eq!(item.stop_ids, [EOS, TURN_END]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn conversations_need_a_template() {
    let tokenizer = plain();
    let chat = Prompt::Chat(vec![Message { role: Role::User, content: "b".to_owned() }]);
    let base = encoder(&tokenizer);
    assert!(matches!(base.score(&chat, &["c".to_owned()]), Err(ModelError::Unsupported { .. })));
    let source = "<s>{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ '\n' }}{% endif %}";
    let template = ChatTemplate::parse(source, None, None).unwrap();
    let encoder = Encoder { template: Some(&template), ..base };
    let parts = encoder.score(&chat, &["c".to_owned()]).unwrap();
    assert_eq!(parts[0].item, ScoreItem { context: vec![BOS, B], continuations: vec![vec![NEWLINE, C]] });
}
