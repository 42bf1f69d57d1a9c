use std::ops::ControlFlow;
use std::path::Path;

use evalign_core::{Digest, Dtype};

use crate::adapter::Adapter;
use crate::backend::{Backend, CandleBackend, CpuBackend};
use crate::config::ModelConfig;
use crate::decoder::{Base, Decoder, Form, HeldWeights, Module};
use crate::memory::default_budget;
use crate::weights::{Weights, open_gguf, open_safetensors};
use crate::{
    ChatTemplate, DeviceSpec, EngineStats, Event, Feed, GenerateItem, GenerateOutput, LmError, LoadOptions,
    PerplexityOutput, ScoreItem, ScoreOutput, Tokenizer, generate, perplexity, score,
};

/// What a model is, as far as its results depend on it, and what it can hold.
#[derive(Clone, Debug)]
pub struct Identity {
    /// SHA-256 of a GGUF file; of `config.json` followed by the weight files in name order for a directory.
    pub weights: Digest,
    pub tokenizer: Digest,
    pub chat_template: Option<Digest>,
    /// SHA-256 of the adapter's files, where one is applied.
    pub adapter: Option<Digest>,
    /// Digest of the data that the adapter was trained on, where it says so.
    pub trained_on: Option<Digest>,
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
    threads: usize,
    /// `[hidden]`: what turns a hidden state into a reward, in models that were trained to give one.
    reward_head: Option<Vec<f32>>,
    /// Rewards are read at the last token that is not this one.
    reward_pad: Option<u32>,
    /// The padding token as transformers has it.
    pad_token: Option<u32>,
    identity: Identity,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
}

impl LanguageModel {
    /// Loads a GGUF file or a Hugging Face directory. Weights that a model of this process has from the same files, on
    /// the same device and in the same type, are not read again: both models compute with them, whatever adapters they
    /// have, and they go with the last of them.
    ///
    /// # Errors
    /// Missing, truncated or inconsistent files, an unsupported architecture, RoPE type or tensor type,
    /// a device this build or machine does not have.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, LmError> {
        let opened = open(path)?;
        let dtype = chosen_dtype(path, &opened.weights, options)?;
        let threads = options.threads.unwrap_or_else(available_threads);
        let (engine, digest) = Engine::open(&opened, options, dtype, threads)?;
        let chat_template =
            opened.tokenizer.chat_template(options.now).map_err(|error| error.in_model(path))?;
        let identity = Identity {
            weights: digest,
            tokenizer: opened.tokenizer.digest().clone(),
            chat_template: chat_template.as_ref().map(|template| template.digest().clone()),
            adapter: None,
            trained_on: None,
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
        let reward_head = opened.weights.reward_head(opened.config.hidden_size)?;
        let tokenizer = opened.tokenizer;
        let pad_token = crate::reward::pad_token(path, &tokenizer);
        let mut model = Self {
            engine,
            budget_bytes,
            threads,
            reward_pad: pad_token.filter(|_| reward_head.is_some()),
            pad_token,
            reward_head,
            identity,
            tokenizer,
            chat_template,
        };
        if let Some(directory) = &options.adapter {
            let adapter = Adapter::read(directory)?;
            model.apply(&adapter)?;
            if let Some(template) = adapter.template(&model.tokenizer, options.now)? {
                model.identity.chat_template = Some(template.digest().clone());
                model.chat_template = Some(template);
            }
        }
        Ok(model)
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
        self.score_tokens(items, 0, on_event)
    }

