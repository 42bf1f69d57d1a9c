//! What everybody who starts runs does, on the command line and in the service.

mod cast;
mod judges;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use evalign_core::{Digest, ModelIdentity, ModelRef, Provider, RunResults, RunSpec, ScoringMode};
use evalign_model::{
    Budget, BudgetLimits, Concurrency, DateTime, DeviceSpec, LoadOptions, ModelSettings, OpenAiOptions,
    OverlongPrompt, Price, PriceTable, RetryPolicy,
};
use evalign_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::pairing::phase_spec;
use crate::scorer::SCORER_VERSION;
use crate::{ActiveRun, BenchError, Catalog, JudgingReport, RunEnd, RunError, RunRequest, Scoreboard};

pub use cast::{Asked, Cast, verdicts_by};

/// What a model's answers cost, and what is spent on them and may be.
#[derive(Clone, Debug, Default)]
pub struct Spending {
    pub price: Option<Price>,
    /// `None` for models that cost nothing: those in this process.
    pub budget: Option<Arc<Budget>>,
    /// A price table was named, and has no price for this model.
    pub is_price_unknown: bool,
}

impl RunRequest {
    /// How the model is loaded for this request.
    ///
    /// # Errors
    /// A device that does not exist, a settings file that cannot be read.
    pub fn load_options(&self) -> Result<LoadOptions, RunError> {
        Ok(LoadOptions {
            device: self.device_spec()?,
            dtype: self.dtype,
            memory_gib: self.memory_gib,
            threads: None,
            // The reference cuts long prompts from the left; by default they are an error that is counted.
            overlong: match self.mode {
                ScoringMode::LmEval => OverlongPrompt::CutLeft,
                ScoringMode::Default => OverlongPrompt::Refuse,
            },
            offline: self.offline,
            now: self.present()?,
            openai: self.openai_options()?,
            concurrency: match self.max_concurrency.and_then(NonZeroU32::new) {
                Some(limit) => Concurrency::Fixed(limit),
                None => Concurrency::Auto,
            },
            retry: RetryPolicy { attempts: self.max_retries.saturating_add(1), ..RetryPolicy::default() },
            ..LoadOptions::default()
        })
    }

    fn present(&self) -> Result<Option<DateTime>, RunError> {
        let Some(now) = &self.now else { return Ok(None) };
        let present = now.parse::<DateTime>().map_err(|error| {
            BenchError::request(format!("`now` is `{now}`: {error}"), "name a time like 2026-01-31T00:00:00")
        })?;
        Ok(Some(present))
    }

    fn device_spec(&self) -> Result<DeviceSpec, RunError> {
        match &self.device {
            None => Ok(DeviceSpec::default()),
            Some(name) => name.parse().map_err(|error| {
                BenchError::request(format!("{error}"), "use `cpu`, `cuda:0` or `metal`").into()
            }),
        }
    }

    /// How a model on a server is reached.
    fn openai_options(&self) -> Result<OpenAiOptions, RunError> {
        let mut settings = match &self.model_settings {
            Some(path) => ModelSettings::read(path)?,
            None => ModelSettings::default(),
        };
        if self.stream {
            settings.stream = Some(true);
        }
        Ok(OpenAiOptions {
            base_url: self.base_url.clone(),
            server: self.server,
            settings,
            ..OpenAiOptions::default()
        })
    }

    /// What a model's tokens cost: what the price table says, nothing where it runs in this process. `None` without a
    /// table or a price in it.
    ///
    /// # Errors
    /// A price table that cannot be read.
    pub fn price_of(&self, model: &ModelRef) -> Result<Option<Price>, RunError> {
        let Some(path) = &self.prices else { return Ok(None) };
        let table = PriceTable::read(path)?;
        Ok(match model.provider {
            Provider::Openai => table.of(&model.name),
            Provider::Local | Provider::Scripted => Some(Price::FREE),
        })
    }

    /// Reads the price table. A budget for a model in this process is refused, not ignored.
    ///
    /// # Errors
    /// A price table that cannot be read, a budget that makes no sense.
    pub fn spending(&self) -> Result<Spending, RunError> {
        let limits =
            BudgetLimits { requests: self.budget_requests, tokens: self.budget_tokens, usd: self.budget_usd };
        let price = self.price_of(&self.model)?;
        if self.model.provider != Provider::Openai {
            return if limits.is_unlimited() {
                Ok(Spending { price, ..Spending::default() })
            } else {
                Err(BenchError::request(
                    format!("a budget needs a model server, and {} runs here", self.model),
                    "leave `--budget-*` out, or limit the documents with `--limit`",
                )
                .into())
            };
        }
        let name = &self.model.name;
        let is_price_unknown = self.prices.is_some() && price.is_none() && limits.usd.is_none();
        let budget = Some(Arc::new(Budget::new(limits, price, name)?));
        Ok(Spending { price, budget, is_price_unknown })
    }
}

/// The results of a run as they are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptResults {
    #[serde(flatten)]
    pub results: RunResults,
    /// By task that was judged, what the judges are like.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub judging: BTreeMap<String, JudgingReport>,
}

impl KeptResults {
    /// Only those of one task or group.
    pub fn retain_task(&mut self, task: &str) {
        self.results.results.retain(|result| result.task == task);
        self.results.option_order.retain(|result| result.task == task);
        self.results.perturbations.retain(|result| result.task == task);
        self.judging.retain(|judged, _| judged == task);
    }

    /// New results of a run whose verdicts are those it had.
    pub(crate) fn anew(results: RunResults, before: Option<&Value>) -> Result<Self, RunError> {
        let judging = match before.and_then(|kept| kept.get("judging")) {
            Some(judging) => BTreeMap::deserialize(judging).map_err(|error| {
                RunError::malformed(format!("what the judges of run {} are like", results.run_id), error)
            })?,
            None => BTreeMap::new(),
        };
        Ok(Self { results, judging })
    }
}

/// The results of a run whose lease this process holds: aggregated, and kept with what its end says of its judges. Those of a run that was scored
/// again stand as they are: they may come from other task files than those of its request.
///
/// # Errors
/// Task files that are no longer those of the run, a failure of the store, a lost lease.
pub fn conclude(
    run: &ActiveRun,
    end: &RunEnd,
    store: &Store,
    catalog: &Catalog,
) -> Result<RunResults, RunError> {
    let stored = store.run(&run.id)?;
    if let (Some(_), Some(kept)) = (&stored.scored_by, &stored.results) {
        let kept: RunResults = serde_json::from_value(kept.clone())
            .map_err(|error| RunError::malformed(format!("results of run {}", run.id), error))?;
        return Ok(RunResults { status: stored.status, ..kept });
    }
    let results = Scoreboard::of_run(&stored, catalog, true)?.aggregate(store, &run.id)?;
    let kept = KeptResults { results, judging: end.judging.clone() };
    store.save_results(run.lease(), &json!(kept))?;
    Ok(kept.results)
}

/// The specification of a run whose work is not samples: `name` is what is done, `definition` everything that decides
/// what comes of it besides the model and the data, which has `items`.
#[must_use]
pub fn job_spec(
    model: ModelIdentity,
    name: &str,
    definition: &Value,
    (data, items): (&Digest, u64),
) -> RunSpec {
    RunSpec {
        model,
        mode: ScoringMode::Default,
        scorer_version: SCORER_VERSION,
        seed: 0,
        chat_template: false,
        system_instruction: None,
        rendered_at: None,
        tasks: vec![phase_spec(name, definition, data, (items, 1), None)],
    }
}
