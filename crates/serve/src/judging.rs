//! What clients ask for when they want something judged, criticised or paired, as the requests that the command line
//! also makes.

use evalign_bench::{
    ArenaRequest, Asked, CritiqueRequest, FileJudgingRequest, InjectionsRequest, JudgedSource, Limit,
    PairsRequest, RunError, RunRequest,
};
use evalign_core::{ModelRef, NAME_FORM, is_name};
use evalign_judge::{Aggregation, JudgeOptions, NamedRubric, Rubric, Strategy};
use evalign_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::procedures::Procedure;
use crate::uploads;

/// How texts are drawn, in every request for some. What is absent is decided by what they are for.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Drawn {
    /// Prompts or rows, counted from the first.
    #[schema(value_type = Option<f64>, exclusive_minimum = 0)]
    limit: Option<Limit>,
    #[schema(minimum = 1)]
    max_tokens: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    chat_template: Option<bool>,
    seed: Option<u64>,
    /// Of models on other servers, all of them together.
    budget_tokens: Option<u64>,
    budget_requests: Option<u64>,
}

/// Something to be judged: rows of a file or the answers of a run (`file`, `run`), or models that are to answer the
/// prompts of a file (`models`, `prompts`).
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"judges": ["smollm2"], "file": "file_0199"}))]
pub(crate) struct JudgmentBody {
    /// Models that judge; several are a jury. Only models that are compared do without: people vote then.
    #[serde(default)]
    judges: Vec<String>,
    /// An uploaded file with columns `prompt` and `answer` (or `a` and `b`), and `reference`, `context` and `label` where
    /// there are such.
    file: Option<String>,
    /// A run whose model wrote texts.
    run: Option<String>,
    /// Models that are compared, two or more.
    #[serde(default)]
    models: Vec<String>,
    /// An uploaded file of prompts that they answer.
    prompts: Option<String>,
    #[serde(default = "helpfulness")]
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    rubric: String,
    /// How often each judge is asked about each row.
    #[schema(minimum = 1, maximum = 64)]
    repeats: Option<u32>,
    /// How freely verdicts are sampled; 0 takes the judge's likeliest one.
    #[serde(default)]
    #[schema(minimum = 0)]
    judge_temperature: f64,
    explanation_tokens: Option<u32>,
    /// Only tell the judges the form of a verdict, instead of holding them to that.
    #[serde(default)]
    free_form: bool,
    /// How several verdicts become one: `mean`, `median`, `majority`, `dawid-skene`.
    #[serde(default)]
    #[schema(value_type = String, pattern = "^(mean|median|majority|dawid-skene)$")]
    aggregate: Aggregation,
    #[serde(default)]
    texts: Drawn,
}

fn helpfulness() -> String {
    "helpfulness".to_owned()
}

/// A judge whose mind answers try to change.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"judge": "smollm2"}))]
pub(crate) struct InjectionsBody {
    judge: String,
    #[serde(default = "helpfulness")]
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    rubric: String,
    /// Attacks of the suite, counted from the first.
    #[schema(value_type = Option<f64>, exclusive_minimum = 0)]
    limit: Option<Limit>,
    /// Of a judge on another server.
    budget_tokens: Option<u64>,
    budget_requests: Option<u64>,
}

/// Answers to be criticised and revised by principles.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2", "prompts": "file_0199"}))]
pub(crate) struct CritiqueBody {
    /// The model that answers, criticises and revises.
    model: String,
    /// An uploaded file of prompts.
    prompts: String,
    /// Compares each revision with what it revises; absent: the model itself.
    judge: Option<String>,
    #[serde(default = "helpfulness")]
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    rubric: String,
    #[serde(default = "everyday")]
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    constitution: String,
    /// Critiques and revisions of each answer.
    #[serde(default = "four")]
    #[schema(minimum = 1, maximum = 32)]
    rounds: u32,
    #[serde(default)]
    texts: Drawn,
}

fn everyday() -> String {
    "everyday".to_owned()
}

fn four() -> u32 {
    4
}

