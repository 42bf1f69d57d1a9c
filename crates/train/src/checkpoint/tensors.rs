use std::borrow::Cow;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::{Parameter, TrainError};

/// Writes parameters as an f32 safetensors file, complete or absent.
///
/// # Errors
/// The file cannot be written.
pub fn write_tensors(path: &Path, parameters: &[Parameter]) -> Result<(), TrainError> {
    let named: Vec<(String, Vec<usize>)> =
        parameters.iter().map(|parameter| (parameter.name.clone(), parameter.shape.clone())).collect();
    let values = |index: usize| Ok::<_, std::io::Error>(Cow::Borrowed(parameters[index].data.as_slice()));
    evalign_lm::write_tensors(path, &named, values).map_err(|error| TrainError::File {
        path: path.to_owned(),
        problem: error.to_string(),
        hint: "check that there is room and that the directory can be written".to_owned(),
    })
}

/// Reads each parameter's values from the tensor `prefix + name`.
///
/// # Errors
/// The file cannot be read, is damaged, or lacks a tensor of that name, shape and type.
pub fn read_tensors(path: &Path, prefix: &str, parameters: &mut [Parameter]) -> Result<(), TrainError> {
    let fail = |problem: String| TrainError::File {
        path: path.to_owned(),
        problem,
        hint: "it belongs to another model, another adapter, or is damaged".to_owned(),
    };
    let bytes = fs_err::read(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| fail(error.to_string()))?;
    for parameter in parameters {
        let name = format!("{prefix}{}", parameter.name);
        let tensor = file.tensor(&name).map_err(|_| fail(format!("there is no tensor `{name}`")))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != parameter.shape {
            return Err(fail(format!(
                "tensor `{name}` is {:?} of shape {:?}, not F32 of shape {:?}",
                tensor.dtype(),
                tensor.shape(),
                parameter.shape
            )));
        }
        let (values, _) = tensor.data().as_chunks::<4>();
        parameter.data.clear();
        parameter.data.extend(values.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }
    Ok(())
}
