use std::path::PathBuf;
use std::sync::Arc;

use evalign_core::ModelRef;
use evalign_fetch::{Home, Secret};
use evalign_model::{Model, OpenAiOptions, ServerKind};
use evalign_rag::embed::{EmbedOptions, default_embedder, open_embedder};
use evalign_rag::ingest::check_presence;
use evalign_rag::{Embedder, Reranker, VectorStore, as_recorded, open_vector_store};
use evalign_store::Store;

use crate::args::{EmbedderArgs, StoreKind};
use crate::commands::progress::FetchBars;
use crate::output::{Failure, Output};

pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where the embedded store's vectors lie.
pub(super) fn vectors_directory() -> Result<PathBuf, Failure> {
    Ok(Home::from_env()?.path().join("vectors"))
}

/// The store that was asked for, or the server of `QDRANT_URL`, or the one in this process.
pub(super) async fn vector_store(kind: Option<StoreKind>) -> Result<Arc<dyn VectorStore>, Failure> {
    let url = variable("QDRANT_URL");
    let key = || variable("QDRANT_API_KEY").as_deref().and_then(Secret::new);
    let server = match (kind, url.as_deref()) {
        (Some(StoreKind::Edge), _) | (None, None) => None,
        (Some(StoreKind::Qdrant), None) => {
            return Err(Failure::new(
                "`--store qdrant` needs the address of a server",
                "set QDRANT_URL, for example to `http://localhost:6334`",
            ));
        }
        (Some(StoreKind::Qdrant) | None, Some(url)) => Some((url, key())),
    };
    Ok(open_vector_store(&vectors_directory()?, server).await?)
}

/// Says so before anything is loaded for an index that is not there, or that is recorded here and lies in another
/// store; and notes a tenant that has nothing where others have.
pub(super) async fn check_index(
    state: &Store,
    vectors: &dyn VectorStore,
    (index, tenant): (&str, &str),
    output: Output,
) -> Result<(), Failure> {
    if state.index_settings(index)?.is_none() {
        let hint = format!(
            "`evalign rag index DIR --index {index}` makes it; `evalign rag list` shows what there is"
        );
        return Err(Failure::new(format!("index `{index}`: there is no such index"), hint));
    }
    let tenants = state.index_tenants(index)?;
    if !tenants.is_empty() && !tenants.iter().any(|known| known == tenant) {
        let tenants = tenants.join(", ");
        output.note(&format!(
            "note: tenant `{tenant}` has no documents in `{index}`; tenants with some: {tenants}"
        ));
    }
    if !vectors.collections().await?.iter().any(|name| name == index) {
        check_presence(state, vectors, (index, tenant)).await?;
    }
    Ok(())
}

/// What [`vector_store`] opens, in a word.
pub(super) fn store_name(kind: Option<StoreKind>) -> &'static str {
    match (kind, variable("QDRANT_URL")) {
        (Some(StoreKind::Edge), _) | (None, None) => "edge",
        (Some(StoreKind::Qdrant) | None, _) => "qdrant",
    }
}

/// The embedder that was named, else the default.
pub(super) async fn embedder_name(args: &EmbedderArgs) -> String {
    match &args.embedder {
        Some(name) => name.clone(),
        None => {
            let options =
                EmbedOptions { threads: args.threads, offline: args.offline, ..EmbedOptions::default() };
            default_embedder(&options).await
        }
    }
}

/// How `openai/NAME` is reached: at the address that was given, else at that of the environment.
pub(super) fn openai_options(base_url: Option<String>) -> OpenAiOptions {
    let from_env = || ServerKind::base_url_from_env(None, variable);
    OpenAiOptions { base_url: base_url.or_else(from_env), ..OpenAiOptions::default() }
}

/// The embedder that was named, for an evaluation. With `cache`, vectors of documents that were computed before
/// are taken from there.
pub(super) async fn embedder_of(
    args: &EmbedderArgs,
    cache: Option<Store>,
    output: Output,
) -> Result<Arc<dyn Embedder>, Failure> {
    let options = EmbedOptions {
        threads: args.threads,
        offline: args.offline,
        openai: openai_options(None),
        ..EmbedOptions::default()
    };
    let name = embedder_name(args).await;
    let bars = FetchBars::new(output);
    let progress = |event: evalign_fetch::Event<'_>| bars.event(&event);
    let opened = open_embedder(&name, &options, cache, &progress).await;
    bars.finish();
    Ok(opened?)
}

/// The embedder that was named, else the one that the index was made with, else the default.
pub(super) async fn embedder(
    args: &EmbedderArgs,
    index: &str,
    base_url: Option<String>,
    state: &Store,
    output: Output,
) -> Result<Arc<dyn Embedder>, Failure> {
    let settings = state.index_settings(index)?;
    let recorded = settings.as_ref().and_then(|settings| settings.pointer("/embedder/name")?.as_str());
    let options = EmbedOptions {
        threads: args.threads,
        offline: args.offline,
        openai: openai_options(base_url),
        ..EmbedOptions::default()
    };
    let name = match args.embedder.as_deref().or(recorded) {
        Some(name) => name.to_owned(),
        None => default_embedder(&options).await,
    };
    let bars = FetchBars::new(output);
    let progress = |event: evalign_fetch::Event<'_>| bars.event(&event);
    let opened = open_embedder(&name, &options, None, &progress).await;
    bars.finish();
    match &settings {
        Some(settings) => Ok(as_recorded(opened?, index, settings)?),
        None => Ok(opened?),
    }
}

/// A cross-encoder (`onnx/NAME`), or a language model, as `load` loads it.
pub(super) async fn reranker(
    name: &str,
    args: &EmbedderArgs,
    load: impl Fn(&ModelRef) -> Result<Arc<dyn Model>, Failure>,
    output: Output,
) -> Result<Reranker, Failure> {
    let Some(name) = name.strip_prefix("onnx/") else {
        let model = load(&name.parse().map_err(Failure::hinted)?)?;
        return Ok(Reranker::language_model(model)?);
    };
    let options = EmbedOptions { threads: args.threads, offline: args.offline, ..EmbedOptions::default() };
    let bars = FetchBars::new(output);
    let progress = |event: evalign_fetch::Event<'_>| bars.event(&event);
    let opened = Reranker::cross_encoder(name, &options, &progress).await;
    bars.finish();
    Ok(opened?)
}
