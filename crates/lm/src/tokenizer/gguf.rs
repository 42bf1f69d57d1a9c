//! The tokeniser from GGUF metadata alone.
//!
//! The keys are those of the GGUF specification (`tokenizer.ggml.*`); what a missing one means is
//! llama.cpp's rule (`src/llama-vocab.cpp`). Which tokens are found inside a text is `transformers`'
//! rule: control and user-defined tokens always are.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use evalign_core::Digest;
use sha2::{Digest as _, Sha256};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::metadata::{Metadata, error};
use super::pre_tokenizer::PreTokenizer;
use super::{Parts, SpecialToken, Tokenizer, sentencepiece};
use crate::LmError;

/// Words each thread remembers the merges of. English text of a benchmark has tens of thousands.
pub(super) const REMEMBERED_WORDS: usize = 50_000;

/// `tokenizer.ggml.token_type`, as numbered in the GGUF specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// The vocabulary of a GGUF file, checked.
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<String>,
    pub(super) kinds: Vec<TokenKind>,
    pub(super) ids: Vocab,
}

/// Everything that differs between the kinds of tokeniser.
pub(super) struct Pipeline {
    pub(super) model: BPE,
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(super) decoder: DecoderWrapper,
    pub(super) adds_bos: bool,
    pub(super) splits_at_lines: bool,
}

pub(super) fn load(metadata: &HashMap<String, Value>) -> Result<Tokenizer, LmError> {
    let metadata = Metadata(metadata);
    let model = metadata.string("tokenizer.ggml.model")?;
    let vocabulary = Vocabulary::read(metadata)?;
    let pipeline = match model {
        "gpt2" => byte_level(metadata, &vocabulary)?,
        "llama" => sentencepiece::pipeline(metadata, &vocabulary)?,
        other => {
            return Err(error(format!(
                "unknown tokenizer model `{other}` in GGUF metadata `tokenizer.ggml.model`"
            )));
        }
    };
    let specials = Specials::read(metadata, &vocabulary, pipeline.adds_bos)?;
    let definition = definition(metadata, &vocabulary)?;
    let inner = assemble(&vocabulary, pipeline.model, &specials, |tokenizer| {
        tokenizer.with_normalizer(pipeline.normalizer).map_err(|e| error(e.to_string()))?;
        tokenizer.with_pre_tokenizer(pipeline.pre_tokenizer);
        tokenizer.with_decoder(Some(pipeline.decoder));
        Ok(())
    })?;
    Ok(Tokenizer::assemble(Parts {
        inner,
        prefix: specials.prefix(),
        suffix: specials.suffix(),
        bos: specials.bos,
        eos: specials.eos,
        more_ends: specials.more_ends,
        vocab_size: vocabulary.tokens.len(),
        chat_template: metadata.optional_string("tokenizer.chat_template")?.map(str::to_owned),
        splits_at_lines: pipeline.splits_at_lines,
        definition,
    }))
}

impl Vocabulary {
    fn read(metadata: Metadata<'_>) -> Result<Self, LmError> {
        let spellings = metadata.strings("tokenizer.ggml.tokens")?;
        let kinds = metadata.u32s("tokenizer.ggml.token_type")?;
        if spellings.is_empty() {
            return Err(error("GGUF metadata `tokenizer.ggml.tokens` is empty"));
        }
        if kinds.len() != spellings.len() {
            return Err(error(format!(
                "GGUF metadata has {} tokens but {} token types",
                spellings.len(),
                kinds.len()
            )));
        }
        check_declared_size(metadata, spellings.len())?;
        let kinds =
            kinds.into_iter().enumerate().map(|(id, kind)| token_kind(id, kind)).collect::<Result<_, _>>()?;
        let mut ids = Vocab::with_capacity(spellings.len());
        let mut tokens = Vec::with_capacity(spellings.len());
        for (id, spelling) in (0_u32..).zip(spellings) {
            // Nothing ever encodes to a token without spelling; like llama.cpp, tell them apart.
            let token = if spelling.is_empty() { format!("[EMPTY_{id}]") } else { spelling.to_owned() };
            if let Some(first) = ids.insert(token.clone(), id) {
                return Err(error(format!("tokens {first} and {id} of the GGUF file are both `{token}`")));
            }
            tokens.push(token);
        }
        Ok(Self { tokens, kinds, ids })
    }

