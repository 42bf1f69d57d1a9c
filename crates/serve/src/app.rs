use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use evalign_bench::Catalog;
use evalign_data::DataRoots;
use evalign_store::{CompletedRuns, Store, StoredKey, Version};
use tokio_util::sync::CancellationToken;

use crate::daily::DailyUse;
use crate::error::{ApiResult, ServeError};
use crate::extract::TaggedBody;
use crate::indexes::Retrieval;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::places::Places;
use crate::planning::Planning;
use crate::preferences::KnownPairs;
use crate::quota::Quota;
use crate::remembered::Remembered;
use crate::routes::board::ShownBoard;
use crate::routes::events::Happened;
use crate::settings::Settings;
use crate::work::LEASE_TTL;
use crate::worker::Active;
use crate::writes::Writes;

/// How long a key is believed without asking the store: so long a revoked one may still be good.
const KEY_TTL: Duration = Duration::from_secs(1);

/// Answers of one kind that are kept while nothing changes.
const KNOWN: usize = 512;

/// Pages of lists of runs that are kept.
const KNOWN_LISTS: usize = 64;

/// Pages of events that are kept for all who follow a run.
const KNOWN_EVENTS: usize = 64;

/// Lists of pairs kept at once: they are large.
const KNOWN_PAIRS: usize = 2;

/// Requests without a good key that an address may make in a minute.
const REFUSED_PER_MINUTE: u32 = 120;

/// Everything the handlers of one server share.
pub struct App {
    pub(crate) settings: Settings,
    pub(crate) home: PathBuf,
    /// As the default tenant sees it; handlers get their caller's view.
    pub(crate) store: Store,
    pub(crate) catalog: Catalog,
    pub(crate) roots: DataRoots,
    pub(crate) models: Models,
    pub(crate) places: Places,
    pub(crate) metrics: Metrics,
    pub(crate) active: Active,
    pub(crate) retrieval: Retrieval,
    /// Held by who reads all answers of a run while a request waits: one at a time.
    pub(crate) scoring: Arc<tokio::sync::Mutex<()>>,
    pub(crate) planning: Planning,
    writes: Writes,
    /// Held by who tries whether the store can be written.
    pub(crate) probing: Arc<tokio::sync::Mutex<()>>,
    pub(crate) known_runs: Remembered<(Version, u64), TaggedBody>,
    pub(crate) known_lists: Remembered<(Version, u64), TaggedBody>,
    pub(crate) known_boards: Remembered<CompletedRuns, ShownBoard>,
    /// Names of trained models, and since when they are there.
    pub(crate) known_models: Remembered<CompletedRuns, Vec<(String, u64)>>,
    /// By the run as it is.
    pub(crate) known_pairs: Remembered<(u64, u64), KnownPairs>,
    pub(crate) known_events: Remembered<Version, Happened>,
    completed_runs: Remembered<Version, CompletedRuns>,
    pub(crate) quota: Quota,
    pub(crate) refusals: Quota,
    pub(crate) daily: DailyUse,
    /// Fires when the server is told to end: nothing new is begun, streams close.
    pub(crate) ending: CancellationToken,
    /// Fires when the time to end is over: answers that are still being written break off, and say so.
    pub(crate) closing: CancellationToken,
    keys: Mutex<BTreeMap<String, (StoredKey, Instant)>>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("home", &self.home).finish_non_exhaustive()
    }
}

impl App {
    /// # Errors
    /// Task files or dataset roots that cannot be read.
    pub fn new(home: &Path, store: Store, settings: Settings) -> Result<Arc<Self>, ServeError> {
        let catalog = Catalog::load(&settings.include_path)?;
        let roots =
            DataRoots::from_env(settings.data_root.clone(), settings.include_path.clone(), settings.offline)?;
        Ok(Arc::new(Self {
            home: std::path::absolute(home).map_err(|source| ServeError::File { source })?,
            catalog,
            roots,
            models: Models::new(&settings),
            places: Places::of(&settings),
            metrics: Metrics::default(),
            active: Active::default(),
            retrieval: Retrieval::default(),
            scoring: Arc::default(),
            planning: Planning::default(),
            writes: Writes::default(),
            probing: Arc::default(),
            known_runs: Remembered::holding(KNOWN),
            known_lists: Remembered::holding(KNOWN_LISTS),
            known_boards: Remembered::holding(KNOWN),
            known_models: Remembered::holding(KNOWN),
            known_pairs: Remembered::holding(KNOWN_PAIRS),
            known_events: Remembered::holding(KNOWN_EVENTS),
            completed_runs: Remembered::holding(KNOWN),
            quota: Quota::new(settings.requests_per_minute),
            refusals: Quota::new(REFUSED_PER_MINUTE),
            daily: DailyUse::new(store.clone()),
            ending: CancellationToken::new(),
            closing: CancellationToken::new(),
            keys: Mutex::default(),
            store,
            settings,
        }))
    }

    /// The key of this id, at most [`KEY_TTL`] old.
    pub(crate) fn key(&self, id: &str) -> ApiResult<Option<StoredKey>> {
        let lock = || self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((key, read)) = lock().get(id)
            && read.elapsed() < KEY_TTL
        {
            return Ok(Some(key.clone()));
        }
        let found = self.store.key(id)?;
        let mut keys = lock();
        match &found {
            Some(key) => drop(keys.insert(id.to_owned(), (key.clone(), Instant::now()))),
            None => drop(keys.remove(id)),
        }
        Ok(found)
    }

    /// The state of the store, unless another process keeps it from being asked.
    pub(crate) fn version(&self) -> Option<Version> {
        self.store.version().ok()
    }

    /// What decides how runs are shown: what is stored, and the time, as a lease runs out and nothing is written.
    pub(crate) fn version_of_runs(&self) -> Option<(Version, u64)> {
        Some((self.version()?, now_ms() / 1000 / LEASE_TTL.as_secs()))
    }

    /// What leaderboards of the store's tenant are made of.
    pub(crate) async fn completed_runs(self: &Arc<Self>, store: &Store) -> ApiResult<CompletedRuns> {
        let question = (store.tenant().clone(), String::new());
        let store = store.clone();
        let ask = self.blocking(move |_| Ok(store.completed_runs()?));
        Ok(*self.completed_runs.get(question, || self.version(), ask).await?)
    }

    /// Does what blocks on a thread of its own. A refusal names no place on this machine.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let (app, turn) = (self.clone(), self.writes.begin().await?);
        let done = move || {
            // Also when its client has left.
            let _turn = turn;
            work(&app).map_err(|error| app.placeless_error(error))
        };
        tokio::task::spawn_blocking(done).await?
    }

    /// Does on a thread that may block what waits for others of the pool itself: one at a time, as a pool whose threads
    /// all wait for another one is stuck for good.
    pub(crate) async fn blocking_alone<T: Send + 'static>(
        self: &Arc<Self>,
        lock: &Arc<tokio::sync::Mutex<()>>,
        work: impl FnOnce(&Self) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let only = lock.clone().lock_owned().await;
        self.blocking(move |app| {
            let _only = only;
            work(app)
        })
        .await
    }
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
