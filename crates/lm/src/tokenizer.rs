//! Text to token ids and back, exactly as the model was trained.
//!
//! Whatever a model brings along (a `tokenizer.json`, or only the metadata of a GGUF file) becomes one
//! [`tokenizers::Tokenizer`], so that there is a single implementation to trust. What is put before and
//! after a text (BOS, EOS) is kept outside of it: callers decide per request.

mod bytes;
mod gguf;
mod hugging_face;
mod lines;
mod metadata;
mod pre_tokenizer;
mod sentencepiece;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use candle_core::quantized::gguf_file::Value;
use evalign_core::Digest;
use jiff::civil::DateTime;

use crate::constraint::{TokenBytes, Vocabulary};
use crate::{ChatTemplate, LmError};
use lines::LineMemory;

/// A model's tokeniser, with its special tokens and the source of its chat template.
///
/// Text that contains the spelling of a special token (`<|im_start|>`) encodes to that token, as in
/// Hugging Face's `transformers`. Encoding may be called from several threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Put before (after) a text when special tokens are asked for.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
    eos_ids: Vec<u32>,
    vocab_size: usize,
    chat_template: Option<String>,
    lines: Option<LineMemory>,
    token_bytes: OnceLock<TokenBytes>,
    grammar_vocabulary: OnceLock<Result<Vocabulary, String>>,
    digest: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SpecialToken {
    id: u32,
    text: String,
}

/// What a loader found; [`Tokenizer::assemble`] makes a tokeniser of it.
struct Parts {
    inner: tokenizers::Tokenizer,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
    /// More tokens that end a generation. The first end is `eos` itself.
    more_ends: Vec<u32>,
    /// One more than the largest id.
    vocab_size: usize,
    chat_template: Option<String>,
    /// The pipeline is one whose lines can be encoded apart, see [`lines`].
    splits_at_lines: bool,
    /// Digest of the vocabulary and the pipeline.
    definition: Digest,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, and beside it, where present, `tokenizer_config.json`,
    /// `special_tokens_map.json`, `generation_config.json`, `config.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// [`LmError::Io`] when a file cannot be read, [`LmError::Tokenizer`] when one is malformed or they
    /// contradict each other.
    pub fn from_file(tokenizer_json: &Path) -> Result<Self, LmError> {
        hugging_face::load(tokenizer_json)
    }

