//! Checkpoints: complete or absent. A directory is written under another name, every file and the directory are
//! put on disk, then it gets its name. What has the name `checkpoint-N` can be resumed from.

mod tensors;

use std::path::{Path, PathBuf};

use evalign_lm::adapter::TEMPLATE_FILE;
use serde::{Deserialize, Serialize};

pub use tensors::{read_tensors, write_tensors};

use crate::optimizer::AdamW;
use crate::{Learner, Parameter, TrainError};

const PREFIX: &str = "checkpoint-";
const PARTIAL: &str = ".partial-";
const MOMENTS: &str = "optimizer.safetensors";
const STATE: &str = "trainer_state.json";

/// Everything that an update depends on besides weights and moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Digest of configuration, data and starting weights: what has another cannot be gone on with.
    pub run: String,
    /// Updates done. With the seed it says where in the data the run is, and what is drawn next.
    pub update: u64,
    /// Tokens seen.
    pub num_tokens: u64,
    /// Means of metrics since the last line of the log: name, sum, weight.
    pub pending: Vec<(String, f64, f64)>,
    /// Best value of the metric that early stopping looks at, and the update it was seen at.
    pub best: Option<(f64, u64)>,
    /// Evaluations since the best.
    pub without_improvement: u32,
    /// What the alarms remember; see [`crate::Alarms`].
    pub alarms: crate::alarm::Memory,
    /// Digest of the reference's log-probabilities of everything trained on so far.
    pub reference: Option<String>,
    /// Bytes of each file beside this one.
    pub files: Vec<(String, u64)>,
}

/// Checkpoints of a run, under its output directory.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    directory: PathBuf,
}

impl Checkpoints {
    /// Also removes what an interrupted write left behind.
    ///
    /// # Errors
    /// The directory cannot be created or read.
    pub fn open(directory: &Path) -> Result<Self, TrainError> {
        fs_err::create_dir_all(directory)?;
        for entry in fs_err::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                fs_err::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { directory: directory.to_owned() })
    }

    #[must_use]
    pub fn path(&self, update: u64) -> PathBuf {
        self.directory.join(format!("{PREFIX}{update}"))
    }

    /// Updates there are checkpoints of, ascending.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn updates(&self) -> Result<Vec<u64>, TrainError> {
        let mut updates = Vec::new();
        for entry in fs_err::read_dir(&self.directory)? {
            let name = entry?.file_name();
            updates.extend(name.to_string_lossy().strip_prefix(PREFIX).and_then(|n| n.parse::<u64>().ok()));
        }
        updates.sort_unstable();
        Ok(updates)
    }

    /// The last checkpoint, if there is one.
    ///
    /// # Errors
    /// It is of another run than `run`, or damaged.
    pub fn last_of(&self, run: &str) -> Result<Option<u64>, TrainError> {
        let Some(last) = self.updates()?.pop() else { return Ok(None) };
        if self.state(last)?.run != run {
            return Err(TrainError::File {
                path: self.path(last),
                problem: "it is the checkpoint of a run with other settings, data or weights".to_owned(),
                hint: "give the command as it was, use another `--out`, or start over with `--fresh`"
                    .to_owned(),
            });
        }
        Ok(Some(last))
    }

    /// Writes a checkpoint; one of the same update is kept as it is, for it can only be equal.
    ///
    /// # Errors
    /// The disk is full, or cannot be written; earlier checkpoints stay whole.
    pub fn save(
        &self,
        learner: &dyn Learner,
        adam: &AdamW,
        mut state: TrainerState,
    ) -> Result<PathBuf, TrainError> {
        let path = self.path(state.update);
        if path.exists() {
            return Ok(path);
        }
        let partial = self.directory.join(format!("{PARTIAL}{}", state.update));
        let written = fill(&partial, learner, adam, &mut state).and_then(|()| {
            fs_err::rename(&partial, &path)?;
            sync_directory(&self.directory)
        });
        written.map(|()| path.clone()).map_err(|error| {
            // What is left of it is removed at the next start, if it cannot be now.
            let _ = fs_err::remove_dir_all(&partial);
            TrainError::File {
                path,
                problem: format!("the checkpoint could not be written: {error}"),
                hint: "earlier checkpoints are whole: make room, and give the same command again to go on from the last"
                    .to_owned(),
            }
        })
    }

    /// Puts a checkpoint's weights and moments in place.
    ///
    /// # Errors
    /// A file is missing or damaged, or belongs to other parameters.
    pub fn load(
        &self,
        update: u64,
        learner: &mut dyn Learner,
        adam: &mut AdamW,
    ) -> Result<TrainerState, TrainError> {
        let path = self.path(update);
        let state = self.state(update)?;
        for (name, bytes) in &state.files {
            let found = fs_err::metadata(path.join(name)).map(|metadata| metadata.len()).ok();
            if found != Some(*bytes) {
                return Err(damaged(&path.join(name), &format!("it should have {bytes} bytes")));
            }
        }
        read_tensors(&path.join(learner.weights_name()), "", learner.parameters_mut())?;
        learner.parameters_changed()?;
        let moments = path.join(MOMENTS);
        let mut holder = learner.parameters().to_vec();
        for (prefix, buffers) in [("m.", &mut adam.means), ("v.", &mut adam.squares)] {
            read_tensors(&moments, prefix, &mut holder)?;
            for (buffer, parameter) in buffers.iter_mut().zip(&holder) {
                buffer.clone_from(&parameter.data);
            }
        }
        adam.updates = state.update;
        Ok(state)
    }

    /// # Errors
    /// It is missing or damaged.
    pub fn state(&self, update: u64) -> Result<TrainerState, TrainError> {
        let path = self.path(update).join(STATE);
        let text = fs_err::read(&path).map_err(|error| damaged(&path, &error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| damaged(&path, &error.to_string()))
    }

    /// Removes the oldest until `limit` are left; `keep` and the last stay, whatever the limit.
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn prune(&self, limit: usize, keep: Option<u64>) -> Result<(), TrainError> {
        let mut updates = self.updates()?;
        let surplus = updates.len().saturating_sub(limit.max(1));
        updates.pop();
        for update in updates.into_iter().filter(|update| Some(*update) != keep).take(surplus) {
            self.remove(update)?;
        }
        Ok(())
    }

    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, update: u64) -> Result<(), TrainError> {
        // Under its own name it is whole until the end.
        let going = self.directory.join(format!("{PARTIAL}{update}-removed"));
        fs_err::rename(self.path(update), &going)?;
        Ok(fs_err::remove_dir_all(going)?)
    }
}

