use evalign_core::{Prompt, RequestKind};

/// Bytes of text a token stands for, roughly; only proportions matter here.
const BYTES_PER_TOKEN: f64 = 4.0;

/// A generated token passes through the model alone, a prompt token among many: decoding one costs
/// about as much time as this many tokens of prompt.
const PROMPT_TOKENS_PER_GENERATED: f64 = 8.0;

/// How much of the allowed answer length is used on average.
const EXPECTED_FILL: f64 = 0.5;

/// Estimates how much of the model's time each request takes, so that the time left can be told from
/// work done and not from samples done: the first prompts of a family are expensive, those that share
/// their beginning are cheap.
pub(super) struct Work;

impl Work {
    /// One estimate per request, in prompt tokens. Shared prefixes are charged to the request that comes
    /// first in sorted order, which is the order the local engine works in.
    pub(super) fn of<'a>(kinds: impl Iterator<Item = &'a RequestKind>) -> Vec<f64> {
        let requests: Vec<(Vec<&str>, f64)> = kinds.map(parts).collect();
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by(|a, b| requests[*a].0.cmp(&requests[*b].0));
        let mut work = vec![0.0; requests.len()];
        let mut previous: &[&str] = &[];
        for index in order {
            let (text, own) = &requests[index];
            let length: usize = text.iter().map(|t| t.len()).sum();
            let fresh = length - shared_bytes(previous, text);
            work[index] = (fresh as f64 / BYTES_PER_TOKEN + own).max(1.0);
            previous = text;
        }
        work
    }
}

/// The text that can be shared, and the work that cannot, in prompt tokens.
fn parts(kind: &RequestKind) -> (Vec<&str>, f64) {
    match kind {
        RequestKind::LogLikelihood { context, continuations } => {
            let own: usize = continuations.iter().map(String::len).sum();
            (texts(context), own as f64 / BYTES_PER_TOKEN)
        }
        RequestKind::Generate { prompt, params } => {
            let expected = f64::from(params.max_tokens) * EXPECTED_FILL;
            (texts(prompt), expected * PROMPT_TOKENS_PER_GENERATED)
        }
        RequestKind::Perplexity { text } => (vec![text], 0.0),
    }
}

fn texts(prompt: &Prompt) -> Vec<&str> {
    match prompt {
        Prompt::Text(text) => vec![text],
        Prompt::Chat(messages) => messages.iter().map(|m| m.content.as_str()).collect(),
    }
}

fn shared_bytes(a: &[&str], b: &[&str]) -> usize {
    let mut shared = 0;
    for (a, b) in a.iter().zip(b) {
        let common = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
        shared += common;
        if common < a.len().max(b.len()) {
            break;
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;
    use evalign_core::GenerateParams;

    #[test]
    fn shared_prefixes_are_charged_once() {
        let ask = |text: String| RequestKind::LogLikelihood {
            context: Prompt::Text(text),
            continuations: vec![" A".to_owned()],
        };
        let shots = "x".repeat(4000);
        let kinds = [ask(format!("{shots} second")), ask(format!("{shots} first")), ask("other".to_owned())];
        let work = Work::of(kinds.iter());
        // "first" sorts before "second" and pays for the shots.
        assert!(work[1] > 1000.0 && work[0] < 10.0 && work[2] < 10.0, "{work:?}");
    }

    #[test]
    fn generation_dominates_short_prompts() {
        let params = GenerateParams { max_tokens: 256, ..GenerateParams::default() };
        let kinds = [RequestKind::Generate { prompt: Prompt::Text("hi".to_owned()), params }];
        assert!(Work::of(kinds.iter())[0] > 500.0);
    }
}
