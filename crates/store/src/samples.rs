use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use evalign_core::{Outcome, Output, RunId, SampleKey, SampleRecord, Score, ScoredBy};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::oneshot;

use crate::error::{Failure, StoreError};
use crate::events;
use crate::lease::Lease;
use crate::runs::{clear_results, json, parse, run_seq, signed, unsigned};
use crate::store::Store;
use crate::sums::Sums;

/// Records fetched at a time by [`Samples`].
const PAGE: u64 = 256;

/// A submitted sample. Resolves once it is on the disk; dropping it does not take the sample back.
#[derive(Debug)]
#[must_use = "a sample counts as finished only after its commit"]
pub struct Commit(oneshot::Receiver<Result<(), StoreError>>);

impl Future for Commit {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(StoreError::Stopped)))
    }
}

/// Which samples of a run to read. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleFilter {
    pub task: Option<String>,
    /// Samples with at least one score of this outcome.
    pub outcome: Option<Outcome>,
    /// Samples behind this one.
    pub after: Option<SampleKey>,
    pub limit: Option<u64>,
}

impl Store {
    /// Submits a finished sample: its record, scores, usage and event become durable together.
    ///
    /// The returned [`Commit`] fails with [`StoreError::LeaseLost`] where the lease is stale, with
    /// [`StoreError::Record`] where the sample is stored already or holds a number JSON cannot
    /// express, or with a database failure; nothing of the sample is stored then.
    pub fn commit_sample(&self, lease: &Lease, record: &SampleRecord) -> Commit {
        match Row::of(record) {
            Ok(row) => {
                let (lease, now) = (lease.clone(), self.now_ms());
                Commit(self.writer().submit(move |db, sums| row.insert(db, &lease, sums, now)))
            }
            Err(error) => {
                let (reply, answer) = oneshot::channel();
                drop(reply.send(Err(error)));
                Commit(answer)
            }
        }
    }

    /// Stores many samples in one transaction (all or none), for imports.
    ///
    /// # Errors
    /// As [`Store::commit_sample`].
    pub fn commit_samples(&self, lease: &Lease, records: &[SampleRecord]) -> Result<(), StoreError> {
        let rows: Vec<Row> = records.iter().map(Row::of).collect::<Result<_, _>>()?;
        let (lease, now) = (lease.clone(), self.now_ms());
        self.writer().write(move |db| {
            lease.check(db)?;
            let mut sums = Sums::default();
            rows.iter().try_for_each(|row| row.insert(db, &lease, &mut sums, now))?;
            sums.write(db)
        })
    }

    /// The keys of all stored samples of a run: what need not be asked again.
    ///
    /// # Errors
    /// A database failure.
    pub fn finished(&self, run: &RunId) -> Result<BTreeSet<SampleKey>, StoreError> {
        self.read(|db| {
            let mut query = db.prepare_cached(
                r#"SELECT s.task, s.doc, s."repeat" FROM samples s JOIN runs r ON r.seq = s.run
                   WHERE r.id = ?1 AND r.tenant = ?2"#,
            )?;
            let keys = query.query_map([run.as_str(), self.tenant().as_str()], |row| {
                Ok(SampleKey { task: row.get(0)?, doc: unsigned(row.get(1)?), repeat: row.get(2)? })
            })?;
            Ok(keys.collect::<Result<_, _>>()?)
        })
    }

    /// The samples of a run in (task, doc, repeat) order, read page by page: memory does not grow with
    /// the run. Samples committed meanwhile appear if they lie ahead.
    ///
    /// # Errors
    /// [`StoreError::NoSuchRun`] or a database failure, here or from the iterator.
    pub fn samples(&self, run: &RunId, filter: SampleFilter) -> Result<Samples, StoreError> {
        self.parts(run, filter)
    }

