use sha2::{Digest as _, Sha256};

use crate::SampleKey;

/// The seed of one request: a function of the run's seed, the sample and the repeat only, so that
/// neither order, nor concurrency, nor a resumed run changes what is sampled, and no two repeats of a
/// document share a stream. The top bit is clear: some servers read seeds as signed.
#[must_use]
pub fn sample_seed(run_seed: u64, key: &SampleKey) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(run_seed.to_le_bytes());
    hasher.update((key.task.len() as u64).to_le_bytes());
    hasher.update(key.task.as_bytes());
    hasher.update(key.doc.to_le_bytes());
    hasher.update(key.repeat.to_le_bytes());
    let digest = hasher.finalize();
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(bytes) >> 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn seeds_differ_by_every_part() {
        let mut seen = BTreeSet::new();
        for run in 0..3 {
            for task in ["a", "ab"] {
                for doc in 0..20 {
                    for repeat in 0..20 {
                        let key = SampleKey { task: task.to_owned(), doc, repeat };
                        assert!(seen.insert(sample_seed(run, &key)));
                    }
                }
            }
        }
    }
}
