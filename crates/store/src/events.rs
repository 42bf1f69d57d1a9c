use evalign_core::RunId;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use crate::error::{Failure, StoreError};
use crate::lease::Lease;
use crate::store::Store;

/// Something that happened to a run, for those who watch it. Written in the transaction of what it
/// tells of, so that a reader who has seen events up to `id` misses nothing and sees nothing twice.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// 1, 2, 3, ... within the run.
    pub id: u64,
    /// `run.created`, `run.status`, `run.progress`, `sample.completed`, `run.results`, `scores.replaced`,
    /// `samples.reopened`.
    pub kind: String,
    pub body: Value,
    /// Unix time in milliseconds.
    pub created_ms: u64,
}

/// Appends an event. To be called inside the transaction of what it reports.
pub(crate) fn append(
    db: &Connection,
    run_seq: i64,
    kind: &str,
    body: &Value,
    now_ms: i64,
) -> Result<(), Failure> {
    let id: i64 = db
        .prepare_cached(
            "UPDATE runs SET last_event = last_event + 1, updated_ms = ?2 WHERE seq = ?1
             RETURNING last_event",
        )?
        .query_row([run_seq, now_ms], |row| row.get(0))?;
    insert(db, run_seq, id, kind, &body.to_string(), now_ms)
}

/// Writes an event whose number, the run's next, the caller has taken. `body` is JSON.
pub(crate) fn insert(
    db: &Connection,
    run_seq: i64,
    id: i64,
    kind: &str,
    body: &str,
    now_ms: i64,
) -> Result<(), Failure> {
    db.prepare_cached("INSERT INTO events (run, id, kind, body, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![run_seq, id, kind, body, now_ms])?;
    Ok(())
}

/// How far a run is whose work is not samples.
const PROGRESS: &str = "run.progress";

impl Store {
    /// Notes how far a run is whose work is not samples: an index that is filled, a training.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or a database failure.
    pub fn note_progress(&self, lease: &Lease, progress: &Value) -> Result<(), StoreError> {
        let (lease, progress, now) = (lease.clone(), progress.clone(), self.now_ms());
        self.writer().write(move |db| {
            lease.check(db)?;
            append(db, lease.seq(), PROGRESS, &progress, now)
        })
    }

    /// What was noted last of how far a run is; `None` where nothing was.
    ///
    /// # Errors
    /// A database failure, or a note that cannot be read.
    pub fn progress(&self, run: &RunId) -> Result<Option<Value>, StoreError> {
        self.read(|db| {
            let found: Option<String> = db
                .prepare_cached(
                    "SELECT e.body FROM events e JOIN runs r ON r.seq = e.run
                     WHERE r.id = ?1 AND r.tenant = ?2 AND e.kind = ?3 ORDER BY e.id DESC LIMIT 1",
                )?
                .query_row([run.as_str(), self.tenant().as_str(), PROGRESS], |row| row.get(0))
                .optional()?;
            found.map(|body| crate::runs::parse(&body, || format!("progress of {run}"))).transpose()
        })
    }

    /// The events of a run with ids above `after`, oldest first, at most `limit`. A run that does not
    /// exist has none.
    ///
    /// # Errors
    /// A database failure.
    pub fn events(&self, run: &RunId, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT e.id, e.kind, e.body, e.created_ms FROM events e JOIN runs r ON r.seq = e.run
                 WHERE r.id = ?1 AND r.tenant = ?4 AND e.id > ?2 ORDER BY e.id LIMIT ?3",
            )?;
            let rows =
                query.query_map(params![run.as_str(), after, limit, self.tenant().as_str()], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get::<_, String>(2)?, row.get::<_, i64>(3)?))
                })?;
            let mut events = Vec::new();
            for row in rows {
                let (id, kind, body, created_ms) = row?;
                events.push(Event {
                    id: crate::runs::unsigned(id),
                    kind,
                    body: crate::runs::parse(&body, || format!("event {id} of {run}"))?,
                    created_ms: crate::runs::unsigned(created_ms),
                });
            }
            Ok(events)
        })
    }
}