    /// [`Store::samples`], of each record only what `R` has of it: what is not read costs next to nothing.
    ///
    /// # Errors
    /// As [`Store::samples`].
    pub fn parts<R: DeserializeOwned>(
        &self,
        run: &RunId,
        filter: SampleFilter,
    ) -> Result<Samples<R>, StoreError> {
        let seq = self.run_seq(run)?;
        let left = filter.limit.unwrap_or(u64::MAX);
        Ok(Samples { store: self.clone(), seq, filter, left, page: VecDeque::new() })
    }

    /// One sample.
    ///
    /// # Errors
    /// [`StoreError::NoSuchRun`] or a database failure.
    pub fn sample(&self, run: &RunId, key: &SampleKey) -> Result<Option<SampleRecord>, StoreError> {
        let (seq, doc) = (self.run_seq(run)?, doc_index(key)?);
        self.read(|db| read_record(db, seq, key, doc))
    }

    /// Replaces the scores of stored samples and notes what all scores of the run now come from (`None`: its
    /// spec), in one transaction: a reader finds all of them old or all of them new.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], [`StoreError::Record`] where a sample is not stored or a score is
    /// not a finite number, or a database failure.
    pub fn replace_scores(
        &self,
        lease: &Lease,
        scores: Vec<(SampleKey, Vec<Score>)>,
        scored_by: Option<&ScoredBy>,
    ) -> Result<(), StoreError> {
        let (lease, now) = (lease.clone(), self.now_ms());
        let scored_by = scored_by.map(|rules| json(rules, || format!("run {}", lease.run()))).transpose()?;
        self.writer().write(move |db| {
            lease.check(db)?;
            let body = json!({"samples": scores.len()});
            for (key, scores) in scores {
                let doc = doc_index(&key)?;
                let missing =
                    || StoreError::Record { what: key.to_string(), detail: "not stored".to_owned() };
                let mut record = read_record(db, lease.seq(), &key, doc)?.ok_or_else(missing)?;
                record.scores = scores;
                Row::of(&record)?.update(db, lease.seq())?;
            }
            db.execute("UPDATE runs SET scored_by = ?2 WHERE seq = ?1", params![lease.seq(), scored_by])?;
            clear_results(db, lease.seq())?;
            events::append(db, lease.seq(), "scores.replaced", &body, now)
        })
    }

    /// Forgets the samples whose call failed, so that they are asked again: their number. What was
    /// spent on them stays spent.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or a database failure.
    pub fn reopen_failed(&self, lease: &Lease) -> Result<u64, StoreError> {
        let (lease, now) = (lease.clone(), self.now_ms());
        self.writer().write(move |db| {
            lease.check(db)?;
            let failed = db
                .prepare_cached("DELETE FROM samples WHERE run = ?1 AND outcomes & ?2 <> 0")?
                .execute(params![lease.seq(), bit(Outcome::Error)])?;
            if failed == 0 {
                return Ok(0);
            }
            db.prepare_cached("UPDATE runs SET samples_done = samples_done - ?2 WHERE seq = ?1")?
                .execute(params![lease.seq(), i64::try_from(failed).unwrap_or(i64::MAX)])?;
            clear_results(db, lease.seq())?;
            events::append(db, lease.seq(), "samples.reopened", &json!({"samples": failed}), now)?;
            Ok(failed as u64)
        })
    }

    /// How many samples of a run have a score of this outcome.
    ///
    /// # Errors
    /// [`StoreError::NoSuchRun`] or a database failure.
    pub fn count_samples(&self, run: &RunId, outcome: Outcome) -> Result<u64, StoreError> {
        let seq = self.run_seq(run)?;
        self.read(|db| {
            let count = db
                .prepare_cached("SELECT count(*) FROM samples WHERE run = ?1 AND outcomes & ?2 <> 0")?
                .query_row([seq, bit(outcome)], |row| row.get(0))?;
            Ok(unsigned(count))
        })
    }

    fn run_seq(&self, run: &RunId) -> Result<i64, StoreError> {
        self.read(|db| run_seq(db, run, self.tenant()))
    }
}

