use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use evalign_core::Digest;
use evalign_fetch::{FetchError, Home, Hub, Progress, Repo, RepoPath, Revision};
use evalign_model::{EncoderPooling, ONNX_WEIGHTS, SentenceConfig, export_onnx};
use fastembed::{
    InitOptionsUserDefined, ModelInfo, QuantizationMode, TextEmbedding, TokenizerFiles,
    UserDefinedEmbeddingModel,
};
use tokenizers::Tokenizer;

use super::prefixes::Prefixes;
use super::runtime::load_onnx_runtime;
use super::{EmbedOptions, resolve, tell_cuts};
use crate::{Embedder, EmbedderIdentity, Pooling, RagError, TextRole};

/// Tokens, padding included, that are computed together: full steps for all cores, and bounded memory.
const STEP_TOKENS: usize = 2048;
/// What every model that fastembed knows can read.
const MAX_TOKENS: usize = 512;

/// The files of a model in ONNX.
#[derive(Debug)]
pub(crate) struct OnnxFiles {
    pub(crate) model: PathBuf,
    /// Weights that the model's file refers to by name.
    pub(crate) additional: Vec<PathBuf>,
    /// Of `tokenizer.json` and its like.
    pub(crate) directory: PathBuf,
}

/// How a model's token vectors become one, and how it has to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    pooling: Pooling,
    max_tokens: usize,
    /// Its activations are quantised by what is in the batch: texts are embedded one by one, or their vectors would
    /// depend on each other.
    alone: bool,
}

/// An embedder in ONNX, run by fastembed on ONNX Runtime.
#[derive(Debug)]
pub struct OnnxEmbedder {
    session: Arc<Session>,
    identity: EmbedderIdentity,
}

/// A loaded model.
struct Session {
    name: String,
    model: Mutex<TextEmbedding>,
    /// Neither cuts nor pads.
    tokenizer: Tokenizer,
    how: Use,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("name", &self.name).field("how", &self.how).finish_non_exhaustive()
    }
}

impl OnnxEmbedder {
    /// Opens what stands behind `onnx/`: a directory with an ONNX file and its tokeniser, a model of fastembed's
    /// list (from the hub), or a BERT encoder in safetensors, which is written as ONNX once.
    ///
    /// # Errors
    /// No usable ONNX Runtime, or the model cannot be found, fetched or loaded.
    pub async fn open(name: &str, options: &EmbedOptions, progress: Progress<'_>) -> Result<Self, RagError> {
        // Said before anything is fetched.
        load_onnx_runtime(options.onnx_runtime.as_deref())?;
        if let Some(info) = known(name) {
            let model = HubModel {
                repo: &info.model_code,
                file: &info.model_file,
                additional: &info.additional_files,
            };
            let files = model.files(options.offline, progress).await?;
            return Self::load(name, &files, Some(info), options);
        }
        let directory = resolve(name, options.offline, progress).await?;
        let files = match OnnxFiles::in_directory(&directory) {
            Some(files) => files,
            None => exported(&directory)?,
        };
        Self::load(name, &files, None, options)
    }

    /// Loads a directory that holds an ONNX file (`onnx/model.onnx` or `model.onnx`) and what says how it is used.
    ///
    /// # Errors
    /// As [`OnnxEmbedder::open`].
    pub fn load_directory(name: &str, directory: &Path, options: &EmbedOptions) -> Result<Self, RagError> {
        load_onnx_runtime(options.onnx_runtime.as_deref())?;
        let files = OnnxFiles::in_directory(directory)
            .ok_or_else(|| failed(name, format!("there is no {ONNX_WEIGHTS} in {}", directory.display())))?;
        Self::load(name, &files, None, options)
    }

    fn load(
        name: &str,
        files: &OnnxFiles,
        info: Option<&ModelInfo<fastembed::EmbeddingModel>>,
        options: &EmbedOptions,
    ) -> Result<Self, RagError> {
        let how = match info {
            Some(info) => used(info),
            None => declared(name, &files.directory)?,
        };
        let mut model = UserDefinedEmbeddingModel::new(read(&files.model)?, files.tokenizer()?).with_pooling(
            match how.pooling {
                Pooling::Cls => fastembed::Pooling::Cls,
                Pooling::Mean | Pooling::Unknown => fastembed::Pooling::Mean,
            },
        );
        model.output_key = info.and_then(|info| info.output_key.clone());
        for file in &files.additional {
            let file_name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            model = model.with_external_initializer(file_name, read(file)?);
        }
        let mut settings = InitOptionsUserDefined::new().with_max_length(how.max_tokens);
        settings.intra_threads = Some(threads(options));
        let model = TextEmbedding::try_new_from_user_defined(model, settings)
            .map_err(|error| failed(name, error.to_string()))?;
        let tokenizer = uncut(&model.tokenizer, name)?;
        let session = Session { name: name.to_owned(), model: Mutex::new(model), tokenizer, how };
        let dimension = session.embed(&["probe".to_owned()])?.first().map_or(0, Vec::len);
        Ok(Self { session: Arc::new(session), identity: identity(name, files, how, dimension)? })
    }
}

