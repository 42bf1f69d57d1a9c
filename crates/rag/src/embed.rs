//! Where vectors come from: the encoder in this process, ONNX Runtime, or a server.

mod cached;
mod local;
mod onnx;
mod prefixes;
mod remote;
mod runtime;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use evalign_fetch::{FetchError, Hub, Models, Progress, Repo, RepoPath, Revision};
use evalign_model::{DeviceSpec, OpenAiOptions};
use evalign_store::Store;

pub use cached::CachedEmbedder;
pub(crate) use cached::vector_key;
pub use local::LocalEmbedder;
pub use onnx::OnnxEmbedder;
pub use remote::RemoteEmbedder;
pub use runtime::load_onnx_runtime;

pub(crate) use onnx::{HubModel, OnnxFiles, steps, threads, uncut};

use crate::{Embedder, RagError};

/// The model that is used where none is named.
pub const DEFAULT_EMBEDDER: &str = "all-minilm-l6-v2";
/// The same weights in ONNX, as fastembed has them.
const DEFAULT_ONNX_REPO: &str = "Qdrant/all-MiniLM-L6-v2-onnx";
const DEFAULT_ONNX_FILE: &str = "model.onnx";

/// How an embedder is opened.
#[derive(Clone, Debug, Default)]
pub struct EmbedOptions {
    pub device: DeviceSpec,
    /// Computing threads; `None`: one for each core.
    pub threads: Option<usize>,
    /// Ask neither hub nor package index.
    pub offline: bool,
    /// How a server is reached.
    pub openai: OpenAiOptions,
    /// ONNX Runtime's shared library; `None`: see [`load_onnx_runtime`].
    pub onnx_runtime: Option<PathBuf>,
}

/// The embedder that is used where none is named, by what is on this machine: the encoder of this process where it
/// has the weights, else ONNX Runtime where it has that and the model in ONNX, else the encoder again, whose weights
/// are then fetched.
pub async fn default_embedder(options: &EmbedOptions) -> String {
    let weights = match Models::from_env(true) {
        Ok(models) => models.resolve(DEFAULT_EMBEDDER, &evalign_fetch::silent).await,
        Err(error) => Err(error),
    };
    let onnx = || {
        let (hub, repo) = (Hub::from_env().ok()?, Repo::model(DEFAULT_ONNX_REPO).ok()?);
        let file = RepoPath::new(DEFAULT_ONNX_FILE).ok()?;
        hub.cached_file(&repo, &Revision::default(), &file).ok()??;
        load_onnx_runtime(options.onnx_runtime.as_deref()).ok()
    };
    match weights {
        // Damaged weights are no reason to take others: whoever opens them says what is wrong.
        Err(FetchError::Offline { .. }) if onnx().is_some() => format!("onnx/{DEFAULT_ONNX_REPO}"),
        Ok(_) | Err(_) => DEFAULT_EMBEDDER.to_owned(),
    }
}

/// Opens the embedder that `reference` names: `openai/NAME` on a server, `onnx/NAME` on ONNX Runtime, else a model
/// directory, a built-in or `ORG/REPO` on the encoder of this process. Vectors are kept in `store` and not computed twice.
///
/// # Errors
/// The model cannot be found, fetched or loaded, or the server does not answer.
pub async fn open_embedder(
    reference: &str,
    options: &EmbedOptions,
    store: Option<Store>,
    progress: Progress<'_>,
) -> Result<Arc<dyn Embedder>, RagError> {
    let embedder: Arc<dyn Embedder> = match reference.split_once('/') {
        Some(("openai", name)) => Arc::new(RemoteEmbedder::connect(name, options).await?),
        Some(("onnx", name)) => Arc::new(OnnxEmbedder::open(name, options, progress).await?),
        _ => {
            let path = resolve(reference, options.offline, progress).await?;
            Arc::new(LocalEmbedder::load(reference, &path, options)?)
        }
    };
    Ok(match store {
        Some(store) => Arc::new(CachedEmbedder::across_sessions(embedder, store)?),
        None => embedder,
    })
}

pub(crate) async fn resolve(
    reference: &str,
    offline: bool,
    progress: Progress<'_>,
) -> Result<PathBuf, RagError> {
    let path = Path::new(reference);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.is_absolute() {
        return Err(RagError::Embed {
            embedder: reference.to_owned(),
            message: "there is no such directory".to_owned(),
            hint: Some(
                "put it back, or say with `--embedder` where it is now: an index takes the same weights from \
                 anywhere"
                    .to_owned(),
            ),
        });
    }
    Ok(Models::from_env(offline)?.resolve(reference, progress).await?)
}

/// Callers that must lose nothing count first; a question, or text that a model wrote, is embedded as far as the
/// model reads, and that is said.
pub(crate) fn tell_cuts(embedder: &str, cut: usize, texts: usize, max_tokens: usize) {
    if cut > 0 {
        tracing::warn!(
            "{cut} of {texts} texts are longer than the {max_tokens} tokens that {embedder} reads: the rest of them does not count"
        );
    }
}
