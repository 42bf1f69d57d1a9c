use evalign_core::{Digest, RunId, RunSpec, RunStatus, ScoredBy, Seconds, Spent, Tenant, Usage};
use rusqlite::{Connection, OptionalExtension, Row, Rows, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Failure, StoreError};
use crate::events;
use crate::idempotency;
use crate::lease::Lease;
use crate::shown::SHOWN;
use crate::store::Store;

/// A run to be created.
#[derive(Clone, Debug)]
pub struct NewRun {
    pub spec: RunSpec,
    /// The request it came from, kept so that the run can be resumed and understood later.
    pub request: Value,
    /// Samples the run has when it is complete.
    pub samples_total: u64,
    /// Creates a second run of a spec that already has one.
    pub fork: bool,
}

/// What [`Store::create_run`] made or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedRun {
    pub id: RunId,
    pub status: RunStatus,
    /// The spec had a run already, and this is it.
    pub existed: bool,
}

/// A run as stored. Times are Unix times in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRun {
    pub id: RunId,
    pub spec: RunSpec,
    pub spec_digest: Digest,
    pub fork: bool,
    pub request: Value,
    pub status: RunStatus,
    pub samples_total: u64,
    pub samples_done: u64,
    /// Sum over all committed samples.
    pub usage: Usage,
    /// What all sessions spent on a server. Samples that were asked again count as often as they were asked,
    /// and answers from the cache not at all. Of a session that was killed, what its samples took, and what
    /// it last noted ([`Store::note_spent`]).
    pub spent: Spent,
    /// Sum over all sessions that worked on the run.
    pub seconds: Seconds,
    /// Aggregated from exactly the samples and scores that are stored; absent where there are later ones.
    pub results: Option<Value>,
    /// What the stored scores come from, where that is no longer the spec.
    pub scored_by: Option<ScoredBy>,
    pub created_ms: u64,
    pub updated_ms: u64,
}

const COLUMNS: &str = "id, spec_digest, fork, spec, request, status, samples_total, samples_done, \
     prompt_tokens, computed_tokens, generated_tokens, cached_tokens, reasoning_tokens, \
     max(requests, noted_requests) AS requests, max(paid_tokens, noted_tokens) AS paid_tokens, \
     max(cost_usd, noted_usd) AS cost_usd, \
     load_seconds, prefill_seconds, decode_seconds, total_seconds, results, scored_by, created_ms, \
     updated_ms";

