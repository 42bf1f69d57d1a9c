use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::Failure;
use crate::lease::Lease;

/// What the samples of one transaction change in the rows of their runs. Such a row holds the run's whole
/// spec, so it is read once and written once, not for every sample.
#[derive(Debug, Default)]
pub(crate) struct Sums(BTreeMap<i64, Sum>);

/// A run's row, as far as samples change it.
#[derive(Debug)]
struct Sum {
    token: i64,
    last_event: i64,
    cost_usd: f64,
    samples: i64,
    counts: [i64; 7],
    updated_ms: i64,
}

impl Sums {
    /// Adds a sample to the run that `lease` is about: the number of its event. `counts` are prompt,
    /// computed, generated, cached and reasoning tokens, requests, and paid tokens.
    ///
    /// # Errors
    /// The lease is lost, or a failure of the database.
    pub(crate) fn add(
        &mut self,
        db: &Connection,
        lease: &Lease,
        counts: &[i64; 7],
        cost_usd: f64,
        now_ms: i64,
    ) -> Result<i64, Failure> {
        let sum = match self.0.entry(lease.seq()) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                new.insert(Sum::read(db, lease.seq())?.ok_or_else(|| lease.lost())?)
            }
        };
        if u64::try_from(sum.token) != Ok(lease.token()) {
            return Err(lease.lost());
        }
        sum.samples += 1;
        sum.last_event += 1;
        sum.cost_usd += cost_usd;
        sum.updated_ms = now_ms;
        for (sum, count) in sum.counts.iter_mut().zip(counts) {
            *sum += count;
        }
        Ok(sum.last_event)
    }

    /// Writes the rows. Results of these runs are out of date with that.
    pub(crate) fn write(&self, db: &Connection) -> Result<(), Failure> {
        for (run, sum) in &self.0 {
            let [prompt, computed, generated, cached, reasoning, requests, paid] = sum.counts;
            db.prepare_cached(
                "UPDATE runs SET samples_done = samples_done + ?2, prompt_tokens = prompt_tokens + ?3,
                 computed_tokens = computed_tokens + ?4, generated_tokens = generated_tokens + ?5,
                 cached_tokens = cached_tokens + ?6, reasoning_tokens = reasoning_tokens + ?7,
                 requests = requests + ?8, paid_tokens = paid_tokens + ?9, cost_usd = ?10,
                 results = NULL, last_event = ?11, updated_ms = ?12 WHERE seq = ?1",
            )?
            .execute(params![
                run,
                sum.samples,
                prompt,
                computed,
                generated,
                cached,
                reasoning,
                requests,
                paid,
                sum.cost_usd,
                sum.last_event,
                sum.updated_ms
            ])?;
        }
        Ok(())
    }
}

impl Sum {
    /// `None` where nobody holds the run.
    fn read(db: &Connection, run: i64) -> Result<Option<Self>, Failure> {
        let mut query = db.prepare_cached(
            "SELECT lease_token, last_event, cost_usd FROM runs WHERE seq = ?1 AND lease_owner IS NOT NULL",
        )?;
        let found = query.query_row([run], |row| {
            let (token, last_event, cost_usd) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(Self { token, last_event, cost_usd, samples: 0, counts: [0; 7], updated_ms: 0 })
        });
        Ok(found.optional()?)
    }
}
