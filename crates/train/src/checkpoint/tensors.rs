use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::{Parameter, TrainError};

/// Writes parameters as an f32 safetensors file, complete or absent.
///
/// # Errors
/// The file cannot be written.
pub fn write_tensors(path: &Path, parameters: &[Parameter]) -> Result<(), TrainError> {
    let fail = |problem: String| TrainError::File {
        path: path.to_owned(),
        problem,
        hint: "check that there is room and that the directory can be written".to_owned(),
    };
    let partial = path.with_added_extension("partial");
    let views = parameters
        .iter()
        .map(|parameter| {
            let bytes = bytemuck::cast_slice(&parameter.data);
            let view = TensorView::new(Dtype::F32, parameter.shape.clone(), bytes);
            view.map(|view| (parameter.name.as_str(), view)).map_err(|error| fail(error.to_string()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    // What reads these files expects to be told that they were written by torch's rules.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), &partial)
        .map_err(|error| fail(error.to_string()))?;
    fs_err::File::open(&partial)?.sync_all()?;
    Ok(fs_err::rename(&partial, path)?)
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
