//! Answers while they are written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use evalign_core::{Prompt, RequestKind, Usage};
use evalign_model::{Piece, Update};
use serde_json::Value;

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::models::{Answers, Served};
use crate::openai::{Generated, sum, told};

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
    /// Tokens, at least.
    pieces: u64,
    logprobs: usize,
    has_begun: bool,
    whole: Option<Generated>,
}

/// Answers to one client's request.
pub(crate) struct Writing {
    app: Arc<App>,
    /// Whose tokens they take, until they are counted.
    key: Option<String>,
    served: Arc<Served>,
    started: Instant,
    span: tracing::Span,
    asked: Vec<RequestKind>,
    answers: Answers,
    told: Vec<Told>,
    ready: VecDeque<Part>,
    /// Answers to each prompt, which stand together.
    per_prompt: usize,
}

impl Writing {
    /// Asks the model on behalf of a key. Time is counted from `started`.
    pub(crate) fn begin(
        app: Arc<App>,
        key: String,
        served: Arc<Served>,
        started: Instant,
        kinds: Vec<RequestKind>,
        per_prompt: usize,
    ) -> ApiResult<Self> {
        let told = kinds.iter().map(|_| Told::default()).collect();
        let answers = served.queue.ask(kinds.clone())?;
        let (span, key, asked, ready) = (span(&served, &kinds), Some(key), kinds, VecDeque::new());
        Ok(Self { app, key, served, started, span, asked, answers, told, ready, per_prompt })
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
                // Models of this process write an answer once.
                Update::Withdrawn(_) => return Err(ApiError::internal("the model took back what it told")),
                Update::Answer((index, answer)) => self.end(index, Generated::of(answer?)?)?,
            }
        }
    }

    fn tell(&mut self, index: usize, piece: Piece) {
        let Some(told) = self.told.get_mut(index) else { return };
        told.text.push_str(&piece.text);
        told.pieces += u64::from(!piece.text.is_empty());
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
        self.count();
        Ok((std::mem::take(&mut self.told).into_iter().filter_map(|told| told.whole).collect(), usage))
    }

    /// Counts what was used, once. Of an answer that was not written to its end, its prompt and what was told.
    fn count(&mut self) {
        let Some(key) = self.key.take() else { return };
        let of = |(is_first, (told, asked)): (bool, (&Told, &RequestKind))| {
            let usage = match &told.whole {
                Some(whole) => whole.usage,
                None if told.has_begun => {
                    // A prompt counts once, and is turned into tokens as often.
                    let counted = is_first.then(|| self.served.model.count_tokens(asked)).flatten();
                    let prompt_tokens = counted.map_or(0, |counted| counted.prompt);
                    Usage { prompt_tokens, generated_tokens: told.pieces, ..Usage::default() }
                }
                None => Usage::default(),
            };
            (is_first, usage)
        };
        let (prompt, generated) = sum(self.firsts().zip(self.told.iter().zip(&self.asked)).map(of));
        self.app.count_tokens(&key, prompt + generated);
        self.app.metrics.tokens(&self.served.name, prompt, generated);
        self.span.record("gen_ai.usage.input_tokens", prompt);
        self.span.record("gen_ai.usage.output_tokens", generated);
    }

    /// What was used by answers that have ended, as OpenAI tells it.
    pub(crate) fn used(&self) -> Value {
        let usage = self.told.iter().map(|told| told.whole.as_ref().map_or(Usage::default(), |w| w.usage));
        told(sum(self.firsts().zip(usage)))
    }

    /// Whether an answer is the first to its prompt.
    fn firsts(&self) -> impl Iterator<Item = bool> {
        let per_prompt = self.per_prompt.max(1);
        (0usize..).map(move |index| index.is_multiple_of(per_prompt))
    }
}

/// The span of what a model writes, named as OpenTelemetry's conventions for generative AI name it. What is written, and to
/// what, is no part of it.
fn span(served: &Served, asked: &[RequestKind]) -> tracing::Span {
    let operation = match asked.first() {
        Some(RequestKind::Generate { prompt: Prompt::Chat(_), .. }) => "chat",
        _ => "text_completion",
    };
    tracing::info_span!(
        "generate",
        otel.name = format!("{operation} {}", served.name),
        gen_ai.operation.name = operation,
        gen_ai.provider.name = "evalign",
        gen_ai.request.model = served.name,
        gen_ai.usage.input_tokens = tracing::field::Empty,
        gen_ai.usage.output_tokens = tracing::field::Empty,
    )
}

/// However it ends: a client that goes away pays for what it has had.
impl Drop for Writing {
    fn drop(&mut self) {
        self.count();
    }
}
