use std::cmp::Ordering;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::{Failure, Fault, StoreError};

/// Version `n` is reached by running the first `n` of these.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/v1.sql"),
    include_str!("schema/v2.sql"),
    include_str!("schema/v3.sql"),
    include_str!("schema/v4.sql"),
    include_str!("schema/v5.sql"),
    include_str!("schema/v6.sql"),
    include_str!("schema/v7.sql"),
    include_str!("schema/v8.sql"),
];

/// The schema version this build reads and writes (SQLite's `user_version`).
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// `evAl` in ASCII, SQLite's `application_id`: tells a store from somebody else's database.
const APPLICATION_ID: i64 = 0x6576_416c;

/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens the file for writing, creating and migrating it as needed.
///
/// # Errors
/// [`StoreError::Newer`] (the file is left unchanged), or [`StoreError::Database`].
pub(crate) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let mut db =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
            .map_err(|error| StoreError::sqlite(path, &error))?;
    prepare(&mut db, path).map_err(|failure| failure.at(path))?;
    Ok(db)
}

/// Opens the file, which a writer has prepared, for reading. `Frozen` is for one that cannot be written:
/// SQLite then does without the locks and the shared memory that it could not create.
pub(crate) fn open_reader(path: &Path, access: Access) -> Result<Connection, StoreError> {
    let open = || {
        let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = match access {
            Access::Shared => Connection::open_with_flags(path, read_only)?,
            Access::Frozen => {
                Connection::open_with_flags(frozen_uri(path), read_only | OpenFlags::SQLITE_OPEN_URI)?
            }
        };
        db.busy_timeout(BUSY_TIMEOUT)?;
        Ok(db)
    };
    open().map_err(|error: rusqlite::Error| StoreError::sqlite(path, &error))
}

/// How the file may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Beside writers, in this process and others.
    Shared,
    /// Nobody can write it.
    Frozen,
}

/// `file:PATH?immutable=1` (<https://www.sqlite.org/uri.html>), bytes with a meaning there escaped.
fn frozen_uri(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b':' => {
                uri.push(char::from(*byte));
            }
            b'\\' => uri.push('/'),
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri + "?immutable=1"
}

/// How a store that cannot be written can be read, if at all: it must be one, and of this version, for it
/// cannot be migrated.
pub(crate) fn readable(path: &Path) -> Result<Access, StoreError> {
    let check = |access| {
        let mut db = open_reader(path, access)?;
        let found = checked_version(&mut db, path).map_err(|failure| failure.at(path))?;
        match found.cmp(&SCHEMA_VERSION) {
            Ordering::Equal => Ok(access),
            Ordering::Greater => {
                Err(StoreError::Newer { path: path.to_owned(), found, supported: SCHEMA_VERSION })
            }
            Ordering::Less => {
                Err(read_only(path, "an older evalign wrote it, and it cannot be brought up to date"))
            }
        }
    };
    let unwritten = |error: StoreError| match log_bytes(path) {
        0 => check(Access::Frozen),
        _ if matches!(error.fault(), Some(Fault::CannotOpen | Fault::ReadOnly)) => {
            Err(read_only(path, "its newest samples are still in evalign.db-wal, which has to be folded in"))
        }
        _ => Err(error),
    };
    check(Access::Shared).or_else(unwritten)
}

fn read_only(path: &Path, detail: &str) -> StoreError {
    StoreError::Database { path: path.to_owned(), fault: Fault::ReadOnly, detail: detail.to_owned() }
}

/// Size of the log that a process leaves which did not close the store.
fn log_bytes(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    fs_err::metadata(log).map_or(0, |file| file.len())
}

fn prepare(db: &mut Connection, path: &Path) -> Result<(), Failure> {
    db.busy_timeout(BUSY_TIMEOUT)?;
    let found = checked_version(db, path)?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found, supported: SCHEMA_VERSION }.into());
    }
    enter_wal_mode(db)?;
    // FULL flushes the log at every commit: an acknowledged sample survives a power failure.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", "ON")?;
    // KiB, negative as SQLite wants it: the inner pages of all tables and the last leaves stay in memory.
    db.pragma_update(None, "cache_size", -16_384)?;
    // Pages. Entries of the response cache lie anywhere, so the fewer checkpoints, the fewer writes.
    db.pragma_update(None, "wal_autocheckpoint", 4000)?;
    if found < SCHEMA_VERSION {
        migrate(db)?;
    }
    Ok(())
}

fn version(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// The file's schema version, 0 if it is new. A database of some other program, which would otherwise
/// be "migrated", is refused.
fn checked_version(db: &mut Connection, path: &Path) -> Result<i64, Failure> {
    // One transaction: another process may be creating the store between any two reads.
    let snapshot = db.transaction()?;
    let version = version(&snapshot)?;
    let id: i64 = snapshot.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 = snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    snapshot.finish()?;
    let empty = version == 0 && tables == 0;
    if id == APPLICATION_ID || empty {
        return Ok(version);
    }
    Err(StoreError::Database {
        path: path.to_owned(),
        fault: Fault::NotAStore,
        detail: format!("application id {id:#x}, {tables} tables and indexes"),
    }
    .into())
}

/// Switching a new file to WAL takes an exclusive lock that SQLite does not wait for, so several
/// processes that open a new store at once would fail with "database is locked".
fn enter_wal_mode(db: &Connection) -> rusqlite::Result<()> {
    const ATTEMPTS: u32 = 200;
    const PAUSE: Duration = Duration::from_millis(25);
    for _ in 1..ATTEMPTS {
        match db.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
    db.pragma_update(None, "journal_mode", "WAL")
}

/// All missing versions in one transaction: a store is of one version or of another, never between.
fn migrate(db: &mut Connection) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have migrated while this one waited for the lock.
    let found = usize::try_from(version(&transaction)?).unwrap_or(usize::MAX);
    for migration in MIGRATIONS.iter().skip(found) {
        transaction.execute_batch(migration)?;
    }
    if found < MIGRATIONS.len() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    transaction.commit()
}
