use std::path::PathBuf;
use std::sync::Arc;

use evalign_core::{GenerateParams, ModelRef, Provider};
use evalign_judge::{Aggregation, Constitution, Judge, JudgeOptions, Prompts, Rubric};
use evalign_model::{Budget, BudgetLimits, Cached, LoadOptions, Model, Needs};
use evalign_store::Store;
use serde::{Deserialize, Serialize};

use crate::pairing::{Judges, PairsRequest};
use crate::{ActiveRun, BenchError, RunError, RunRequest, StoreCache};

/// The models of a run of several steps, each loaded once however many parts it plays, behind the store's cache.
pub struct Cast {
    loaded: Vec<(ModelRef, Arc<dyn Model>)>,
    /// What those on servers may spend together; absent where none is on a server.
    budget: Option<Arc<Budget>>,
}

impl std::fmt::Debug for Cast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.loaded.iter().map(|(reference, _)| reference.to_string())).finish()
    }
}

impl Cast {
    /// Each model, as often as it has parts to play, with how it will be asked for texts. `load` loads one of them.
    ///
    /// # Errors
    /// A budget that makes no sense, a model that cannot be loaded.
    pub fn load<E: From<RunError>>(
        parts: &[(&ModelRef, GenerateParams)],
        request: &RunRequest,
        store: &Store,
        load: impl Fn(&ModelRef, &LoadOptions) -> Result<Arc<dyn Model>, E>,
    ) -> Result<Self, E> {
        let budget = budget(parts, request)?;
        let mut loaded: Vec<(ModelRef, Arc<dyn Model>)> = Vec::new();
        for (reference, _) in parts {
            if loaded.iter().any(|(known, _)| known == *reference) {
                continue;
            }
            let mut options = request.load_options()?;
            let completion = request.chat_template == Some(false);
            let own = parts.iter().filter(|(other, _)| other == reference);
            let generate = own.map(|(_, params)| params.clone()).collect();
            options.openai.needs = Needs { chat: !completion, completion, log_likelihood: false, generate };
            options.budget.clone_from(&budget);
            let model = load(reference, &options)?;
            let cached = Cached::new(model, StoreCache(store.clone()));
            loaded.push(((*reference).clone(), Arc::new(cached)));
        }
        Ok(Self { loaded, budget })
    }

    /// What the user should know of the models.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.loaded.iter().flat_map(|(_, model)| model.notes())
    }

    /// Counts what a run spends, and what earlier sessions of it have.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn spend_for(&self, run: &mut ActiveRun, store: &Store) -> Result<(), RunError> {
        if let Some(budget) = &self.budget {
            budget.count_earlier(store.run(&run.id)?.spent);
            run.set_budget(Some(budget.clone()));
        }
        Ok(())
    }

    /// # Errors
    /// A model that has no part.
    pub fn get(&self, reference: &ModelRef) -> Result<Arc<dyn Model>, RunError> {
        let found = self.loaded.iter().find(|(known, _)| known == reference);
        let missing =
            || BenchError::request(format!("the model {reference} is not loaded"), "name it once more");
        Ok(found.map(|(_, model)| model.clone()).ok_or_else(missing)?)
    }

    /// Several, in their order.
    ///
    /// # Errors
    /// As [`Cast::get`].
    pub fn all<'m>(
        &self,
        references: impl IntoIterator<Item = &'m ModelRef>,
    ) -> Result<Vec<Arc<dyn Model>>, RunError> {
        let mut models = Vec::new();
        for reference in references {
            models.push(self.get(reference)?);
        }
        Ok(models)
    }

    /// A judge by a rubric.
    ///
    /// # Errors
    /// A model that has no part, a rubric or templates that cannot be read.
    pub fn judge(&self, reference: &ModelRef, rubric: &str, request: &RunRequest) -> Result<Judge, RunError> {
        let rubric = Rubric::find(rubric, &request.include_path)?;
        let (prompts, options) = judging(request)?;
        Ok(Judge::new(self.get(reference)?, rubric, prompts, options)?)
    }

    /// Who compares the answers that pairs are made of; `None` where the task's own scores decide.
    ///
    /// # Errors
    /// As [`Cast::judge`].
    pub fn judges_of(&self, request: &PairsRequest) -> Result<Option<Judges>, RunError> {
        let Some(judge) = &request.judge else { return Ok(None) };
        let model = self.get(judge)?;
        let (prompts, options) = judging(&request.run)?;
        Ok(Some(match &request.constitution {
            Some(name) => {
                let constitution = Constitution::find(name, &request.run.include_path)?;
                Judges::by_principles(&model, constitution, &prompts, &options)?
            }
            None => {
                let rubric = Rubric::find(&request.rubric, &request.run.include_path)?;
                Judges::by_rubric(model, rubric, prompts, options)?
            }
        }))
    }
}

