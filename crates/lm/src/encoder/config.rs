//! What the files of a sentence-transformers directory say about an encoder.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::LmError;

const HINT_ENCODER: &str =
    "this engine runs BERT encoders (all-MiniLM, bge) as sentence-transformers saves them";

/// How a text's token vectors become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all tokens, special ones included.
    Mean,
    /// The first token's vector.
    Cls,
}

/// Shape of the encoder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EncoderConfig {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) positions: usize,
    pub(crate) token_types: usize,
    pub(crate) norm_eps: f32,
}

/// What a directory says of how texts become vectors, besides the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentenceConfig {
    /// Tokens of one text, special ones included.
    pub max_tokens: usize,
    pub pooling: Pooling,
    /// Vectors are scaled to length 1.
    pub normalised: bool,
}

/// `config.json`.
#[derive(Deserialize)]
struct Bert {
    model_type: String,
    hidden_act: String,
    #[serde(default)]
    position_embedding_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
}

/// `config.json` of any encoder.
#[derive(Deserialize)]
struct Positions {
    max_position_embeddings: usize,
}

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// `sentence_bert_config.json`.
#[derive(Default, Deserialize)]
struct SentenceBert {
    max_seq_length: Option<usize>,
}

/// `1_Pooling/config.json`; modes that are not listed here are refused when they are on.
#[derive(Deserialize)]
struct PoolingModes {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
}

impl EncoderConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// The file is missing or malformed, or describes what this engine does not compute.
    pub(crate) fn read(directory: &Path) -> Result<Self, LmError> {
        let path = directory.join("config.json");
        let bert: Bert = json(&path)?;
        let unsupported = |what: String| LmError::unsupported(&path, what, HINT_ENCODER);
        if bert.model_type != "bert" {
            return Err(unsupported(format!("architecture `{}` in `model_type`", bert.model_type)));
        }
        if bert.hidden_act != "gelu" {
            return Err(unsupported(format!("activation `{}` in `hidden_act`", bert.hidden_act)));
        }
        if let Some(kind) = bert.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return Err(unsupported(format!("`position_embedding_type` is `{kind}`")));
        }
        if bert.num_attention_heads == 0 || !bert.hidden_size.is_multiple_of(bert.num_attention_heads) {
            return Err(LmError::format(&path, "hidden size is not a multiple of the number of heads"));
        }
        if bert.token_types_missing() {
            return Err(LmError::format(&path, "a size is 0"));
        }
        Ok(Self {
            vocab_size: bert.vocab_size,
            hidden_size: bert.hidden_size,
            intermediate_size: bert.intermediate_size,
            layers: bert.num_hidden_layers,
            heads: bert.num_attention_heads,
            positions: bert.max_position_embeddings,
            token_types: bert.type_vocab_size,
            norm_eps: bert.layer_norm_eps as f32,
        })
    }
}

impl SentenceConfig {
    /// Reads `modules.json`, the pooling module's file, `sentence_bert_config.json` and the positions of
    /// `config.json`.
    ///
    /// # Errors
    /// A file is missing or malformed, or describes a pooling that is neither the mean nor the first token.
    pub fn read(directory: &Path) -> Result<Self, LmError> {
        let (pooling, normalised) = modules(directory)?;
        let positions: Positions = json(&directory.join("config.json"))?;
        let positions = positions.max_position_embeddings;
        let path = directory.join("sentence_bert_config.json");
        let sentence: SentenceBert = if path.is_file() { json(&path)? } else { SentenceBert::default() };
        let max_tokens = sentence.max_seq_length.unwrap_or(positions).min(positions);
        Ok(Self { max_tokens, pooling, normalised })
    }
}

impl Bert {
    fn token_types_missing(&self) -> bool {
        [self.hidden_size, self.intermediate_size, self.vocab_size, self.type_vocab_size].contains(&0)
            || self.max_position_embeddings < 3
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, LmError> {
    let bytes = fs_err::read(path)?;
    let mut reader = serde_json::Deserializer::from_slice(&bytes);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| LmError::format(path, error))
}

/// Pooling, and whether a normalisation follows. Without `modules.json` nobody knows, and guessing would
/// give vectors that look right.
fn modules(directory: &Path) -> Result<(Pooling, bool), LmError> {
    let path = directory.join("modules.json");
    let modules: Vec<Module> = json(&path)?;
    let mut pooling = None;
    let mut normalised = false;
    for module in modules {
        match module.kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" => pooling = Some(pooling_of(&directory.join(&module.path).join("config.json"))?),
            "Normalize" => normalised = true,
            other => {
                return Err(LmError::unsupported(&path, format!("module `{other}`"), HINT_ENCODER));
            }
        }
    }
    let pooling = pooling.ok_or_else(|| LmError::format(&path, "no pooling module"))?;
    Ok((pooling, normalised))
}

fn pooling_of(path: &Path) -> Result<Pooling, LmError> {
    let modes: PoolingModes = json(path)?;
    let others = modes.pooling_mode_max_tokens
        || modes.pooling_mode_mean_sqrt_len_tokens
        || modes.pooling_mode_weightedmean_tokens
        || modes.pooling_mode_lasttoken;
    match (modes.pooling_mode_mean_tokens, modes.pooling_mode_cls_token, others) {
        (true, false, false) => Ok(Pooling::Mean),
        (false, true, false) => Ok(Pooling::Cls),
        _ => Err(LmError::unsupported(path, "pooling: neither the mean alone nor CLS alone", HINT_ENCODER)),
    }
}
