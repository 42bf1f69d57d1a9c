use evalign_store::{NewRun, Store};

use super::ActiveRun;
use crate::RunError;

/// A run of several steps that is ready to start: whatever can fail before anything is asked has been tried.
pub trait RunOfSteps {
    /// The run as it is created.
    fn new_run(&self) -> &NewRun;

    /// Samples when it is complete, should every step have something to ask.
    fn total_samples(&self) -> u64 {
        self.new_run().samples_total
    }

    /// Creates the run, or finds the one that asked the same, and takes its lease.
    ///
    /// # Errors
    /// As [`ActiveRun::start`].
    fn start(&self, store: &Store, owner: &str) -> Result<ActiveRun, RunError> {
        ActiveRun::start_phases(self.new_run(), store, owner)
    }
}
