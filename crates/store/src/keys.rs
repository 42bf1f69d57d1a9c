use std::fmt;
use std::str::FromStr;

use evalign_core::{Digest, Tenant};
use rusqlite::{OptionalExtension, Row, params};

use crate::error::{Failure, StoreError};
use crate::runs::unsigned;
use crate::store::Store;

/// What a key may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyScope {
    /// Look at what its tenant has.
    Read,
    /// Start, stop and pay for work, and ask the models that are served.
    Run,
    /// Also everything about the service itself: its metrics, its audit log.
    Admin,
}

impl KeyScope {
    pub const ALL: [Self; 3] = [Self::Read, Self::Run, Self::Admin];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Run => "run",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyScope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.name() == text)
            .ok_or_else(|| format!("`{text}` is not a scope (read, run, admin)"))
    }
}

/// How much a key may use; absent: any amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    pub requests_per_day: Option<u64>,
    /// Tokens that models read and write for it.
    pub tokens_per_day: Option<u64>,
    /// Its runs that are queued or being worked on.
    pub max_active_runs: Option<u32>,
}

impl KeyLimits {
    fn columns(self) -> (Option<i64>, Option<i64>, Option<u32>) {
        (self.requests_per_day.map(most), self.tokens_per_day.map(most), self.max_active_runs)
    }
}

/// More than can be kept is as much as can be.
fn most(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A key to be kept.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Part of what the client sends: it finds the row, and may be shown.
    pub id: String,
    pub tenant: Tenant,
    /// What people call it.
    pub name: String,
    pub scope: KeyScope,
    /// SHA-256 of the secret, which itself is kept nowhere.
    pub digest: Digest,
    /// Unix time in milliseconds; `None`: never.
    pub expires_ms: Option<u64>,
    pub limits: KeyLimits,
}

/// A key as it is kept. Times are Unix times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    pub id: String,
    pub tenant: Tenant,
    pub name: String,
    pub scope: KeyScope,
    pub digest: Digest,
    pub created_ms: u64,
    pub expires_ms: Option<u64>,
    pub revoked_ms: Option<u64>,
    pub limits: KeyLimits,
}

impl StoredKey {
    /// Neither revoked nor expired.
    #[must_use]
    pub fn is_good(&self, now_ms: u64) -> bool {
        self.revoked_ms.is_none() && self.expires_ms.is_none_or(|end| now_ms < end)
    }
}

const COLUMNS: &str = "id, tenant, name, scope, digest, created_ms, expires_ms, revoked_ms, requests_per_day, \
     tokens_per_day, max_active_runs";

impl Store {
    /// Keeps a key. Keys are not part of a tenant's view: whoever manages them sees all.
    ///
    /// # Errors
    /// A database failure; an id that is taken is one.
    pub fn create_key(&self, key: &NewKey) -> Result<(), StoreError> {
        let (key, now) = (key.clone(), self.now_ms());
        let (requests, tokens, runs) = key.limits.columns();
        let end = key.expires_ms.map(most);
        self.writer().write(move |db| {
            db.execute(
                "INSERT INTO keys (id, tenant, name, scope, digest, created_ms, expires_ms, requests_per_day,
                 tokens_per_day, max_active_runs) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![
                    key.id,
                    key.tenant.as_str(),
                    key.name,
                    key.scope.name(),
                    key.digest.as_str(),
                    now,
                    end,
                    requests,
                    tokens,
                    runs
                ],
            )?;
            Ok(())
        })
    }

    /// All keys, oldest first.
    ///
    /// # Errors
    /// A database failure.
    pub fn keys(&self) -> Result<Vec<StoredKey>, StoreError> {
        self.read(|db| {
            let sql = format!("SELECT {COLUMNS} FROM keys ORDER BY created_ms, id");
            let mut query = db.prepare_cached(&sql)?;
            let mut rows = query.query([])?;
            let mut keys = Vec::new();
            while let Some(row) = rows.next()? {
                keys.push(stored_key(row)?);
            }
            Ok(keys)
        })
    }

    /// The key of this id, good or not.
    ///
    /// # Errors
    /// A database failure.
    pub fn key(&self, id: &str) -> Result<Option<StoredKey>, StoreError> {
        self.read(|db| {
            let sql = format!("SELECT {COLUMNS} FROM keys WHERE id = ?1");
            let found = db.prepare_cached(&sql)?.query_row([id], |row| Ok(stored_key(row))).optional()?;
            found.transpose()
        })
    }

    /// Sets how much a key may use from now on, instead of what it might before. `false` where there is none of this id.
    ///
    /// # Errors
    /// A database failure.
    pub fn limit_key(&self, id: &str, limits: KeyLimits) -> Result<bool, StoreError> {
        let (id, (requests, tokens, runs)) = (id.to_owned(), limits.columns());
        self.writer().write(move |db| {
            let sql = "UPDATE keys SET requests_per_day = ?2, tokens_per_day = ?3, max_active_runs = ?4 WHERE id = ?1";
            Ok(db.execute(sql, params![id, requests, tokens, runs])? > 0)
        })
    }

    /// Makes a key useless, with the sessions that were opened with it. `false` where there is none of this id.
    ///
    /// # Errors
    /// A database failure.
    pub fn revoke_key(&self, id: &str) -> Result<bool, StoreError> {
        let (id, now) = (id.to_owned(), self.now_ms());
        self.writer().write(move |db| {
            let sql = "UPDATE keys SET revoked_ms = coalesce(revoked_ms, ?2) WHERE id = ?1";
            let found = db.execute(sql, params![id, now])?;
            db.execute("DELETE FROM web_tokens WHERE key = ?1", [&id])?;
            Ok(found > 0)
        })
    }
}

fn stored_key(row: &Row<'_>) -> Result<StoredKey, Failure> {
    let id: String = row.get("id")?;
    let unreadable = |detail: String| StoreError::Record { what: format!("key {id}"), detail };
    let digest: String = row.get("digest")?;
    let number = |column: &str| Ok::<_, Failure>(row.get::<_, Option<i64>>(column)?.map(unsigned));
    Ok(StoredKey {
        tenant: row.get::<_, String>("tenant")?.parse().map_err(unreadable)?,
        name: row.get("name")?,
        scope: row.get::<_, String>("scope")?.parse().map_err(unreadable)?,
        digest: Digest::parse(&digest).ok_or_else(|| unreadable("its digest is none".to_owned()))?,
        created_ms: unsigned(row.get("created_ms")?),
        expires_ms: number("expires_ms")?,
        revoked_ms: number("revoked_ms")?,
        limits: KeyLimits {
            requests_per_day: number("requests_per_day")?,
            tokens_per_day: number("tokens_per_day")?,
            max_active_runs: row.get("max_active_runs")?,
        },
        id,
    })
}
