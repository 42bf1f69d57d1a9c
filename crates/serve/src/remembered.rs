//! What is asked again and again, kept for as long as what it was computed from is the same.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use evalign_core::Tenant;

use crate::error::ApiResult;

/// Whom it is for, and what was asked.
type Question = (Tenant, String);

/// Answers by question, each with the state `S` that it was computed at.
#[derive(Debug)]
pub(crate) struct Remembered<S, V> {
    most: usize,
    slots: Mutex<BTreeMap<Question, Arc<Slot<S, V>>>>,
}

#[derive(Debug)]
struct Slot<S, V> {
    known: Mutex<Option<(S, Arc<V>)>>,
    /// Held by who computes it: the others wait for that one without holding a thread.
    computing: tokio::sync::Mutex<()>,
}

impl<S: PartialEq, V> Remembered<S, V> {
    /// At most so many answers at once; beyond that all are forgotten, which costs computing them once more.
    pub(crate) fn holding(most: usize) -> Self {
        Self { most, slots: Mutex::default() }
    }

    /// The answer at the state of now, computed if it is not known. `state` is asked before `compute`, so what is kept
    /// is never older than it says; where it cannot be told, nothing is kept.
    pub(crate) async fn get(
        &self,
        question: Question,
        state: impl Fn() -> Option<S>,
        compute: impl Future<Output = ApiResult<V>>,
    ) -> ApiResult<Arc<V>> {
        let slot = self.slot(question);
        if let Some(known) = slot.at(state().as_ref()) {
            return Ok(known);
        }
        let _one = slot.computing.lock().await;
        let now = state();
        if let Some(known) = slot.at(now.as_ref()) {
            return Ok(known);
        }
        let answer = Arc::new(compute.await?);
        if let Some(now) = now {
            *slot.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, answer.clone()));
        }
        Ok(answer)
    }

    fn slot(&self, question: Question) -> Arc<Slot<S, V>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= self.most && !slots.contains_key(&question) {
            slots.clear();
        }
        let empty = || Arc::new(Slot { known: Mutex::new(None), computing: tokio::sync::Mutex::default() });
        slots.entry(question).or_insert_with(empty).clone()
    }
}

impl<S: PartialEq, V> Slot<S, V> {
    fn at(&self, state: Option<&S>) -> Option<Arc<V>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, answer) = known.as_ref()?;
        (Some(at) == state).then(|| answer.clone())
    }
}

#[cfg(test)]
mod tests;
