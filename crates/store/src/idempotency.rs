use std::time::Duration;

use evalign_core::Digest;
use rusqlite::{OptionalExtension, params};

use crate::error::StoreError;
use crate::store::Store;

/// How long the answer to a request with an `Idempotency-Key` is kept.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a request that was begun blocks its repetition, should the process die meanwhile.
const BEGUN_TTL: Duration = Duration::from_secs(60);

/// What a request with an `Idempotency-Key` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repetition {
    /// The first: it is to be answered, and then finished or abandoned.
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
            let known: Option<(String, Option<u16>, Option<String>)> = db
                .prepare_cached(
                    "SELECT body, status, response FROM idempotency WHERE tenant = ?1 AND key = ?2",
                )?
                .query_row([tenant.as_str(), &key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            Ok(match known {
                Some((other, ..)) if other != body.as_str() => Repetition::Differs,
                Some((_, Some(status), response)) => {
                    Repetition::Answered { status, response: response.unwrap_or_default() }
                }
                Some((_, None, _)) => Repetition::Running,
                None => {
                    db.prepare_cached(
                        "INSERT INTO idempotency (tenant, key, body, expires_ms) VALUES (?1, ?2, ?3, ?4)",
                    )?
                    .execute(params![
                        tenant.as_str(),
                        key,
                        body.as_str(),
                        now.saturating_add(millis(BEGUN_TTL))
                    ])?;
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

    /// Forgets a request that was begun and failed in passing: its repetition is to be tried.
    ///
    /// # Errors
    /// A database failure.
    pub fn abandon_request(&self, key: &str) -> Result<(), StoreError> {
        let (key, tenant) = (key.to_owned(), self.tenant().clone());
        self.writer().write(move |db| {
            let sql = "DELETE FROM idempotency WHERE tenant = ?1 AND key = ?2 AND status IS NULL";
            db.prepare_cached(sql)?.execute([tenant.as_str(), &key])?;
            Ok(())
        })
    }
}
