use std::time::Duration;

use evalign_core::{Digest, RunId, RunStatus, Tenant};
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::{Failure, StoreError};
use crate::runs::{run_id, run_status};
use crate::store::Store;

/// How long the answer to a request with an `Idempotency-Key` is kept.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// When a request ends that is being answered: whoever answers it says so, or the next server does.
const NEVER: i64 = i64::MAX;

/// What a request with an `Idempotency-Key` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repetition {
    /// The first, or one after a first that came to no answer: it is to be answered, and then finished or abandoned.
    First,
    /// The first is still being answered.
    Running,
    /// The key was used for another request.
    Differs,
    /// This is what the first was answered.
    Answered { status: u16, response: String },
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Store {
    /// Begins a request of this tenant under a key; `body` is the digest of all that it asks. Of any number
    /// of equal requests at once, one is [`Repetition::First`].
    ///
    /// # Errors
    /// A database failure.
    pub fn begin_request(&self, key: &str, body: &Digest) -> Result<Repetition, StoreError> {
        let (key, body, now) = (key.to_owned(), body.clone(), self.now_ms());
        let tenant = self.tenant().clone();
        self.writer().write(move |db| {
            db.prepare_cached("DELETE FROM idempotency WHERE expires_ms <= ?1")?.execute([now])?;
            let known: Option<(String, Option<u16>, Option<String>, i64)> = db
                .prepare_cached(
                    "SELECT body, status, response, expires_ms FROM idempotency WHERE tenant = ?1 AND key = ?2",
                )?
                .query_row([tenant.as_str(), &key], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })
                .optional()?;
            Ok(match known {
                Some((other, ..)) if other != body.as_str() => Repetition::Differs,
                Some((_, Some(status), response, _)) => {
                    Repetition::Answered { status, response: response.unwrap_or_default() }
                }
                Some((_, None, _, NEVER)) => Repetition::Running,
                Some((_, None, ..)) | None => {
                    db.prepare_cached(
                        "INSERT INTO idempotency (tenant, key, body, expires_ms) VALUES (?1, ?2, ?3, ?4)
                         ON CONFLICT (tenant, key) DO UPDATE SET expires_ms = excluded.expires_ms",
                    )?
                    .execute(params![tenant.as_str(), key, body.as_str(), NEVER])?;
                    Repetition::First
                }
            })
        })
    }

    /// Keeps the answer to a request that was begun, for [`IDEMPOTENCY_TTL`].
    ///
    /// # Errors
    /// A database failure.
    pub fn finish_request(&self, key: &str, status: u16, response: &str) -> Result<(), StoreError> {
        let (key, response, tenant) = (key.to_owned(), response.to_owned(), self.tenant().clone());
        let end = self.now_ms().saturating_add(millis(IDEMPOTENCY_TTL));
        self.writer().write(move |db| {
            db.prepare_cached(
                "UPDATE idempotency SET status = ?3, response = ?4, expires_ms = ?5
                 WHERE tenant = ?1 AND key = ?2",
            )?
            .execute(params![tenant.as_str(), key, status, response, end])?;
            Ok(())
        })
    }

    /// Notes that a request came to no answer: its repetition is to be tried, and goes on with the run that it has made.
    ///
    /// # Errors
    /// A database failure.
    pub fn abandon_request(&self, key: &str) -> Result<(), StoreError> {
        let (key, tenant, now) = (key.to_owned(), self.tenant().clone(), self.now_ms());
        self.writer().write(move |db| abandon(db, Some((tenant.as_str(), &key)), now))
    }

    /// As [`Store::abandon_request`], of all that are being answered. For a server that knows it is the only one on this
    /// store, and answers nothing yet.
    ///
    /// # Errors
    /// A database failure.
    pub fn abandon_requests(&self) -> Result<(), StoreError> {
        let now = self.now_ms();
        self.writer().write(move |db| abandon(db, None, now))
    }
}

/// What has made no run is forgotten; what has made one is known as long as an answer would be.
fn abandon(db: &Connection, one: Option<(&str, &str)>, now_ms: i64) -> Result<(), Failure> {
    let (tenant, key) = one.unzip();
    let which = "status IS NULL AND (?1 IS NULL OR (tenant = ?1 AND key = ?2))";
    db.prepare_cached(&format!("DELETE FROM idempotency WHERE run IS NULL AND {which}"))?
        .execute(params![tenant, key])?;
    db.prepare_cached(&format!("UPDATE idempotency SET expires_ms = ?3 WHERE {which}"))?.execute(params![
        tenant,
        key,
        now_ms.saturating_add(millis(IDEMPOTENCY_TTL))
    ])?;
    Ok(())
}

/// The run of this specification that the request which is being answered has made before.
pub(crate) fn run_of(
    db: &Connection,
    tenant: &Tenant,
    key: &str,
    spec: &Digest,
) -> Result<Option<(RunId, RunStatus)>, Failure> {
    let found: Option<(String, String)> = db
        .prepare_cached(
            "SELECT r.id, r.status FROM idempotency i JOIN runs r ON r.id = i.run AND r.tenant = i.tenant
             WHERE i.tenant = ?1 AND i.key = ?2 AND i.status IS NULL AND r.spec_digest = ?3",
        )?
        .query_row([tenant.as_str(), key, spec.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    found.map(|(id, status)| Ok((run_id(&id)?, run_status(&status)?))).transpose()
}

/// Notes that the request which is being answered has made this run.
pub(crate) fn note_run(db: &Connection, tenant: &Tenant, key: &str, run: &RunId) -> Result<(), Failure> {
    let sql = "UPDATE idempotency SET run = ?3 WHERE tenant = ?1 AND key = ?2 AND status IS NULL";
    db.prepare_cached(sql)?.execute([tenant.as_str(), key, run.as_str()])?;
    Ok(())
}
