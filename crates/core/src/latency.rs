use serde::{Deserialize, Serialize};

/// How long the answer to one request took, as its caller saw it. Waiting for a free slot is not in it:
/// that is the harness's doing, not the server's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Milliseconds from sending the request that succeeded to the end of its answer. Of several requests that
    /// make one answer, the slowest's.
    pub total_ms: f64,
    /// Milliseconds to the first token. Absent where the answer did not come as a stream.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_token_ms: Option<f64>,
    /// HTTP requests it took, failed ones included.
    pub attempts: u32,
}

/// Percentiles in milliseconds, by the nearest rank: each is a value that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
}

impl Percentiles {
    /// Nearest-rank percentiles: the smallest value that at least p % of the values do not exceed
    /// (Hyndman and Fan 1996, definition 1). Sorts the values. `None` over nothing.
    #[must_use]
    pub fn of(values: &mut [f64]) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let rank = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100).max(1);
            values.get(rank - 1).copied()
        };
        Some(Self { p50: rank(50)?, p90: rank(90)?, p99: rank(99)? })
    }
}

/// The latencies of a run's samples. Samples answered from the cache or by a model in this process have
/// none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Samples the percentiles are taken over.
    pub n: u64,
    pub total_ms: Percentiles,
    /// Absent where no answer came as a stream.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_token_ms: Option<Percentiles>,
    /// HTTP requests that these samples took, failed ones included.
    pub requests: u64,
}

impl LatencySummary {
    /// Sums up. `None` over nothing.
    #[must_use]
    pub fn of(latencies: &[Latency]) -> Option<Self> {
        let mut total: Vec<f64> = latencies.iter().map(|latency| latency.total_ms).collect();
        let mut first: Vec<f64> = latencies.iter().filter_map(|latency| latency.first_token_ms).collect();
        Some(Self {
            n: latencies.len() as u64,
            total_ms: Percentiles::of(&mut total)?,
            first_token_ms: Percentiles::of(&mut first),
            requests: latencies.iter().map(|latency| u64::from(latency.attempts)).sum(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        assert_eq!(Percentiles::of(&mut []), None);
        assert_eq!(Percentiles::of(&mut [7.0]), Some(Percentiles { p50: 7.0, p90: 7.0, p99: 7.0 }));
        let mut hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(Percentiles::of(&mut hundred), Some(Percentiles { p50: 50.0, p90: 90.0, p99: 99.0 }));
        // numpy.percentile([10, 20, 30], [50, 90, 99], method="inverted_cdf") of numpy 2.3: 20, 30, 30
        assert_eq!(
            Percentiles::of(&mut [30.0, 10.0, 20.0]),
            Some(Percentiles { p50: 20.0, p90: 30.0, p99: 30.0 })
        );
    }

    #[test]
    fn a_summary_counts_failed_requests_and_skips_what_did_not_stream() {
        let latency = |total_ms, first_token_ms, attempts| Latency { total_ms, first_token_ms, attempts };
        let summary = LatencySummary::of(&[latency(10.0, None, 1), latency(30.0, Some(4.0), 3)]);
        assert_eq!(
            summary,
            Some(LatencySummary {
                n: 2,
                total_ms: Percentiles { p50: 10.0, p90: 30.0, p99: 30.0 },
                first_token_ms: Some(Percentiles { p50: 4.0, p90: 4.0, p99: 4.0 }),
                requests: 4,
            })
        );
        assert_eq!(LatencySummary::of(&[]), None);
    }
}
