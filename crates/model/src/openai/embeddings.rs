use super::OpenAi;
use super::refusal::refusal_in_answer;
use super::wire::{Embedded, EmbeddingsAsk, WireUsage};
use crate::deadline::within;
use crate::error::ModelError;
use evalign_core::Usage;

/// The vectors of some texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// One for each text, in their order, all of the same length.
    pub vectors: Vec<Vec<f32>>,
    /// `None` where the server does not say.
    pub usage: Option<Usage>,
}

impl OpenAi {
    /// Embeds texts in one request. `dimensions` asks for shorter vectors than the model's own.
    ///
    /// # Errors
    /// As [`crate::Call::call`]; also an answer with other vectors than one for each text.
    pub async fn embed(&self, texts: &[String], dimensions: Option<u32>) -> Result<Embeddings, ModelError> {
        if texts.is_empty() {
            return Ok(Embeddings { vectors: Vec::new(), usage: Some(Usage::default()) });
        }
        let model = &self.client.endpoint().model;
        let body = &self.shape.body;
        let ask = EmbeddingsAsk { model, input: texts, dimensions, encoding_format: "float", body };
        let endpoint = self.client.endpoint();
        let exchange = self.client.embeddings(&ask);
        let document = within(endpoint.deadlines.total, &endpoint.place, exchange).await?;
        let answer: Embedded = self.read(&document)?;
        if let Some(error) = answer.error.filter(|error| !error.is_null()) {
            return Err(refusal_in_answer(endpoint, &error));
        }
        let mut data = answer.data.unwrap_or_default();
        data.sort_by_key(|embedding| embedding.index);
        let in_order = data.iter().enumerate().all(|(index, embedding)| embedding.index == index);
        let length = data.first().map_or(0, |embedding| embedding.embedding.len());
        let alike = data.iter().all(|embedding| {
            embedding.embedding.len() == length && embedding.embedding.iter().all(|value| value.is_finite())
        });
        if data.len() != texts.len() || !in_order || !alike || length == 0 {
            return Err(self.odd("the answer does not hold one vector for each text"));
        }
        self.client.prove();
        let usage = answer.usage.and_then(WireUsage::usage);
        Ok(Embeddings { vectors: data.into_iter().map(|embedding| embedding.embedding).collect(), usage })
    }
}
