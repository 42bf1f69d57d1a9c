//! Log-likelihoods from a completion that echoes its prompt: which tokens belong to the continuation.

use super::wire::Logprobs;
use evalign_core::ChoiceLogLikelihood;

/// The log-likelihood of `continuation` after `context`, from the echo of both and what was generated
/// after them.
///
/// The tokens' own texts, put together, are the prompt; a token of which any part lies in the
/// continuation belongs to it (so does one that straddles the joint: servers tokenise the whole text, as
/// the reference's `_encode_pair` does before it cuts). Where the texts do not add up, because a
/// character is split over tokens, the server's `text_offset` decides, counted from a first token that
/// stands for the beginning of the text (vLLM shifts all offsets by its length).
///
/// # Errors
/// Why it cannot be told which tokens are meant, or a token without a number.
pub(super) fn likelihood(
    logprobs: &Logprobs,
    context: &str,
    continuation: &str,
) -> Result<ChoiceLogLikelihood, String> {
    let none = Vec::new();
    let tokens = logprobs.tokens.as_ref().unwrap_or(&none);
    let Some(values) = logprobs.token_logprobs.as_ref().filter(|values| values.len() == tokens.len()) else {
        return Err("the server returned no log-probabilities of the prompt".to_owned());
    };
    let prompt = format!("{context}{continuation}");
    let range = by_text(tokens, &prompt, context.len())
        .or_else(|| by_offset(tokens, logprobs.text_offset.as_deref()?, &prompt, context))
        .ok_or(
            "the server's tokens do not add up to the prompt, so it cannot be told which are the answer",
        )?;
    if range.is_empty() {
        return Err("no token belongs to the answer".to_owned());
    }
    let top = logprobs.top_logprobs.as_deref().unwrap_or_default();
    let (mut sum, mut greedy) = (0.0, true);
    for index in range.clone() {
        let value = values[index].ok_or("the first token of a text has no log-probability")?;
        sum += value;
        let best = top.get(index).copied().flatten().and_then(|top| top.0);
        greedy &= best.ok_or("the server does not say which tokens it would have chosen")? <= value;
    }
    Ok(ChoiceLogLikelihood { sum, tokens: range.len() as u32, greedy })
}

/// Indices of the tokens that reach past byte `joint` of the prompt and begin before its end.
fn by_text(tokens: &[String], prompt: &str, joint: usize) -> Option<std::ops::Range<usize>> {
    // As they are; as pieces of SentencePiece; as pieces of a byte-level vocabulary.
    let spellings: [fn(&str) -> String; 3] = [
        str::to_owned,
        |token| token.replace('\u{2581}', " "),
        |token| token.replace('\u{120}', " ").replace('\u{10a}', "\n"),
    ];
    // A first token may stand for the beginning of the text.
    (0..2.min(tokens.len())).flat_map(|skip| spellings.map(|spelling| (skip, spelling))).find_map(
        |(skip, spelling)| {
            let mut at = 0;
            let mut first = None;
            for (index, token) in tokens.iter().enumerate().skip(skip) {
                if at == prompt.len() {
                    return Some(first?..index);
                }
                let token = spelling(token);
                if !prompt[at..].starts_with(token.as_str()) {
                    return None;
                }
                at += token.len();
                if at > joint && first.is_none() {
                    first = Some(index);
                }
            }
            (at == prompt.len()).then_some(first?..tokens.len())
        },
    )
}

