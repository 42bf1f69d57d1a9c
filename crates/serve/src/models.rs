//! The models that are served: each loaded when it is first needed, once to talk to and once to be measured.
//!
//! A run hands the engine thousands of requests at once, which it answers in its own order; somebody who waits
//! for a completion must not stand behind them. So runs have an engine of their own.

mod adapted;
mod queue;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use evalign_bench::RunRequest;
use evalign_core::{ModelRef, Provider, ScoringMode};
use evalign_fetch::{FetchError, block_on, silent};
use evalign_model::{EngineLoad, EngineOptions, LoadOptions, Local, Model, ModelError, TextEncoder};
use tokio::sync::OnceCell;

use crate::app::now_ms;
use crate::error::{ApiError, ApiResult, Code};
use crate::settings::Settings;
use adapted::{Adapted, Talking};
pub(crate) use queue::Answers;
use queue::Queue;

/// All that are served, by name.
pub(crate) struct Models {
    entries: BTreeMap<String, Entry>,
    embedders: BTreeMap<String, (ModelRef, OnceCell<Arc<TextEncoder>>)>,
    /// With an adapter that was trained here.
    pub(crate) adapted: Adapted,
    talking_adapted: Talking,
    offline: bool,
    started_ms: u64,
    max_waiting: usize,
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.keys()).finish()
    }
}

struct Entry {
    reference: ModelRef,
    offline: bool,
    talking: OnceCell<Arc<Served>>,
    /// By how long prompts are treated.
    measured: Mutex<BTreeMap<&'static str, Arc<dyn Model>>>,
}

/// A model that answers clients.
pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) model: Arc<dyn Model>,
    /// Where it is computed by this process: it speaks in tokens too.
    pub(crate) local: Option<Arc<Local>>,
    pub(crate) queue: Queue,
}

impl Models {
    pub(crate) fn new(settings: &Settings) -> Self {
        let entry = |reference: &ModelRef| Entry {
            reference: reference.clone(),
            offline: settings.offline,
            talking: OnceCell::new(),
            measured: Mutex::default(),
        };
        let entries = settings.models.0.iter().map(|(name, reference)| (name.clone(), entry(reference)));
        let embedder = |reference: &ModelRef| (reference.clone(), OnceCell::new());
        let embedders =
            settings.embedders.0.iter().map(|(name, reference)| (name.clone(), embedder(reference)));
        Self {
            entries: entries.collect(),
            embedders: embedders.collect(),
            adapted: Adapted::default(),
            talking_adapted: Talking::default(),
            offline: settings.offline,
            started_ms: now_ms(),
            max_waiting: settings.max_waiting as usize,
        }
    }

    /// Names of models that answer clients, and since when. Models on other servers are measured here, not
    /// passed through.
    pub(crate) fn talking(&self) -> impl Iterator<Item = (&str, u64)> {
        let here = self.entries.iter().filter(|(_, entry)| entry.reference.provider != Provider::Openai);
        here.map(|(name, _)| name).chain(self.embedders.keys()).map(|name| (name.as_str(), self.started_ms))
    }

    /// Names of all models, for what is measured.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether any is on another server.
    pub(crate) fn any_elsewhere(&self) -> bool {
        self.entries.values().any(|entry| entry.reference.provider == Provider::Openai)
    }

    /// What a name stands for.
    pub(crate) fn reference(&self, name: &str) -> ApiResult<&ModelRef> {
        self.entry(name).map(|entry| &entry.reference)
    }

    /// The name under which a model is served.
    pub(crate) fn name_of(&self, reference: &ModelRef) -> Option<&str> {
        let found = self.entries.iter().find(|(_, entry)| entry.reference == *reference);
        found.map(|(name, _)| name.as_str())
    }

