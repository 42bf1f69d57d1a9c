use std::ops::ControlFlow;
use std::path::Path;

use evalign_core::{Digest, Dtype};

use crate::backend::{Backend, CandleBackend, CpuBackend};
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::memory::default_budget;
use crate::weights::{Weights, open_gguf, open_safetensors};
use crate::{
    ChatTemplate, DeviceSpec, EngineStats, Event, GenerateItem, GenerateOutput, LmError, LoadOptions,
    PerplexityOutput, ScoreItem, ScoreOutput, Tokenizer, generate, perplexity, score,
};

/// What a model is, as far as its results depend on it, and what it can hold.
#[derive(Clone, Debug)]
pub struct Identity {
    /// SHA-256 of a GGUF file; of `config.json` followed by the weight files in name order for a directory.
    pub weights: Digest,
    pub tokenizer: Digest,
    pub chat_template: Option<Digest>,
    pub architecture: String,
    /// Weights in all tensors.
    pub parameters: u64,
    /// Most tokens of one sequence.
    pub context_length: usize,
    pub vocab_size: usize,
    pub dtype: Dtype,
    /// `cpu`, `cuda:0`, `metal`.
    pub device: String,
}

/// The decoder on the backend that was asked for.
#[derive(Debug)]
pub(crate) enum Engine {
    Cpu(Decoder<CpuBackend>),
    Candle(Decoder<CandleBackend>),
}

/// A causal language model, ready to answer. All operations take `&self` and whole sets of requests.
#[derive(Debug)]
pub struct LanguageModel {
    pub(crate) engine: Engine,
    pub(crate) budget_bytes: u64,
    identity: Identity,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
}

impl LanguageModel {
    /// Loads a GGUF file or a Hugging Face directory.
    ///
    /// # Errors
    /// Missing, truncated or inconsistent files, an unsupported architecture, RoPE type or tensor type,
    /// a device this build or machine does not have.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, LmError> {
        let opened = open(path)?;
        let dtype = chosen_dtype(path, &opened.weights, options)?;
        let threads = options.threads.unwrap_or_else(available_threads);
        let (weights, config) = (&opened.weights, opened.config.clone());
        let (engine, digest) = std::thread::scope(|scope| {
            let digest = scope.spawn(|| weights.digest());
            let engine = match options.device {
                DeviceSpec::Cpu => {
                    let backend = CpuBackend::new(options.threads, dtype)?;
                    Engine::Cpu(Decoder::load(backend, config, weights, threads)?)
                }
                DeviceSpec::Cuda(_) | DeviceSpec::Metal => {
                    let backend = CandleBackend::new(options.device, dtype)?;
                    Engine::Candle(Decoder::load(backend, config, weights, threads)?)
                }
            };
            let digest = digest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<_, LmError>((engine, digest))
        })?;
        let chat_template =
            opened.tokenizer.chat_template(options.now).map_err(|error| error.in_model(path))?;
        let identity = Identity {
            weights: digest,
            tokenizer: opened.tokenizer.digest().clone(),
            chat_template: chat_template.as_ref().map(|template| template.digest().clone()),
            architecture: opened.config.architecture.clone(),
            parameters: opened.weights.parameters(),
            context_length: opened.config.context_length,
            vocab_size: opened.config.vocab_size,
            dtype,
            device: engine.device_name(),
        };
        let budget_bytes = options.memory_bytes.unwrap_or_else(|| {
            let on_cpu = matches!(engine, Engine::Cpu(_));
            default_budget(on_cpu, engine.kv_bytes(32) / 32, opened.config.context_length)
        });
        Ok(Self { engine, budget_bytes, identity, tokenizer: opened.tokenizer, chat_template })
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    #[must_use]
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// Scores continuations. [`Event::Done`] comes as soon as an item is finished, in whatever order the
    /// prefix tree finishes them, and [`Event::Step`] between the steps; `Break` ends the call early with
    /// what was done so far.
    ///
    /// An item that is empty, longer than the context or holds an unknown token is done with an
    /// [`LmError::Request`] of its own, one that exceeds the memory budget alone with an
    /// [`LmError::Memory`], before anything is computed; the other items are answered. (More memory would
    /// answer the latter too: a caller that can be started again with it had better end the call than take
    /// the item for failed.)
    ///
    /// # Errors
    /// When computing fails, whatever the items.
    pub fn log_likelihoods(
        &self,
        items: &[ScoreItem],
        on_event: &mut dyn FnMut(Event<ScoreOutput>) -> ControlFlow<()>,
    ) -> Result<EngineStats, LmError> {
        match &self.engine {
            Engine::Cpu(decoder) => score::log_likelihoods(decoder, self.budget_bytes, items, on_event),
            Engine::Candle(decoder) => score::log_likelihoods(decoder, self.budget_bytes, items, on_event),
        }
    }

