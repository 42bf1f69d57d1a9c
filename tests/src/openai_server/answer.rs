use evalign_core::Digest;
use serde_json::{Value, json};

use super::behaviour::{Behaviour, Reasoning, Support};
use super::form::Form;

/// How an answer is drawn.
#[derive(Clone, Debug)]
pub(super) struct Sampling {
    pub(super) max_tokens: Option<u64>,
    pub(super) temperature: f64,
    pub(super) seed: Option<i64>,
    pub(super) stop: Vec<String>,
    pub(super) form: Option<Form>,
}

/// A text as the server writes it. A token is a word with the white space behind it.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) content: String,
    pub(super) reasoning: Option<String>,
    pub(super) reasoning_tokens: u64,
    pub(super) tokens: u64,
    pub(super) finish: &'static str,
}

impl Text {
    pub(super) fn pieces(&self) -> impl Iterator<Item = &str> {
        self.content.split_inclusive(char::is_whitespace)
    }
}

/// The first 8 bytes of a digest over the parts; their lengths keep ("a", "bc") and ("ab", "c") apart.
pub(super) fn hash(parts: &[&str]) -> u64 {
    let text: String = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
    let digest = Digest::of(text);
    let hex = digest.as_str().get(..16).unwrap_or_default();
    u64::from_str_radix(hex, 16).unwrap_or(0)
}

/// In [0, 1).
pub(super) fn unit(parts: &[&str]) -> f64 {
    (hash(parts) >> 11) as f64 / (1u64 << 53) as f64
}

/// In [0.5, 8.5), a multiple of 2^-16: exact in f64 and in decimal digits.
fn made_up_number(parts: &[&str]) -> f64 {
    0.5 + (hash(parts) % (8 << 16)) as f64 / 65_536.0
}

pub(super) fn words(text: &str) -> u64 {
    text.split_whitespace().count().max(1) as u64
}

/// Answers a prompt by the rules of the `scripted` model of the crate `evalign-model`, so that both give
/// the same text where their seeds are the same. `choice` counts the answers to one request;
/// `attempt` stands in for chance where the request draws without a seed.
pub(super) fn write(
    behaviour: &Behaviour,
    prompt: &str,
    sampling: &Sampling,
    choice: usize,
    attempt: u32,
) -> Text {
    let rule = behaviour.rules.iter().find(|rule| prompt.contains(&rule.text_in_prompt));
    let text = match (rule, &sampling.form) {
        (Some(rule), _) => rule.text.clone(),
        (None, Some(form)) => form.filled(behaviour.seed, prompt),
        (None, None) => made_up_text(behaviour, prompt, sampling, choice, attempt),
    };
    let (reasoning, thoughts) = match behaviour.capabilities.reasoning {
        Reasoning::None => (None, 0),
        _ => {
            let thoughts = format!("The question has {} words. I add the numbers up.", words(prompt));
            let cut = cut(&thoughts, sampling.max_tokens);
            (Some(cut.0.to_owned()), cut.1)
        }
    };
    let stop = sampling.stop.iter().filter(|stop| !stop.is_empty());
    let stop = stop.filter_map(|stop| text.find(stop.as_str())).min();
    let text = stop.map_or(text.as_str(), |at| &text[..at]);
    let (kept, tokens) = cut(text, sampling.max_tokens.map(|most| most.saturating_sub(thoughts)));
    let finish = if kept.len() < text.len() { "length" } else { "stop" };
    let content = match (&reasoning, behaviour.capabilities.reasoning) {
        (Some(thoughts), Reasoning::Inline) if finish == "length" && kept.is_empty() => {
            format!("<think>{thoughts}")
        }
        (Some(thoughts), Reasoning::Inline) => format!("<think>{thoughts}</think>\n\n{kept}"),
        _ => kept.to_owned(),
    };
    Text { content, reasoning, reasoning_tokens: thoughts, tokens: tokens + thoughts, finish }
}

