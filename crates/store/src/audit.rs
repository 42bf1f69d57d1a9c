use rusqlite::params;

use crate::error::StoreError;
use crate::runs::unsigned;
use crate::store::Store;

/// Something a client changed, or was refused. Never holds a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct AuditEntry {
    /// Its place in the log; set by the store.
    pub number: u64,
    /// Unix time in milliseconds; set by the store.
    pub at_ms: u64,
    /// Absent where nobody was recognised.
    pub tenant: Option<String>,
    /// Id of the key.
    pub key: Option<String>,
    /// `POST /v1/runs`.
    pub action: String,
    /// The id of what it was about, or the path.
    pub target: String,
    /// `202`, `401`.
    pub outcome: String,
    pub address: String,
    pub request_id: String,
}

impl Store {
    /// Writes an entry without waiting for the disk. A failure is logged: what it is about has happened.
    pub fn audit(&self, entry: AuditEntry) {
        let now = self.now_ms();
        drop(self.writer().submit(move |db, _| {
            let written = db
                .prepare_cached(
                    "INSERT INTO audit (at_ms, tenant, key, action, target, outcome, address, request_id)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    now,
                    entry.tenant,
                    entry.key,
                    entry.action,
                    entry.target,
                    entry.outcome,
                    entry.address,
                    entry.request_id
                ]);
            if let Err(error) = &written {
                tracing::error!(%error, action = entry.action, "not written to the audit log");
            }
            Ok(written.map(drop)?)
        }));
    }

    /// A page of the entries about this tenant or about nobody that was recognised, newest first: those with numbers
    /// below `before`.
    ///
    /// # Errors
    /// A database failure.
    pub fn audit_entries(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let before = before.map_or(i64::MAX, |number| i64::try_from(number).unwrap_or(i64::MAX));
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT at_ms, tenant, key, action, target, outcome, address, request_id, seq FROM audit
                 WHERE (tenant IS NULL OR tenant = ?2) AND seq < ?3 ORDER BY seq DESC LIMIT ?1",
            )?;
            let rows = query.query_map(params![limit, self.tenant().as_str(), before], |row| {
                Ok(AuditEntry {
                    number: unsigned(row.get(8)?),
                    at_ms: unsigned(row.get(0)?),
                    tenant: row.get(1)?,
                    key: row.get(2)?,
                    action: row.get(3)?,
                    target: row.get(4)?,
                    outcome: row.get(5)?,
                    address: row.get(6)?,
                    request_id: row.get(7)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}