    /// Generates text; events as in [`LanguageModel::log_likelihoods`]. Sampling parameters that describe
    /// no distribution, and tokens that cannot be turned back into text, are errors of their item too.
    ///
    /// # Errors
    /// As [`LanguageModel::log_likelihoods`].
    pub fn generate(
        &self,
        items: &[GenerateItem],
        on_event: &mut dyn FnMut(Event<GenerateOutput>) -> ControlFlow<()>,
    ) -> Result<EngineStats, LmError> {
        match &self.engine {
            Engine::Cpu(decoder) => {
                generate::generate(decoder, &self.tokenizer, self.budget_bytes, items, on_event)
            }
            Engine::Candle(decoder) => {
                generate::generate(decoder, &self.tokenizer, self.budget_bytes, items, on_event)
            }
        }
    }

    /// Sum of log-probabilities of each text's tokens, in the rolling windows of
    /// [`crate::rolling_windows`]; events as in [`LanguageModel::log_likelihoods`]. `prefix` stands before
    /// the first token (BOS, else EOS).
    ///
    /// # Errors
    /// As [`LanguageModel::log_likelihoods`].
    pub fn perplexities(
        &self,
        items: &[Vec<u32>],
        prefix: u32,
        on_event: &mut dyn FnMut(Event<PerplexityOutput>) -> ControlFlow<()>,
    ) -> Result<EngineStats, LmError> {
        perplexity::perplexities(self, items, prefix, on_event)
    }
}

impl Engine {
    fn device_name(&self) -> String {
        match self {
            Self::Cpu(decoder) => decoder.backend.device_name(),
            Self::Candle(decoder) => decoder.backend.device_name(),
        }
    }

    fn kv_bytes(&self, tokens: usize) -> u64 {
        match self {
            Self::Cpu(decoder) => decoder.backend.kv_bytes(decoder.kv_shape(), tokens),
            Self::Candle(decoder) => decoder.backend.kv_bytes(decoder.kv_shape(), tokens),
        }
    }
}

struct Opened {
    weights: Weights,
    config: ModelConfig,
    tokenizer: Tokenizer,
}

fn open(path: &Path) -> Result<Opened, LmError> {
    if fs_err::metadata(path)?.is_dir() {
        let (weights, config) = open_safetensors(path)?;
        let tokenizer = Tokenizer::from_directory(path).map_err(|error| error.in_model(path))?;
        return Ok(Opened { weights, config, tokenizer });
    }
    let (weights, config, metadata) = open_gguf(path)?;
    let tokenizer = Tokenizer::from_gguf(&metadata).map_err(|error| error.in_model(path))?;
    Ok(Opened { weights, config, tokenizer })
}

fn chosen_dtype(path: &Path, weights: &Weights, options: &LoadOptions) -> Result<Dtype, LmError> {
    let default = match options.device {
        DeviceSpec::Cpu => Dtype::F32,
        DeviceSpec::Cuda(_) | DeviceSpec::Metal => Dtype::Bf16,
    };
    let dtype = options.dtype.unwrap_or(default);
    if dtype == Dtype::Q && !weights.is_quantised() {
        return Err(LmError::unsupported(
            path,
            "dtype q: the file holds no quantised tensor",
            "`--dtype f32`, `bf16` and `f16` hold any weights; `q` keeps the blocks of a quantised GGUF file",
        ));
    }
    Ok(dtype)
}

fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
