//! Perplexity of long texts, in windows.

use std::ops::ControlFlow;

use crate::{EngineStats, Event, LanguageModel, LmError, PerplexityOutput, ScoreItem};

/// Cuts a text into windows so that every token is predicted exactly once.
///
/// lm-evaluation-harness 0.4.13, `utils.get_rolling_token_windows` with `context_len=1` followed by
/// `make_disjoint_window`: the first window predicts the first `max_len` tokens from `prefix`; each later
/// one predicts the next `max_len` tokens (the last: what is left, with as much context before it as
/// fits).
///
/// `max_len` is the most tokens the model reads at once and must not be 0.
#[must_use]
pub fn rolling_windows(tokens: &[u32], prefix: u32, max_len: usize) -> Vec<ScoreItem> {
    let mut windows = Vec::new();
    let first = max_len.min(tokens.len());
    if first == 0 {
        return windows;
    }
    windows.push(ScoreItem { context: vec![prefix], continuations: vec![tokens[..first].to_vec()] });
    let mut predicted = first;
    while predicted < tokens.len() {
        let length = (tokens.len() - predicted).min(max_len);
        let end = predicted + length;
        windows.push(ScoreItem {
            context: tokens[end - max_len - 1..predicted].to_vec(),
            continuations: vec![tokens[predicted..end].to_vec()],
        });
        predicted = end;
    }
    windows
}

/// A text whose windows come in.
struct Text {
    windows_left: usize,
    output: PerplexityOutput,
}

/// See [`LanguageModel::perplexities`].
pub(crate) fn perplexities(
    model: &LanguageModel,
    items: &[Vec<u32>],
    prefix: u32,
    on_event: &mut dyn FnMut(Event<PerplexityOutput>) -> ControlFlow<()>,
) -> Result<EngineStats, LmError> {
    let mut windows = Vec::new();
    let mut owners = Vec::new();
    // Emptied when the text is done with.
    let mut texts = Vec::with_capacity(items.len());
    for (index, tokens) in items.iter().enumerate() {
        let own = rolling_windows(tokens, prefix, model.identity().context_length);
        let output = PerplexityOutput { sum: 0.0, tokens: tokens.len() as u64, computed_tokens: 0 };
        if own.is_empty() && on_event(Event::Done(index, Ok(output))).is_break() {
            return Ok(EngineStats::default());
        }
        texts.push(Some(Text { windows_left: own.len(), output }));
        owners.resize(owners.len() + own.len(), index);
        windows.extend(own);
    }
    // Windows finish in the order of the prefix tree; their sums are added in the order of the text.
    let mut sums = vec![0.0; windows.len()];
    model.log_likelihoods(&windows, &mut |event| {
        let (window, score) = match event {
            Event::Step => return on_event(Event::Step),
            Event::Done(window, score) => (window, score),
        };
        let owner = owners[window];
        let Some(text) = &mut texts[owner] else { return ControlFlow::Continue(()) };
        let score = match score {
            Ok(score) => score,
            Err(error) => {
                texts[owner] = None;
                return on_event(Event::Done(owner, Err(error)));
            }
        };
        sums[window] = score.choices.first().map_or(0.0, |choice| choice.sum);
        text.output.computed_tokens += score.computed_tokens;
        text.windows_left -= 1;
        if text.windows_left > 0 {
            return ControlFlow::Continue(());
        }
        let first = owners.partition_point(|other| *other < owner);
        let last = owners.partition_point(|other| *other <= owner);
        text.output.sum = sums[first..last].iter().sum();
        on_event(Event::Done(owner, Ok(text.output)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The windows of lm-evaluation-harness's own test (`tests/test_utils.py`, `test_get_rolling_token_windows_v1`:
    /// tokens 0..33, prefix -100, length 10, context 1), after `make_disjoint_window`.
    #[test]
    fn windows_of_the_reference() {
        let tokens: Vec<u32> = (0..34).collect();
        let windows = rolling_windows(&tokens, 100, 10);
        let shapes: Vec<(Vec<u32>, u32, u32)> = windows
            .iter()
            .map(|w| (w.context.clone(), w.continuations[0][0], *w.continuations[0].last().unwrap()))
            .collect();
        assert_eq!(
            shapes,
            [(vec![100], 0, 9), (vec![9], 10, 19), (vec![19], 20, 29), ((23..30).collect(), 30, 33),]
        );
    }

    proptest! {
        #[test]
        fn every_token_is_predicted_once_and_windows_fit(length in 0usize..60, max_len in 1usize..12) {
            let tokens: Vec<u32> = (0..length as u32).collect();
            let windows = rolling_windows(&tokens, 999, max_len);
            let predicted: Vec<u32> = windows.iter().flat_map(|w| w.continuations[0].clone()).collect();
            prop_assert_eq!(predicted, tokens);
            for window in &windows {
                prop_assert!(!window.context.is_empty());
                prop_assert!(window.context.len() + window.continuations[0].len() - 1 <= max_len);
            }
        }
    }
}
