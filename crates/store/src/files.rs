use evalign_core::{Digest, Tenant};
use rusqlite::{OptionalExtension, Row, params};

use crate::error::{Failure, StoreError};
use crate::runs::{signed, unsigned};
use crate::store::Store;

/// An uploaded file of a tenant. Its bytes lie beside the database, under the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// `file_` and hexadecimal digits.
    pub id: String,
    pub name: String,
    /// What it is for: `dataset`, `preferences`, `documents`.
    pub purpose: String,
    pub bytes: u64,
    pub digest: Digest,
    /// Unix time in milliseconds; set by the store.
    pub created_ms: u64,
}

const COLUMNS: &str = "id, name, purpose, bytes, digest, created_ms";

impl Store {
    /// Records a file whose bytes are in place.
    ///
    /// # Errors
    /// A database failure.
    pub fn add_file(&self, file: &StoredFile) -> Result<(), StoreError> {
        let (file, now, tenant) = (file.clone(), self.now_ms(), self.tenant().clone());
        let bytes = signed(file.bytes, "bytes", || format!("file {}", file.id))?;
        self.writer().write(move |db| {
            db.execute(
                "INSERT INTO files (id, tenant, name, purpose, bytes, digest, created_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![file.id, tenant.as_str(), file.name, file.purpose, bytes, file.digest.as_str(), now],
            )?;
            Ok(())
        })
    }

    /// A file of this tenant.
    ///
    /// # Errors
    /// A database failure.
    pub fn file(&self, id: &str) -> Result<Option<StoredFile>, StoreError> {
        self.read(|db| {
            let sql = format!("SELECT {COLUMNS} FROM files WHERE id = ?1 AND tenant = ?2");
            let ids = [id, self.tenant().as_str()];
            db.prepare_cached(&sql)?.query_row(ids, |row| Ok(stored_file(row))).optional()?.transpose()
        })
    }

    /// A page of this tenant's files, newest first: those uploaded before the file `after` (all, where that
    /// is none of its files).
    ///
    /// # Errors
    /// A database failure.
    pub fn files_after(&self, after: Option<&str>, limit: u32) -> Result<Vec<StoredFile>, StoreError> {
        self.read(|db| {
            let sql = format!(
                "SELECT {COLUMNS} FROM files WHERE tenant = ?1 AND seq < coalesce(
                   (SELECT seq FROM files WHERE id = ?2 AND tenant = ?1), 9223372036854775807)
                 ORDER BY seq DESC LIMIT ?3"
            );
            let mut query = db.prepare_cached(&sql)?;
            let mut rows = query.query(params![self.tenant().as_str(), after, limit])?;
            let mut files = Vec::new();
            while let Some(row) = rows.next()? {
                files.push(stored_file(row)?);
            }
            Ok(files)
        })
    }

    /// Bytes of all files of this tenant, and of what else it keeps ([`Store::keep_bytes`]), together.
    ///
    /// # Errors
    /// A database failure.
    pub fn file_bytes(&self) -> Result<u64, StoreError> {
        self.read(|db| {
            let sum: i64 = db
                .prepare_cached(
                    "SELECT (SELECT coalesce(sum(bytes), 0) FROM files WHERE tenant = ?1)
                          + (SELECT coalesce(sum(bytes), 0) FROM kept_bytes WHERE tenant = ?1)",
                )?
                .query_row([self.tenant().as_str()], |row| row.get(0))?;
            Ok(unsigned(sum))
        })
    }

    /// Notes how many bytes something of this tenant takes that is no uploaded file, instead of what was noted before;
    /// 0 forgets it.
    ///
    /// # Errors
    /// A database failure.
    pub fn keep_bytes(&self, what: &str, bytes: u64) -> Result<(), StoreError> {
        let (what, tenant) = (what.to_owned(), self.tenant().clone());
        let bytes = signed(bytes, "bytes", || what.clone())?;
        self.writer().write(move |db| {
            db.prepare_cached("INSERT OR REPLACE INTO kept_bytes (tenant, what, bytes) VALUES (?1, ?2, ?3)")?
                .execute(params![tenant.as_str(), what, bytes])?;
            db.prepare_cached("DELETE FROM kept_bytes WHERE bytes = 0")?.execute([])?;
            Ok(())
        })
    }

    /// The bytes that were last noted of something ([`Store::keep_bytes`]); `None` where nothing is.
    ///
    /// # Errors
    /// A database failure.
    pub fn kept_bytes(&self, what: &str) -> Result<Option<u64>, StoreError> {
        self.read(|db| {
            let sql = "SELECT bytes FROM kept_bytes WHERE tenant = ?1 AND what = ?2";
            let ids = [self.tenant().as_str(), what];
            let bytes: Option<i64> = db.prepare_cached(sql)?.query_row(ids, |row| row.get(0)).optional()?;
            Ok(bytes.map(unsigned))
        })
    }

    /// Forgets a file of this tenant; `false` where there is none of this id. Its bytes are the caller's to
    /// remove.
    ///
    /// # Errors
    /// A database failure.
    pub fn remove_file(&self, id: &str) -> Result<bool, StoreError> {
        let (id, tenant): (_, Tenant) = (id.to_owned(), self.tenant().clone());
        self.writer().write(move |db| {
            Ok(db.execute("DELETE FROM files WHERE id = ?1 AND tenant = ?2", [&id, tenant.as_str()])? > 0)
        })
    }
}

fn stored_file(row: &Row<'_>) -> Result<StoredFile, Failure> {
    let id: String = row.get("id")?;
    let digest: String = row.get("digest")?;
    let unreadable =
        || StoreError::Record { what: format!("file {id}"), detail: format!("`{digest}` is not a digest") };
    Ok(StoredFile {
        name: row.get("name")?,
        purpose: row.get("purpose")?,
        bytes: unsigned(row.get("bytes")?),
        digest: Digest::parse(&digest).ok_or_else(unreadable)?,
        created_ms: unsigned(row.get("created_ms")?),
        id,
    })
}
