//! What a training takes on the disk, which is everybody's.

use std::path::Path;

use evalign_train::{Checkpoints, Job, Learner as _, TrainError};

use super::{MOST_CHECKPOINTS, REFERENCES};

/// Removes what only serves to go on with a training.
pub(super) fn remove_checkpoints(out: &Path) -> Result<(), TrainError> {
    let checkpoints = Checkpoints::open(out)?;
    checkpoints.updates()?.into_iter().try_for_each(|update| checkpoints.remove(update))?;
    match fs_err::remove_dir_all(out.join(REFERENCES)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Bytes that a job takes at most: what comes of it, its checkpoints, the best one and that which is being written. Each
/// has the trained weights and two moments of each, four bytes apiece.
pub(super) fn most_bytes(job: &Job) -> u64 {
    let checkpoints = job.config.save_total_limit.unwrap_or(MOST_CHECKPOINTS) as u64 + 2;
    let weights: u64 = job.policy.parameters().iter().map(|weights| weights.data.len() as u64).sum();
    4 * weights * (3 * checkpoints + 1)
}

/// Bytes of all files in a directory and those below it.
pub(super) fn bytes_below(directory: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { bytes_below(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}
