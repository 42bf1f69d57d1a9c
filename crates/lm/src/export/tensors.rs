//! `model.safetensors`, one tensor at a time.

use std::borrow::Cow;
use std::path::Path;

use super::Changes;
use crate::LmError;
use crate::adapter::HEAD;
use crate::tensor_file::write_tensors;

/// Writes all weights in f32 and says how many matrices the adapter changed. Memory holds one tensor.
pub(super) fn write(changes: &Changes<'_>, path: &Path) -> Result<usize, LmError> {
    let Changes { model, adapter, .. } = changes;
    let weights = model.weights();
    let mut tensors: Vec<(String, Vec<usize>)> =
        weights.iter().map(|(id, shape)| (id.name(), shape.clone())).collect();
    let head = adapter.head.as_deref().or(model.reward_head()).unwrap_or_default();
    if !head.is_empty() {
        tensors.push((HEAD.to_owned(), vec![1, head.len()]));
    }
    let mut merged = 0;
    write_tensors(path, &tensors, |index| {
        // The head comes last.
        let Some((id, _)) = weights.get(index) else { return Ok(Cow::Borrowed(head)) };
        let (values, changed) = changes.values(*id)?;
        merged += usize::from(changed);
        Ok::<_, LmError>(Cow::Owned(values))
    })?;
    Ok(merged)
}
