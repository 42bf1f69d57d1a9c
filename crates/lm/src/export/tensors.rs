//! `model.safetensors`, one tensor at a time.

use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::merged_values;
use crate::adapter::{Adapter, HEAD};
use crate::training::WeightId;
use crate::{LanguageModel, LmError};

/// Writes all weights in f32 and says how many matrices the adapter changed. Memory holds one tensor.
pub(super) fn write(model: &LanguageModel, adapter: &Adapter, path: &Path) -> Result<usize, LmError> {
    let head = adapter.head.as_deref().or(model.reward_head());
    let weights = model.weights();
    let mut named: Vec<(String, Vec<usize>, Option<WeightId>)> =
        weights.into_iter().map(|(id, shape)| (id.name(), shape, Some(id))).collect();
    if let Some(head) = head {
        named.push((HEAD.to_owned(), vec![1, head.len()], None));
    }
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut start = 0;
    for (name, shape, _) in &named {
        let end = start + shape.iter().product::<usize>() * size_of::<f32>();
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
        start = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Data starts at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::new(fs_err::File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let mut merged = 0;
    for (_, _, id) in named {
        let Some(id) = id else {
            file.write_all(bytemuck::cast_slice(head.unwrap_or_default()))?;
            continue;
        };
        let (values, changed) = merged_values(model, adapter, id)?;
        merged += usize::from(changed);
        file.write_all(bytemuck::cast_slice(&values))?;
    }
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(merged)
}
