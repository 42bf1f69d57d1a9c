use evalign_core::{Output, SampleKey, Score};

use super::phase::Phase;
use crate::{Plan, PlannedSample, PlannedTask, RunError};

/// What a session works through: samples that can be made when they are needed, and how answers are scored.
pub(super) trait Workload: Sync {
    /// Samples of the whole run, those of earlier sessions included.
    fn total_samples(&self) -> u64;

    fn keys(&self) -> Box<dyn Iterator<Item = SampleKey> + Send + '_>;

    fn sample(&self, key: &SampleKey) -> Result<PlannedSample, RunError>;

    /// The scores of an answered sample, or of one whose call failed.
    fn score(&self, sample: &PlannedSample, output: Option<&Output>) -> Result<Vec<Score>, RunError>;
}

impl Plan {
    fn task_of(&self, key: &SampleKey) -> Result<&PlannedTask, RunError> {
        self.task(&key.task).ok_or_else(|| RunError::malformed(key, "is not part of the plan"))
    }
}

impl Workload for Plan {
    fn total_samples(&self) -> u64 {
        self.total_samples()
    }

    fn keys(&self) -> Box<dyn Iterator<Item = SampleKey> + Send + '_> {
        Box::new(self.tasks.iter().flat_map(PlannedTask::keys))
    }

    fn sample(&self, key: &SampleKey) -> Result<PlannedSample, RunError> {
        Ok(self.task_of(key)?.sample_by_key(key)?)
    }

    fn score(&self, sample: &PlannedSample, output: Option<&Output>) -> Result<Vec<Score>, RunError> {
        let scorer = self.task_of(&sample.key)?.scorer();
        Ok(match output {
            Some(output) => scorer.score(&sample.doc, output)?,
            None => scorer.failed(),
        })
    }
}

impl Workload for Phase<'_> {
    fn total_samples(&self) -> u64 {
        self.run_samples
    }

    fn keys(&self) -> Box<dyn Iterator<Item = SampleKey> + Send + '_> {
        Box::new(self.asking.iter().map(|asking| asking.request.key.clone()))
    }

    fn sample(&self, key: &SampleKey) -> Result<PlannedSample, RunError> {
        self.planned(key).ok_or_else(|| RunError::malformed(key, "is not part of the phase"))
    }

    fn score(&self, sample: &PlannedSample, output: Option<&Output>) -> Result<Vec<Score>, RunError> {
        Ok((self.score)(sample, output))
    }
}