    pub(super) fn kind(&self, token: &str) -> Option<TokenKind> {
        self.ids.get(token).and_then(|&id| self.kinds.get(id as usize)).copied()
    }
}

/// `ARCHITECTURE.vocab_size` counts rows of the embedding table, which may be padded but not too few.
fn check_declared_size(metadata: Metadata<'_>, tokens: usize) -> Result<(), LmError> {
    let Some(architecture) = metadata.optional_string("general.architecture")? else { return Ok(()) };
    let key = format!("{architecture}.vocab_size");
    match metadata.optional_u32(&key)? {
        Some(declared) if (declared as usize) < tokens => Err(error(format!(
            "GGUF metadata `{key}` is {declared}, but `tokenizer.ggml.tokens` has {tokens} tokens"
        ))),
        _ => Ok(()),
    }
}

fn token_kind(id: usize, kind: u32) -> Result<TokenKind, LmError> {
    Ok(match kind {
        1 => TokenKind::Normal,
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        other => {
            return Err(error(format!("token {id} of the GGUF file has the unknown type {other}")));
        }
    })
}

/// Tokens with a role of their own.
struct Specials {
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
    more_ends: Vec<u32>,
    /// Unknown and padding: no role here, but not text either.
    others: Vec<u32>,
    adds_bos: bool,
    adds_eos: bool,
}

impl Specials {
    fn read(metadata: Metadata<'_>, vocabulary: &Vocabulary, adds_bos: bool) -> Result<Self, LmError> {
        let token = |name: &str| -> Result<Option<SpecialToken>, LmError> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = metadata.optional_u32(&key)? else { return Ok(None) };
            let text = vocabulary.tokens.get(id as usize).ok_or_else(|| {
                let size = vocabulary.tokens.len();
                error(format!("GGUF metadata `{key}` is {id}, but there are {size} tokens"))
            })?;
            Ok(Some(SpecialToken { id, text: text.clone() }))
        };
        let ids = |names: &[&str]| -> Result<Vec<u32>, LmError> {
            let found = names.iter().map(|name| token(name)).collect::<Result<Vec<_>, _>>()?;
            Ok(found.into_iter().flatten().map(|token| token.id).collect())
        };
        let specials = Self {
            bos: token("bos")?,
            eos: token("eos")?,
            more_ends: ids(&["eot", "eom"])?,
            others: ids(&["unknown", "padding"])?,
            adds_bos: metadata.flag("tokenizer.ggml.add_bos_token", adds_bos)?,
            adds_eos: metadata.flag("tokenizer.ggml.add_eos_token", false)?,
        };
        if specials.adds_bos && specials.bos.is_none() {
            return Err(error(
                "a BOS token should be added, but GGUF metadata lacks `tokenizer.ggml.bos_token_id`",
            ));
        }
        if specials.adds_eos && specials.eos.is_none() {
            return Err(error(
                "an EOS token should be added, but GGUF metadata lacks `tokenizer.ggml.eos_token_id`",
            ));
        }
        Ok(specials)
    }

    fn prefix(&self) -> Vec<u32> {
        self.bos.iter().filter(|_| self.adds_bos).map(|token| token.id).collect()
    }

    fn suffix(&self) -> Vec<u32> {
        self.eos.iter().filter(|_| self.adds_eos).map(|token| token.id).collect()
    }

    fn is_special(&self, id: u32) -> bool {
        let ends = self.bos.iter().chain(&self.eos).map(|token| &token.id);
        ends.chain(&self.more_ends).chain(&self.others).any(|&special| special == id)
    }
}