impl Session {
    /// Tokens of a text, special ones included, however long it is.
    fn count(&self, text: &str) -> Result<usize, RagError> {
        let encoded = self.tokenizer.encode(text, true);
        Ok(encoded.map_err(|error| failed(&self.name, error.to_string()))?.len())
    }

    /// Vectors of texts, in their order, computed in that of their lengths.
    fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, RagError> {
        let counts = texts.iter().map(|text| self.count(text)).collect::<Result<Vec<_>, _>>()?;
        let cut = counts.iter().filter(|count| **count > self.how.max_tokens).count();
        tell_cuts(&format!("onnx/{}", self.name), cut, texts.len(), self.how.max_tokens);
        let mut vectors = vec![Vec::new(); texts.len()];
        for step in steps(&counts, self.how.max_tokens, self.how.alone) {
            let together: Vec<&str> = step.iter().map(|index| texts[*index].as_str()).collect();
            let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
            let computed = model
                .embed(together, Some(step.len()))
                .map_err(|error| failed(&self.name, error.to_string()))?;
            for (index, vector) in step.into_iter().zip(computed) {
                vectors[index] = vector;
            }
        }
        Ok(vectors)
    }
}

#[async_trait]
impl Embedder for OnnxEmbedder {
    fn identity(&self) -> &EmbedderIdentity {
        &self.identity
    }

    async fn embed(&self, texts: &[String], role: TextRole) -> Result<Vec<Vec<f32>>, RagError> {
        let prefix = match role {
            TextRole::Query => &self.identity.query_prefix,
            TextRole::Passage => &self.identity.passage_prefix,
        };
        let texts: Vec<String> = texts.iter().map(|text| format!("{prefix}{text}")).collect();
        let session = Arc::clone(&self.session);
        tokio::task::spawn_blocking(move || session.embed(&texts))
            .await
            .map_err(|error| failed(&self.session.name, error.to_string()))?
    }

    fn count_tokens(&self, text: &str) -> usize {
        // A text that its tokeniser cannot read is one that it could not embed either: as long as can be.
        self.session.count(&format!("{}{text}", self.identity.passage_prefix)).unwrap_or(usize::MAX)
    }
}

impl OnnxFiles {
    /// Where exporters put the file; `None` where there is none.
    pub(crate) fn in_directory(directory: &Path) -> Option<Self> {
        let model = [ONNX_WEIGHTS, "model.onnx"]
            .iter()
            .map(|name| directory.join(name))
            .find(|path| path.is_file())?;
        // PyTorch puts weights beyond 2 GB beside the model.
        let additional = [model.with_extension("onnx_data"), model.with_extension("onnx.data")];
        let additional = additional.into_iter().filter(|path| path.is_file()).collect();
        Some(Self { model, additional, directory: directory.to_owned() })
    }

    pub(crate) fn tokenizer(&self) -> Result<TokenizerFiles, RagError> {
        let file = |name: &str| read(&self.directory.join(name));
        let special = self.directory.join("special_tokens_map.json");
        Ok(TokenizerFiles {
            tokenizer_file: file("tokenizer.json")?,
            config_file: file("config.json")?,
            // Newer files of models say the same in the tokeniser's configuration.
            special_tokens_map_file: if special.is_file() { read(&special)? } else { b"{}".to_vec() },
            tokenizer_config_file: file("tokenizer_config.json")?,
        })
    }

