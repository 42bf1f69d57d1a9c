//! How often somebody may ask: a bucket of tokens for each key, and for each address that was refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Callers remembered at once; beyond this those whose bucket is full, who lose nothing, are forgotten.
const REMEMBERED: usize = 10_000;

/// Buckets that fill evenly up to what a minute allows.
#[derive(Debug)]
pub(crate) struct Quota {
    per_minute: f64,
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// What a caller has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// Seconds until the next request may come; `Some` where this one may not.
    pub(crate) wait_secs: Option<u64>,
}

impl Quota {
    pub(crate) fn new(per_minute: u32) -> Self {
        Self { per_minute: f64::from(per_minute), buckets: Mutex::default() }
    }

    /// Counts a request of `caller` at `now`.
    pub(crate) fn take(&self, caller: &str, now: Instant) -> Allowance {
        let per_second = self.per_minute / 60.0;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= REMEMBERED && !buckets.contains_key(caller) {
            let full = |bucket: &Bucket| self.filled(*bucket, now) >= self.per_minute;
            buckets.retain(|_, bucket| !full(bucket));
        }
        let full = Bucket { tokens: self.per_minute, at: now };
        let bucket = buckets.entry(caller.to_owned()).or_insert(full);
        let tokens = self.filled(*bucket, now);
        let allowed = tokens >= 1.0;
        let left = if allowed { tokens - 1.0 } else { tokens };
        *bucket = Bucket { tokens: left, at: now };
        Allowance {
            limit: self.per_minute as u32,
            remaining: left as u32,
            wait_secs: (!allowed).then(|| ((1.0 - left) / per_second).ceil() as u64),
        }
    }

    fn filled(&self, bucket: Bucket, now: Instant) -> f64 {
        let waited = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + waited * self.per_minute / 60.0).min(self.per_minute)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_minute_allows_so_many_and_time_gives_them_back() {
        let quota = Quota::new(60);
        let start = Instant::now();
        for left in (0..60).rev() {
            assert_eq!(quota.take("a", start).remaining, left);
        }
        assert_eq!(quota.take("a", start), Allowance { limit: 60, remaining: 0, wait_secs: Some(1) });
        assert_eq!(quota.take("b", start).wait_secs, None, "others have their own");
        assert_eq!(quota.take("a", start + Duration::from_secs(2)).remaining, 1);
        assert_eq!(
            quota.take("a", start).wait_secs,
            None,
            "a clock that goes back gives nothing and takes nothing"
        );
    }

    #[test]
    fn memory_does_not_grow_with_the_number_of_callers() {
        let quota = Quota::new(60);
        let start = Instant::now();
        for caller in 0..3 * REMEMBERED {
            let later = start + Duration::from_secs(caller as u64 * 2);
            quota.take(&caller.to_string(), later);
        }
        assert!(quota.buckets.lock().unwrap().len() <= REMEMBERED + 1);
    }
}