impl Store {
    /// Creates a run, or finds the one that already has this spec: equal specs are the same run, so
    /// that starting the same evaluation twice, or twice at once, gives one run. A fork is always new
    /// and never found this way, but by the repetition of the request that made it ([`Store::for_request`]).
    ///
    /// # Errors
    /// A database failure.
    pub fn create_run(&self, new: &NewRun) -> Result<CreatedRun, StoreError> {
        let id = RunId::new();
        let what = || format!("run {id}");
        let spec = json(&new.spec, what)?;
        let request = new.request.to_string();
        let digest = new.spec.digest();
        let total = signed(new.samples_total, "samples_total", what)?;
        let (fork, now, tenant) = (new.fork, self.now_ms(), self.tenant().clone());
        let (status, asked) = (RunStatus::Queued, self.request_key().cloned());
        self.writer().write(move |db| {
            if let Some(asked) = &asked
                && let Some((id, status)) = idempotency::run_of(db, &tenant, asked, &digest)?
            {
                return Ok(CreatedRun { id, status, existed: true });
            }
            if !fork && let Some((id, status)) = by_spec(db, &digest, &tenant)? {
                return Ok(CreatedRun { id, status, existed: true });
            }
            db.execute(
                "INSERT INTO runs (id, spec_digest, fork, spec, request, status, samples_total, created_ms, updated_ms,
                 tenant) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9)",
                params![
                    id.as_str(),
                    digest.as_str(),
                    fork,
                    spec,
                    request,
                    status.name(),
                    total,
                    now,
                    tenant.as_str()
                ],
            )?;
            let body = json!({"run": id, "samples": total});
            events::append(db, db.last_insert_rowid(), "run.created", &body, now)?;
            if let Some(asked) = &asked {
                idempotency::note_run(db, &tenant, asked, &id)?;
            }
            Ok(CreatedRun { id, status, existed: false })
        })
    }

    /// One run.
    ///
    /// # Errors
    /// [`StoreError::NoSuchRun`], a database failure, or a record that cannot be read.
    pub fn run(&self, id: &RunId) -> Result<StoredRun, StoreError> {
        self.read(|db| {
            let sql = format!("SELECT {COLUMNS} FROM runs WHERE id = ?1 AND tenant = ?2");
            let ids = [id.as_str(), self.tenant().as_str()];
            let raw = db.prepare_cached(&sql)?.query_row(ids, |row| Ok(stored_run(row))).optional()?;
            raw.unwrap_or_else(|| Err(StoreError::NoSuchRun { wanted: id.to_string() }.into()))
        })
    }

    /// Whose run it is, whoever asks; `None` where there is none of this id.
    ///
    /// # Errors
    /// A database failure, or a record that cannot be read.
    pub fn tenant_of(&self, id: &RunId) -> Result<Option<Tenant>, StoreError> {
        self.read(|db| {
            let sql = "SELECT tenant FROM runs WHERE id = ?1 AND tenant <> ?2";
            let found: Option<String> =
                db.prepare_cached(sql)?.query_row([id.as_str(), NOBODY], |row| row.get(0)).optional()?;
            let unreadable = |detail| unreadable(format!("run {id}"), detail);
            Ok(found.map(|name| name.parse().map_err(unreadable)).transpose()?)
        })
    }

    /// The newest runs, newest first.
    ///
    /// # Errors
    /// A database failure, or a record that cannot be read.
    pub fn runs(&self, limit: u32) -> Result<Vec<StoredRun>, StoreError> {
        self.runs_after(None, limit, None)
    }

    /// A page of runs, newest first: those created before the run `after`, of this status as [`Store::status_name`] has it.
    ///
    /// # Errors
    /// [`StoreError::NoSuchRun`] for `after`, a database failure, or a record that cannot be read.
    pub fn runs_after(
        &self,
        after: Option<&RunId>,
        limit: u32,
        status: Option<&str>,
    ) -> Result<Vec<StoredRun>, StoreError> {
        let now = self.now_ms();
        self.read(|db| {
            let before = match after {
                Some(id) => run_seq(db, id, self.tenant())?,
                None => i64::MAX,
            };
            let mut query = db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM runs WHERE tenant = ?2 AND seq < ?3 AND (?4 IS NULL OR {SHOWN} = ?4)
                 ORDER BY seq DESC LIMIT ?5"
            ))?;
            stored_runs(query.query(params![now, self.tenant().as_str(), before, status, limit])?)
        })
    }

    /// The runs whose request has this text in this field, newest first. Reads all runs of the tenant; of `procedure`
    /// see [`Store::runs_of_procedure`].
    ///
    /// # Errors
    /// A database failure, or a record that cannot be read.
    pub fn runs_asked_for(&self, field: &str, text: &str) -> Result<Vec<StoredRun>, StoreError> {
        self.read(|db| {
            let mut query = db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM runs WHERE tenant = ?1 AND request ->> ?2 = ?3 ORDER BY seq DESC"
            ))?;
            stored_runs(query.query(params![self.tenant().as_str(), field, text])?)
        })
    }

    /// A page of the runs whose request has this `procedure`, newest first: those created before the run `after`, of this
    /// status.
    ///
    /// # Errors
    /// [`StoreError::NoSuchRun`] for `after`, a database failure, or a record that cannot be read.
    pub fn runs_of_procedure(
        &self,
        procedure: &str,
        after: Option<&RunId>,
        limit: u32,
        status: Option<RunStatus>,
    ) -> Result<Vec<StoredRun>, StoreError> {
        self.read(|db| {
            let before = after.map_or(Ok(i64::MAX), |id| run_seq(db, id, self.tenant()))?;
            // The words of the index: otherwise it is not used.
            let mut query = db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM runs INDEXED BY runs_by_procedure
                 WHERE tenant = ?1 AND request ->> 'procedure' = ?2 AND request ->> 'procedure' IS NOT NULL
                   AND seq < ?3 AND (?4 IS NULL OR status = ?4)
                 ORDER BY seq DESC LIMIT ?5"
            ))?;
            let status = status.map(RunStatus::name);
            stored_runs(query.query(params![self.tenant().as_str(), procedure, before, status, limit])?)
        })
    }

    /// The run a person means: a full id, the beginning of one (with or without `run_`), or `last` for
    /// the newest.
    ///
    /// # Errors
    /// [`StoreError::NoSuchRun`], [`StoreError::AmbiguousRun`], or a database failure.
    pub fn find_run(&self, wanted: &str) -> Result<RunId, StoreError> {
        let digits = wanted.strip_prefix("run_").unwrap_or(wanted).to_ascii_lowercase();
        let none = || StoreError::NoSuchRun { wanted: wanted.to_owned() };
        let tenant = self.tenant().as_str();
        let found = self.read(|db| {
            if wanted == "last" {
                return ids(db, "SELECT id FROM runs WHERE tenant = ?1 ORDER BY seq DESC LIMIT 1", &[tenant]);
            }
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(none().into());
            }
            let pattern = format!("run_{digits}*");
            ids(db, "SELECT id FROM runs WHERE tenant = ?1 AND id GLOB ?2 ORDER BY id", &[tenant, &pattern])
        })?;
        match found.as_slice() {
            [] => Err(none()),
            [one] => Ok(one.clone()),
            many => {
                many.iter().find(|id| id.as_str() == wanted).cloned().ok_or_else(|| {
                    StoreError::AmbiguousRun { wanted: wanted.to_owned(), matches: many.len() }
                })
            }
        }
    }

    /// Sets a run's status. A run that is running again has no results until they are saved anew.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or a database failure.
    pub fn set_status(&self, lease: &Lease, status: RunStatus) -> Result<(), StoreError> {
        let (lease, now) = (lease.clone(), self.now_ms());
        self.writer().write(move |db| {
            lease.check(db)?;
            db.execute("UPDATE runs SET status = ?2 WHERE seq = ?1", params![lease.seq(), status.name()])?;
            if status == RunStatus::Running {
                clear_results(db, lease.seq())?;
            }
            events::append(db, lease.seq(), "run.status", &json!({"status": status}), now)
        })
    }

    /// Adds the time of one session. (Tokens are added sample by sample, with each commit.)
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or a database failure.
    pub fn add_session(&self, lease: &Lease, seconds: Seconds) -> Result<(), StoreError> {
        let lease = lease.clone();
        self.writer().write(move |db| {
            lease.check(db)?;
            db.execute(
                "UPDATE runs SET load_seconds = load_seconds + ?2, prefill_seconds = prefill_seconds + ?3,
                 decode_seconds = decode_seconds + ?4, total_seconds = total_seconds + ?5 WHERE seq = ?1",
                params![lease.seq(), seconds.load, seconds.prefill, seconds.decode, seconds.total],
            )?;
            Ok(())
        })
    }

    /// Notes what was spent on the run in all, earlier sessions included. Samples add what they took as they
    /// are committed; this is also about requests that became no sample. What is known to be spent never
    /// gets less.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], [`StoreError::Record`] for an amount that is no number, or a database failure.
    pub fn note_spent(&self, lease: &Lease, spent: Spent) -> Result<(), StoreError> {
        if !spent.usd.is_finite() {
            return Err(unreadable(format!("run {}", lease.run()), format!("cost is {}", spent.usd)));
        }
        let lease = lease.clone();
        // More than any account holds.
        let most = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (requests, tokens) = (most(spent.requests), most(spent.tokens));
        self.writer().write(move |db| {
            lease.check(db)?;
            db.prepare_cached(
                "UPDATE runs SET noted_requests = max(noted_requests, ?2), noted_tokens = max(noted_tokens, ?3),
                 noted_usd = max(noted_usd, ?4) WHERE seq = ?1",
            )?
            .execute(params![lease.seq(), requests, tokens, spent.usd])?;
            Ok(())
        })
    }

    /// Keeps the aggregated results, replacing earlier ones. They stay until a sample is added or scored
    /// again, or the run goes on: results are never older than what they were computed from.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or a database failure.
    pub fn save_results(&self, lease: &Lease, results: &Value) -> Result<(), StoreError> {
        let (lease, text, now) = (lease.clone(), results.to_string(), self.now_ms());
        self.writer().write(move |db| {
            lease.check(db)?;
            db.execute("UPDATE runs SET results = ?2 WHERE seq = ?1", params![lease.seq(), text])?;
            events::append(db, lease.seq(), "run.results", &json!({}), now)
        })
    }

    /// Removes a run with everything about it. Its id and its number stay taken, so that whoever still thinks to work on
    /// it can do nothing to another.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or a database failure.
    pub fn remove_run(&self, lease: Lease) -> Result<(), StoreError> {
        self.writer().write(move |db| {
            lease.check(db)?;
            for table in ["samples", "events"] {
                db.execute(&format!("DELETE FROM {table} WHERE run = ?1"), [lease.seq()])?;
            }
            let run: String = db.query_row(
                "UPDATE runs SET tenant = ?2, fork = 1, spec = '{}', request = '{}', results = NULL, scored_by = NULL,
                 lease_token = lease_token + 1, lease_owner = NULL WHERE seq = ?1 RETURNING id",
                params![lease.seq(), NOBODY],
                |row| row.get(0),
            )?;
            db.execute("DELETE FROM jobs WHERE run = ?1", [run])?;
            Ok(())
        })
    }
}

