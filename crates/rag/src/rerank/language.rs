//! A language model as a judge of relevance.
//!
//! Relevance is the probability that the model says yes, among yes and no, when asked whether a passage answers the
//! question (the pointwise relevance generation of Liang and others 2022, HELM, arXiv 2211.09110, section
//! B.2). The question stands before the passage, so a model in this process reads it once for all of them. What a
//! passage is worth does not depend on what else is judged: its prompt is made of it and the question alone.

use std::sync::Arc;

use evalign_core::{Digest, Output, Prompt, Request, RequestKind, SampleKey};
use evalign_model::Model;
use minijinja::{Environment, context};

use super::all_judged;
use crate::RagError;
use crate::answer::defused;

const TEMPLATE: &str = include_str!("../../../../prompts/rag/relevance.j2");

/// Of what stands around the template: goes up when a judgement would come out otherwise.
const VERSION: u32 = 2;

/// Digits of the digest of question and passage that fence the passage: with 64 bits, nobody finds a passage that holds
/// its own fence by trying.
const FENCE_DIGITS: usize = 16;

pub(super) struct LanguageModel {
    model: Arc<dyn Model>,
}

impl std::fmt::Debug for LanguageModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LanguageModel").field("model", self.model.identity()).finish()
    }
}

impl LanguageModel {
    /// # Errors
    /// [`RagError::Invalid`] for a model that does not tell probabilities of given texts.
    pub(super) fn new(model: Arc<dyn Model>) -> Result<Self, RagError> {
        if !model.capabilities().log_likelihood {
            return Err(RagError::invalid(
                "--rerank",
                "this model does not tell how probable a text is",
                "name a model in this process, for example `local/smollm2-135m-instruct`",
            ));
        }
        Ok(Self { model })
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::of_json(&serde_json::json!([self.model.identity(), TEMPLATE, VERSION]))
    }

    /// The probability of relevance of each passage, in their order.
    ///
    /// # Errors
    /// What the model reports, and a reply that is not two probabilities.
    pub(super) async fn relevance(&self, question: &str, passages: &[&str]) -> Result<Vec<f64>, RagError> {
        let special = self.model.special_tokens();
        let requests = passages.iter().map(|passage| request(question, passage, &special));
        let mut relevance = vec![None; passages.len()];
        let mut replies = self.model.submit(requests.collect::<Result<_, _>>()?);
        while let Some((index, response)) = replies.next().await {
            if let Output::LogLikelihood { choices } = response?.output
                && let [yes, no] = choices.as_slice()
            {
                relevance[index] = Some(1.0 / (1.0 + (no.sum - yes.sum).exp()));
            }
        }
        all_judged(relevance)
    }
}

fn request(question: &str, passage: &str, special: &[String]) -> Result<Request, RagError> {
    let digest = Digest::of_json(&serde_json::json!([question, passage]));
    let fence = digest.as_str().get(..FENCE_DIGITS).unwrap_or_default();
    let head = Environment::new()
        .render_str(TEMPLATE, context! { question => defused(question, special), fence => fence })
        .map_err(|error| {
            RagError::invalid("the template of relevance", error.to_string(), "report it as a bug")
        })?;
    let passage = defused(passage, special);
    let context = format!("{head}\n{passage}\nEnd of passage {fence}. Does it answer the question?");
    let continuations = [" Yes", " No"].map(str::to_owned).to_vec();
    let kind = RequestKind::LogLikelihood { context: Prompt::Text(context), continuations };
    Ok(Request { key: SampleKey { task: "rag/relevance".to_owned(), doc: 0, repeat: 0 }, kind })
}
