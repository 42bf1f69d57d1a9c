use std::sync::Arc;

use evalign_bench::RunRequest;
use evalign_core::{LatencySummary, Percentiles, RunResults};
use evalign_model::{Budget, Price};
use evalign_store::StoredRun;

use crate::output::{Failure, Output, seconds};

/// What a model's answers cost, and what is spent on them and may be.
#[derive(Clone, Debug, Default)]
pub(super) struct Spending {
    pub(super) price: Option<Price>,
    /// `None` for models that cost nothing: those in this process.
    pub(super) budget: Option<Arc<Budget>>,
}

impl Spending {
    /// As [`RunRequest::spending`], telling where a price is not known.
    pub(super) fn of(request: &RunRequest, output: Output) -> Result<Self, Failure> {
        let evalign_bench::Spending { price, budget, is_price_unknown } = request.spending()?;
        if let (true, Some(path)) = (is_price_unknown, &request.prices) {
            output.note(&format!(
                "note: cost unknown: {} has no price for `{}`",
                path.display(),
                request.model.name
            ));
        }
        Ok(Self { price, budget })
    }

    /// Counts what earlier sessions of the run spent.
    pub(super) fn count_earlier(&self, run: &StoredRun) {
        if let Some(budget) = &self.budget {
            budget.count_earlier(run.spent);
        }
    }
}

/// Tokens, time and money of a run, for people.
pub(super) fn spent_text(results: &RunResults) -> String {
    let (usage, spent) = (&results.usage, &results.seconds);
    let Some(latency) = &results.latency else {
        // Of what was asked elsewhere, which is judges.
        let cost = results.cost_usd.map_or_else(String::new, |usd| format!("{usd:.4} USD; "));
        return format!(
            "{} prompt tokens, {} computed after sharing, {} generated; {cost}{} in all: {} loading, {} reading prompts, {} generating",
            usage.prompt_tokens,
            usage.computed_prompt_tokens,
            usage.generated_tokens,
            time(spent.total + spent.load),
            time(spent.load),
            time(spent.prefill),
            time(spent.decode),
        );
    };
    let part = |count: u64, what: &str| match count {
        0 => String::new(),
        count => format!(" ({count} {what})"),
    };
    let cost = results.cost_usd.map_or_else(|| "cost unknown".to_owned(), |usd| format!("{usd:.4} USD"));
    format!(
        "{} prompt tokens{}, {} generated{}; {cost}; {} in all\n{}",
        usage.prompt_tokens,
        part(usage.cached_prompt_tokens, "in the server's cache"),
        usage.generated_tokens,
        part(usage.reasoning_tokens, "for reasoning"),
        time(spent.total),
        latency_text(latency),
    )
}

fn latency_text(latency: &LatencySummary) -> String {
    let percentiles =
        |p: &Percentiles| format!("p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms", p.p50, p.p90, p.p99);
    let first = latency
        .first_token_ms
        .map_or_else(String::new, |first| format!("; first token {}", percentiles(&first)));
    format!(
        "latency {}{first}; {} answers, {} requests",
        percentiles(&latency.total_ms),
        latency.n,
        latency.requests,
    )
}

fn time(secs: f64) -> String {
    seconds(std::time::Duration::try_from_secs_f64(secs).unwrap_or_default())
}
