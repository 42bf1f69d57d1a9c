//! What people are told a run's status is, by one rule: on the command line, over REST, in lists and what filters them.
//!
//! A run stores what its last session came to. One that waits to go on (again), or that somebody works on, says so
//! instead, whatever it came to before; and one that stopped without a word was interrupted.

use evalign_core::{RunId, RunStatus};
use rusqlite::OptionalExtension;

use crate::error::StoreError;
use crate::store::Store;

/// A run that was going on when its process ended. It can go on.
pub const INTERRUPTED: &str = "interrupted";

/// The rule, about a row of `runs`; `?1` is the time now. What is stored last of a run that is worked on is the end of its
/// job: before that its results may still be computed, and it cannot go on. A job whose worker's time is over is nobody's.
pub(crate) const SHOWN: &str = "coalesce(
    (SELECT state FROM jobs WHERE jobs.run = runs.id AND state IN ('queued', 'running')
        AND (state = 'queued' OR jobs.lease_until_ms > ?1)),
    CASE WHEN runs.status = 'running' AND (runs.lease_owner IS NULL OR runs.lease_until_ms <= ?1)
        THEN 'interrupted' ELSE runs.status END)";

/// The status of this name that a run may be shown with: those of [`RunStatus`], and [`INTERRUPTED`].
#[must_use]
pub fn shown_status(name: &str) -> Option<&'static str> {
    RunStatus::parse(name).map(RunStatus::name).or((name == INTERRUPTED).then_some(INTERRUPTED))
}

impl Store {
    /// What people are told a run's status is: `queued` or `running` where it waits to go on or is worked on,
    /// [`INTERRUPTED`] where it is recorded as running and nobody works on it (the lease of an owner that was killed
    /// counts until its term is over), else what it came to.
    ///
    /// # Errors
    /// [`StoreError::NoSuchRun`], or a database failure.
    pub fn status_name(&self, run: &RunId) -> Result<&'static str, StoreError> {
        let now = self.now_ms();
        let name: Option<String> = self.read(|db| {
            let sql = format!("SELECT {SHOWN} FROM runs WHERE id = ?2 AND tenant = ?3");
            let mut query = db.prepare_cached(&sql)?;
            let ids = (now, run.as_str(), self.tenant().as_str());
            Ok(query.query_row(ids, |row| row.get(0)).optional()?)
        })?;
        let name = name.ok_or_else(|| StoreError::NoSuchRun { wanted: run.to_string() })?;
        shown_status(&name).ok_or_else(|| StoreError::Record {
            what: format!("run {run}"),
            detail: format!("`{name}` is not a run status"),
        })
    }
}