    /// What [`Tokenizer::from_directory`] reads, names and contents of files: `tokenizer.json`, `tokenizer_config.json` and,
    /// where there is one, `chat_template.jinja`.
    ///
    /// # Errors
    /// The tokeniser has no JSON form.
    pub(crate) fn files(&self) -> Result<Vec<(String, Vec<u8>)>, LmError> {
        let text = self.inner.to_string(true).map_err(|error| LmError::Tokenizer(error.to_string()))?;
        let mut files = vec![("tokenizer.json".to_owned(), text.into_bytes())];
        let spelling = |token: &Option<SpecialToken>| token.as_ref().map(|token| token.text.clone());
        let settings = serde_json::json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": spelling(&self.bos),
            "eos_token": spelling(&self.eos), "add_bos_token": !self.prefix.is_empty(),
            "add_eos_token": !self.suffix.is_empty(), "clean_up_tokenization_spaces": false
        });
        files.push(("tokenizer_config.json".to_owned(), format!("{settings:#}\n").into_bytes()));
        let template = self.chat_template.iter().map(|template| template.clone().into_bytes());
        files.extend(template.map(|template| ("chat_template.jinja".to_owned(), template)));
        Ok(files)
    }

    /// [`Tokenizer::from_file`] on `tokenizer.json` in a model directory.
    ///
    /// # Errors
    /// Also when the directory has no `tokenizer.json`.
    pub fn from_directory(directory: &Path) -> Result<Self, LmError> {
        let path = directory.join("tokenizer.json");
        if !path.is_file() {
            // The definition that `tokenizer.json` replaced, which is not read here.
            let older = ["tokenizer.model", "vocab.json", "vocab.txt"];
            let found = older.into_iter().find(|name| directory.join(name).is_file());
            return Err(LmError::Tokenizer(match found {
                None => "there is no `tokenizer.json`".to_owned(),
                Some(name) => format!(
                    "there is no `tokenizer.json`, only `{name}`, which is not read: save the tokenizer anew with \
                     `save_pretrained` of transformers"
                ),
            }));
        }
        hugging_face::load(&path)
    }

    /// Builds the tokeniser from the metadata of a GGUF file: byte-level BPE (`gpt2`) and SentencePiece
    /// BPE (`llama`).
    ///
    /// # Errors
    /// [`LmError::Tokenizer`], naming the key, when metadata is missing, of the wrong type, inconsistent,
    /// or names a tokeniser model or pre-tokeniser this crate does not know.
    pub fn from_gguf(metadata: &HashMap<String, Value>) -> Result<Self, LmError> {
        gguf::load(metadata)
    }

    fn assemble(parts: Parts) -> Self {
        let mut eos_ids: Vec<u32> = Vec::new();
        for id in parts.eos.iter().map(|eos| eos.id).chain(parts.more_ends) {
            if !eos_ids.contains(&id) {
                eos_ids.push(id);
            }
        }
        let lines =
            (parts.splits_at_lines && lines::survives_added_tokens(&parts.inner)).then(LineMemory::new);
        let digest = Digest::of(format!(
            "evalign tokenizer 1\n{}\nprefix {:?}\nsuffix {:?}\nends {:?}\nbos {:?}",
            parts.definition,
            parts.prefix,
            parts.suffix,
            eos_ids,
            parts.bos.as_ref().map(|bos| bos.id),
        ));
        Self {
            inner: parts.inner,
            prefix: parts.prefix,
            suffix: parts.suffix,
            bos: parts.bos,
            eos: parts.eos,
            eos_ids,
            vocab_size: parts.vocab_size,
            chat_template: parts.chat_template,
            lines,
            token_bytes: OnceLock::new(),
            grammar_vocabulary: OnceLock::new(),
            digest,
        }
    }

    /// Token ids of `text`. With `add_special`, whatever the model's own tokeniser puts around a text
    /// (usually a BOS, often nothing) is added.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`] when the pipeline fails on the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, LmError> {
        let mut ids = Vec::with_capacity(text.len() / 3 + self.prefix.len() + self.suffix.len());
        if add_special {
            ids.extend_from_slice(&self.prefix);
        }
        match &self.lines {
            Some(memory) => memory.encode(text, &mut ids, |line| self.encode_plain(line))?,
            None => ids.extend(self.encode_plain(text)?),
        }
        if add_special {
            ids.extend_from_slice(&self.suffix);
        }
        Ok(ids)
    }

    /// What the model's own tokeniser puts after a text.
    pub(crate) fn suffix(&self) -> &[u32] {
        &self.suffix
    }

    /// Token ids of `text`, nothing added around it, and the bytes of `text` that each stands for. Tokens that
    /// share a character all have its bytes.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`] when the pipeline fails on the text.
    pub fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), LmError> {
        let encoding = self.inner.encode(text, false).map_err(|e| LmError::Tokenizer(e.to_string()))?;
        let offsets = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        Ok((encoding.get_ids().to_vec(), offsets))
    }

    fn encode_plain(&self, text: &str) -> Result<Vec<u32>, LmError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| LmError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids`. Bytes that are not UTF-8 become U+FFFD; ids outside the vocabulary add nothing.
    /// With `skip_special`, special tokens (BOS, `<|im_end|>`) are left out.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`] when the decoder of a `tokenizer.json` fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, LmError> {
        self.inner.decode(ids, skip_special).map_err(|e| LmError::Tokenizer(e.to_string()))
    }

    /// Id of the beginning-of-sequence token.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos.as_ref().map(|token| token.id)
    }

    /// Spelling of the beginning-of-sequence token.
    #[must_use]
    pub fn bos_text(&self) -> Option<&str> {
        self.bos.as_ref().map(|token| token.text.as_str())
    }

    /// Id of the end-of-sequence token.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.eos.as_ref().map(|token| token.id)
    }

    /// Spelling of the end-of-sequence token.
    #[must_use]
    pub fn eos_text(&self) -> Option<&str> {
        self.eos.as_ref().map(|token| token.text.as_str())
    }

    /// Every token that ends a generation: [`Tokenizer::eos`] first, then those of
    /// `generation_config.json` or the end-of-turn tokens of the GGUF file.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Id of the token with exactly this spelling in the vocabulary (byte-level vocabularies spell a
    /// space `Ġ`).
    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Spellings that become a special token wherever they stand in a text, in the order of their ids.
    #[must_use]
    pub fn special_tokens(&self) -> Vec<String> {
        let added: BTreeMap<u32, _> = self.inner.get_added_tokens_decoder().into_iter().collect();
        added.into_values().filter(|token| token.special).map(|token| token.content).collect()
    }

    /// Spelling of a token in the vocabulary.
    #[must_use]
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// One more than the largest token id. The embedding table must have at least as many rows.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The model's own tokeniser puts a BOS before a text.
    #[must_use]
    pub fn adds_bos_by_default(&self) -> bool {
        self.bos.as_ref().is_some_and(|bos| self.prefix.contains(&bos.id))
    }

    /// SHA-256 over everything that decides which ids a text gets and where generation ends.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Source of the chat template that came with the tokeniser.
    #[must_use]
    pub fn chat_template_source(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The chat template that came with the tokeniser, ready to render; `None` for a base model. `now` is
    /// what it takes for the present (see [`ChatTemplate::parse`] and [`ChatTemplate::parse_at`]).
    ///
    /// # Errors
    /// [`LmError::ChatTemplate`] when the template does not parse.
    pub fn chat_template(&self, now: Option<DateTime>) -> Result<Option<ChatTemplate>, LmError> {
        self.chat_template.as_deref().map(|source| self.parse_template(source, now)).transpose()
    }

    pub(crate) fn parse_template(
        &self,
        source: &str,
        now: Option<DateTime>,
    ) -> Result<ChatTemplate, LmError> {
        let (bos, eos) = (self.bos_text(), self.eos_text());
        match now {
            None => ChatTemplate::parse(source, bos, eos),
            Some(now) => ChatTemplate::parse_at(source, bos, eos, now),
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .field("eos_ids", &self.eos_ids)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}
