use evalign_core::{Digest, RunId, SampleKey, Score};
use rusqlite::params;

use crate::error::StoreError;
use crate::runs::parse;
use crate::store::Store;

/// The scores of a stored sample without the rest of its record.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
pub struct SampleScores {
    pub key: SampleKey,
    pub doc_hash: Digest,
    pub scores: Vec<Score>,
}

impl Store {
    /// The scores of all stored samples of one task of a run, in (document, repeat) order: a small part
    /// of what [`Store::samples`] reads, at a fraction of its cost.
    ///
    /// # Errors
    /// A database failure, or a record that cannot be read.
    pub fn scores(&self, run: &RunId, task: &str) -> Result<Vec<SampleScores>, StoreError> {
        self.read(|db| {
            let mut query = db.prepare_cached(
                r#"SELECT s.record FROM samples s JOIN runs r ON r.seq = s.run
                   WHERE r.id = ?1 AND s.task = ?2 AND r.tenant = ?3 ORDER BY s.doc, s."repeat""#,
            )?;
            let mut rows = query.query(params![run.as_str(), task, self.tenant().as_str()])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let record: String = row.get(0)?;
                found.push(parse(&record, || format!("a sample of task {task}"))?);
            }
            Ok(found)
        })
    }
}
