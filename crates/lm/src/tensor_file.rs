//! Safetensors files of f32 tensors, written one tensor at a time.

use std::borrow::Cow;
use std::io::{BufWriter, Error, ErrorKind, IntoInnerError, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

/// Writes tensors of these names and shapes, complete or not at all; `values` gives those of the tensor with this index.
/// Memory holds what it gives.
///
/// # Errors
/// The file cannot be written, or `values` fails or gives another number than the shape has.
pub fn write_tensors<'a, E: From<Error>>(
    path: &Path,
    tensors: &[(String, Vec<usize>)],
    values: impl FnMut(usize) -> Result<Cow<'a, [f32]>, E>,
) -> Result<(), E> {
    let partial = path.with_added_extension("partial");
    let written = fill(&partial, tensors, values).and_then(|()| Ok(fs_err::rename(&partial, path)?));
    if written.is_err() {
        // A full disk needs the room; what cannot be removed is overwritten by the next attempt.
        let _ = fs_err::remove_file(&partial);
    }
    written
}

fn fill<'a, E: From<Error>>(
    path: &Path,
    tensors: &[(String, Vec<usize>)],
    mut values: impl FnMut(usize) -> Result<Cow<'a, [f32]>, E>,
) -> Result<(), E> {
    let mut file = BufWriter::new(fs_err::File::create(path)?);
    let header = header(tensors);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for (index, (name, shape)) in tensors.iter().enumerate() {
        let values = values(index)?;
        if values.len() != shape.iter().product::<usize>() {
            let problem = format!("tensor `{name}` of shape {shape:?} has {} values", values.len());
            return Err(Error::new(ErrorKind::InvalidData, problem).into());
        }
        file.write_all(bytemuck::cast_slice(&values))?;
    }
    Ok(file.into_inner().map_err(IntoInnerError::into_error)?.sync_all()?)
}

/// JSON, with spaces up to a multiple of eight bytes, where data has to start.
fn header(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut header = Map::new();
    // What reads these files expects to be told that they were written by torch's rules.
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut start = 0;
    for (name, shape) in tensors {
        let end = start + shape.iter().product::<usize>() * size_of::<f32>();
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
        start = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn what_is_written_is_a_safetensors_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.safetensors");
        let tensors = [("b".to_owned(), vec![2, 3]), ("a".to_owned(), vec![]), ("c".to_owned(), vec![0])];
        let values = [vec![1.0f32, 2.0, 3.0, 4.0, 5.0, -6.5], vec![7.0], vec![]];
        write_tensors::<Error>(&path, &tensors, |index| Ok(Cow::Borrowed(&values[index]))).unwrap();
        let bytes = fs_err::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for ((name, shape), values) in tensors.iter().zip(&values) {
            let tensor = file.tensor(name).unwrap();
            assert_eq!((tensor.shape(), tensor.dtype()), (shape.as_slice(), safetensors::Dtype::F32));
            assert_eq!(tensor.data(), bytemuck::cast_slice::<f32, u8>(values));
        }
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    }

    #[test]
    fn a_file_that_fails_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.safetensors");
        let tensors = [("a".to_owned(), vec![2])];
        let error = write_tensors::<Error>(&path, &tensors, |_| Ok(Cow::Owned(vec![1.0]))).unwrap_err();
        assert!(error.to_string().contains("`a`"), "{error}");
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 0);
    }
}
