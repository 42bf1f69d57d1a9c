//! An embedder for tests; the integration tests have this file too.

use super::{Digest, Embedder, EmbedderIdentity, Pooling, RagError, TextRole, async_trait};

/// Vectors that depend on the text alone.
pub(super) struct Hashing(EmbedderIdentity);

impl Hashing {
    pub(super) fn new() -> Self {
        Self(EmbedderIdentity {
            name: "hashing".to_owned(),
            digest: None,
            dimension: 8,
            pooling: Pooling::Mean,
            query_prefix: String::new(),
            passage_prefix: String::new(),
            max_tokens: 128,
            probe: None,
        })
    }
}

#[async_trait]
impl Embedder for Hashing {
    fn identity(&self) -> &EmbedderIdentity {
        &self.0
    }

    async fn embed(&self, texts: &[String], _: TextRole) -> Result<Vec<Vec<f32>>, RagError> {
        let vector = |text: &String| {
            let digest = Digest::of(text);
            let bytes = &digest.as_str().as_bytes()[..self.0.dimension];
            let length = bytes.iter().map(|byte| f32::from(*byte).powi(2)).sum::<f32>().sqrt();
            bytes.iter().map(|byte| f32::from(*byte) / length).collect()
        };
        Ok(texts.iter().map(vector).collect())
    }

    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count() + 2
    }
}
