use std::path::PathBuf;
use std::sync::Arc;

use evalign_bench::{Catalog, RunRequest, Scoreboard, StoreCache, request_of};
use evalign_core::{ModelRef, RunId};
use evalign_data::DataRoots;
use evalign_fetch::Home;
use evalign_model::{Cached, DeviceSpec, LoadOptions, Model};
use evalign_store::{Store, StoredRun};

use crate::args::{DataArgs, EngineArgs};
use crate::commands::progress::FetchBars;
use crate::output::{Failure, Output};

/// The alias of the model that comes with evalign.
pub(super) const DEFAULT_MODEL: &str = "local/smollm2-135m-instruct";

pub(super) fn open_store() -> Result<Store, Failure> {
    Ok(Store::open(Home::from_env()?.path())?)
}

/// For commands that only read: works also where the store cannot be written.
pub(super) fn open_store_to_read() -> Result<Store, Failure> {
    Ok(Store::open_for_reading(Home::from_env()?.path())?)
}

/// Who holds a lease, for the message to a second process.
pub(super) fn owner(command: &str) -> String {
    format!("evalign {command} (process {})", std::process::id())
}

/// The store, a run in it, and the run's record.
pub(super) fn find(wanted: &str) -> Result<(Store, RunId, StoredRun), Failure> {
    find_in(open_store()?, wanted)
}

/// As [`find`], for commands that only read.
pub(super) fn find_to_read(wanted: &str) -> Result<(Store, RunId, StoredRun), Failure> {
    find_in(open_store_to_read()?, wanted)
}

fn find_in(store: Store, wanted: &str) -> Result<(Store, RunId, StoredRun), Failure> {
    let id = store.find_run(wanted)?;
    let run = store.run(&id)?;
    Ok((store, id, run))
}

/// How a stored run is scored: by the task files that `data` names, and by the run's own where those have
/// none of that name.
pub(super) fn scoreboard(run: &StoredRun, data: &DataArgs, strict: bool) -> Result<Scoreboard, Failure> {
    let catalog = Catalog::load_over(&request_of(run)?.include_path, &data.include_path)?;
    Ok(Scoreboard::of_run(run, &catalog, strict)?)
}

pub(super) fn roots(request: &RunRequest) -> Result<DataRoots, Failure> {
    Ok(DataRoots::from_env(request.data_root.clone(), request.include_path.clone(), request.offline)?)
}

/// How a model is loaded for a request.
pub(super) fn load_options(request: &RunRequest) -> Result<LoadOptions, Failure> {
    Ok(request.load_options()?)
}

pub(super) fn engine_options(engine: &EngineArgs, offline: bool) -> Result<LoadOptions, Failure> {
    Ok(LoadOptions {
        device: device(engine.device.as_deref())?,
        dtype: engine.dtype,
        memory_gib: engine.memory_gib,
        offline,
        ..LoadOptions::default()
    })
}

fn device(name: Option<&str>) -> Result<DeviceSpec, Failure> {
    match name {
        None => Ok(DeviceSpec::default()),
        Some(name) => name.parse().map_err(|error| Failure::new(error, "use `cpu`, `cuda:0` or `metal`")),
    }
}

/// Loads the model, telling on standard error what takes time.
pub(super) fn load_model(
    reference: &ModelRef,
    options: &LoadOptions,
    output: Output,
) -> Result<Arc<dyn Model>, Failure> {
    let bars = FetchBars::new(output);
    let progress = |event: evalign_fetch::Event<'_>| bars.event(&event);
    let model = evalign_model::load(reference, options, &progress);
    bars.finish();
    model.map_err(|error| match Failure::hinted(error) {
        Failure::Error { error, hint: None } => Failure::Error {
            error,
            hint: Some(if std::path::Path::new(&reference.name).exists() {
                "it may be damaged or was not copied to its end: get it again".to_owned()
            } else {
                "check the name; `evalign models list` shows the models on this machine".to_owned()
            }),
        },
        failure => failure,
    })
}

/// The model behind the store's response cache.
pub(super) fn cached(model: Arc<dyn Model>, store: &Store) -> Cached<Arc<dyn Model>, StoreCache> {
    Cached::new(model, StoreCache(store.clone()))
}

/// Absolute, so that a run can be resumed from another directory.
pub(super) fn absolute(path: &std::path::Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