/// The beginning of a text that fits, and its tokens.
fn cut(text: &str, most: Option<u64>) -> (&str, u64) {
    let most = most.unwrap_or(u64::MAX);
    let (mut end, mut tokens) = (0, 0);
    for piece in text.split_inclusive(char::is_whitespace) {
        if tokens == most {
            break;
        }
        end += piece.len();
        tokens += 1;
    }
    (&text[..end], tokens)
}

/// Looks like the answer to a word problem, so that extraction has something to find.
fn made_up_text(
    behaviour: &Behaviour,
    prompt: &str,
    sampling: &Sampling,
    choice: usize,
    attempt: u32,
) -> String {
    let honoured = sampling.seed.filter(|_| behaviour.capabilities.seed == Support::Yes);
    let draw = match (sampling.temperature > 0.0, honoured, choice) {
        (false, ..) => String::new(),
        (true, Some(seed), 0) => seed.to_string(),
        (true, Some(seed), _) => format!("{seed}/{choice}"),
        (true, None, _) => format!("attempt {attempt}/{choice}"),
    };
    let hash = hash(&["generate", &behaviour.seed.to_string(), prompt, &draw]);
    let (first, second) = (hash % 90 + 1, hash / 90 % 9 + 1);
    let sum = first + second;
    format!(
        " There are {first} and {second} more, so {first} + {second} = {sum}. The answer is {sum}.\n#### {sum}"
    )
}

/// Log-probability of a generated token.
pub(super) fn written_logprob(piece: &str) -> f64 {
    -made_up_number(&["logprob", piece]) / 8.0
}

/// A token of a text that is scored, and its log-probability given everything before it.
#[derive(Clone, Debug)]
pub(super) struct Scored {
    pub(super) token: String,
    /// `None` for the first token, which nothing comes before.
    pub(super) logprob: Option<f64>,
    /// In characters.
    pub(super) offset: usize,
}

impl Scored {
    /// The most likely tokens at this place: itself, or something else beside it.
    pub(super) fn top(&self) -> Value {
        match self.logprob {
            None => Value::Null,
            Some(logprob) if logprob > -1.0 => json!({self.token.as_str(): logprob}),
            Some(logprob) => json!({"\u{2581}else": -0.25, self.token.as_str(): logprob}),
        }
    }
}

/// Scores every token of a text. A token's number depends on the text up to its end only, so that the
/// sum over a continuation is the same however the request was cut. A text that ends as a rule says its
/// prompt goes on is likely there.
pub(super) fn score(behaviour: &Behaviour, text: &str) -> Vec<Scored> {
    let likely = behaviour
        .rules
        .iter()
        .find(|rule| text.contains(&rule.text_in_prompt) && text.ends_with(&rule.text))
        .map_or(text.len(), |rule| text.len() - rule.text.len());
    let mut before = hash(&["score", &behaviour.seed.to_string()]);
    let (mut bytes, mut characters) = (0, 0);
    let mut scored = Vec::new();
    for token in tokens(text) {
        before = hash(&[&before.to_string(), token]);
        let number = match bytes {
            0 => None,
            bytes if bytes >= likely => Some(-0.001),
            _ => Some(-made_up_number(&[&before.to_string()])),
        };
        scored.push(Scored { token: token.to_owned(), logprob: number, offset: characters });
        bytes += token.len();
        characters += token.chars().count();
    }
    scored
}

/// White space with the word behind it, or with one character that is part of no word.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let space = rest.len() - rest.trim_start().len();
        let after = &rest[space..];
        let word = after.find(|c: char| !c.is_alphanumeric()).unwrap_or(after.len());
        let end = match word {
            0 => space + after.chars().next().map_or(0, char::len_utf8),
            word => space + word,
        };
        tokens.push(&rest[..end]);
        rest = &rest[end..];
    }
    tokens
}