/// The tenant of runs that were removed: no name of one.
const NOBODY: &str = "";

/// To be called inside the transaction that makes the results out of date.
pub(crate) fn clear_results(db: &Connection, run_seq: i64) -> Result<(), Failure> {
    db.prepare_cached("UPDATE runs SET results = NULL WHERE seq = ?1 AND results IS NOT NULL")?
        .execute([run_seq])?;
    Ok(())
}

/// What the other tables call a run.
pub(crate) fn run_seq(db: &Connection, id: &RunId, tenant: &Tenant) -> Result<i64, Failure> {
    db.prepare_cached("SELECT seq FROM runs WHERE id = ?1 AND tenant = ?2")?
        .query_row([id.as_str(), tenant.as_str()], |row| row.get(0))
        .optional()?
        .ok_or_else(|| StoreError::NoSuchRun { wanted: id.to_string() }.into())
}

fn by_spec(db: &Connection, digest: &Digest, tenant: &Tenant) -> Result<Option<(RunId, RunStatus)>, Failure> {
    let found: Option<(String, String)> = db
        .query_row(
            "SELECT id, status FROM runs WHERE spec_digest = ?1 AND tenant = ?2 AND fork = 0",
            [digest.as_str(), tenant.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    found.map(|(id, status)| Ok((run_id(&id)?, run_status(&status)?))).transpose()
}

fn ids(db: &Connection, sql: &str, values: &[&str]) -> Result<Vec<RunId>, Failure> {
    let mut query = db.prepare_cached(sql)?;
    let mut rows = query.query(rusqlite::params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(run_id(&row.get::<_, String>(0)?)?);
    }
    Ok(found)
}

fn stored_runs(mut rows: Rows<'_>) -> Result<Vec<StoredRun>, Failure> {
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        runs.push(stored_run(row)?);
    }
    Ok(runs)
}

fn stored_run(row: &Row<'_>) -> Result<StoredRun, Failure> {
    let text = |column: &str| row.get::<_, String>(column);
    let number = |column: &str| row.get::<_, i64>(column).map(unsigned);
    let id = run_id(&text("id")?)?;
    let what = || format!("run {id}");
    let digest = text("spec_digest")?;
    let results: Option<String> = row.get("results")?;
    let scored_by: Option<String> = row.get("scored_by")?;
    Ok(StoredRun {
        spec: parse(&text("spec")?, what)?,
        spec_digest: Digest::parse(&digest)
            .ok_or_else(|| unreadable(what(), format!("`{digest}` is not a digest")))?,
        fork: row.get("fork")?,
        request: parse(&text("request")?, what)?,
        status: run_status(&text("status")?)?,
        samples_total: number("samples_total")?,
        samples_done: number("samples_done")?,
        usage: Usage {
            prompt_tokens: number("prompt_tokens")?,
            computed_prompt_tokens: number("computed_tokens")?,
            generated_tokens: number("generated_tokens")?,
            cached_prompt_tokens: number("cached_tokens")?,
            reasoning_tokens: number("reasoning_tokens")?,
        },
        spent: Spent {
            requests: number("requests")?,
            tokens: number("paid_tokens")?,
            usd: row.get("cost_usd")?,
        },
        seconds: Seconds {
            load: row.get("load_seconds")?,
            prefill: row.get("prefill_seconds")?,
            decode: row.get("decode_seconds")?,
            total: row.get("total_seconds")?,
        },
        results: results.map(|text| parse(&text, what)).transpose()?,
        scored_by: scored_by.map(|text| parse(&text, what)).transpose()?,
        created_ms: number("created_ms")?,
        updated_ms: number("updated_ms")?,
        id,
    })
}

pub(crate) fn run_id(text: &str) -> Result<RunId, StoreError> {
    text.parse().map_err(|detail| unreadable("stored run".to_owned(), detail))
}

pub(crate) fn run_status(text: &str) -> Result<RunStatus, StoreError> {
    RunStatus::parse(text)
        .ok_or_else(|| unreadable("stored run".to_owned(), format!("`{text}` is not a run status")))
}

fn unreadable(what: String, detail: String) -> StoreError {
    StoreError::Record { what, detail }
}

/// A value as JSON text.
pub(crate) fn json(value: &impl Serialize, what: impl Fn() -> String) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| unreadable(what(), error.to_string()))
}

/// JSON text that this crate wrote.
pub(crate) fn parse<T: DeserializeOwned>(text: &str, what: impl Fn() -> String) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| unreadable(what(), error.to_string()).into())
}

/// SQLite's integers are signed; counts and indices never are.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(crate) fn signed(value: u64, field: &str, what: impl Fn() -> String) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| unreadable(what(), format!("{field} {value} is too large")))
}