/// Preference pairs to be built: answers to the prompts of a file that a judge compares (`prompts`, `judge`), or answers
/// to the training rows of tasks, right or wrong by the task's own scoring (`tasks`).
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"models": ["smollm2"], "prompts": "file_0199", "judge": "smollm2"}))]
pub(crate) struct PreferencesBody {
    /// The models that answer.
    #[schema(min_items = 1)]
    models: Vec<String>,
    /// An uploaded file of prompts.
    prompts: Option<String>,
    #[serde(default)]
    tasks: Vec<String>,
    /// Answers of each model to each prompt.
    #[serde(default = "four")]
    #[schema(minimum = 1)]
    samples: u32,
    /// Worked examples shown before each question of a task when it is answered; the pairs carry the question alone.
    #[serde(default)]
    shots: u32,
    judge: Option<String>,
    #[serde(default = "helpfulness")]
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    rubric: String,
    /// Instead of the rubric: each two answers are compared by a principle drawn from this constitution.
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    constitution: Option<String>,
    /// `best-vs-worst`, `best-vs-random`, `all-pairs`, `right-vs-wrong`.
    #[schema(value_type = Option<String>, pattern = "^(best-vs-worst|best-vs-random|all-pairs|right-vs-wrong)$")]
    strategy: Option<Strategy>,
    #[serde(default)]
    texts: Drawn,
}

/// What judges can go by.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RubricObject {
    #[schema(pattern = "^rubric$")]
    object: &'static str,
    /// How requests name it.
    pub(crate) id: String,
    /// What its file says: `summary`, `scale`, `criteria` with their questions and levels, ...; absent where that cannot be
    /// used, of which the server's log says why.
    #[schema(value_type = Option<Object>)]
    rubric: Option<Rubric>,
    /// SHA-256 of everything it says.
    digest: Option<String>,
}

/// Names of rubrics and constitutions never are paths.
fn checked_name(name: &str, field: &str) -> ApiResult<String> {
    if is_name(name) {
        return Ok(name.to_owned());
    }
    Err(ApiError::new(Code::InvalidRequest, format!("`{field}` is not a name: {NAME_FORM}")).about(field))
}

fn wrong(field: &str, message: &str) -> ApiError {
    ApiError::new(Code::InvalidRequest, message).about(field)
}

impl App {
    /// Every rubric that a request can name.
    pub(crate) fn rubrics(&self) -> ApiResult<Vec<RubricObject>> {
        let all = Rubric::all(&self.settings.include_path).map_err(RunError::from)?;
        let object = |(id, rubric): NamedRubric| {
            let rubric =
                rubric.inspect_err(|error| tracing::warn!(rubric = id, %error, "cannot be used")).ok();
            let digest = rubric.as_ref().map(|rubric| rubric.digest().to_string());
            RubricObject { object: "rubric", id, rubric, digest }
        };
        Ok(all.into_iter().map(object).collect())
    }

    fn references(&self, store: &Store, names: &[String]) -> ApiResult<Vec<ModelRef>> {
        names.iter().map(|name| self.reference(store, name)).collect()
    }

    /// Where an uploaded file can be read.
    pub(crate) fn file_at(&self, store: &Store, id: &str, field: &str) -> ApiResult<std::path::PathBuf> {
        uploads::named_place(&self.home, &uploads::found(store, id, field)?)
    }

    fn drawn(&self, model: ModelRef, tasks: Vec<String>, texts: &Drawn) -> RunRequest {
        let mut request = self.base_request(model, tasks);
        request.limit = texts.limit;
        request.max_tokens = texts.max_tokens;
        request.temperature = texts.temperature;
        request.top_p = texts.top_p;
        request.chat_template = texts.chat_template;
        request.seed = texts.seed.unwrap_or(request.seed);
        request.budget_tokens = texts.budget_tokens;
        request.budget_requests = texts.budget_requests;
        request
    }

    /// What a client wants judged.
    pub(crate) fn judgment(&self, store: &Store, body: &JudgmentBody) -> ApiResult<Procedure> {
        if !(body.judge_temperature.is_finite() && body.judge_temperature >= 0.0) {
            return Err(wrong("judge_temperature", "`judge_temperature` is 0 or more"));
        }
        let judges = self.references(store, &body.judges)?;
        let asked = Asked {
            rubric: checked_name(&body.rubric, "rubric")?,
            options: JudgeOptions {
                seed: body.texts.seed.unwrap_or(evalign_bench::DEFAULT_SEED),
                temperature: body.judge_temperature,
                explanation_tokens: body.explanation_tokens,
                constrained: !body.free_form,
                ..JudgeOptions::default()
            },
            aggregate: body.aggregate,
        };
        let source = match (&body.file, &body.run, body.models.as_slice()) {
            (Some(file), None, []) => JudgedSource::File(self.file_at(store, file, "file")?),
            (None, Some(run), []) => {
                let run = run.parse().map_err(|_| ApiError::not_found("run", run).about("run"))?;
                JudgedSource::Run(store.run(&run).map_err(|error| ApiError::from(error).about("run"))?.id)
            }
            (None, None, [_, ..]) => return self.arena(store, body, (judges, &asked)),
            _ => return Err(wrong("file", "name one of `file`, `run`, and `models` with `prompts`")),
        };
        let first = judges.first().ok_or_else(|| wrong("judges", "name at least one judge"))?;
        let mut run = self.drawn(first.clone(), Vec::new(), &body.texts);
        run.repeats = Some(body.repeats.unwrap_or(1));
        Ok(Procedure::Judging(Box::new(FileJudgingRequest {
            procedure: FileJudgingRequest::PROCEDURE.to_owned(),
            asked: json!(asked),
            judges,
            source,
            run,
        })))
    }

