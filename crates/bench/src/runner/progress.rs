use std::time::Duration;

use evalign_core::{SampleRecord, Usage};

/// How far a run is. Counts include earlier sessions, usage and times only this one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub done: u64,
    pub total: u64,
    /// Samples of this session whose call failed for good.
    pub failed: u64,
    pub usage: Usage,
    pub elapsed: Duration,
    /// Estimated from the tokens still to be computed, not from the number of samples. Absent until
    /// something is finished.
    pub remaining: Option<Duration>,
}

/// Watches a run.
pub trait Progress: Send + Sync {
    /// After every commit, and once at the start where there is something to do.
    fn progress(&self, snapshot: &Snapshot);

    /// An answer has arrived and been scored.
    fn sample(&self, record: &SampleRecord);

    /// A reward model that judges the run's answers has read so many tokens, which belong to no sample of their own.
    fn read(&self, _tokens: u64) {}
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn progress(&self, _: &Snapshot) {}

    fn sample(&self, _: &SampleRecord) {}
}
