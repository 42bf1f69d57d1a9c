use evalign_core::{Digest, Response};
use rusqlite::{OptionalExtension, params};

use crate::error::{Failure, StoreError};
use crate::store::Store;

impl Store {
    /// The response kept under this key.
    ///
    /// # Errors
    /// A database failure, or an entry that cannot be read.
    pub fn cache_get(&self, key: &Digest) -> Result<Option<Response>, StoreError> {
        self.read(|db| {
            let found: Option<String> = db
                .prepare_cached("SELECT response FROM cache WHERE key = ?1")?
                .query_row([key.as_str()], |row| row.get(0))
                .optional()?;
            found.map(|text| crate::runs::parse(&text, || format!("cached response {key}"))).transpose()
        })
    }

    /// The responses kept under these keys, in their order: one view of the store, and faster than one by
    /// one.
    ///
    /// # Errors
    /// As [`Store::cache_get`].
    pub fn cache_get_all(&self, keys: &[Digest]) -> Result<Vec<Option<Response>>, StoreError> {
        self.read(|db| {
            let view = db.unchecked_transaction()?;
            let mut query = view.prepare_cached("SELECT response FROM cache WHERE key = ?1")?;
            let mut found = Vec::with_capacity(keys.len());
            for key in keys {
                let text: Option<String> = query.query_row([key.as_str()], |row| row.get(0)).optional()?;
                let response =
                    text.map(|text| crate::runs::parse(&text, || format!("cached response {key}")));
                found.push(response.transpose()?);
            }
            Ok(found)
        })
    }

    /// Keeps a response. Does not wait: the entry is committed with or before every write submitted
    /// later, so the sample that was scored from this response is never durable without it. The first
    /// response stays: a key stands for everything that determines the answer. A failure is logged
    /// only: the sample's own commit meets the same disk and reports it.
    ///
    /// # Errors
    /// [`StoreError::Record`] where the response cannot be written as JSON.
    pub fn cache_put(&self, key: &Digest, response: &Response) -> Result<(), StoreError> {
        let text = crate::runs::json(response, || format!("response {key}"))?;
        response
            .output
            .check_finite()
            .map_err(|detail| StoreError::Record { what: format!("response {key}"), detail })?;
        let (key, now) = (key.clone(), self.now_ms());
        drop(self.writer().submit(move |db, _| {
            let kept = db
                .prepare_cached(
                    "INSERT INTO cache (key, response, created_ms) VALUES (?1, ?2, ?3)
                     ON CONFLICT (key) DO NOTHING",
                )?
                .execute(params![key.as_str(), text, now]);
            if let Err(error) = &kept {
                tracing::warn!(%error, "response not cached");
            }
            kept.map(drop).map_err(Failure::from)
        }));
        Ok(())
    }
}
