use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use evalign_core::Tenant;
use rusqlite::Connection;

use crate::error::{Failure, Fault, StoreError};
use crate::readers::Readers;
use crate::schema::{self, Access};
use crate::writer::Writer;

/// Tells the Unix time in milliseconds. Injected so that leases can be tested without waiting.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a test or a service may want to set; the default is right for everybody else.
pub struct StoreOptions {
    pub clock: Clock,
    /// Largest size of the database file. At the limit the store behaves as on a full disk.
    pub max_bytes: Option<u64>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { clock: Arc::new(unix_ms), max_bytes: None }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions").field("max_bytes", &self.max_bytes).finish_non_exhaustive()
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// The database at `DIR/evalign.db`, as one tenant sees it: of runs and files there are only its own. Clones
/// share the database; when the last one is dropped, what was submitted is committed first. Several processes
/// may have the same store open.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    tenant: Tenant,
    /// Id of the key on whose behalf it is used.
    key: Option<Arc<str>>,
    /// The `Idempotency-Key` of the request that it is used for.
    request: Option<Arc<str>>,
}

struct Shared {
    path: PathBuf,
    clock: Clock,
    // Fields drop in this order: readers first, so that the writer's close checkpoints the log.
    readers: Readers,
    writer: Writer,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.shared.path).finish()
    }
}

impl Store {
    /// Opens the store in this directory, creating and migrating it as needed.
    ///
    /// # Errors
    /// [`StoreError::Database`] naming the file and what is wrong with it, or [`StoreError::Newer`];
    /// in the latter case the file is left as it is.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, StoreOptions::default())
    }

    /// As [`Store::open`], with options.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let path = dir.join("evalign.db");
        fs_err::create_dir_all(dir).map_err(|error| StoreError::Database {
            path: path.clone(),
            fault: Fault::CannotOpen,
            detail: error.to_string(),
        })?;
        let db = schema::open_writer(&path)?;
        if let Some(bytes) = options.max_bytes {
            limit_size(&db, bytes).map_err(|error| StoreError::sqlite(&path, &error))?;
        }
        let shared = Shared {
            clock: options.clock,
            readers: Readers::new(path.clone(), Access::Shared),
            writer: Writer::start(&path, db)?,
            path,
        };
        Ok(Self::of(Arc::new(shared)))
    }

    /// As [`Store::open`], for callers that only read: a store that cannot be written opens too. Writing
    /// to it is [`StoreError::Stopped`].
    ///
    /// # Errors
    /// As [`Store::open`], and where a store that cannot be written would have to be, because it is of an
    /// older version or was not closed.
    pub fn open_for_reading(dir: &Path) -> Result<Self, StoreError> {
        let error = match Self::open(dir) {
            Err(error) if matches!(error.fault(), Some(Fault::ReadOnly | Fault::CannotOpen)) => error,
            opened => return opened,
        };
        let path = dir.join("evalign.db");
        if !path.is_file() {
            return Err(error);
        }
        let shared = Shared {
            clock: Arc::new(unix_ms),
            readers: Readers::new(path.clone(), schema::readable(&path)?),
            writer: Writer::absent(&path),
            path,
        };
        Ok(Self::of(Arc::new(shared)))
    }

    /// The same database as another tenant sees it. [`Store::open`] gives the view of [`Tenant::default`].
    #[must_use]
    pub fn for_tenant(&self, tenant: &Tenant) -> Self {
        Self { tenant: tenant.clone(), ..Self::of(self.shared.clone()) }
    }

    /// The same view on behalf of a key: what is queued counts in its limits.
    #[must_use]
    pub fn on_behalf_of(&self, key: &str) -> Self {
        Self { key: Some(key.into()), ..self.clone() }
    }

    /// The same view for a request that can be repeated under this key ([`Store::begin_request`]): however often it is,
    /// it makes one run.
    #[must_use]
    pub fn for_request(&self, key: &str) -> Self {
        Self { request: Some(key.into()), ..self.clone() }
    }

    fn of(shared: Arc<Shared>) -> Self {
        Self { shared, tenant: Tenant::default(), key: None, request: None }
    }

    /// Id of the key on whose behalf it is used.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key.as_deref()
    }

    pub(crate) fn request_key(&self) -> Option<&Arc<str>> {
        self.request.as_ref()
    }

    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    pub(crate) fn now_ms(&self) -> i64 {
        i64::try_from((self.shared.clock)()).unwrap_or(i64::MAX)
    }

    pub(crate) fn writer(&self) -> &Writer {
        &self.shared.writer
    }

    pub(crate) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.shared.readers.read(query)
    }

    pub(crate) fn watch<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.shared.readers.watch(query)
    }
}

fn limit_size(db: &Connection, bytes: u64) -> rusqlite::Result<()> {
    let page: i64 = db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let pages = (i64::try_from(bytes).unwrap_or(i64::MAX) / page.max(1)).max(1);
    db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
}
