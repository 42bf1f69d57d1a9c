//! How text is cut into pieces before byte pairs are merged: the kinds `tokenizer.ggml.pre` names.
//!
//! A GGUF file records only a name. The names and what they stand for are llama.cpp's
//! (`src/llama-vocab.cpp`); the patterns are those of the models' own `tokenizer.json`, which llama.cpp
//! in places rewrites for its regex engine.

use serde_json::Value;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, SplitDelimiterBehavior};

use super::metadata::error;
use crate::LmError;

const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Patterns whose pieces never reach over a single newline (see [`super::lines`]).
const LINE_SAFE_PATTERNS: [&str; 5] = [GPT_2, LLAMA_3, QWEN_2, TEKKEN, GPT_4O];

/// One step of cutting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Every digit is a piece of its own.
    Digits,
    /// Matches of the pattern, and what lies between them, are pieces.
    Pattern(&'static str),
}

/// A named way to cut, with the settings that llama.cpp ties to the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    cuts: &'static [Cut],
    /// Text is brought into Unicode normal form C first.
    composes: bool,
    /// A piece that is a token is taken whole, whatever the merges would make of it.
    pub(super) ignore_merges: bool,
    /// A BOS is added unless the file says otherwise.
    pub(super) adds_bos: bool,
}

impl PreTokenizer {
    /// # Errors
    /// An unknown name: cutting differently would give other tokens, and with them other scores.
    pub(super) fn named(name: &str) -> Result<Self, LmError> {
        let plain =
            Self { cuts: &[Cut::Pattern(GPT_2)], composes: false, ignore_merges: false, adds_bos: false };
        let llama_3 = Self { cuts: &[Cut::Pattern(LLAMA_3)], ignore_merges: true, adds_bos: true, ..plain };
        Ok(match name {
            // No token of SmolLM's vocabulary holds two digits, so that digits come out alone either way.
            // llama.cpp cuts them off first, which glues two spaces before a digit together; the ids of
            // the model's own tokeniser (`transformers` 5) say that it does not.
            "gpt-2" | "phi-2" | "smollm" => plain,
            "starcoder" | "refact" | "codeshell" => {
                Self { cuts: &[Cut::Digits, Cut::Pattern(GPT_2)], ..plain }
            }
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "midm-2.0" | "lfm2" => llama_3,
            "smaug-bpe" => Self { ignore_merges: false, adds_bos: false, ..llama_3 },
            "qwen2" | "deepseek-r1-qwen" | "megrez" => {
                Self { cuts: &[Cut::Pattern(QWEN_2)], composes: true, ..plain }
            }
            "tekken" => Self { cuts: &[Cut::Pattern(TEKKEN)], ..llama_3 },
            "gpt-4o" | "llama4" => Self { cuts: &[Cut::Pattern(GPT_4O)], ..plain },
            "default" => Self {
                cuts: &[
                    Cut::Pattern(r"[\p{P}$+<=>^~|]+"),
                    Cut::Pattern(GPT_2),
                    Cut::Pattern(r"\p{N}+"),
                    Cut::Pattern("[0-9][0-9][0-9]"),
                ],
                ..plain
            },
            other => {
                return Err(error(format!(
                    "unknown pre-tokenizer `{other}` in GGUF metadata `tokenizer.ggml.pre`"
                )));
            }
        })
    }

    pub(super) fn normalizer(self) -> Option<NormalizerWrapper> {
        self.composes.then(|| NFC.into())
    }

    /// The cuts, then bytes spelled as characters.
    pub(super) fn build(self) -> Result<PreTokenizerWrapper, LmError> {
        let mut steps: Vec<PreTokenizerWrapper> = Vec::with_capacity(self.cuts.len() + 1);
        for cut in self.cuts {
            steps.push(match *cut {
                Cut::Digits => Digits::new(true).into(),
                Cut::Pattern(pattern) => split(pattern)?.into(),
            });
        }
        steps.push(ByteLevel::new(false, true, false).into());
        Ok(Sequence::new(steps).into())
    }
}

fn split(pattern: &str) -> Result<Split, LmError> {
    Split::new(SplitPattern::Regex(pattern.to_owned()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|e| error(format!("pre-tokenizer pattern does not compile: {e}")))
}

/// Whether the normaliser and pre-tokeniser of a `tokenizer.json` are among those whose lines can be
/// encoded apart. Anything not recognised is encoded in one piece: slower, never different.
pub(super) fn splits_at_lines(normalizer: &Value, pre_tokenizer: &Value) -> bool {
    let steps = flatten(pre_tokenizer, "pretokenizers");
    let Some((last, cuts)) = steps.split_last() else { return false };
    flatten(normalizer, "normalizers").iter().all(|step| step["type"] == "NFC")
        && last["type"] == "ByteLevel"
        && last["add_prefix_space"] == false
        && cuts.iter().all(|step| match step["type"].as_str() {
            Some("Digits") => true,
            Some("Split") => {
                step["behavior"] == "Isolated"
                    && step["invert"] == false
                    && step["pattern"]["Regex"].as_str().is_some_and(|it| LINE_SAFE_PATTERNS.contains(&it))
            }
            _ => false,
        })
}

fn flatten<'a>(step: &'a Value, list: &str) -> Vec<&'a Value> {
    match step {
        Value::Null => Vec::new(),
        _ if step["type"] == "Sequence" => {
            step[list].as_array().map(|steps| steps.iter().collect()).unwrap_or_default()
        }
        _ => vec![step],
    }
}
