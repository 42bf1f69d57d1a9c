use std::sync::Arc;

use evalign_core::{ModelRef, Provider};
use evalign_model::{Cached, LoadOptions, Model, Needs, OverlongPrompt};
use evalign_store::Store;

use crate::{BenchError, Draft, RunError, StoreCache};

impl Draft {
    /// In which ways the model of the draft will be asked, also where it judges itself.
    ///
    /// # Errors
    /// A rubric that is not there or cannot be read.
    pub fn all_needs(&self) -> Result<Needs, RunError> {
        let mut needs = self.needs();
        if self.request.judges().any(|judge| *judge == self.request.model) {
            needs.chat = true;
            needs.generate.extend(self.verdicts()?);
        }
        Ok(needs)
    }

    /// The draft with the judges that its request names, where it names any: a reward model alone, or such as give
    /// verdicts, which are asked behind the store's cache. `model` is the draft's own, loaded with these options, in case
    /// it judges itself; `load` loads another.
    ///
    /// # Errors
    /// No task that asks for a judge, a reward model among several judges, a rubric or template that cannot be read, a
    /// judge that cannot be loaded or cannot judge.
    pub fn with_judges<E: From<RunError>>(
        self,
        (model, options): (&Arc<dyn Model>, &LoadOptions),
        store: &Store,
        load: impl Fn(&ModelRef, &LoadOptions) -> Result<Arc<dyn Model>, E>,
    ) -> Result<Self, E> {
        let judges: Vec<ModelRef> = self.request.judges().cloned().collect();
        if judges.is_empty() {
            return Ok(self);
        }
        // Only what is computed here can be a reward model, which every task of texts takes.
        if !self.wants_judge() && judges.iter().any(|judge| judge.provider != Provider::Local) {
            return Err(RunError::from(unwanted()).into());
        }
        let mut loaded = Vec::with_capacity(judges.len());
        for judge in &judges {
            loaded.push(if *judge == self.request.model {
                model.clone()
            } else {
                load(judge, &self.judge_options(judge, options)?)?
            });
        }
        Ok(self.judged_by_loaded(&loaded, store)?)
    }

    /// How a judge is loaded beside the draft's model.
    fn judge_options(&self, judge: &ModelRef, beside: &LoadOptions) -> Result<LoadOptions, RunError> {
        let mut options = beside.clone();
        if let (Some(budget), Provider::Openai) = (&options.budget, judge.provider) {
            options.budget = Some(Arc::new(budget.beside(self.request.price_of(judge)?, &judge.name)?));
        }
        // A rubric that lost its beginning is no rubric, whatever the task's own model does with long prompts.
        options.overlong = OverlongPrompt::Refuse;
        let generate = self.verdicts()?;
        options.openai.needs = Needs { chat: true, completion: false, log_likelihood: false, generate };
        Ok(options)
    }

    fn judged_by_loaded(self, loaded: &[Arc<dyn Model>], store: &Store) -> Result<Self, RunError> {
        match loaded {
            [only] if only.reward_model().is_some() => return self.rewarded_by(only),
            _ if loaded.iter().any(|model| model.reward_model().is_some()) => {
                return Err(BenchError::request(
                    "a reward model gives no verdicts and cannot be one of several judges",
                    "name it alone, or leave it out",
                )
                .into());
            }
            _ if !self.wants_judge() => return Err(unwanted().into()),
            _ => {}
        }
        let remember = |model: &Arc<dyn Model>| -> Arc<dyn Model> {
            Arc::new(Cached::new(model.clone(), StoreCache(store.clone())))
        };
        self.judged_by(&loaded.iter().map(remember).collect::<Vec<_>>())
    }
}

fn unwanted() -> BenchError {
    BenchError::request(
        "no task of the run asks for a judge",
        "name none, name a reward model, or have the answers judged afterwards: `evalign judge score RUN`, or \
         `POST /v1/judgments`",
    )
}
