//! Models of which what they read and write counts for a key.

use std::sync::Arc;

use evalign_core::{Provider, Request, RequestKind, RunId, RunStatus, Usage};
use evalign_model::{Decorator, Model, Replies, Update};
use evalign_store::Store;

use crate::app::App;

/// Who pays for an answer.
#[derive(Clone)]
struct Payer {
    app: Arc<App>,
    key: String,
    /// What ends when the key has no tokens left.
    run: Option<RunId>,
}

impl Payer {
    fn pay(&self, tokens: u64) {
        let has_more = self.app.count_tokens(&self.key, tokens);
        if let Some(run) = self.run.as_ref().filter(|_| !has_more) {
            self.app.active.cancel(run);
        }
    }
}

struct Metered {
    model: Arc<dyn Model>,
    payer: Payer,
}

/// What was asked and is not answered yet, with how many tokens of each answer were told, at least.
struct Owed {
    model: Arc<dyn Model>,
    payer: Payer,
    asked: Vec<Option<(RequestKind, u64)>>,
}

impl Owed {
    fn note(&mut self, update: &Update) {
        match update {
            Update::Piece(index, piece) => {
                if let Some(Some((_, told))) = self.asked.get_mut(*index) {
                    *told += u64::from(!piece.text.is_empty());
                }
            }
            // It was written, all the same.
            Update::Withdrawn(_) => {}
            Update::Answer((index, answer)) => {
                let asked = self.asked.get_mut(*index).and_then(Option::take);
                if let (Some((_, told)), Ok(response)) = (asked, answer) {
                    let used = |usage: Usage| usage.prompt_tokens.saturating_add(usage.generated_tokens);
                    self.payer.pay(response.usage.map_or(told, used));
                }
            }
        }
    }
}

/// Who leaves pays for what was read and told of the answers that had begun.
impl Drop for Owed {
    fn drop(&mut self) {
        let begun = self.asked.iter().flatten().filter(|(_, told)| *told > 0);
        let tokens = |(asked, told): &(RequestKind, u64)| {
            told.saturating_add(self.model.count_tokens(asked).map_or(0, |counted| counted.prompt))
        };
        let left = begun.map(tokens).fold(0, u64::saturating_add);
        if left > 0 {
            self.payer.pay(left);
        }
    }
}

impl Decorator for Metered {
    type Inner = dyn Model;

    fn inner(&self) -> &(dyn Model + 'static) {
        self.model.as_ref()
    }

    /// What is written in this process is streamed in any case: only then it is known which answers have begun. A
    /// server is asked by the service as it is by the command line.
    fn answer(&self, requests: Vec<Request>, is_streamed: bool) -> Replies {
        let is_streamed = is_streamed || self.identity().reference.provider != Provider::Openai;
        let asked = requests.iter().map(|request| Some((request.kind.clone(), 0))).collect();
        let mut owed = Owed { model: self.model.clone(), payer: self.payer.clone(), asked };
        self.ask_inner(requests, is_streamed).map(move |update| {
            owed.note(&update);
            update
        })
    }
}

impl App {
    /// A model of which what it reads and writes counts for the key on whose behalf the store is used.
    pub(crate) fn metered(self: &Arc<Self>, store: &Store, model: Arc<dyn Model>) -> Arc<dyn Model> {
        self.metered_for(store, None, model)
    }

    /// As [`App::metered`], for a run: it ends when the key has no tokens left.
    pub(crate) fn metered_run(
        self: &Arc<Self>,
        (store, run): (&Store, &RunId),
        model: Arc<dyn Model>,
    ) -> Arc<dyn Model> {
        self.metered_for(store, Some(run.clone()), model)
    }

    fn metered_for(
        self: &Arc<Self>,
        store: &Store,
        run: Option<RunId>,
        model: Arc<dyn Model>,
    ) -> Arc<dyn Model> {
        let Some(key) = store.key_id() else { return model };
        let payer = Payer { app: self.clone(), key: key.to_owned(), run };
        Arc::new(Metered { model, payer })
    }

    /// How a run of metered models has ended: where it was broken off, also because its key has no tokens left.
    pub(crate) fn ended(&self, store: &Store, status: RunStatus) -> RunStatus {
        match (status, store.key_id()) {
            (RunStatus::Cancelled, Some(key)) if !self.count_tokens(key, 0) => RunStatus::BudgetExhausted,
            (status, _) => status,
        }
    }
}
