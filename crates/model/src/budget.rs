//! How much may be spent.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evalign_core::{FinishReason, Output, Request, Response, Spent};
use futures::future::BoxFuture;

use crate::call::{Call, Listener};
use crate::error::ModelError;
use crate::price::Price;

/// The most that may be spent; what is absent is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BudgetLimits {
    /// Requests to the server, those that fail included.
    pub requests: Option<u64>,
    /// Prompt and generated tokens.
    pub tokens: Option<u64>,
    pub usd: Option<f64>,
}

impl BudgetLimits {
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    fn count_tokens(&self) -> bool {
        self.tokens.is_some() || self.usd.is_some()
    }
}

/// What may be spent, and was; the default has no limits and no price. Once a limit is reached no further request is sent; those in flight are
/// still answered and paid for, so tokens and USD can go over by what is in flight, and requests not at
/// all.
#[derive(Debug, Default)]
pub struct Budget {
    limits: BudgetLimits,
    price: Option<Price>,
    spent: Arc<Mutex<Spent>>,
}

impl Budget {
    /// # Errors
    /// [`ModelError::Unsupported`] for a limit in USD where no price is known: `model` names whose.
    pub fn new(limits: BudgetLimits, price: Option<Price>, model: &str) -> Result<Self, ModelError> {
        if limits.usd.is_some() && price.is_none() {
            return Err(ModelError::Unsupported {
                model: model.to_owned(),
                what: "a budget in USD needs the model's price, and the price table has none".to_owned(),
                hint: Some(format!(
                    "give a table with `--prices FILE` that has an entry for it, for example \
                     `models: {{{model}: {{input: 0.15, output: 0.60}}}}` (USD per million tokens)"
                )),
            });
        }
        Ok(Self { limits, price, spent: Arc::default() })
    }

    /// The budget of another model that takes part in the same work, at its own price: what is spent on both is counted
    /// together, under one limit.
    ///
    /// # Errors
    /// As [`Budget::new`].
    pub fn beside(&self, price: Option<Price>, model: &str) -> Result<Self, ModelError> {
        Ok(Self { spent: self.spent.clone(), ..Self::new(self.limits, price, model)? })
    }

    /// Counts what earlier sessions of the run spent.
    pub fn count_earlier(&self, earlier: Spent) {
        let mut spent = self.lock();
        spent.requests = spent.requests.saturating_add(earlier.requests);
        spent.tokens = spent.tokens.saturating_add(earlier.tokens);
        spent.usd += earlier.usd;
    }

    #[must_use]
    pub fn spent(&self) -> Spent {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Books a request, or says that it may not be sent.
    fn admit(&self) -> Result<(), ModelError> {
        let mut spent = self.lock();
        let over = |what: String| Err(ModelError::BudgetExhausted(what));
        match self.limits {
            BudgetLimits { requests: Some(most), .. } if spent.requests >= most => {
                over(format!("{} of {most} requests are made", spent.requests))
            }
            BudgetLimits { tokens: Some(most), .. } if spent.tokens >= most => {
                over(format!("{} of {most} tokens are used", spent.tokens))
            }
            BudgetLimits { usd: Some(most), .. } if spent.usd >= most => {
                over(format!("{:.4} of {most} USD are spent", spent.usd))
            }
            _ => {
                spent.requests = spent.requests.saturating_add(1);
                Ok(())
            }
        }
    }

    /// Books an answer. What a server withheld may come without a count of tokens; that any other answer has
    /// one is what a budget of tokens or USD rests on.
    fn charge(&self, response: &Response) -> Result<(), ModelError> {
        let Some(usage) = response.usage else {
            let withheld =
                matches!(response.output, Output::Text { finish: FinishReason::ContentFilter, .. });
            return if self.limits.count_tokens() && !withheld { Err(uncounted()) } else { Ok(()) };
        };
        let mut spent = self.lock();
        let tokens = usage.prompt_tokens.saturating_add(usage.generated_tokens);
        spent.tokens = spent.tokens.saturating_add(tokens);
        spent.usd += self.price.map_or(0.0, |price| price.usd(&usage));
        Ok(())
    }
}

fn uncounted() -> ModelError {
    ModelError::Unsupported {
        model: "the server".to_owned(),
        what: "its answers do not say how many tokens were used, so no budget of tokens or USD can be kept"
            .to_owned(),
        hint: Some("limit the requests with `--budget-requests N` instead".to_owned()),
    }
}

/// Calls that are paid for. Stands inside of the retries, so that every request counts, and inside of
/// the limit on concurrency and of the fuse, so that what is admitted is sent, and at once. Where tokens are limited,
/// answers come whole.
#[derive(Debug)]
pub struct Budgeted<C> {
    call: C,
    budget: Arc<Budget>,
}

impl<C: Call> Budgeted<C> {
    pub fn new(call: C, budget: Arc<Budget>) -> Self {
        Self { call, budget }
    }
}

impl<C: Call> Call for Budgeted<C> {
    fn call_aloud<'a>(
        &'a self,
        request: &'a Request,
        listener: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        Box::pin(async move {
            self.budget.admit()?;
            // Not every server counts the tokens of what it streams.
            let listener = listener.filter(|_| !self.budget.limits.count_tokens());
            let response = self.call.call_aloud(request, listener).await?;
            self.budget.charge(&response)?;
            Ok(response)
        })
    }
}
