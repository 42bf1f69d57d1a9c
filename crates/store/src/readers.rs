use std::path::PathBuf;
use std::sync::Mutex;

use rusqlite::Connection;

use crate::error::{Failure, StoreError};
use crate::schema::{self, Access};

/// Idle connections kept; more readers than this at once open their own and close them afterwards.
const KEPT: usize = 8;

/// Read-only connections. Readers never wait for the writer (WAL), so each call takes one of its own.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    access: Access,
    idle: Mutex<Vec<Connection>>,
    /// One that is always the same: what it says of changes counts from its own opening.
    watcher: Mutex<Option<Connection>>,
}

impl Readers {
    pub(crate) fn new(path: PathBuf, access: Access) -> Self {
        Self { path, access, idle: Mutex::new(Vec::new()), watcher: Mutex::default() }
    }

    pub(crate) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let idle = self.lock().pop();
        let db = match idle {
            Some(db) => db,
            None => schema::open_reader(&self.path, self.access)?,
        };
        let answer = query(&db).map_err(|failure| failure.at(&self.path));
        let mut idle = self.lock();
        if idle.len() < KEPT {
            idle.push(db);
        }
        answer
    }

    /// Asks the connection that is always the same.
    pub(crate) fn watch<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut watcher = self.watcher.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let db = match watcher.take() {
            Some(db) => db,
            None => schema::open_reader(&self.path, self.access)?,
        };
        query(watcher.insert(db)).map_err(|failure| failure.at(&self.path))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // A panic while holding the lock leaves a list of connections: still a valid list.
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
