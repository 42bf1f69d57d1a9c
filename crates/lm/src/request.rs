use std::ops::ControlFlow;

use evalign_core::{FinishReason, GenerateParams, TokenLogprob};

use crate::LmError;

/// What a call tells its caller while it runs. The caller's `Break` ends the call.
#[derive(Debug)]
pub enum Event<T> {
    /// The item with this index has its result, or the reason why it will never have one. Once for each
    /// item.
    Done(usize, Result<T, LmError>),
    /// The next step is about to be computed: at most 512 tokens of all sequences together.
    Step,
}

/// Makes a call for its statistics alone: `statistics(|on_event| model.generate(&items, on_event))`.
///
/// # Errors
/// That of the call, or of the first item that cannot be answered.
pub fn statistics<T>(
    call: impl FnOnce(&mut dyn FnMut(Event<T>) -> ControlFlow<()>) -> Result<EngineStats, LmError>,
) -> Result<EngineStats, LmError> {
    let mut failure = None;
    let stats = call(&mut |event| match event {
        Event::Done(_, Err(error)) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
        Event::Done(_, Ok(_)) | Event::Step => ControlFlow::Continue(()),
    })?;
    failure.map_or(Ok(stats), Err)
}

/// Indices of the items that pass the check. The others are done with before anything is computed, each
/// with its own error, so that none stands in the way of another.
pub(crate) fn answerable<I, O>(
    items: &[I],
    check: impl Fn(&I) -> Result<(), LmError>,
    on_event: &mut dyn FnMut(Event<O>) -> ControlFlow<()>,
) -> ControlFlow<(), Vec<usize>> {
    let mut passed = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match check(item) {
            Ok(()) => passed.push(index),
            Err(error) => on_event(Event::Done(index, Err(error)))?,
        }
    }
    ControlFlow::Continue(passed)
}

/// log P(continuation | context) for each continuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreItem {
    /// Not empty: a model cannot predict from nothing. A caller without context passes BOS or EOS.
    pub context: Vec<u32>,
    /// Each not empty.
    pub continuations: Vec<Vec<u32>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChoiceScore {
    /// Natural logarithm, summed in f64 over the continuation's tokens.
    pub sum: f64,
    /// Every token is the argmax at its position (the lowest id wins a tie).
    pub greedy: bool,
}

/// What the model says of one token of a continuation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenScore {
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// The likeliest token at its position (the lowest id wins a tie), and its log-probability.
    pub likeliest: (u32, f64),
    /// As many of the likeliest tokens as were asked for, likeliest first, of equal ones the lowest id.
    pub top: Vec<(u32, f64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ScoreOutput {
    /// In the order of the continuations.
    pub choices: Vec<ChoiceScore>,
    /// Per continuation, per token.
    pub tokens: Vec<Vec<TokenScore>>,
    /// Tokens pushed through the model that this item was the first to need.
    pub computed_tokens: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GenerateItem {
    /// Not empty.
    pub prompt: Vec<u32>,
    pub params: GenerateParams,
    /// Tokens that end the text (end of sequence, end of turn). They are not part of it.
    pub stop_ids: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOutput {
    /// Every generated token, the ending one included.
    pub ids: Vec<u32>,
    /// Special tokens skipped, cut before the first stop string.
    pub text: String,
    pub finish: FinishReason,
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Prompt tokens pushed through the model that this item was the first to need.
    pub computed_tokens: u64,
}

/// Sum of log P(token | everything before it) over a text. See [`crate::rolling_windows`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PerplexityOutput {
    /// Natural logarithm, summed over all tokens.
    pub sum: f64,
    pub tokens: u64,
    pub computed_tokens: u64,
}

/// What one call to the engine did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineStats {
    /// Input tokens, scored continuations included, as if nothing were shared.
    pub prompt_tokens: u64,
    /// Input tokens really computed.
    pub computed_prompt_tokens: u64,
    pub generated_tokens: u64,
    pub prefill_seconds: f64,
    pub decode_seconds: f64,
    /// Rows multiplied with the vocabulary matrix.
    pub projected_positions: u64,
    /// Keys that attention read: the sum over computed tokens and layers of what each one sees.
    pub attention_key_reads: u64,
    /// Floating-point operations, counted as 2 x non-embedding weights x computed tokens
    /// + 2 x hidden x vocabulary x projected positions + 4 x heads x head size x keys read.
    pub prefill_flops: f64,
    pub decode_flops: f64,
}

impl std::ops::AddAssign for EngineStats {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.computed_prompt_tokens += other.computed_prompt_tokens;
        self.generated_tokens += other.generated_tokens;
        self.prefill_seconds += other.prefill_seconds;
        self.decode_seconds += other.decode_seconds;
        self.projected_positions += other.projected_positions;
        self.attention_key_reads += other.attention_key_reads;
        self.prefill_flops += other.prefill_flops;
        self.decode_flops += other.decode_flops;
    }
}
