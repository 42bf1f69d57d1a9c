use std::time::Duration;

use evalign_core::Digest;
use rusqlite::{OptionalExtension, params};

use crate::error::StoreError;
use crate::store::Store;

/// What a secret in a browser stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebToken {
    /// A link to log in with, good once.
    Login,
    /// A browser that is logged in.
    Session,
}

impl WebToken {
    fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Session => "session",
        }
    }
}

/// A browser that is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Id of the key it acts for.
    pub key: String,
    /// What its forms have to carry.
    pub csrf: String,
}

impl Store {
    /// Keeps a secret of a browser for `ttl`, by its digest, and forgets those that are over.
    ///
    /// # Errors
    /// A database failure; a key that is not there is one.
    pub fn put_web_token(
        &self,
        kind: WebToken,
        digest: &Digest,
        session: &Session,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let (digest, session, now) = (digest.clone(), session.clone(), self.now_ms());
        let end = now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        self.writer().write(move |db| {
            db.execute("DELETE FROM web_tokens WHERE expires_ms <= ?1", [now])?;
            db.execute(
                "INSERT INTO web_tokens (digest, kind, key, csrf, expires_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![digest.as_str(), kind.name(), session.key, session.csrf, end],
            )?;
            Ok(())
        })
    }

    /// Uses a login link up: the id of the key it was made for. `None` where it is unknown, used or over.
    ///
    /// # Errors
    /// A database failure.
    pub fn take_login(&self, digest: &Digest) -> Result<Option<String>, StoreError> {
        let (digest, now) = (digest.clone(), self.now_ms());
        self.writer().write(move |db| {
            Ok(db
                .query_row(
                    "DELETE FROM web_tokens WHERE digest = ?1 AND kind = 'login' AND expires_ms > ?2
                     RETURNING key",
                    params![digest.as_str(), now],
                    |row| row.get(0),
                )
                .optional()?)
        })
    }

    /// The session with a secret of this digest, unless it is over.
    ///
    /// # Errors
    /// A database failure.
    pub fn session(&self, digest: &Digest) -> Result<Option<Session>, StoreError> {
        let now = self.now_ms();
        self.read(|db| {
            Ok(db
                .prepare_cached(
                    "SELECT key, csrf FROM web_tokens
                     WHERE digest = ?1 AND kind = 'session' AND expires_ms > ?2",
                )?
                .query_row(params![digest.as_str(), now], |row| {
                    Ok(Session { key: row.get(0)?, csrf: row.get(1)? })
                })
                .optional()?)
        })
    }

    /// Ends a session.
    ///
    /// # Errors
    /// A database failure.
    pub fn end_session(&self, digest: &Digest) -> Result<(), StoreError> {
        let digest = digest.clone();
        self.writer().write(move |db| {
            db.execute("DELETE FROM web_tokens WHERE digest = ?1", [digest.as_str()])?;
            Ok(())
        })
    }
}
