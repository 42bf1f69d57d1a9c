use std::time::Duration;

use evalign_core::Tenant;
use rusqlite::params;

use crate::error::StoreError;
use crate::store::Store;

/// The state of a store as a whole: while two of them are equal, nothing was committed in between, by nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(i64);

/// Which runs of a tenant are completed, and how much has happened to them: while two of them are equal, what is
/// computed from completed runs alone is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletedRuns {
    count: i64,
    /// Sums over the runs. Neither a run's number nor its count of events ever gets less.
    numbers: i64,
    events: i64,
}

impl Store {
    /// The state of the store now. Costs microseconds, and never waits for another process: where that holds the
    /// database for itself it is an error, and the caller has to read.
    ///
    /// # Errors
    /// A database failure, "busy" included.
    pub fn version(&self) -> Result<Version, StoreError> {
        self.watch(|db| {
            db.busy_timeout(Duration::ZERO)?;
            // Counts commits of other connections than the asking one, which makes none
            // (<https://www.sqlite.org/pragma.html#pragma_data_version>).
            let version = db.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
            Ok(Version(version))
        })
    }

    /// The tenant's completed runs now.
    ///
    /// # Errors
    /// A database failure.
    pub fn completed_runs(&self) -> Result<CompletedRuns, StoreError> {
        let tenant: &Tenant = self.tenant();
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT count(*), coalesce(sum(seq), 0), coalesce(sum(last_event), 0) FROM runs
                 WHERE tenant = ?1 AND status = 'completed'",
            )?;
            let state = query.query_row(params![tenant.as_str()], |row| {
                Ok(CompletedRuns { count: row.get(0)?, numbers: row.get(1)?, events: row.get(2)? })
            })?;
            Ok(state)
        })
    }
}