/// Iterates over stored samples, or parts of them; see [`Store::samples`].
#[derive(Debug)]
pub struct Samples<R = SampleRecord> {
    store: Store,
    seq: i64,
    filter: SampleFilter,
    /// Samples still to be returned under the filter's limit.
    left: u64,
    page: VecDeque<R>,
}

impl<R: DeserializeOwned> Samples<R> {
    fn fetch(&mut self) -> Result<(), StoreError> {
        let outcome = self.filter.outcome.map_or(0, bit);
        let (task, doc, repeat) = match &self.filter.after {
            Some(key) => (key.task.as_str(), doc_index(key)?, i64::from(key.repeat)),
            // Before every key: no index is negative.
            None => ("", -1, -1),
        };
        let limit = i64::try_from(self.left.min(PAGE)).unwrap_or(0);
        let (page, last) = self.store.read(|db| {
            let mut query = db.prepare_cached(
                r#"SELECT task, doc, "repeat", record FROM samples
                   WHERE run = ?1 AND (?2 IS NULL OR task = ?2) AND (?3 = 0 OR outcomes & ?3 <> 0)
                     AND (task, doc, "repeat") > (?4, ?5, ?6)
                   ORDER BY task, doc, "repeat" LIMIT ?7"#,
            )?;
            let mut rows =
                query.query(params![self.seq, self.filter.task, outcome, task, doc, repeat, limit])?;
            let (mut page, mut last) = (VecDeque::new(), None);
            while let Some(row) = rows.next()? {
                let what = || {
                    let task: String = row.get(0).unwrap_or_default();
                    format!("sample {task}[{}]", row.get::<_, i64>(1).unwrap_or_default())
                };
                page.push_back(parse::<R>(row.get_ref(3)?.as_str().map_err(as_sqlite)?, what)?);
                last = Some(SampleKey { task: row.get(0)?, doc: unsigned(row.get(1)?), repeat: row.get(2)? });
            }
            Ok((page, last))
        })?;
        self.left = if page.is_empty() { 0 } else { self.left - page.len() as u64 };
        if last.is_some() {
            self.filter.after = last;
        }
        self.page = page;
        Ok(())
    }
}

impl<R: DeserializeOwned> Iterator for Samples<R> {
    type Item = Result<R, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty()
            && self.left > 0
            && let Err(error) = self.fetch()
        {
            self.left = 0;
            return Some(Err(error));
        }
        self.page.pop_front().map(Ok)
    }
}

/// A sample as the table holds it, made on the caller's thread to keep the writer's short.
struct Row {
    key: SampleKey,
    doc: i64,
    outcomes: i64,
    record: String,
    /// As in the table of runs: prompt, computed, generated, cached, reasoning; requests, paid tokens.
    counts: [i64; 7],
    cost_usd: f64,
    /// The body of its event, as JSON.
    event: String,
}

/// What those who watch a run are told of a sample.
#[derive(Serialize)]
struct Completed<'a> {
    task: &'a str,
    doc: u64,
    repeat: u32,
    outcome: Option<&'a Outcome>,
}

impl Row {
    fn of(record: &SampleRecord) -> Result<Self, StoreError> {
        let what = || format!("sample {}", record.key);
        if let Some(output) = &record.output {
            check_finite(output, &record.scores)
                .map_err(|detail| StoreError::Record { what: what(), detail })?;
        }
        let mut outcomes: Vec<Outcome> = record.scores.iter().map(|score| score.outcome).collect();
        if outcomes.is_empty() {
            outcomes.push(if record.error.is_some() { Outcome::Error } else { Outcome::Unscored });
        }
        let SampleKey { task, doc, repeat } = &record.key;
        let count = |count: u64| signed(count, "count", what);
        let usage = &record.usage;
        if let Some(cost) = record.cost_usd.filter(|cost| !cost.is_finite()) {
            return Err(StoreError::Record { what: what(), detail: format!("cost is {cost}") });
        }
        Ok(Self {
            doc: doc_index(&record.key)?,
            outcomes: outcomes.iter().fold(0, |set, outcome| set | bit(*outcome)),
            record: json(record, what)?,
            counts: [
                count(usage.prompt_tokens)?,
                count(usage.computed_prompt_tokens)?,
                count(usage.generated_tokens)?,
                count(usage.cached_prompt_tokens)?,
                count(usage.reasoning_tokens)?,
                i64::from(record.requests),
                // An answer from the cache is not paid for again.
                if record.requests > 0 {
                    count(usage.prompt_tokens.saturating_add(usage.generated_tokens))?
                } else {
                    0
                },
            ],
            cost_usd: record.cost_usd.unwrap_or(0.0),
            event: json(&Completed { task, doc: *doc, repeat: *repeat, outcome: outcomes.first() }, what)?,
            key: record.key.clone(),
        })
    }

