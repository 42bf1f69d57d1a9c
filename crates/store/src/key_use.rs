use rusqlite::{OptionalExtension, params};

use crate::error::StoreError;
use crate::runs::{signed, unsigned};
use crate::store::Store;

/// Days of which it is known what keys have used.
const KEPT_DAYS: u64 = 32;

/// What a key has used of the service in a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyUse {
    pub requests: u64,
    /// Tokens that models have read and written for it.
    pub tokens: u64,
}

impl std::ops::AddAssign for KeyUse {
    fn add_assign(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.tokens = self.tokens.saturating_add(other.tokens);
    }
}

impl Store {
    /// What a key has used on a day, counted since 1970-01-01 (UTC).
    ///
    /// # Errors
    /// A database failure.
    pub fn key_use(&self, key: &str, day: u64) -> Result<KeyUse, StoreError> {
        let day = signed(day, "day", || format!("use of key {key}"))?;
        self.read(|db| {
            let found = db
                .prepare_cached("SELECT requests, tokens FROM key_use WHERE key = ?1 AND day = ?2")?
                .query_row(params![key, day], |row| {
                    Ok(KeyUse { requests: unsigned(row.get(0)?), tokens: unsigned(row.get(1)?) })
                })
                .optional()?;
            Ok(found.unwrap_or_default())
        })
    }

    /// Adds to what keys have used on a day each, in one transaction. Of days long ago it is forgotten.
    ///
    /// # Errors
    /// A database failure: then nothing was added.
    pub fn add_key_use(&self, used: &[(String, u64, KeyUse)]) -> Result<(), StoreError> {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let newest = used.iter().map(|(_, day, _)| *day).max().unwrap_or_default();
        let oldest = number(newest.saturating_sub(KEPT_DAYS));
        let rows: Vec<_> = used
            .iter()
            .map(|(key, day, used)| (key.clone(), number(*day), number(used.requests), number(used.tokens)))
            .collect();
        self.writer().write(move |db| {
            for (key, day, requests, tokens) in &rows {
                db.prepare_cached(
                    "INSERT INTO key_use (key, day, requests, tokens) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (key, day) DO UPDATE SET requests = requests + excluded.requests,
                     tokens = tokens + excluded.tokens",
                )?
                .execute(params![key, day, requests, tokens])?;
            }
            db.prepare_cached("DELETE FROM key_use WHERE day < ?1")?.execute([oldest])?;
            Ok(())
        })
    }
}