/// The same by offsets in characters.
fn by_offset(
    tokens: &[String],
    offsets: &[i64],
    prompt: &str,
    context: &str,
) -> Option<std::ops::Range<usize>> {
    let ordered =
        offsets.windows(2).all(|pair| pair[0] <= pair[1]) && offsets.first().is_some_and(|o| *o >= 0);
    if offsets.len() != tokens.len() || !ordered {
        return None;
    }
    let count = |text: &str| i64::try_from(text.chars().count()).ok();
    let begins = tokens.len() > 1 && !prompt.starts_with(tokens[0].as_str());
    let base = if begins { offsets[1] } else { offsets[0] };
    let (joint, end) = (base + count(context)?, base + count(prompt)?);
    let ends = |index: usize| match offsets.get(index + 1) {
        Some(next) => Some(*next),
        None => Some(offsets[index] + count(&tokens[index])?),
    };
    // Where the prompt ends, a token has to end too; otherwise the offsets count something else.
    let last = (0..tokens.len()).rev().find(|index| ends(*index) == Some(end))?;
    // Pieces of one character all begin where it begins.
    let inside = |index: &usize| offsets[*index] >= joint || ends(*index).is_some_and(|end| end > joint);
    let first = (0..tokens.len()).find(inside)?;
    Some(first..last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logprobs(tokens: &[&str], offsets: Option<&[i64]>, best: &[f64]) -> Logprobs {
        let values = (0..tokens.len()).map(|i| (i > 0).then_some(-(i as f64))).collect();
        let top = best.iter().map(|best| Some(crate::openai::wire::Top(Some(*best)))).collect();
        Logprobs {
            content: None,
            tokens: Some(tokens.iter().map(|token| (*token).to_owned()).collect()),
            token_logprobs: Some(values),
            top_logprobs: Some(top),
            text_offset: offsets.map(<[i64]>::to_vec),
        }
    }

    fn indices(
        tokens: &[&str],
        offsets: Option<&[i64]>,
        context: &str,
        continuation: &str,
    ) -> Result<(f64, u32), String> {
        let best = vec![0.0; tokens.len()];
        likelihood(&logprobs(tokens, offsets, &best), context, continuation).map(|c| (c.sum, c.tokens))
    }

    #[test]
    fn continuations_are_found_by_their_text() {
        // Generated: " is".
        let tokens = ["The", " sky", ":", " blue", "ish", " is"];
        assert_eq!(indices(&tokens, None, "The sky:", " blueish"), Ok((-7.0, 2)));
        // Nothing generated, or an end-of-text token that is not part of the text.
        assert_eq!(indices(&tokens[..5], None, "The sky:", " blueish"), Ok((-7.0, 2)));
        let ended = ["The", " sky", ":", " blue", "ish", "</s>"];
        assert_eq!(indices(&ended, None, "The sky:", " blueish"), Ok((-7.0, 2)));
        // A token that straddles the joint belongs to the continuation.
        assert_eq!(indices(&tokens, None, "The sky: bl", "ueish"), Ok((-7.0, 2)));
    }

    #[test]
    fn a_beginning_of_text_token_and_other_spellings_are_known() {
        let with_start = ["<s>", "The", " sky", " x", " y"];
        assert_eq!(indices(&with_start, None, "The sky", " x"), Ok((-3.0, 1)));
        let pieces = ["<s>", "\u{2581}The", "\u{2581}sky", "\u{2581}x"];
        assert_eq!(indices(&pieces, None, " The sky", " x"), Ok((-3.0, 1)));
        let bytes = ["The", "\u{120}sky", "\u{10a}", "\u{120}x"];
        assert_eq!(indices(&bytes, None, "The sky\n", " x"), Ok((-3.0, 1)));
    }

    #[test]
    fn offsets_decide_where_texts_do_not_add_up() {
        // vLLM: a beginning of 3 characters shifts offsets; an emoji in two tokens, each one character long
        // in its count, of which the server says the second begins where the first does.
        let tokens = ["<s>", "a", " ", "\u{fffd}", "\u{fffd}", " b", " c"];
        let offsets = [0, 3, 4, 5, 5, 6, 8];
        assert_eq!(indices(&tokens, Some(&offsets), "a ", "\u{1f600} b"), Ok((-12.0, 3)));
        // Offsets that count something else are not believed.
        assert!(indices(&tokens, Some(&[0, 3, 4, 5, 6, 9, 11]), "a ", "\u{1f600} b").is_err());
        assert!(indices(&tokens, Some(&[-1; 7]), "a ", "\u{1f600} b").is_err());
        assert!(indices(&tokens, None, "a ", "\u{1f600} b").is_err());
    }

    #[test]
    fn greedy_means_that_every_token_is_the_best() {
        let tokens = ["a", " b", " c", " d"];
        let greedy = |best: &[f64]| likelihood(&logprobs(&tokens, None, best), "a", " b c").map(|c| c.greedy);
        assert_eq!(greedy(&[0.0, -1.0, -2.0, 0.0]), Ok(true));
        assert_eq!(greedy(&[0.0, -1.0, -0.5, 0.0]), Ok(false));
        assert!(greedy(&[]).is_err());
    }

    #[test]
    fn what_cannot_be_known_is_an_error() {
        let tokens = ["a", " b"];
        assert!(likelihood(&logprobs(&tokens, None, &[0.0, 0.0]), "", "a b").is_err());
        assert!(likelihood(&Logprobs::default(), "a", " b").is_err());
        assert!(likelihood(&logprobs(&tokens, None, &[0.0, 0.0]), "a b", "").is_err());
        assert!(indices(&["x", "y"], None, "a", " b").is_err());
    }
}