    /// What the run's row has to say of it is left in `sums`.
    fn insert(&self, db: &Connection, lease: &Lease, sums: &mut Sums, now_ms: i64) -> Result<(), Failure> {
        let event = sums.add(db, lease, &self.counts, self.cost_usd, now_ms)?;
        let run = lease.seq();
        let inserted = db
            .prepare_cached(
                r#"INSERT INTO samples (run, task, doc, "repeat", outcomes, record)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING"#,
            )?
            .execute(params![run, self.key.task, self.doc, self.key.repeat, self.outcomes, self.record])?;
        if inserted == 0 {
            return Err(StoreError::Record {
                what: format!("sample {}", self.key),
                detail: "already stored".to_owned(),
            }
            .into());
        }
        events::insert(db, run, event, "sample.completed", &self.event, now_ms)
    }

    fn update(&self, db: &Connection, run: i64) -> Result<(), Failure> {
        db.prepare_cached(
            r#"UPDATE samples SET outcomes = ?5, record = ?6
               WHERE run = ?1 AND task = ?2 AND doc = ?3 AND "repeat" = ?4"#,
        )?
        .execute(params![
            run,
            self.key.task,
            self.doc,
            self.key.repeat,
            self.outcomes,
            self.record
        ])?;
        Ok(())
    }
}

fn read_record(
    db: &Connection,
    run: i64,
    key: &SampleKey,
    doc: i64,
) -> Result<Option<SampleRecord>, Failure> {
    let text: Option<String> = db
        .prepare_cached(
            r#"SELECT record FROM samples WHERE run = ?1 AND task = ?2 AND doc = ?3 AND "repeat" = ?4"#,
        )?
        .query_row(params![run, key.task, doc, key.repeat], |row| row.get(0))
        .optional()?;
    text.map(|text| parse(&text, || format!("sample {key}"))).transpose()
}

fn doc_index(key: &SampleKey) -> Result<i64, StoreError> {
    signed(key.doc, "document index", || format!("sample {}", key.task))
}

fn as_sqlite(error: rusqlite::types::FromSqlError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(error))
}

/// Place of an outcome in the `outcomes` bit set. Part of the file format: never renumber.
fn bit(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Correct => 1,
        Outcome::Wrong => 1 << 1,
        Outcome::Truncated => 1 << 2,
        Outcome::Refused => 1 << 3,
        Outcome::Unparsed => 1 << 4,
        Outcome::Error => 1 << 5,
        Outcome::Unscored => 1 << 6,
    }
}

/// JSON has no infinity and no NaN: `serde_json` would write `null` and the record could not be read
/// again. Such a number is a bug of whoever made it and must not get that far.
fn check_finite(output: &Output, scores: &[Score]) -> Result<(), String> {
    output.check_finite()?;
    let numbers = scores.iter().flat_map(|score| {
        let fields = [("score", score.value), ("weight", score.weight), ("margin", score.margin)];
        fields.into_iter().filter_map(|(name, value)| Some((name, value?)))
    });
    match numbers.into_iter().find(|(_, number)| !number.is_finite()) {
        Some((name, number)) => Err(format!("{name} is {number}")),
        None => Ok(()),
    }
}
