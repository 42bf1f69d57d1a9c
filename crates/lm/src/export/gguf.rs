//! A GGUF file with the metadata of the base's.

use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::{Changes, matrices};
use crate::LmError;
use crate::training::WeightId;
use crate::weights::Naming;

const TEMPLATE_KEY: &str = "tokenizer.chat_template";

/// Tensors that the adapter does not change are copied as they are; the others are held in `kind`.
pub(super) fn write(
    base: &Path,
    changes: &Changes<'_>,
    out: &Path,
    kind: GgmlDType,
) -> Result<usize, LmError> {
    let Changes { model, adapter, .. } = changes;
    if fs_err::metadata(base)?.is_dir() {
        let problem = "is no GGUF file, whose metadata the merged one could take over";
        let hint = "merge to `--form hf`, or merge the adapter into a base that is a GGUF file";
        return Err(LmError::misplaced(base, problem, hint));
    }
    let mut file = BufReader::new(fs_err::File::open(base)?);
    let content = Content::read(&mut file)?;
    let mut changed = std::collections::BTreeMap::new();
    for id in matrices(model) {
        let WeightId::Weight(layer, module) = id else { continue };
        let (values, merged) = changes.values(id)?;
        if merged {
            let [outputs, inputs] = model.module_shape(module);
            let stored = model.stored_order(module, &values);
            let tensor = Tensor::from_vec(stored, (outputs, inputs), &Device::Cpu)?;
            let name = Naming::Gguf.weight(module.part(), layer);
            changed.insert(name, QTensor::quantize(&tensor, kind)?);
        }
    }
    let count = changed.len();
    let mut names: Vec<&String> = content.tensor_infos.keys().collect();
    names.sort();
    let mut tensors = Vec::with_capacity(names.len());
    for name in names {
        let tensor = match changed.remove(name) {
            Some(tensor) => tensor,
            None => content.tensor(&mut file, name, &Device::Cpu)?,
        };
        tensors.push((name.as_str(), tensor));
    }
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let template = adapter.chat_template.clone().map(Value::String);
    let mut metadata: Vec<(&str, &Value)> = content
        .metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value))
        .filter(|(key, _)| template.is_none() || *key != TEMPLATE_KEY)
        .chain(template.as_ref().map(|template| (TEMPLATE_KEY, template)))
        .collect();
    metadata.sort_by_key(|(key, _)| *key);
    let mut writer = BufWriter::new(fs_err::File::create(out)?);
    gguf_file::write(&mut writer, &metadata, &tensors)?;
    writer.flush()?;
    let file = writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(count)
}
