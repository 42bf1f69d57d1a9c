//! The tokeniser from a Hugging Face directory: `tokenizer.json`, with the settings that
//! `transformers` keeps in other files and applies on top of it.

use std::path::Path;

use evalign_core::Digest;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use super::metadata::error;
use super::{Parts, SpecialToken, Tokenizer, pre_tokenizer};
use crate::LmError;

/// What is read from the files beside `tokenizer.json`. A file that is not there is an empty object.
struct Settings {
    /// `tokenizer_config.json`.
    tokenizer: Value,
    /// `special_tokens_map.json`.
    special_tokens: Value,
    /// `generation_config.json`, or `config.json` where there is none, as in `transformers`.
    generation: Value,
    /// `chat_template.jinja`.
    template_file: Option<String>,
}

/// The parts of `tokenizer.json` that are looked at here.
#[derive(Deserialize)]
struct Definition {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
}

pub(super) fn load(path: &Path) -> Result<Tokenizer, LmError> {
    let settings = Settings::read(path.parent().unwrap_or(Path::new(".")))?;
    let bytes = fs_err::read(path)?;
    let definition: Definition = serde_json::from_slice(&bytes).map_err(|e| malformed(path, &e))?;
    let mut inner = parse(path, &bytes)?;
    // `transformers` sets both anew for each call; left-overs of a training script must not cut texts.
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|e| malformed(path, &*e))?;
    let overridden = settings.override_prefix_space(&mut inner, &definition)?;
    settings.add_tokens(&mut inner)?;

    let bos = settings.special(&inner, "bos")?;
    let eos = settings.special(&inner, "eos")?;
    let (mut prefix, mut suffix) = surroundings(&inner)?;
    apply_choice(settings.choice("add_bos_token"), bos.as_ref(), &mut prefix, 0, "bos")?;
    let end = suffix.len();
    apply_choice(settings.choice("add_eos_token"), eos.as_ref(), &mut suffix, end, "eos")?;

    let added: Vec<Value> = settings.added_tokens().into_iter().map(|(_, token)| token.clone()).collect();
    Ok(Tokenizer::assemble(Parts {
        prefix,
        suffix,
        bos,
        eos,
        more_ends: settings.ends()?,
        vocab_size: inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1),
        chat_template: settings.chat_template()?,
        splits_at_lines: !overridden
            && pre_tokenizer::splits_at_lines(&definition.normalizer, &definition.pre_tokenizer),
        definition: Digest::of(format!("{} {overridden} {}", Digest::of(&bytes), Value::Array(added))),
        inner,
    }))
}

/// The caller names the directory.
fn malformed(path: &Path, problem: &(impl std::fmt::Display + ?Sized)) -> LmError {
    let name = path.file_name().unwrap_or(path.as_os_str());
    error(format!("`{}`: {problem}", name.display()))
}

/// `tokenizers` panics on some merges that do not fit their vocabulary; a file from the network must not
/// take the process down.
fn parse(path: &Path, bytes: &[u8]) -> Result<tokenizers::Tokenizer, LmError> {
    std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes))
        .map_err(|_| malformed(path, "its merges do not fit its vocabulary"))?
        .map_err(|e| malformed(path, &*e))
}

/// What the post-processor puts before and after a text, found by trying it.
fn surroundings(inner: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), LmError> {
    let ids = |special| -> Result<Vec<u32>, LmError> {
        Ok(inner.encode_fast("a", special).map_err(|e| error(e.to_string()))?.get_ids().to_vec())
    };
    let (bare, with_specials) = (ids(false)?, ids(true)?);
    let at = with_specials
        .windows(bare.len().max(1))
        .position(|window| window == bare)
        .ok_or_else(|| error("the post-processor of `tokenizer.json` changes the tokens of a text"))?;
    Ok((with_specials[..at].to_vec(), with_specials[at + bare.len()..].to_vec()))
}

/// `add_bos_token` and `add_eos_token` win over the post-processor when they are given.
fn apply_choice(
    choice: Option<bool>,
    token: Option<&SpecialToken>,
    ids: &mut Vec<u32>,
    at: usize,
    name: &str,
) -> Result<(), LmError> {
    match (choice, token) {
        (Some(true), None) => Err(error(format!(
            "`add_{name}_token` is true in `tokenizer_config.json`, but there is no {name} token"
        ))),
        (Some(true), Some(token)) => {
            if !ids.contains(&token.id) {
                ids.insert(at, token.id);
            }
            Ok(())
        }
        (Some(false), Some(token)) => {
            ids.retain(|&id| id != token.id);
            Ok(())
        }
        (Some(false), None) | (None, _) => Ok(()),
    }
}

impl Settings {
    fn read(directory: &Path) -> Result<Self, LmError> {
        let json = |name: &str| -> Result<Value, LmError> {
            let path = directory.join(name);
            if !path.is_file() {
                return Ok(Value::Null);
            }
            serde_json::from_slice(&fs_err::read(&path)?).map_err(|e| malformed(&path, &e))
        };
        let generation = match json("generation_config.json")? {
            Value::Null => json("config.json")?,
            found => found,
        };
        let template = directory.join("chat_template.jinja");
        Ok(Self {
            tokenizer: json("tokenizer_config.json")?,
            special_tokens: json("special_tokens_map.json")?,
            generation,
            template_file: template.is_file().then(|| fs_err::read_to_string(&template)).transpose()?,
        })
    }