    /// Of everything that decides what the model computes.
    pub(crate) fn digest(&self) -> Result<Digest, RagError> {
        let tokenizer = self.directory.join("tokenizer.json");
        let mut all = String::new();
        for path in [&self.model, &tokenizer].into_iter().chain(&self.additional) {
            all += evalign_fetch::file_digest(path)?.0.as_str();
        }
        Ok(Digest::of(all))
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, RagError> {
    fs_err::read(path).map_err(|error| RagError::file(path, error))
}

fn identity(name: &str, files: &OnnxFiles, how: Use, dimension: usize) -> Result<EmbedderIdentity, RagError> {
    let prefixes = Prefixes::of_directory(name, &files.directory)?;
    Ok(EmbedderIdentity {
        name: format!("onnx/{name}"),
        digest: Some(files.digest()?),
        dimension,
        pooling: how.pooling,
        query_prefix: prefixes.query,
        passage_prefix: prefixes.passage,
        max_tokens: how.max_tokens,
        probe: None,
    })
}

/// A model of fastembed's list, by the name of its repository.
fn known(name: &str) -> Option<&'static ModelInfo<fastembed::EmbeddingModel>> {
    static MODELS: std::sync::LazyLock<Vec<ModelInfo<fastembed::EmbeddingModel>>> =
        std::sync::LazyLock::new(TextEmbedding::list_supported_models);
    MODELS.iter().find(|info| info.model_code.eq_ignore_ascii_case(name))
}

fn used(info: &ModelInfo<fastembed::EmbeddingModel>) -> Use {
    let pooling = match TextEmbedding::get_default_pooling_method(&info.model) {
        Some(fastembed::Pooling::Mean) => Pooling::Mean,
        Some(fastembed::Pooling::Cls) | None => Pooling::Cls,
    };
    let alone = TextEmbedding::get_quantization_mode(&info.model) == QuantizationMode::Dynamic;
    Use { pooling, max_tokens: MAX_TOKENS, alone }
}

/// fastembed would take the first token where nobody says how to pool, which is wrong for most models: a directory
/// has to say it.
fn declared(name: &str, directory: &Path) -> Result<Use, RagError> {
    let config = SentenceConfig::read(directory).map_err(|error| RagError::Embed {
        embedder: format!("onnx/{name}"),
        message: error.to_string(),
        hint: evalign_core::Hint::hint(&error).or_else(|| {
            Some("`modules.json` and `1_Pooling/config.json`, as sentence-transformers writes them, say how it pools".to_owned())
        }),
    })?;
    let pooling = match config.pooling {
        EncoderPooling::Mean => Pooling::Mean,
        EncoderPooling::Cls => Pooling::Cls,
    };
    Ok(Use { pooling, max_tokens: config.max_tokens, alone: false })
}

/// A model of fastembed's lists, by its repository.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HubModel<'a> {
    pub(crate) repo: &'a str,
    pub(crate) file: &'a str,
    pub(crate) additional: &'a [String],
}

impl HubModel<'_> {
    /// Its files, from the hub's cache or the hub.
    pub(crate) async fn files(&self, offline: bool, progress: Progress<'_>) -> Result<OnnxFiles, RagError> {
        let mut additional = Vec::new();
        for name in self.additional {
            additional.push(self.path(name, offline, progress).await?);
        }
        let mut directory = PathBuf::new();
        for name in ["tokenizer.json", "config.json", "special_tokens_map.json", "tokenizer_config.json"] {
            let path = self.path(name, offline, progress).await?;
            directory = path.parent().unwrap_or(&directory).to_owned();
        }
        Ok(OnnxFiles { model: self.path(self.file, offline, progress).await?, additional, directory })
    }

    async fn path(&self, name: &str, offline: bool, progress: Progress<'_>) -> Result<PathBuf, RagError> {
        let (hub, repo) = (Hub::from_env()?, Repo::model(self.repo)?);
        let (revision, name) = (Revision::default(), RepoPath::new(name)?);
        if let Some(path) = hub.cached_file(&repo, &revision, &name)? {
            return Ok(path);
        }
        if offline {
            let what = format!("`{name}` of `{repo}`");
            return Err(FetchError::Offline { what, switch: "--offline" }.into());
        }
        Ok(hub.file(&repo, &revision, &name, progress).await?.path)
    }
}

/// Computing threads. fastembed would take all cores, of whatever they are cores.
pub(crate) fn threads(options: &EmbedOptions) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    options.threads.unwrap_or_else(cores)
}

/// A model in safetensors as ONNX, below `EVALIGN_HOME`; written once for each content.
fn exported(directory: &Path) -> Result<OnnxFiles, RagError> {
    let weights = evalign_fetch::file_digest(&directory.join("model.safetensors"))?.0;
    let target = Home::from_env()?.models().join(format!("onnx-{weights}"));
    if OnnxFiles::in_directory(&target).is_none() {
        export_onnx(directory, &target)
            .map_err(|error| failed(&directory.display().to_string(), error.to_string()))?;
    }
    OnnxFiles::in_directory(&target).ok_or_else(|| RagError::file(&target, "the exported model is gone"))
}

pub(crate) fn uncut(tokenizer: &Tokenizer, name: &str) -> Result<Tokenizer, RagError> {
    let mut tokenizer = tokenizer.clone();
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| failed(name, error.to_string()))?;
    Ok(tokenizer)
}

/// Positions of texts that are computed together: those of like length (the longest has at most twice the tokens of
/// the shortest and a few), and no more than [`STEP_TOKENS`] with what fills the shorter ones up.
pub(crate) fn steps(counts: &[usize], max_tokens: usize, alone: bool) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|index| counts[*index]);
    let mut steps: Vec<Vec<usize>> = Vec::new();
    for index in order {
        // The first of a step is its shortest, the last its longest.
        let padded = counts[index].min(max_tokens);
        let fits = |step: &Vec<usize>| {
            (step.len() + 1) * padded <= STEP_TOKENS && padded <= 2 * counts[step[0]] + 16
        };
        match steps.last_mut().filter(|step| !alone && fits(step)) {
            Some(step) => step.push(index),
            None => steps.push(vec![index]),
        }
    }
    steps
}

fn failed(name: &str, message: impl Into<String>) -> RagError {
    RagError::Embed { embedder: format!("onnx/{name}"), message: message.into(), hint: None }
}

#[cfg(test)]
mod tests;
