use async_trait::async_trait;
use evalign_core::{ModelRef, Provider};
use evalign_model::{Needs, OpenAi, OpenAiOptions};

use super::EmbedOptions;
use super::prefixes::Prefixes;
use crate::{Embedder, EmbedderIdentity, Pooling, Probe, RagError, TextRole};

/// Texts in one request: below the smallest limit in use (96, Cohere's).
const TEXTS_PER_REQUEST: usize = 64;
/// Latin letters in a row that make one token: fewer than vocabularies in use reach on words, more than they reach on
/// letters in no order.
const LETTERS_PER_TOKEN: usize = 3;
/// What the models behind such servers read at least; OpenAI's own read 8191.
const MAX_TOKENS: usize = 512;

/// Embeddings from a server with OpenAI's interface.
#[derive(Debug)]
pub struct RemoteEmbedder {
    server: OpenAi,
    identity: EmbedderIdentity,
}

impl RemoteEmbedder {
    /// Connects, and embeds one text to learn what the vectors are like.
    ///
    /// # Errors
    /// No address, no such server or model, or a key that is refused.
    pub async fn connect(name: &str, options: &EmbedOptions) -> Result<Self, RagError> {
        let reference = ModelRef { provider: Provider::Openai, name: name.to_owned(), adapter: None };
        let needs = Needs { chat: false, completion: false, log_likelihood: false, generate: Vec::new() };
        let openai = OpenAiOptions { needs, ..options.openai.clone() };
        let server = OpenAi::connect(&reference, &openai).await?;
        let probe = server.embed(&[Probe::TEXT.to_owned()], None).await?;
        let probe = probe.vectors.into_iter().next().unwrap_or_default();
        let prefixes = Prefixes::of_name(name);
        let identity = EmbedderIdentity {
            name: format!("openai/{name}"),
            // The weights are not known: the server, the model's name on it and what it makes of the probe stand for them.
            digest: Some(server.identity().weights),
            dimension: probe.len(),
            pooling: Pooling::Unknown,
            query_prefix: prefixes.query,
            passage_prefix: prefixes.passage,
            max_tokens: MAX_TOKENS,
            probe: Some(Probe::of(&probe)),
        };
        Ok(Self { server, identity })
    }
}

#[async_trait]
impl Embedder for RemoteEmbedder {
    fn identity(&self) -> &EmbedderIdentity {
        &self.identity
    }

    async fn embed(&self, texts: &[String], role: TextRole) -> Result<Vec<Vec<f32>>, RagError> {
        let prefix = match role {
            TextRole::Query => &self.identity.query_prefix,
            TextRole::Passage => &self.identity.passage_prefix,
        };
        let mut vectors = Vec::with_capacity(texts.len());
        for part in texts.chunks(TEXTS_PER_REQUEST) {
            let part: Vec<String> = part.iter().map(|text| format!("{prefix}{text}")).collect();
            vectors.extend(self.server.embed(&part, None).await?.vectors.into_iter().map(unit));
        }
        Ok(vectors)
    }

    /// An estimate that errs upwards, as the server's own tokeniser is not at hand.
    fn count_tokens(&self, text: &str) -> usize {
        estimated_tokens(&self.identity.passage_prefix) + estimated_tokens(text) + 2
    }
}

/// Words by their letters, every digit and mark as one token, other scripts by their bytes: no byte-level vocabulary
/// has more tokens than bytes. Bytes alone would be sure and would make chunks of a sentence.
fn estimated_tokens(text: &str) -> usize {
    let (mut tokens, mut letters) = (0, 0usize);
    for char in text.chars() {
        if char.is_ascii_alphabetic() {
            letters += 1;
            continue;
        }
        tokens += std::mem::take(&mut letters).div_ceil(LETTERS_PER_TOKEN);
        // A space is the beginning of the word after it.
        tokens += if char == ' ' { 0 } else { char.len_utf8() };
    }
    tokens + letters.div_ceil(LETTERS_PER_TOKEN)
}

/// Servers differ in whether they do this.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The larger of the counts by OpenAI's cl100k_base (tiktoken 0.14) and by BERT's vocabulary (tokenizers 0.23).
    #[test]
    fn estimates_are_no_fewer_than_the_tokens() {
        for (text, tokens) in [
            ("The keeper measured a tide of four metres before dawn and wrote it down.", 15),
            (
                "fn frame(count: usize) -> Result<Vec<u8>, Error> { self.inner.read(&mut buffer[..count])? }",
                41,
            ),
            ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", 50),
            ("灯台の門は毎晩十八時三十分に閉まります。", 25),
            ("🗼🌊🚢 👩‍🚒", 16),
            ("Die Schleusentore schließen abends um 18:30 Uhr.", 20),
            ("a\n\tb   c", 5),
        ] {
            let estimate = estimated_tokens(text);
            assert!((tokens..3 * tokens).contains(&estimate), "{text}: {estimate}, not {tokens}");
        }
    }
}
