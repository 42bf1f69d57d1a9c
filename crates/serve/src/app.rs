use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use evalign_bench::Catalog;
use evalign_data::DataRoots;
use evalign_store::{Store, StoredKey};
use tokio_util::sync::CancellationToken;

use crate::error::{ApiResult, ServeError};
use crate::indexes::Retrieval;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::quota::Quota;
use crate::settings::Settings;
use crate::worker::Active;

/// How long a key is believed without asking the store: so long a revoked one may still be good.
const KEY_TTL: Duration = Duration::from_secs(1);

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
    pub(crate) metrics: Metrics,
    pub(crate) active: Active,
    pub(crate) retrieval: Retrieval,
    pub(crate) quota: Quota,
    pub(crate) refusals: Quota,
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
            metrics: Metrics::default(),
            active: Active::default(),
            retrieval: Retrieval::default(),
            quota: Quota::new(settings.requests_per_minute),
            refusals: Quota::new(REFUSED_PER_MINUTE),
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

    /// Does what blocks on a thread of its own. A refusal names no place on this machine.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let app = self.clone();
        let done = move || work(&app).map_err(|error| error.without_places(&app.home));
        tokio::task::spawn_blocking(done).await?
    }
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