    fn entry(&self, name: &str) -> ApiResult<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let served: Vec<&str> = self.names().collect();
            let served = if served.is_empty() { "none".to_owned() } else { served.join(", ") };
            let name = crate::error::shown(name);
            ApiError::new(Code::ModelNotFound, format!("no model `{name}` is served here (served: {served})"))
                .about("model")
        })
    }

    /// The model to talk to, loaded if it is not yet.
    pub(crate) async fn served(&self, name: &str) -> ApiResult<Arc<Served>> {
        let entry = self.entry(name)?;
        if entry.reference.provider == Provider::Openai {
            let message =
                "this model is on another server: it can be measured here, but is not passed through";
            return Err(ApiError::new(Code::ModelNotFound, message).about("model"));
        }
        let (reference, offline) = (entry.reference.clone(), entry.offline);
        let (owned, max_waiting) = (name.to_owned(), self.max_waiting);
        let load = async move || {
            let served = move || Served::load(owned, &reference, offline, max_waiting);
            Ok::<_, ApiError>(Arc::new(tokio::task::spawn_blocking(served).await??))
        };
        entry.talking.get_or_try_init(load).await.cloned()
    }

    /// What the engines do that answer clients, by the names of their models.
    pub(crate) fn engine_loads(&self) -> Vec<(&str, EngineLoad)> {
        let mut loads = Vec::new();
        for (name, entry) in &self.entries {
            let local = entry.talking.get().and_then(|served| served.local.as_ref());
            loads.extend(local.map(|local| (name.as_str(), local.engine_load())));
        }
        loads
    }

    /// The model that makes vectors, loaded if it is not yet.
    pub(crate) async fn embedder(&self, name: &str) -> ApiResult<Arc<TextEncoder>> {
        let none = || {
            let name = crate::error::shown(name);
            ApiError::new(Code::ModelNotFound, format!("no embedding model `{name}` is served here"))
                .about("model")
        };
        let (reference, cell) = self.embedders.get(name).ok_or_else(none)?;
        let (place, offline) = (reference.name.clone(), self.offline);
        let load = async move || tokio::task::spawn_blocking(move || encoder(&place, offline)).await?;
        cell.get_or_try_init(load).await.cloned()
    }

    /// The model that a request is to be measured on. Blocks while it is loaded.
    pub(crate) fn measured(
        &self,
        name: &str,
        request: &RunRequest,
        options: &LoadOptions,
    ) -> ApiResult<Arc<dyn Model>> {
        let entry = self.entry(name)?;
        if entry.reference.provider == Provider::Openai {
            // Its budget and limits are the run's.
            return Ok(evalign_model::load(&entry.reference, options, &silent)?);
        }
        let key = match request.mode {
            ScoringMode::Default => "default",
            ScoringMode::LmEval => "lm-eval",
        };
        let mut measured = entry.measured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = measured.get(key) {
            return Ok(model.clone());
        }
        let model = evalign_model::load(&entry.reference, options, &silent)?;
        measured.insert(key, model.clone());
        Ok(model)
    }
}

fn encoder(name: &str, offline: bool) -> ApiResult<Arc<TextEncoder>> {
    let find = async { evalign_fetch::Models::from_env(offline)?.resolve(name, &silent).await };
    let path = block_on(find).map_err(|error: FetchError| ApiError::from(ModelError::from(error)))?;
    let encoder = TextEncoder::load(&path, &EngineOptions::default()).map_err(ModelError::from)?;
    Ok(Arc::new(encoder))
}

impl Served {
    fn load(name: String, reference: &ModelRef, offline: bool, max_waiting: usize) -> ApiResult<Self> {
        let options = LoadOptions { offline, ..LoadOptions::default() };
        let (model, local): (Arc<dyn Model>, _) = match reference.provider {
            Provider::Local => {
                let local = Arc::new(evalign_model::load_local(reference, &options, &silent)?);
                (local.clone(), Some(local))
            }
            Provider::Openai | Provider::Scripted => {
                (evalign_model::load(reference, &options, &silent)?, None)
            }
        };
        Ok(Self { name, queue: Queue::new(model.clone(), max_waiting), model, local })
    }
}
