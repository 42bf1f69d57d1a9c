use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::{Parameter, TrainError, read_tensors};

/// A recorded case: `case.json`, `trace.json` and the tensors beside them, in `.../cases/NAME`.
#[derive(Debug)]
pub(super) struct Golden {
    pub(super) name: String,
    pub(super) directory: PathBuf,
    /// What the case's paths are relative to.
    pub(super) root: PathBuf,
    pub(super) case: Value,
    trace: Value,
    per_token: Option<BTreeMap<String, Vec<f32>>>,
}

pub(super) fn unfit(path: &Path, problem: &str) -> TrainError {
    TrainError::File {
        path: path.to_owned(),
        problem: problem.to_owned(),
        hint: "give the directory of a recorded case, with case.json, tokenized.json and trace.json"
            .to_owned(),
    }
}

impl Golden {
    pub(super) fn read(directory: &Path) -> Result<Self, TrainError> {
        let directory = std::path::absolute(directory)?;
        let case = read_json(&directory.join("case.json"))?;
        let model = case["model"].as_str().unwrap_or_default().to_owned();
        let root = directory.ancestors().find(|root| !model.is_empty() && root.join(&model).exists());
        let root = root.ok_or_else(|| unfit(&directory, &format!("the model `{model}` is not above it")))?;
        let per_token = match directory.join("per_token.safetensors") {
            path if path.exists() => Some(read_all(&path)?),
            _ => None,
        };
        Ok(Self {
            name: directory.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            root: root.to_owned(),
            trace: read_json(&directory.join("trace.json"))?,
            case,
            per_token,
            directory,
        })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn json(&self, name: &str) -> Result<Value, TrainError> {
        read_json(&self.file(name))
    }

    /// Updates that are recorded.
    pub(super) fn updates(&self) -> usize {
        self.trace["steps"].as_array().map_or(0, Vec::len)
    }

    /// The record of an update, counted from 1.
    pub(super) fn step(&self, update: u64) -> Result<&Value, TrainError> {
        let index = usize::try_from(update).unwrap_or(usize::MAX).wrapping_sub(1);
        self.trace["steps"]
            .get(index)
            .ok_or_else(|| unfit(&self.file("trace.json"), &format!("there is no update {update}")))
    }

    pub(super) fn per_token(&self) -> Result<Option<&BTreeMap<String, Vec<f32>>>, TrainError> {
        Ok(self.per_token.as_ref())
    }

    /// Tensors of the parameters' names and shapes; `None` where there is no such file.
    pub(super) fn tensors(
        &self,
        name: &str,
        prefix: &str,
        parameters: &[Parameter],
    ) -> Result<Option<Vec<Parameter>>, TrainError> {
        let path = self.file(name);
        if !path.exists() {
            return Ok(None);
        }
        let mut read = parameters.to_vec();
        read_tensors(&path, prefix, &mut read)?;
        Ok(Some(read))
    }
}

fn read_json(path: &Path) -> Result<Value, TrainError> {
    serde_json::from_slice(&fs_err::read(path)?).map_err(|error| unfit(path, &error.to_string()))
}

/// All f32 tensors of a file.
pub(super) fn read_all(path: &Path) -> Result<BTreeMap<String, Vec<f32>>, TrainError> {
    let bytes = fs_err::read(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| unfit(path, &error.to_string()))?;
    let values =
        |data: &[u8]| data.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
    let tensors = file.tensors().into_iter().filter(|(_, tensor)| tensor.dtype() == Dtype::F32);
    Ok(tensors.map(|(name, tensor)| (name, values(tensor.data()))).collect())
}

/// Numbers of a JSON array; none where there is no array.
pub(super) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect()
}
