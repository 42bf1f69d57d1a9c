use std::sync::Arc;
use std::time::Duration;

use evalign_core::{RunId, Tenant};
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::{Failure, StoreError};
use crate::lock::RunLock;
use crate::store::Store;

/// The right to write to a run. Clones are the same lease. When the last one is dropped without
/// [`Store::release`], the run can be leased again at once, as after a crash.
#[derive(Clone, Debug)]
pub struct Lease {
    run: RunId,
    seq: i64,
    token: u64,
    _lock: Option<Arc<RunLock>>,
}

impl Lease {
    #[must_use]
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// The fencing token: grows with every lease of the run.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// What the other tables call this run.
    pub(crate) fn seq(&self) -> i64 {
        self.seq
    }

    /// Fails unless this lease is the current one. To be called inside the transaction it protects.
    pub(crate) fn check(&self, db: &Connection) -> Result<(), Failure> {
        let current: Option<i64> = db
            .prepare_cached("SELECT lease_token FROM runs WHERE seq = ?1 AND lease_owner IS NOT NULL")?
            .query_row([self.seq], |row| row.get(0))
            .optional()?;
        if current.is_some_and(|token| u64::try_from(token) == Ok(self.token)) {
            Ok(())
        } else {
            Err(self.lost())
        }
    }

    pub(crate) fn lost(&self) -> Failure {
        StoreError::LeaseLost { run: self.run.clone() }.into()
    }
}

/// A run's lease as it stands in the database.
struct Held {
    seq: i64,
    token: i64,
    owner: Option<String>,
    locked: bool,
    until_ms: i64,
}

fn held(db: &Connection, run: &RunId, tenant: &Tenant) -> Result<Held, Failure> {
    db.query_row(
        "SELECT seq, lease_token, lease_owner, lease_locked, lease_until_ms FROM runs
         WHERE id = ?1 AND tenant = ?2",
        [run.as_str(), tenant.as_str()],
        |row| {
            Ok(Held {
                seq: row.get(0)?,
                token: row.get(1)?,
                owner: row.get(2)?,
                locked: row.get(3)?,
                until_ms: row.get(4)?,
            })
        },
    )
    .optional()?
    .ok_or_else(|| StoreError::NoSuchRun { wanted: run.to_string() }.into())
}

fn millis(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)
}

impl Store {
    /// Takes the lease of a run for `ttl`, if it is free, over, or its owner has died. `owner` is what
    /// others are told, for example `evalign eval (process 4711)`.
    ///
    /// # Errors
    /// [`StoreError::LeaseHeld`] while a living owner has it, [`StoreError::NoSuchRun`], or a database
    /// failure.
    pub fn lease(&self, run: &RunId, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let lock = RunLock::try_take(self.path(), run);
        let locked = lock.is_some();
        let (id, owner, now) = (run.clone(), owner.to_owned(), self.now_ms());
        let tenant = self.tenant().clone();
        let (seq, token) = self.writer().write(move |db| {
            let before = held(db, &id, &tenant)?;
            // The owner held the lock file and this process now does: the owner is gone.
            let owner_died = before.locked && locked;
            if let Some(owner) = before.owner
                && before.until_ms > now
                && !owner_died
            {
                let left = u64::try_from(before.until_ms - now).unwrap_or(0);
                return Err(
                    StoreError::LeaseHeld { run: id, owner, seconds_left: left.div_ceil(1000) }.into()
                );
            }
            let token = before.token + 1;
            db.execute(
                "UPDATE runs SET lease_token = ?2, lease_owner = ?3, lease_locked = ?4, lease_until_ms = ?5
                 WHERE seq = ?1",
                params![before.seq, token, owner, locked, now.saturating_add(millis(ttl))],
            )?;
            Ok((before.seq, token))
        })?;
        let token = u64::try_from(token).unwrap_or(0);
        Ok(Lease { run: run.clone(), seq, token, _lock: lock.map(Arc::new) })
    }

    /// Extends a lease to `ttl` from now. An overdue lease that nobody has taken is still good.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] once somebody else has it.
    pub fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        let (lease, until) = (lease.clone(), self.now_ms().saturating_add(millis(ttl)));
        self.writer().write(move |db| {
            lease.check(db)?;
            db.execute("UPDATE runs SET lease_until_ms = ?2 WHERE seq = ?1", params![lease.seq, until])?;
            Ok(())
        })
    }

    /// Gives the run back. Writes submitted before are committed first; later ones are refused.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if it was no longer held.
    pub fn release(&self, lease: Lease) -> Result<(), StoreError> {
        self.writer().write(move |db| {
            lease.check(db)?;
            db.execute(
                "UPDATE runs SET lease_owner = NULL, lease_locked = 0, lease_until_ms = 0 WHERE seq = ?1",
                [lease.seq],
            )?;
            Ok(())
        })
    }
}
