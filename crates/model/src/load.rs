use std::path::Path;
use std::sync::Arc;

use evalign_core::{Dtype, ModelRef, Provider};
use evalign_fetch::{Jitter, Models, Progress, RetryPolicy, block_on};
use evalign_lm::{DateTime, DeviceSpec};

use crate::budget::{Budget, Budgeted};
use crate::deadline::Deadlined;
use crate::error::ModelError;
use crate::fused::{Fuse, Fused};
use crate::limit::{Concurrency, Limited, Limiters};
use crate::local::{Local, LocalOptions, OverlongPrompt};
use crate::model::Model;
use crate::openai::{OpenAi, OpenAiOptions};
use crate::remote::{Remote, RemoteProfile, runtime};
use crate::retry::Retrying;
use crate::scripted::Scripted;
use crate::split::Split;

/// Calls that are started before the first is answered, at least; see [`RemoteProfile::started`].
const STARTED: usize = 1024;

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
    /// Neither hub nor package index is asked. Of a model server it says nothing: naming one is asking it.
    pub offline: bool,
    /// What a chat template takes for the present: [`Model::clock`] of an earlier time. `None`: today.
    pub now: Option<DateTime>,
    /// How a model on a server is reached.
    pub openai: OpenAiOptions,
    pub concurrency: Concurrency,
    /// The limits on concurrency that other models of this process keep to.
    pub limiters: Limiters,
    pub retry: RetryPolicy,
    /// What may be spent on a server. `None`: it is not limited, nor known afterwards.
    pub budget: Option<Arc<Budget>>,
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
    if reference.adapter.is_some() && reference.provider != Provider::Local {
        return Err(ModelError::Unsupported {
            model: reference.to_string(),
            what: "an adapter is applied by the engine that computes the model".to_owned(),
            hint: Some("use `local/NAME+adapter=DIR`, or have the server load the adapter".to_owned()),
        });
    }
    match reference.provider {
        Provider::Local => Ok(Arc::new(load_local(reference, options, progress)?)),
        Provider::Scripted => Ok(Arc::new(Scripted::load(Path::new(&reference.name))?)),
        Provider::Openai => remote(reference, options),
    }
}

/// As [`load`], for a model of this process: what callers get who need more of it than [`Model`] has.
///
/// # Errors
/// As [`load`].
pub fn load_local(
    reference: &ModelRef,
    options: &LoadOptions,
    progress: Progress<'_>,
) -> Result<Local, ModelError> {
    let mut local = local_options(options)?;
    local.engine.adapter.clone_from(&reference.adapter);
    let path =
        block_on(async { Models::from_env(options.offline)?.resolve(&reference.name, progress).await })?;
    Local::load(reference, &path, &local)
}

/// A model on a server, in its decorators: a call waits for a slot, is admitted by the budget, and has a
/// deadline in all; a call that failed in passing gives its slot back while it waits for the next try. What
/// takes several requests is split outside of all that, so that each of them is one call.
fn remote(reference: &ModelRef, options: &LoadOptions) -> Result<Arc<dyn Model>, ModelError> {
    let openai = wait_for(OpenAi::connect(reference, &options.openai))?;
    let mut notes = openai.notes();
    if options.overlong == OverlongPrompt::CutLeft {
        notes.push(
            "prompts that are too long for the server are refused by it, not cut from the left: only it can count tokens"
                .to_owned(),
        );
    }
    let limited = match options.concurrency {
        Concurrency::Auto => 0,
        Concurrency::Fixed(limit) => usize::try_from(limit.get()).unwrap_or(usize::MAX),
    };
    let profile = RemoteProfile {
        identity: openai.identity(),
        context_length: openai.context_length(),
        capabilities: openai.capabilities(),
        notes,
        started: STARTED.max(limited.saturating_mul(2)),
    };
    let limiter = options.limiters.of(openai.account().as_str(), options.concurrency);
    let (place, total) = (profile.identity.device.clone(), openai.deadlines().total);
    let fuse = Arc::new(Fuse::default());
    let many_prompts = openai.takes_many_prompts();
    let budget = options.budget.clone().unwrap_or_default();
    let call = Budgeted::new(Deadlined::new(openai, place, total), budget);
    let call = Limited::new(Fused::new(call, fuse.clone()), limiter);
    let call = Retrying::new(call, options.retry.clone(), Jitter::from_os());
    Ok(if many_prompts {
        Arc::new(Remote::new(call, profile, fuse))
    } else {
        Arc::new(Remote::new(Split::new(call), profile, fuse))
    })
}

/// Waits for a server, from inside of an async runtime or outside.
fn wait_for<T: Send>(future: impl Future<Output = Result<T, ModelError>> + Send) -> Result<T, ModelError> {
    let runtime = runtime()?;
    // A thread of its own: tokio forbids blocking on one of its own.
    std::thread::scope(|scope| match scope.spawn(|| runtime.block_on(future)).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
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
            adapter: None,
        },
        overlong: options.overlong,
    })
}
