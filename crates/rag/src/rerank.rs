//! Hits in the order in which a second look finds them relevant.

mod cross_encoder;
mod kept;
mod language;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use evalign_core::Digest;
use evalign_fetch::Progress;
use evalign_model::Model;
use evalign_store::Store;

use crate::RagError;
use crate::embed::EmbedOptions;
use cross_encoder::CrossEncoder;
use language::LanguageModel;

/// A judge of how relevant a chunk is to a question.
#[derive(Debug)]
pub struct Reranker {
    judge: Judge,
    /// Where judgements are kept, see [`Reranker::keeping`].
    kept: Option<Store>,
}

/// A passage judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Judgement {
    /// 0 to 1.
    pub(crate) relevance: f64,
    /// What it took when it was made.
    pub(crate) seconds: f64,
}

#[derive(Debug)]
enum Judge {
    Language(LanguageModel),
    Cross(Box<CrossEncoder>),
}

/// One judgement for each passage: what was not judged is never taken for irrelevant, nor kept.
///
/// # Errors
/// [`RagError::Invalid`] where one is missing.
fn all_judged<T>(judgements: impl IntoIterator<Item = Option<T>>) -> Result<Vec<T>, RagError> {
    let all: Option<Vec<T>> = judgements.into_iter().collect();
    all.ok_or_else(|| {
        RagError::invalid(
            "--rerank",
            "the model left passages without a judgement",
            "name another model, or search without `--rerank`",
        )
    })
}

impl Reranker {
    /// A language model that tells how probable a given text is.
    ///
    /// # Errors
    /// [`RagError::Invalid`] for a model that does not.
    pub fn language_model(model: Arc<dyn Model>) -> Result<Self, RagError> {
        LanguageModel::new(model).map(Judge::Language).map(Self::of)
    }

    /// A cross-encoder in ONNX: a directory, or a model of fastembed's list (from the hub).
    ///
    /// # Errors
    /// No usable ONNX Runtime, or the model cannot be found, fetched or loaded.
    pub async fn cross_encoder(
        name: &str,
        options: &EmbedOptions,
        progress: Progress<'_>,
    ) -> Result<Self, RagError> {
        let encoder = match Path::new(name) {
            path if path.is_dir() => CrossEncoder::load_directory(name, path, options)?,
            _ => CrossEncoder::from_hub(name, options, progress).await?,
        };
        Ok(Self::of(Judge::Cross(Box::new(encoder))))
    }

    fn of(judge: Judge) -> Self {
        Self { judge, kept: None }
    }

    /// Keeps what is judged for sweeps by question and passage, with the time that it took: a sweep that is begun again
    /// judges only what is new.
    #[must_use]
    pub fn keeping(self, store: Store) -> Self {
        Self { kept: Some(store), ..self }
    }

    /// The relevance of each passage to the question, 0 to 1, in their order.
    ///
    /// # Errors
    /// What the model reports.
    pub async fn relevance(&self, question: &str, passages: &[&str]) -> Result<Vec<f64>, RagError> {
        match &self.judge {
            Judge::Language(model) => model.relevance(question, passages).await,
            Judge::Cross(model) => model.relevance(question, passages).await,
        }
    }

    /// Of everything that decides what it judges.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match &self.judge {
            Judge::Language(model) => model.digest(),
            Judge::Cross(model) => model.digest().clone(),
        }
    }
}
