//! Work that waits for a worker.
//!
//! ```text
//! queued --claim()--> running(claim n) --settle()--> done | failed | cancelled
//!    ^                   | renew(): a later end, the same claim; says whether it is to be cancelled
//!    |                   |--hand_back(): a server that ends leaves it to the next
//!    '-------------------'--lease over, or the server is known to be gone (too often: failed)
//! ```

use std::time::Duration;

use evalign_core::{RunId, Tenant};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;

use crate::error::{Failure, StoreError};
use crate::runs::{parse, unsigned};
use crate::store::Store;

/// What has ended so many servers that worked on it (out of memory, an abort) would end the next one too.
const MOST_CLAIMS: i64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl JobState {
    const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Waiting or being done.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Queued | Self::Running)
    }

    fn parse(name: &str) -> Result<Self, StoreError> {
        Self::ALL.into_iter().find(|state| state.name() == name).ok_or_else(|| StoreError::Record {
            what: "stored job".to_owned(),
            detail: format!("`{name}` is not a state"),
        })
    }
}

/// A job as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub run: RunId,
    pub state: JobState,
    /// Why it failed.
    pub error: Option<String>,
    pub updated_ms: u64,
}

/// A job that a worker has. Another claim of the same job makes this one useless.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    seq: i64,
    claim: i64,
    pub tenant: Tenant,
    /// Id of the key that queued it.
    pub key: Option<String>,
    pub run: RunId,
    pub request: Value,
}

/// What became of the jobs of a server that is gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Orphans {
    /// Jobs that wait again.
    pub requeued: u64,
    /// Runs whose job failed: too many servers ended while they worked on it.
    pub given_up: Vec<(Tenant, RunId)>,
}

/// What became of a job that was to be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    Queued,
    /// The run had an active job already.
    WasActive,
    /// So many jobs of the tenant are active that no more are taken.
    Full,
    /// So many jobs of the key on whose behalf it is to be queued are active as it may have.
    KeyFull,
}

fn end(now_ms: i64, ttl: Duration) -> i64 {
    now_ms.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
}

impl Store {
    /// Queues work on a run of this tenant, unless it is queued or being done, or `most` jobs of the tenant or as many as
    /// its key may have are active.
    ///
    /// # Errors
    /// [`StoreError::NoSuchRun`], or a database failure.
    pub fn enqueue(&self, run: &RunId, request: &Value, most: u32) -> Result<Enqueued, StoreError> {
        let (run, request, now) = (run.clone(), request.to_string(), self.now_ms());
        let (tenant, key) = (self.tenant().clone(), self.key_id().map(str::to_owned));
        self.writer().write(move |db| {
            crate::runs::run_seq(db, &run, &tenant)?;
            if active(db, "run", run.as_str())? > 0 {
                return Ok(Enqueued::WasActive);
            }
            if let Some(full) = full(db, &tenant, key.as_deref(), most)? {
                return Ok(full);
            }
            db.prepare_cached(
                "INSERT INTO jobs (tenant, run, request, state, created_ms, updated_ms, key)
                 VALUES (?1, ?2, ?3, 'queued', ?4, ?4, ?5)",
            )?
            .execute(params![tenant.as_str(), run.as_str(), request, now, key.as_deref()])?;
            Ok(Enqueued::Queued)
        })
    }

    /// Why no job would be queued now ([`Enqueued::Full`], [`Enqueued::KeyFull`]), if so.
    ///
    /// # Errors
    /// A database failure.
    pub fn jobs_full(&self, most: u32) -> Result<Option<Enqueued>, StoreError> {
        self.read(|db| full(db, self.tenant(), self.key_id(), most))
    }

    /// Takes the oldest job that waits, or whose worker's time is over, of any tenant. Tenants take turns:
    /// who has fewest jobs running comes first.
    ///
    /// # Errors
    /// A database failure, or a job that cannot be read.
    pub fn claim(&self, worker: &str, ttl: Duration) -> Result<Option<Claim>, StoreError> {
        let (worker, now) = (worker.to_owned(), self.now_ms());
        self.writer().write(move |db| {
            let waiting: Option<i64> = db
                .prepare_cached(
                    "SELECT j.seq FROM jobs j WHERE j.state = 'queued'
                        OR (j.state = 'running' AND j.lease_until_ms <= ?1)
                     ORDER BY (SELECT count(*) FROM jobs o WHERE o.tenant = j.tenant
                               AND o.state = 'running' AND o.lease_until_ms > ?1), j.seq LIMIT 1",
                )?
                .query_row([now], |row| row.get(0))
                .optional()?;
            let Some(seq) = waiting else { return Ok(None) };
            let claimed = db
                .prepare_cached(
                    "UPDATE jobs SET state = 'running', worker = ?2, claims = claims + 1, lease_until_ms = ?3,
                     updated_ms = ?4 WHERE seq = ?1 RETURNING seq, claims, tenant, run, request, key",
                )?
                .query_row(params![seq, worker, end(now, ttl), now], |row| Ok(claim_of(row)))?;
            Ok(Some(claimed?))
        })
    }