fn budget(
    parts: &[(&ModelRef, GenerateParams)],
    request: &RunRequest,
) -> Result<Option<Arc<Budget>>, RunError> {
    let limits = BudgetLimits { requests: request.budget_requests, tokens: request.budget_tokens, usd: None };
    match parts.iter().find(|(model, _)| model.provider == Provider::Openai) {
        Some((model, _)) => Ok(Some(Arc::new(Budget::new(limits, None, &model.name)?))),
        None if limits.is_unlimited() => Ok(None),
        None => Err(BenchError::request(
            "a budget needs a model server, and all models run here",
            "leave `--budget-*` out, or limit the prompts with `--limit`",
        )
        .into()),
    }
}

/// The templates of judges, and how they are asked.
fn judging(request: &RunRequest) -> Result<(Arc<Prompts>, JudgeOptions), RunError> {
    let prompts = Arc::new(Prompts::load(&request.include_path)?);
    Ok((prompts, JudgeOptions { seed: request.seed, ..JudgeOptions::default() }))
}

/// How a judge will be asked. Whether a server takes such a request depends on there being a form, not on which.
fn verdicts(rubric: &Rubric, options: &JudgeOptions) -> GenerateParams {
    options.params(rubric.pairwise_format(options.explanation_tokens))
}

/// How the judge of a run will be asked.
///
/// # Errors
/// A rubric or templates that cannot be read.
pub fn verdicts_by(rubric: &str, request: &RunRequest) -> Result<GenerateParams, RunError> {
    Ok(verdicts(&Rubric::find(rubric, &request.include_path)?, &judging(request)?.1))
}

/// How judges are asked about rows or competitors, enough to make them anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub rubric: String,
    pub options: JudgeOptions,
    pub aggregate: Aggregation,
}

impl Asked {
    /// What a stored request says.
    ///
    /// # Errors
    /// It was written by another version.
    pub fn read(asked: &serde_json::Value) -> Result<Self, RunError> {
        serde_json::from_value(asked.clone())
            .map_err(|error| RunError::malformed("how judges are asked", error))
    }

    /// How the judges will be asked.
    ///
    /// # Errors
    /// A rubric that cannot be read.
    pub fn verdicts(&self, include_path: &[PathBuf]) -> Result<GenerateParams, RunError> {
        Ok(verdicts(&Rubric::find(&self.rubric, include_path)?, &self.options))
    }

    /// The judges, each with the rubric.
    ///
    /// # Errors
    /// A judge that is named twice, a model that has no part, a rubric or templates that cannot be read.
    pub fn judges(
        &self,
        references: &[ModelRef],
        cast: &Cast,
        include_path: &[PathBuf],
    ) -> Result<Vec<Judge>, RunError> {
        RunRequest::check_judges(references)?;
        let rubric = Rubric::find(&self.rubric, include_path)?;
        let prompts = Arc::new(Prompts::load(include_path)?);
        let mut judges = Vec::new();
        for model in cast.all(references)? {
            judges.push(Judge::new(model, rubric.clone(), prompts.clone(), self.options.clone())?);
        }
        Ok(judges)
    }
}
