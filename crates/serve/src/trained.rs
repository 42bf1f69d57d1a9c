//! What training jobs have made, as models that their tenant names: `NAME+adapter=JOB`, or `JOB` alone where all weights were
//! trained.

use std::path::{Path, PathBuf};

use evalign_core::{ModelRef, Provider, RunId, RunStatus};
use evalign_store::Store;

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::training::{DIRECTORY, TrainRequest};

fn of_model(message: &str) -> ApiError {
    ApiError::new(Code::InvalidRequest, message).about("model")
}

impl App {
    /// Where a job writes. Its id is ours.
    pub(crate) fn training_place(&self, run: &RunId) -> PathBuf {
        self.home.join(DIRECTORY).join(run.as_str())
    }

    /// A finished job of this tenant.
    fn finished_training(&self, store: &Store, job: &str) -> ApiResult<(RunId, TrainRequest)> {
        let none = || ApiError::not_found("training job", job).about("model");
        let run = store.run(&job.parse().map_err(|_| none())?).map_err(|_| none())?;
        let request = TrainRequest::of(&run)?.ok_or_else(none)?;
        if run.status != RunStatus::Completed {
            return Err(of_model("the training job is not completed"));
        }
        Ok((run.id, request))
    }

    /// The model that a finished job of this tenant has trained, with its adapter.
    pub(crate) fn trained_model(&self, store: &Store, job: &RunId) -> ApiResult<ModelRef> {
        let none = || ApiError::not_found("training job", job.as_str());
        let request = TrainRequest::of(&store.run(job).map_err(|_| none())?)?.ok_or_else(none)?;
        let base = request.base();
        let adapter = self.trained_adapter(store, job.as_str(), &base)?;
        Ok(ModelRef { adapter: Some(adapter), ..base })
    }

    /// The directory of an adapter that a finished job of this tenant has trained for this model.
    pub(crate) fn trained_adapter(&self, store: &Store, job: &str, base: &ModelRef) -> ApiResult<PathBuf> {
        let (id, request) = self.finished_training(store, job)?;
        if request.is_whole() {
            return Err(of_model(
                "the job trained all weights: it has no adapter, its id alone names its model",
            ));
        }
        let trained = request.base();
        if (&trained.name, trained.provider) != (&base.name, base.provider) {
            return Err(of_model("the adapter was trained for another model"));
        }
        Ok(self.training_place(&id))
    }

    /// The model that a finished job of this tenant has made of all weights.
    pub(crate) fn trained_whole(&self, store: &Store, job: &str) -> ApiResult<ModelRef> {
        let (id, request) = self.finished_training(store, job)?;
        if !request.is_whole() {
            return Err(of_model("the job trained an adapter: name its model as `NAME+adapter=JOB`"));
        }
        let place = self.training_place(&id).display().to_string();
        Ok(ModelRef { provider: Provider::Local, name: place, adapter: None })
    }

    /// The served model and the job of a reference with an adapter that was trained here.
    pub(crate) fn adapter_job(&self, reference: &ModelRef) -> Option<(String, String)> {
        let job = self.job_at(reference.adapter.as_ref()?)?;
        let base = ModelRef { adapter: None, ..reference.clone() };
        Some((self.models.name_of(&base)?.to_owned(), job.as_str().to_owned()))
    }

    /// The job of a reference to a model all of whose weights were trained here.
    pub(crate) fn whole_job(&self, reference: &ModelRef) -> Option<RunId> {
        let is_alone = reference.provider == Provider::Local && reference.adapter.is_none();
        is_alone.then(|| self.job_at(Path::new(&reference.name))).flatten()
    }

    fn job_at(&self, place: &Path) -> Option<RunId> {
        place.strip_prefix(self.home.join(DIRECTORY)).ok()?.to_str()?.parse().ok()
    }
}