    fn arena(
        &self,
        store: &Store,
        body: &JudgmentBody,
        (judges, asked): (Vec<ModelRef>, &Asked),
    ) -> ApiResult<Procedure> {
        let prompts = body.prompts.as_ref().ok_or_else(|| wrong("prompts", "name a file of prompts"))?;
        let competitors = self.references(store, &body.models)?;
        let by_models = |error| ApiError::from(error).about("models");
        ArenaRequest::check_competitors(&competitors).map_err(by_models)?;
        let first = competitors.first().ok_or_else(|| wrong("models", "name two models or more"))?;
        Ok(Procedure::Arena(Box::new(ArenaRequest {
            procedure: ArenaRequest::PROCEDURE.to_owned(),
            run: self.drawn(first.clone(), Vec::new(), &body.texts),
            competitors,
            judges,
            asked: json!(asked),
            prompts: self.file_at(store, prompts, "prompts")?,
            weights: Vec::new(),
        })))
    }

    /// Which judge a client wants attacked.
    pub(crate) fn injections(&self, store: &Store, body: &InjectionsBody) -> ApiResult<Procedure> {
        let texts = Drawn {
            limit: body.limit,
            budget_tokens: body.budget_tokens,
            budget_requests: body.budget_requests,
            ..Drawn::default()
        };
        let judge = self.reference(store, &body.judge).map_err(|error| error.about("judge"))?;
        Ok(Procedure::Injections(Box::new(InjectionsRequest {
            procedure: InjectionsRequest::PROCEDURE.to_owned(),
            run: self.drawn(judge, Vec::new(), &texts),
            rubric: checked_name(&body.rubric, "rubric")?,
        })))
    }

    /// What a client wants criticised.
    pub(crate) fn critique(&self, store: &Store, body: &CritiqueBody) -> ApiResult<Procedure> {
        let model = self.reference(store, &body.model)?;
        let judge = body.judge.as_ref().map(|judge| self.reference(store, judge)).transpose()?;
        Ok(Procedure::Critique(Box::new(CritiqueRequest {
            procedure: CritiqueRequest::PROCEDURE.to_owned(),
            run: self.drawn(model.clone(), Vec::new(), &body.texts),
            prompts: self.file_at(store, &body.prompts, "prompts")?,
            constitution: checked_name(&body.constitution, "constitution")?,
            rounds: body.rounds,
            judge: judge.unwrap_or(model),
            rubric: checked_name(&body.rubric, "rubric")?,
            bound: None,
        })))
    }

    /// Which pairs a client wants built.
    pub(crate) fn preferences(&self, store: &Store, body: &PreferencesBody) -> ApiResult<Procedure> {
        let mut models = self.references(store, &body.models)?.into_iter();
        let first = models.next().ok_or_else(|| wrong("models", "name at least one model"))?;
        let of_task = body.prompts.is_none();
        let by_default = if of_task { Strategy::RightVsWrong } else { Strategy::BestVsWorst };
        let mut run = self.drawn(first, body.tasks.clone(), &body.texts);
        run.repeats = Some(body.samples);
        if of_task {
            // A task's own definition says how its answers are drawn, which is greedily: all alike.
            run.temperature.get_or_insert(0.8);
            run.shots = Some(body.shots);
        }
        let constitution = body.constitution.as_deref();
        let prompts = body.prompts.as_ref().map(|file| self.file_at(store, file, "prompts")).transpose()?;
        Ok(Procedure::Pairs(Box::new(PairsRequest {
            procedure: PairsRequest::PROCEDURE.to_owned(),
            run,
            more_models: models.collect(),
            judge: body.judge.as_ref().map(|judge| self.reference(store, judge)).transpose()?,
            rubric: checked_name(&body.rubric, "rubric")?,
            constitution: constitution.map(|name| checked_name(name, "constitution")).transpose()?,
            prompts,
            strategy: body.strategy.unwrap_or(by_default),
            samplers: Vec::new(),
            judge_digest: None,
            judge_weights: None,
            rubric_digest: None,
            constitution_digest: None,
        })))
    }
}
