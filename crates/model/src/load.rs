use std::path::Path;
use std::sync::Arc;

use evalign_core::{Dtype, ModelRef, Provider};
use evalign_fetch::{Models, Progress, block_on};
use evalign_lm::{DateTime, DeviceSpec};

use crate::error::ModelError;
use crate::local::{Local, LocalOptions, OverlongPrompt};
use crate::model::Model;
use crate::scripted::Scripted;

/// How to load whatever model is named. The default: the CPU in f32, every core, nothing cut.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    pub device: DeviceSpec,
    /// `None`: f32 on the CPU, bf16 on a GPU.
    pub dtype: Option<Dtype>,
    /// Memory for keys and values, in GiB. `None`: see [`evalign_lm::LoadOptions`].
    pub memory_gib: Option<f64>,
    pub threads: Option<usize>,
    pub overlong: OverlongPrompt,
    /// Neither hub nor package index is asked.
    pub offline: bool,
    /// What a chat template takes for the present: [`Model::clock`] of an earlier time. `None`: today.
    pub now: Option<DateTime>,
}

/// Loads the model that a reference names. Blocks until it is ready (a local model takes seconds, one
/// that has to be downloaded longer, which `progress` hears of).
///
/// # Errors
/// The model cannot be found, fetched or loaded, or this build cannot run it.
pub fn load(
    reference: &ModelRef,
    options: &LoadOptions,
    progress: Progress<'_>,
) -> Result<Arc<dyn Model>, ModelError> {
    if reference.adapter.is_some() {
        return Err(ModelError::Unsupported {
            model: reference.to_string(),
            what: "this version does not apply adapters".to_owned(),
            hint: Some("merge the adapter into the model and give the merged directory".to_owned()),
        });
    }
    match reference.provider {
        Provider::Local => {
            let local = local_options(options)?;
            let path = block_on(async {
                Models::from_env(options.offline)?.resolve(&reference.name, progress).await
            })?;
            Ok(Arc::new(Local::load(reference, &path, &local)?))
        }
        Provider::Scripted => Ok(Arc::new(Scripted::load(Path::new(&reference.name))?)),
        Provider::Openai => Err(ModelError::Unsupported {
            model: reference.to_string(),
            what: "this version measures local models only".to_owned(),
            hint: Some(
                "name a model file, directory or hub model, for example `local/smollm2-135m-instruct`"
                    .to_owned(),
            ),
        }),
    }
}

fn local_options(options: &LoadOptions) -> Result<LocalOptions, ModelError> {
    const GIB: f64 = (1u64 << 30) as f64;
    let memory_bytes = match options.memory_gib {
        Some(gib) if gib.is_finite() && gib > 0.0 => Some((gib * GIB) as u64),
        Some(gib) => {
            return Err(ModelError::Request(format!("{gib} GiB is not an amount of memory")));
        }
        None => None,
    };
    Ok(LocalOptions {
        engine: evalign_lm::LoadOptions {
            device: options.device,
            dtype: options.dtype,
            memory_bytes,
            threads: options.threads,
            now: options.now,
        },
        overlong: options.overlong,
    })
}