    /// Keeps a claimed job for `ttl` from now. `Some(true)` where it is to be cancelled; `None` where it was
    /// claimed by somebody else meanwhile.
    ///
    /// # Errors
    /// A database failure.
    pub fn renew_claim(&self, claim: &Claim, ttl: Duration) -> Result<Option<bool>, StoreError> {
        let (seq, number, now) = (claim.seq, claim.claim, self.now_ms());
        self.writer().write(move |db| {
            Ok(db
                .prepare_cached(
                    "UPDATE jobs SET lease_until_ms = ?3 WHERE seq = ?1 AND claims = ?2 AND state = 'running'
                     RETURNING cancel",
                )?
                .query_row(params![seq, number, end(now, ttl)], |row| row.get(0))
                .optional()?)
        })
    }

    /// Ends a claimed job. Nothing happens where it was claimed by somebody else meanwhile.
    ///
    /// # Errors
    /// A database failure.
    pub fn settle(&self, claim: &Claim, state: JobState, error: Option<&str>) -> Result<(), StoreError> {
        let (seq, number, now) = (claim.seq, claim.claim, self.now_ms());
        let error = error.map(str::to_owned);
        self.writer().write(move |db| {
            db.prepare_cached(
                "UPDATE jobs SET state = ?3, error = ?4, worker = NULL, updated_ms = ?5
                 WHERE seq = ?1 AND claims = ?2 AND state = 'running'",
            )?
            .execute(params![seq, number, state.name(), error, now])?;
            Ok(())
        })
    }

    /// Leaves a claimed job to whoever comes next, as if it had not been claimed. (No claim that is still held has
    /// the next one's number: who handed back has none.)
    ///
    /// # Errors
    /// A database failure.
    pub fn hand_back(&self, claim: &Claim) -> Result<(), StoreError> {
        let (seq, number, now) = (claim.seq, claim.claim, self.now_ms());
        self.writer().write(move |db| {
            db.prepare_cached(
                "UPDATE jobs SET state = 'queued', claims = claims - 1, worker = NULL, updated_ms = ?3
                 WHERE seq = ?1 AND claims = ?2 AND state = 'running'",
            )?
            .execute(params![seq, number, now])?;
            Ok(())
        })
    }