    /// As [`LanguageModel::log_likelihoods`], with the `top` likeliest tokens at each place of every continuation
    /// ([`crate::TokenScore::top`]).
    ///
    /// # Errors
    /// As [`LanguageModel::log_likelihoods`].
    pub fn score_tokens(
        &self,
        items: &[ScoreItem],
        top: usize,
        on_event: &mut dyn FnMut(Event<ScoreOutput>) -> ControlFlow<()>,
    ) -> Result<EngineStats, LmError> {
        match &self.engine {
            Engine::Cpu(decoder) => score::log_likelihoods(decoder, self.budget_bytes, items, top, on_event),
            Engine::Candle(decoder) => {
                score::log_likelihoods(decoder, self.budget_bytes, items, top, on_event)
            }
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

    /// Generates texts of items that come while others are written: the call takes in what the feed has before
    /// each step, tells it pieces of texts and finished ones, and returns when everything is written and nothing
    /// came. Each item's tokens are those that [`LanguageModel::generate`] gives.
    ///
    /// # Errors
    /// As [`LanguageModel::log_likelihoods`]; items that are not done with then never are.
    pub fn generate_fed(&self, feed: &mut dyn Feed) -> Result<EngineStats, LmError> {
        match &self.engine {
            Engine::Cpu(decoder) => generate::generate_fed(decoder, &self.tokenizer, self.budget_bytes, feed),
            Engine::Candle(decoder) => {
                generate::generate_fed(decoder, &self.tokenizer, self.budget_bytes, feed)
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

#[cfg(test)]
impl LanguageModel {
    /// A model around an engine that a test made.
    pub(crate) fn of_engine(engine: Engine, tokenizer: Tokenizer) -> Self {
        let identity = Identity {
            weights: Digest::of("weights"),
            tokenizer: tokenizer.digest().clone(),
            chat_template: None,
            adapter: None,
            trained_on: None,
            architecture: engine.config().architecture.clone(),
            parameters: 0,
            context_length: engine.config().context_length,
            vocab_size: engine.config().vocab_size,
            dtype: Dtype::F32,
            device: engine.device_name(),
        };
        Self {
            engine,
            budget_bytes: 1 << 30,
            threads: 2,
            reward_head: None,
            reward_pad: None,
            pad_token: None,
            identity,
            tokenizer,
            chat_template: None,
        }
    }
}

impl LanguageModel {
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Applies an adapter, in place of any other. A reward head that comes with it replaces the model's.
    ///
    /// # Errors
    /// It was trained on other weights or does not fit this model's shape.
    pub fn apply(&mut self, adapter: &Adapter) -> Result<(), LmError> {
        adapter.fits(self)?;
        let inputs = Module::ALL.map(|module| self.module_shape(module)[1]);
        self.adapt(&|layer, module| adapter.module(layer, module, inputs[module as usize]))?;
        if adapter.head.is_some() {
            self.reward_head.clone_from(&adapter.head);
            // An adapter of another trainer was trained by transformers' rule.
            self.reward_pad = adapter.base.as_ref().map_or(self.pad_token, |base| base.reward_pad);
        }
        self.identity.adapter = Some(adapter.digest().clone());
        self.identity.trained_on = adapter.base.as_ref().and_then(|base| base.data.clone());
        Ok(())
    }

    /// Rewards are read at the last token that is not this one (see [`crate::pooled_index`]): as they were in training.
    #[must_use]
    pub fn reward_pad(&self) -> Option<u32> {
        self.reward_pad
    }

    /// The padding token as transformers has it; TRL takes the end-of-text token where there is none.
    #[must_use]
    pub fn pad_token(&self) -> Option<u32> {
        self.pad_token
    }

    /// The weights of the model's reward head, `[hidden]`, if it has one.
    #[must_use]
    pub fn reward_head(&self) -> Option<&[f32]> {
        self.reward_head.as_deref()
    }
}

/// Weights that models of this process share.
static ON_CPU: HeldWeights<<CpuBackend as Backend>::Matrix, <CpuBackend as Backend>::Vector> =
    HeldWeights::new();
static IN_CANDLE: HeldWeights<<CandleBackend as Backend>::Matrix, <CandleBackend as Backend>::Vector> =
    HeldWeights::new();

impl Engine {
    /// With the weights' digest.
    fn open(
        opened: &Opened,
        options: &LoadOptions,
        dtype: Dtype,
        threads: usize,
    ) -> Result<(Self, Digest), LmError> {
        let (weights, config) = (&opened.weights, &opened.config);
        let form = Form { device: options.device, dtype };
        Ok(match options.device {
            DeviceSpec::Cpu => {
                let backend = CpuBackend::new(options.threads, dtype)?;
                let (base, digest) =
                    ON_CPU.get(form, weights, || Base::read(&backend, config, weights, threads))?;
                (Self::Cpu(Decoder::new(backend, config.clone(), base)), digest)
            }
            DeviceSpec::Cuda(_) | DeviceSpec::Metal => {
                let backend = CandleBackend::new(options.device, dtype)?;
                let (base, digest) =
                    IN_CANDLE.get(form, weights, || Base::read(&backend, config, weights, threads))?;
                (Self::Candle(Decoder::new(backend, config.clone(), base)), digest)
            }
        })
    }

    pub(crate) fn config(&self) -> &ModelConfig {
        match self {
            Self::Cpu(decoder) => &decoder.config,
            Self::Candle(decoder) => &decoder.config,
        }
    }

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