    fn choice(&self, name: &str) -> Option<bool> {
        self.tokenizer[name].as_bool()
    }

    /// `add_prefix_space` replaces the setting of a byte-level pre-tokeniser. Returns whether it did.
    fn override_prefix_space(
        &self,
        inner: &mut tokenizers::Tokenizer,
        definition: &Definition,
    ) -> Result<bool, LmError> {
        let Some(wanted) = self.choice("add_prefix_space") else { return Ok(false) };
        let current = &definition.pre_tokenizer;
        if current["type"] != "ByteLevel" || current["add_prefix_space"] == wanted {
            return Ok(false);
        }
        let mut changed = current.clone();
        changed["add_prefix_space"] = Value::Bool(wanted);
        let byte_level: tokenizers::PreTokenizerWrapper =
            serde_json::from_value(changed).map_err(|e| error(e.to_string()))?;
        inner.with_pre_tokenizer(Some(byte_level));
        Ok(true)
    }

    /// `added_tokens_decoder` of `tokenizer_config.json`, by id.
    fn added_tokens(&self) -> Vec<(u32, &Value)> {
        let entries = self.tokenizer["added_tokens_decoder"].as_object();
        let mut tokens: Vec<(u32, &Value)> =
            entries.into_iter().flatten().filter_map(|(id, token)| Some((id.parse().ok()?, token))).collect();
        tokens.sort_by_key(|&(id, _)| id);
        tokens
    }

    /// Adds the tokens that `tokenizer_config.json` knows and `tokenizer.json` does not.
    fn add_tokens(&self, inner: &mut tokenizers::Tokenizer) -> Result<(), LmError> {
        let known = inner.get_added_tokens_decoder();
        for (id, token) in self.added_tokens() {
            if known.contains_key(&id) {
                continue;
            }
            let token: AddedToken = serde_json::from_value(token.clone())
                .map_err(|e| error(format!("token {id} of `tokenizer_config.json`: {e}")))?;
            let content = token.content.clone();
            inner.add_tokens([token]).map_err(|e| error(e.to_string()))?;
            if inner.token_to_id(&content) != Some(id) {
                return Err(error(format!(
                    "`tokenizer_config.json` gives `{content}` the id {id}, `tokenizer.json` gives it another"
                )));
            }
        }
        Ok(())
    }

    /// A special token: by its text in `tokenizer_config.json` or `special_tokens_map.json`, else by its
    /// id in the generation configuration.
    fn special(&self, inner: &tokenizers::Tokenizer, name: &str) -> Result<Option<SpecialToken>, LmError> {
        let key = format!("{name}_token");
        let text = [&self.tokenizer[&key], &self.special_tokens[&key]].into_iter().find_map(|token| {
            // Either the text itself or an object that describes an added token.
            token.as_str().or_else(|| token["content"].as_str())
        });
        if let Some(text) = text {
            let id = inner
                .token_to_id(text)
                .ok_or_else(|| error(format!("the {name} token `{text}` is not in the vocabulary")))?;
            return Ok(Some(SpecialToken { id, text: text.to_owned() }));
        }
        let id = match &self.generation[format!("{name}_token_id")] {
            Value::Array(ids) => ids.first().and_then(as_id),
            one => as_id(one),
        };
        Ok(id.and_then(|id| Some(SpecialToken { id, text: inner.id_to_token(id)? })))
    }

    /// Tokens at which the generation configuration stops.
    fn ends(&self) -> Result<Vec<u32>, LmError> {
        let ends = &self.generation["eos_token_id"];
        let ids: Option<Vec<u32>> = match ends {
            Value::Null => Some(Vec::new()),
            Value::Array(ids) => ids.iter().map(as_id).collect(),
            one => as_id(one).map(|id| vec![id]),
        };
        ids.ok_or_else(|| error(format!("`eos_token_id` is neither an id nor a list of ids: {ends}")))
    }

    /// The file wins over the setting; of several named templates the one called `default` counts.
    fn chat_template(&self) -> Result<Option<String>, LmError> {
        if let Some(template) = &self.template_file {
            return Ok(Some(template.clone()));
        }
        match &self.tokenizer["chat_template"] {
            Value::Null => Ok(None),
            Value::String(template) => Ok(Some(template.clone())),
            Value::Array(named) => named
                .iter()
                .find(|entry| entry["name"] == "default")
                .and_then(|entry| entry["template"].as_str())
                .map(|template| Some(template.to_owned()))
                .ok_or_else(|| {
                    error("`chat_template` in `tokenizer_config.json` has no template named `default`")
                }),
            _ => Err(error("`chat_template` in `tokenizer_config.json` is neither a text nor a list")),
        }
    }
}

fn as_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}