    /// Queues every running job again, unless too many servers ended while they worked on it. For a server that knows
    /// it is the only one on this store.
    ///
    /// # Errors
    /// A database failure, or a job that cannot be read.
    pub fn requeue_orphans(&self) -> Result<Orphans, StoreError> {
        let now = self.now_ms();
        self.writer().write(move |db| {
            let reason = format!("the server ended {MOST_CLAIMS} times while it worked on this");
            let mut ended = db.prepare_cached(
                "UPDATE jobs SET state = 'failed', error = ?2, worker = NULL, updated_ms = ?3
                 WHERE state = 'running' AND claims >= ?1 RETURNING tenant, run",
            )?;
            let rows = ended.query_map(params![MOST_CLAIMS, reason, now], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })?;
            let mut given_up = Vec::new();
            for row in rows {
                let (tenant, run) = row?;
                let unreadable = |detail| StoreError::Record { what: format!("job of {run}"), detail };
                given_up.push((tenant.parse().map_err(unreadable)?, run_id(&run)?));
            }
            let sql = "UPDATE jobs SET state = 'queued', worker = NULL WHERE state = 'running'";
            Ok(Orphans { requeued: db.execute(sql, [])? as u64, given_up })
        })
    }

    /// Asks for the end of the active job of a run of this tenant: one that waits ends at once, one that is
    /// being done when its worker asks ([`Store::renew_claim`]). Its state before; `None` without an active
    /// job.
    ///
    /// # Errors
    /// [`StoreError::NoSuchRun`], or a database failure.
    pub fn cancel_job(&self, run: &RunId) -> Result<Option<JobState>, StoreError> {
        let (run, now, tenant) = (run.clone(), self.now_ms(), self.tenant().clone());
        self.writer().write(move |db| {
            crate::runs::run_seq(db, &run, &tenant)?;
            let active: Option<(i64, String)> = db
                .prepare_cached(
                    "SELECT seq, state FROM jobs WHERE run = ?1 AND state IN ('queued', 'running')",
                )?
                .query_row([run.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((seq, state)) = active else { return Ok(None) };
            let state = JobState::parse(&state)?;
            let next = if state == JobState::Queued { JobState::Cancelled } else { state };
            db.prepare_cached("UPDATE jobs SET cancel = 1, state = ?2, updated_ms = ?3 WHERE seq = ?1")?
                .execute(params![seq, next.name(), now])?;
            Ok(Some(state))
        })
    }

    /// The newest job of a run of this tenant.
    ///
    /// # Errors
    /// A database failure, or a job that cannot be read.
    pub fn job_of(&self, run: &RunId) -> Result<Option<Job>, StoreError> {
        self.read(|db| {
            let found = db
                .prepare_cached(
                    "SELECT run, state, error, updated_ms FROM jobs WHERE run = ?1 AND tenant = ?2
                     ORDER BY seq DESC LIMIT 1",
                )?
                .query_row([run.as_str(), self.tenant().as_str()], |row| Ok(job_of(row)))
                .optional()?;
            found.transpose()
        })
    }

    /// Jobs that wait and jobs that are being done, of all tenants.
    ///
    /// # Errors
    /// A database failure.
    pub fn queue_depth(&self) -> Result<(u64, u64), StoreError> {
        self.read(|db| {
            let count = |state: &str| -> rusqlite::Result<i64> {
                db.prepare_cached("SELECT count(*) FROM jobs WHERE state = ?1")?
                    .query_row([state], |row| row.get(0))
            };
            Ok((unsigned(count("queued")?), unsigned(count("running")?)))
        })
    }

    /// Whether the store can be written: what tells a server that is ready from one that is not.
    ///
    /// # Errors
    /// A database failure.
    pub fn check_writable(&self) -> Result<(), StoreError> {
        self.writer().write(|db: &Connection| {
            db.prepare_cached("UPDATE jobs SET cancel = cancel WHERE seq = -1")?.execute([])?;
            Ok(())
        })
    }
}

/// Jobs that wait or are being done with this value in this column.
fn active(db: &Connection, column: &str, value: &str) -> rusqlite::Result<i64> {
    let sql = format!("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running') AND {column} = ?1");
    db.prepare_cached(&sql)?.query_row([value], |row| row.get(0))
}

fn full(db: &Connection, tenant: &Tenant, key: Option<&str>, most: u32) -> Result<Option<Enqueued>, Failure> {
    if active(db, "tenant", tenant.as_str())? >= i64::from(most) {
        return Ok(Some(Enqueued::Full));
    }
    let Some(key) = key else { return Ok(None) };
    let most: Option<Option<i64>> = db
        .prepare_cached("SELECT max_active_runs FROM keys WHERE id = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    match most.flatten() {
        Some(most) if active(db, "key", key)? >= most => Ok(Some(Enqueued::KeyFull)),
        _ => Ok(None),
    }
}

fn run_id(text: &str) -> Result<RunId, StoreError> {
    text.parse().map_err(|detail| StoreError::Record { what: "stored job".to_owned(), detail })
}

fn job_of(row: &Row<'_>) -> Result<Job, Failure> {
    Ok(Job {
        run: run_id(&row.get::<_, String>(0)?)?,
        state: JobState::parse(&row.get::<_, String>(1)?)?,
        error: row.get(2)?,
        updated_ms: unsigned(row.get(3)?),
    })
}

fn claim_of(row: &Row<'_>) -> Result<Claim, Failure> {
    let run = run_id(&row.get::<_, String>(3)?)?;
    let unreadable = |detail| StoreError::Record { what: format!("job of {run}"), detail };
    Ok(Claim {
        seq: row.get(0)?,
        claim: row.get(1)?,
        tenant: row.get::<_, String>(2)?.parse().map_err(unreadable)?,
        request: parse(&row.get::<_, String>(4)?, || format!("job of {run}"))?,
        key: row.get(5)?,
        run,
    })
}