fn fill(
    directory: &Path,
    learner: &dyn Learner,
    adam: &AdamW,
    state: &mut TrainerState,
) -> Result<(), TrainError> {
    if directory.exists() {
        fs_err::remove_dir_all(directory)?;
    }
    fs_err::create_dir(directory)?;
    write_learner(directory, learner)?;
    let moments = |prefix: &str, buffers: &[Vec<f32>]| -> Vec<Parameter> {
        let with = |(parameter, data): (&Parameter, &Vec<f32>)| Parameter {
            name: format!("{prefix}{}", parameter.name),
            data: data.clone(),
            shape: parameter.shape.clone(),
            decays: parameter.decays,
        };
        learner.parameters().iter().zip(buffers).map(with).collect()
    };
    let all = [moments("m.", &adam.means), moments("v.", &adam.squares)].concat();
    write_tensors(&directory.join(MOMENTS), &all)?;
    state.files.clear();
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        state.files.push((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len()));
    }
    state.files.sort();
    let text = serde_json::to_vec_pretty(state).map_err(std::io::Error::from)?;
    write_synced(&directory.join(STATE), &text)?;
    sync_directory(directory)
}

/// Writes weights and what belongs beside them into a directory, each file complete or absent. The chat template of an
/// earlier run goes where this one has none of its own.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write_learner(directory: &Path, learner: &dyn Learner) -> Result<(), TrainError> {
    write_tensors(&directory.join(learner.weights_name()), learner.parameters())?;
    let companions = learner.companions()?;
    for (name, contents) in &companions {
        write_synced(&directory.join(name), contents)?;
    }
    if companions.iter().all(|(name, _)| name != TEMPLATE_FILE) {
        match fs_err::remove_file(directory.join(TEMPLATE_FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    sync_directory(directory)
}

/// Writes a file under another name, puts it on disk, and gives it its name.
pub(crate) fn write_synced(path: &Path, contents: &[u8]) -> Result<(), TrainError> {
    let partial = path.with_added_extension("partial");
    let mut file = fs_err::File::create(&partial)?;
    std::io::Write::write_all(&mut file, contents)?;
    file.sync_all()?;
    Ok(fs_err::rename(&partial, path)?)
}

/// Names are on disk when their directory is. Only Unix lets a directory be opened for that.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), TrainError> {
    if cfg!(unix) {
        fs_err::File::open(directory)?.sync_all()?;
    }
    Ok(())
}

fn damaged(path: &Path, problem: &str) -> TrainError {
    TrainError::File {
        path: path.to_owned(),
        problem: format!("the checkpoint is damaged: {problem}"),
        hint: "remove this checkpoint to go on from the one before, or start over with `--fresh`".to_owned(),
    }
}
