//! What each key uses of the service in a day (UTC), and whether that is as much as it may.
//!
//! Counts are kept in memory and written to the store about once a second, all together: asking for a page must not cost
//! a flush of the disk. A server that is killed forgets what it has counted since, one that ends does not.

mod metered;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evalign_store::{AuditEntry, KeyLimits, KeyUse, Store};
use tokio::task::JoinHandle;

use crate::app::{App, now_ms};
use crate::error::{ApiError, ApiResult, Code};

/// How often what was counted is written.
const SAVE_EVERY: Duration = Duration::from_secs(1);

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A key and a day since 1970-01-01.
type KeyDay = (String, u64);

/// What all keys have used today, that have used something since the server began. Of other days what is not written.
pub(crate) struct DailyUse {
    store: Store,
    days: Mutex<BTreeMap<KeyDay, Today>>,
}

#[derive(Default)]
struct Today {
    used: KeyUse,
    /// Of `used`, what the store does not know yet.
    unsaved: KeyUse,
    /// It was noted that these are used up.
    noted: [bool; 2],
}

/// What a key has none of left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsedUp {
    Requests,
    Tokens,
}

impl UsedUp {
    fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_day",
            Self::Tokens => "tokens_per_day",
        }
    }

    /// Whether it is `used` up that far.
    fn is(self, used: KeyUse, limits: &KeyLimits) -> bool {
        match self {
            Self::Requests => limits.requests_per_day.is_some_and(|most| used.requests >= most),
            Self::Tokens => limits.tokens_per_day.is_some_and(|most| used.tokens >= most),
        }
    }

    fn refusal(self, now_ms: u64) -> ApiError {
        let what = match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        };
        let message = format!("this key has used its {what} for today (UTC); `evalign keys list` shows them");
        let left = DAY_MS - now_ms % DAY_MS;
        ApiError::new(Code::QuotaUsed, message).retry_after(left.div_ceil(1000))
    }
}

impl DailyUse {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, days: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<KeyDay, Today>> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with what a key has used today, of which the store knows what earlier servers have counted. Never
    /// waits for the store's writer: it is called on threads that answer others too.
    fn with<T>(&self, key: &str, now_ms: u64, act: impl FnOnce(&mut Today) -> T) -> ApiResult<T> {
        let key_day = (key.to_owned(), now_ms / DAY_MS);
        if let Some(today) = self.lock().get_mut(&key_day) {
            return Ok(act(today));
        }
        let used = self.store.key_use(key, key_day.1)?;
        Ok(act(self.lock().entry(key_day).or_insert(Today { used, ..Today::default() })))
    }

    /// Counts a request, unless it is one too many, or may have something asked of models (`may_ask`) and the key has no
    /// tokens left. Who is refused for the first time today is noted in the audit log.
    pub(crate) fn request(
        &self,
        (key, limits): (&str, &KeyLimits),
        may_ask: bool,
        now_ms: u64,
        entry: &AuditEntry,
    ) -> ApiResult<()> {
        let counted = self.with(key, now_ms, |today| {
            let refused = [(UsedUp::Requests, true), (UsedUp::Tokens, may_ask)];
            let refused = refused.into_iter().find(|(what, counts)| *counts && what.is(today.used, limits));
            let Some((what, _)) = refused else {
                // A quota that was raised may be used up once more.
                today.noted = [false, today.noted[1] && !may_ask];
                let one = KeyUse { requests: 1, tokens: 0 };
                today.used += one;
                today.unsaved += one;
                return Ok(());
            };
            let noted = &mut today.noted[usize::from(what == UsedUp::Tokens)];
            Err((what, std::mem::replace(noted, true)))
        })?;
        counted.map_err(|(what, was_noted)| {
            if !was_noted {
                let (action, outcome) = (format!("quota {}", what.name()), "used up".to_owned());
                self.store.audit(AuditEntry { action, target: key.to_owned(), outcome, ..entry.clone() });
            }
            what.refusal(now_ms)
        })
    }

    /// Counts what models have read and written for a key. Whether it has any tokens left.
    pub(crate) fn tokens(&self, key: &str, limits: &KeyLimits, tokens: u64, now_ms: u64) -> ApiResult<bool> {
        self.with(key, now_ms, |today| {
            let more = KeyUse { requests: 0, tokens };
            today.used += more;
            today.unsaved += more;
            !UsedUp::Tokens.is(today.used, limits)
        })
    }

    /// Writes what was counted since the last time, and forgets days that are over. Blocks.
    pub(crate) fn save(&self) -> ApiResult<()> {
        let mut days = self.lock();
        let unsaved = days.iter().filter(|(_, today)| today.unsaved != KeyUse::default());
        let unsaved: Vec<_> = unsaved.map(|((key, day), today)| (key.clone(), *day, today.unsaved)).collect();
        if unsaved.is_empty() {
            return Ok(());
        }
        days.values_mut().for_each(|today| today.unsaved = KeyUse::default());
        drop(days);
        let saved = self.store.add_key_use(&unsaved);
        let mut days = self.lock();
        if saved.is_err() {
            for (key, day, used) in unsaved {
                days.entry((key, day)).or_default().unsaved += used;
            }
        }
        let newest = days.keys().map(|(_, day)| *day).max();
        days.retain(|(_, day), today| Some(*day) == newest || today.unsaved != KeyUse::default());
        drop(days);
        Ok(saved?)
    }
}

impl App {
    /// Counts what models have read and written for a key. Whether it has any tokens left.
    pub(crate) fn count_tokens(&self, key: &str, tokens: u64) -> bool {
        let counted = self.key(key).and_then(|found| {
            let limits = found.map(|found| found.limits).unwrap_or_default();
            self.daily.tokens(key, &limits, tokens, now_ms())
        });
        counted.unwrap_or_else(|error| {
            tracing::error!(key, tokens, error = error.message, "tokens are not counted");
            true
        })
    }

    /// Writes what keys use, every now and then, until the returned task is ended. It ends with its handle's abort; what
    /// is left then is written by [`DailyUse::save`].
    pub(crate) fn save_use(self: &Arc<Self>) -> JoinHandle<()> {
        let app = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SAVE_EVERY).await;
                // Told in the log; what could not be written is tried again.
                let _ = app.blocking(|app| app.daily.save()).await;
            }
        })
    }
}

#[cfg(test)]
mod tests;
