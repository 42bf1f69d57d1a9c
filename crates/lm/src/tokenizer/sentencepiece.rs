//! SentencePiece BPE as Llama 2, Mistral 7B and TinyLlama use it (`tokenizer.ggml.model` = `llama`).
//!
//! The file holds pieces with scores instead of merges. Merges are recovered as `transformers` does when
//! it converts such a model (`convert_slow_tokenizer.generate_merges`): every way to put a piece together
//! from two pieces, best score first. Spaces are spelled U+2581, characters without a token become byte
//! tokens `<0x0A>`.

use std::cmp::Ordering;

use tokenizers::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};

use super::gguf::{Pipeline, REMEMBERED_WORDS, TokenKind, Vocabulary};
use super::metadata::{Metadata, error};
use crate::LmError;

const SPACE: &str = "\u{2581}";

pub(super) fn pipeline(metadata: Metadata<'_>, vocabulary: &Vocabulary) -> Result<Pipeline, LmError> {
    let scores = metadata.finite_f32s("tokenizer.ggml.scores")?;
    if scores.len() != vocabulary.tokens.len() {
        return Err(error(format!(
            "GGUF metadata has {} tokens but {} scores",
            vocabulary.tokens.len(),
            scores.len()
        )));
    }
    let add_space_prefix = metadata.flag("tokenizer.ggml.add_space_prefix", true)?;
    let byte_fallback =
        (0..=u8::MAX).all(|byte| vocabulary.kind(&format!("<0x{byte:02X}>")) == Some(TokenKind::Byte));
    let unknown = unknown_token(metadata, vocabulary)?;
    if !byte_fallback && unknown.is_none() {
        return Err(error("the GGUF file has neither all 256 byte tokens nor an unknown token"));
    }
    let mut builder = BPE::builder()
        .vocab_and_merges(vocabulary.ids.clone(), merges_from_scores(vocabulary, &scores))
        .byte_fallback(byte_fallback)
        .fuse_unk(true)
        .cache_capacity(REMEMBERED_WORDS);
    if let Some(token) = unknown {
        builder = builder.unk_token(token.to_owned());
    }
    Ok(Pipeline {
        model: builder.build().map_err(|e| error(e.to_string()))?,
        normalizer: Some(normalizer(add_space_prefix)?),
        pre_tokenizer: None,
        decoder: decoder(add_space_prefix)?,
        adds_bos: true,
        // The whole text is one word to merge in.
        splits_at_lines: false,
    })
}

fn unknown_token<'v>(metadata: Metadata<'_>, vocabulary: &'v Vocabulary) -> Result<Option<&'v str>, LmError> {
    let id = match metadata.optional_u32("tokenizer.ggml.unknown_token_id")? {
        Some(id) => Some(id as usize),
        None => vocabulary.kinds.iter().position(|&kind| kind == TokenKind::Unknown),
    };
    Ok(id.and_then(|id| vocabulary.tokens.get(id)).map(String::as_str))
}

/// Every pair of text pieces whose concatenation is a text piece. Order: score of the result, then
/// length of the left and of the right part, all descending; within one result and equal lengths,
/// smaller ids first.
fn merges_from_scores(vocabulary: &Vocabulary, scores: &[f32]) -> Merges {
    struct Merge<'v> {
        left: &'v str,
        right: &'v str,
        score: f32,
        lengths: (usize, usize),
    }
    let text_piece = |piece: &str| vocabulary.kind(piece) == Some(TokenKind::Normal);
    let mut merges: Vec<Merge<'_>> = Vec::new();
    for (token, &score) in vocabulary.tokens.iter().zip(scores) {
        if !text_piece(token) {
            continue;
        }
        let characters = token.chars().count();
        let first = merges.len();
        for (before, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if text_piece(left) && text_piece(right) {
                merges.push(Merge { left, right, score, lengths: (before, characters - before) });
            }
        }
        merges[first..]
            .sort_by_key(|merge| (vocabulary.ids.get(merge.left), vocabulary.ids.get(merge.right)));
    }
    // Not `total_cmp`: the first merge often has the score -0, which is 0.
    let by_score = |a: &Merge<'_>, b: &Merge<'_>| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal);
    merges.sort_by(|a, b| by_score(a, b).then(b.lengths.cmp(&a.lengths)));
    merges.into_iter().map(|merge| (merge.left.to_owned(), merge.right.to_owned())).collect()
}

fn normalizer(add_space_prefix: bool) -> Result<NormalizerWrapper, LmError> {
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if add_space_prefix {
        steps.push(Prepend::new(SPACE.to_owned()).into());
    }
    steps.push(Replace::new(" ", SPACE).map_err(|e| error(e.to_string()))?.into());
    Ok(Sequence::new(steps).into())
}

fn decoder(add_space_prefix: bool) -> Result<DecoderWrapper, LmError> {
    let mut steps: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(|e| error(e.to_string()))?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if add_space_prefix {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    Ok(DecoderSequence::new(steps).into())
}