fn byte_level(metadata: Metadata<'_>, vocabulary: &Vocabulary) -> Result<Pipeline, LmError> {
    let name = metadata.optional_string("tokenizer.ggml.pre")?.ok_or_else(|| {
        error(
            "GGUF metadata lacks `tokenizer.ggml.pre`, so it is unknown how text is cut before merging; \
             convert the model again with a current llama.cpp, or use its Hugging Face directory",
        )
    })?;
    let pre_tokenizer = PreTokenizer::named(name)?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary.ids.clone(), read_merges(metadata, vocabulary)?)
        .ignore_merges(pre_tokenizer.ignore_merges)
        .cache_capacity(REMEMBERED_WORDS)
        .build()
        .map_err(|e| error(e.to_string()))?;
    Ok(Pipeline {
        model,
        normalizer: pre_tokenizer.normalizer(),
        pre_tokenizer: Some(pre_tokenizer.build()?),
        decoder: ByteLevelDecoder::new(false, true, true).into(),
        adds_bos: pre_tokenizer.adds_bos,
        splits_at_lines: true,
    })
}

/// Merges in order of rank. Each must join two tokens to a third; `tokenizers` would panic on some that
/// do not.
fn read_merges(metadata: Metadata<'_>, vocabulary: &Vocabulary) -> Result<Merges, LmError> {
    let mut joined = String::new();
    let merges = metadata.strings("tokenizer.ggml.merges")?;
    merges
        .into_iter()
        .enumerate()
        .map(|(rank, merge)| {
            let (left, right) = merge
                .split_once(' ')
                .ok_or_else(|| error(format!("merge {rank} of the GGUF file, `{merge}`, is not a pair")))?;
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            for token in [left, right, joined.as_str()] {
                if !vocabulary.ids.contains_key(token) {
                    return Err(error(format!(
                        "merge {rank} of the GGUF file, `{merge}`, needs `{token}`, which is not a token"
                    )));
                }
            }
            Ok((left.to_owned(), right.to_owned()))
        })
        .collect()
}

/// The model in its pipeline, with the tokens that are found in text before anything else happens.
fn assemble(
    vocabulary: &Vocabulary,
    model: BPE,
    specials: &Specials,
    install: impl FnOnce(&mut tokenizers::Tokenizer) -> Result<(), LmError>,
) -> Result<tokenizers::Tokenizer, LmError> {
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    install(&mut tokenizer)?;
    let added =
        (0_u32..).zip(vocabulary.tokens.iter().zip(&vocabulary.kinds)).filter_map(|(id, (token, kind))| {
            let special = match kind {
                TokenKind::Control | TokenKind::Unknown => true,
                TokenKind::UserDefined => specials.is_special(id),
                TokenKind::Normal | TokenKind::Unused | TokenKind::Byte if specials.is_special(id) => true,
                TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => return None,
            };
            Some(AddedToken::from(token.clone(), special).normalized(false))
        });
    tokenizer.add_tokens(added).map_err(|e| error(e.to_string()))?;
    Ok(tokenizer)
}

/// Digest of everything under `tokenizer.ggml.` that changes how text is encoded. Each part is written
/// with its length, so that no two vocabularies run together.
fn definition(metadata: Metadata<'_>, vocabulary: &Vocabulary) -> Result<Digest, LmError> {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for key in ["tokenizer.ggml.model", "tokenizer.ggml.pre"] {
        part(metadata.optional_string(key)?.unwrap_or_default().as_bytes());
    }
    // `None` where the key is absent, so that a default that changes does not go unnoticed.
    part(format!("{:?}", metadata.0.get("tokenizer.ggml.add_space_prefix")).as_bytes());
    for (token, kind) in vocabulary.tokens.iter().zip(&vocabulary.kinds) {
        part(token.as_bytes());
        part(&[*kind as u8]);
    }
    if metadata.0.contains_key("tokenizer.ggml.merges") {
        for merge in metadata.strings("tokenizer.ggml.merges")? {
            part(merge.as_bytes());
        }
    }
    if metadata.0.contains_key("tokenizer.ggml.scores") {
        for score in metadata.finite_f32s("tokenizer.ggml.scores")? {
            part(&score.to_le_bytes());
        }
    }
    Ok(Digest::from_raw(&hasher.finalize()))
}
