//! When to try again, and how long to wait before.

use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Exponential backoff with full jitter; a server's `Retry-After` counts up to a cap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included. A download that got further than before starts counting anew.
    pub attempts: u32,
    /// Upper end of the wait after the first failure; doubles with each further one.
    pub base: Duration,
    /// No backoff is longer.
    pub cap: Duration,
    /// No `Retry-After` is waited for longer.
    pub retry_after_cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(20),
            retry_after_cap: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// The same waits, but one try only.
    #[must_use]
    pub fn once(&self) -> Self {
        Self { attempts: 1, ..self.clone() }
    }

    /// Wait after the `failures`-th failure in a row (1 is the first).
    #[must_use]
    pub fn delay(&self, failures: u32, retry_after: Option<Duration>) -> Duration {
        self.wait(failures, retry_after, Jitter::from_os().draw())
    }

    /// Wait after the `failures`-th failure in a row (1 is the first), where the server asked for
    /// `retry_after` and `fraction` was drawn from [0, 1).
    #[must_use]
    pub fn wait(&self, failures: u32, retry_after: Option<Duration>, fraction: f64) -> Duration {
        let doubled = self.base.saturating_mul(1u32 << failures.saturating_sub(1).min(16));
        let backoff = doubled.min(self.cap).mul_f64(fraction);
        match retry_after {
            Some(asked) => asked.min(self.retry_after_cap).max(backoff),
            None => backoff,
        }
    }
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110, section 10.2.3), as time from `now`.
pub(crate) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text).ok()?;
    // A date in the past means "now".
    Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// Draws that spread waits, so that requests that failed together do not come back together: SplitMix64
/// (Steele, Lea and Flood 2014).
#[derive(Debug)]
pub struct Jitter(Mutex<u64>);

impl Jitter {
    /// The same draws for the same seed, for tests.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// Other draws in every process.
    #[must_use]
    pub fn from_os() -> Self {
        Self::seeded(std::collections::hash_map::RandomState::new().build_hasher().finish())
    }

    /// In [0, 1).
    #[must_use]
    pub fn draw(&self) -> f64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn asked(value: &str) -> Option<Duration> {
        let now: Timestamp = "2026-11-22T07:28:00Z".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        retry_after(&headers, now)
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("Sun, 22 Nov 2026 07:28:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(asked("Sun, 22 Nov 2026 07:27:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("-3"), None);
    }

    #[test]
    fn waits_grow_up_to_their_caps() {
        let policy = RetryPolicy::default();
        let ms = |failures, after: Option<u64>, fraction| {
            policy.wait(failures, after.map(Duration::from_secs), fraction).as_millis()
        };
        assert_eq!(ms(1, None, 1.0), 500);
        assert_eq!(ms(3, None, 1.0), 2000);
        assert_eq!(ms(3, None, 0.25), 500);
        assert_eq!(ms(40, None, 1.0), 20_000);
        assert_eq!(ms(1, Some(3), 1.0), 3000);
        assert_eq!(ms(1, Some(100_000), 1.0), 120_000);
    }

    #[test]
    fn draws_are_even_and_differ_between_processes() {
        let jitter = Jitter::seeded(7);
        let draws: Vec<f64> = (0..1000).map(|_| jitter.draw()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        assert!((draws.iter().sum::<f64>() / 1000.0 - 0.5).abs() < 0.05);
        assert_ne!(Jitter::from_os().draw().to_bits(), Jitter::from_os().draw().to_bits());
    }
}
