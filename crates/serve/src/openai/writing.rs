//! Answers while they are written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use evalign_core::{RequestKind, Usage};
use evalign_model::{Piece, Update};
use serde_json::Value;

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::models::{Answers, Served};
use crate::openai::{Generated, used};

/// What there is to tell of the answer with this index.
pub(crate) enum Part {
    /// More of its text; the first part may be empty, and comes in any case.
    Text {
        index: usize,
        is_first: bool,
        piece: Piece,
    },
    End {
        index: usize,
        finish: &'static str,
    },
}

/// An answer as far as it is there.
#[derive(Default)]
struct Told {
    text: String,
    logprobs: usize,
    has_begun: bool,
    whole: Option<Generated>,
}

/// Answers to one client's request.
pub(crate) struct Writing {
    app: Arc<App>,
    served: Arc<Served>,
    started: Instant,
    answers: Answers,
    told: Vec<Told>,
    ready: VecDeque<Part>,
    /// Answers to each prompt, which stand together.
    per_prompt: usize,
}

impl Writing {
    /// Asks the model. Time is counted from `started`.
    pub(crate) fn begin(
        app: Arc<App>,
        served: Arc<Served>,
        started: Instant,
        kinds: Vec<RequestKind>,
        per_prompt: usize,
    ) -> ApiResult<Self> {
        let told = kinds.iter().map(|_| Told::default()).collect();
        let answers = served.queue.ask(kinds)?;
        Ok(Self { app, served, started, answers, told, ready: VecDeque::new(), per_prompt })
    }

    /// The next part; `None` when all answers have ended.
    pub(crate) async fn next(&mut self) -> ApiResult<Option<Part>> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Ok(Some(part));
            }
            if self.told.iter().all(|told| told.whole.is_some()) {
                return Ok(None);
            }
            let gone = |why| ApiError::new(Code::Unavailable, why).retry_after(5);
            let update = tokio::select! {
                update = self.answers.next() => update.ok_or_else(|| gone("the model has stopped"))?,
                () = self.app.closing.cancelled() => return Err(gone("the server is ending")),
            };
            if !self.told.iter().any(|told| told.has_begun) {
                self.app.metrics.first_token(&self.served.name, self.started.elapsed());
            }
            match update {
                Update::Piece(index, piece) => self.tell(index, piece),
                Update::Answer((index, answer)) => self.end(index, Generated::of(answer?)?)?,
            }
        }
    }

    fn tell(&mut self, index: usize, piece: Piece) {
        let Some(told) = self.told.get_mut(index) else { return };
        told.text.push_str(&piece.text);
        told.logprobs += piece.logprobs.len();
        let is_first = !std::mem::replace(&mut told.has_begun, true);
        self.ready.push_back(Part::Text { index, is_first, piece });
    }

    /// Tells what is missing of an answer, and that it has ended.
    fn end(&mut self, index: usize, whole: Generated) -> ApiResult<()> {
        let Some(told) = self.told.get(index) else { return Ok(()) };
        let other = || ApiError::internal("the model told another text than the one it wrote");
        let text = whole.text.strip_prefix(told.text.as_str()).ok_or_else(other)?.to_owned();
        let logprobs = whole.logprobs.iter().flatten().skip(told.logprobs).cloned().collect();
        let piece = Piece { text, logprobs };
        if !told.has_begun || piece != Piece::default() {
            self.tell(index, piece);
        }
        self.ready.push_back(Part::End { index, finish: whole.finish });
        if let Some(told) = self.told.get_mut(index) {
            told.whole = Some(whole);
        }
        Ok(())
    }

    /// Waits for all answers. With what was used.
    pub(crate) async fn whole(mut self) -> ApiResult<(Vec<Generated>, Value)> {
        while self.next().await?.is_some() {}
        let usage = self.used();
        Ok((self.told.into_iter().filter_map(|told| told.whole).collect(), usage))
    }

    /// Counts what was used by answers that have ended, and tells it as OpenAI does: once, in the end.
    pub(crate) fn used(&self) -> Value {
        let usage = self.told.iter().map(|told| told.whole.as_ref().map_or(Usage::default(), |w| w.usage));
        let first = |index: usize| index.is_multiple_of(self.per_prompt.max(1));
        used(&self.app, &self.served.name, usage.enumerate().map(|(index, usage)| (first(index), usage)))
    }
}
