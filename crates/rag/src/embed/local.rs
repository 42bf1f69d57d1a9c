use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use evalign_core::Digest;
use evalign_model::{EncoderPooling, EngineOptions, LmError, TextEncoder};

use super::prefixes::Prefixes;
use super::{EmbedOptions, tell_cuts};
use crate::{Embedder, EmbedderIdentity, Pooling, RagError, TextRole};

/// A BERT encoder on the engine of this process: no library from outside, no padding, and on the CPU vectors
/// that do not depend on what shares their batch.
#[derive(Debug)]
pub struct LocalEmbedder {
    encoder: Arc<TextEncoder>,
    identity: EmbedderIdentity,
}

impl LocalEmbedder {
    /// Loads a directory as sentence-transformers saves it; `name` is what the user calls it.
    ///
    /// # Errors
    /// [`RagError::Embed`] with what is wrong with which file.
    pub fn load(name: &str, directory: &Path, options: &EmbedOptions) -> Result<Self, RagError> {
        let engine =
            EngineOptions { device: options.device, threads: options.threads, ..EngineOptions::default() };
        let encoder = TextEncoder::load(directory, &engine).map_err(|error| failed(name, &error))?;
        let loaded = encoder.identity();
        let prefixes = Prefixes::of_directory(name, directory)?;
        let identity = EmbedderIdentity {
            name: name.to_owned(),
            digest: Some(Digest::of(format!("{} {} {:?}", loaded.weights, loaded.tokenizer, loaded.dtype))),
            dimension: loaded.dimensions,
            pooling: match loaded.pooling {
                EncoderPooling::Mean => Pooling::Mean,
                EncoderPooling::Cls => Pooling::Cls,
            },
            query_prefix: prefixes.query,
            passage_prefix: prefixes.passage,
            max_tokens: loaded.max_tokens,
            probe: None,
        };
        Ok(Self { encoder: Arc::new(encoder), identity })
    }
}

fn failed(name: &str, error: &LmError) -> RagError {
    RagError::Embed {
        embedder: name.to_owned(),
        message: error.to_string(),
        hint: evalign_core::Hint::hint(error),
    }
}

#[async_trait]
impl Embedder for LocalEmbedder {
    fn identity(&self) -> &EmbedderIdentity {
        &self.identity
    }

    async fn embed(&self, texts: &[String], role: TextRole) -> Result<Vec<Vec<f32>>, RagError> {
        let prefix = match role {
            TextRole::Query => &self.identity.query_prefix,
            TextRole::Passage => &self.identity.passage_prefix,
        };
        let texts: Vec<String> = texts.iter().map(|text| format!("{prefix}{text}")).collect();
        let (encoder, name) = (Arc::clone(&self.encoder), self.identity.name.clone());
        let work = tokio::task::spawn_blocking(move || {
            let encoded = texts.iter().map(|text| encoder.tokenise(text)).collect::<Result<Vec<_>, _>>()?;
            let cut = encoded.iter().filter(|text| text.dropped_tokens > 0).count();
            tell_cuts(&name, cut, texts.len(), encoder.identity().max_tokens);
            encoder.embed(&encoded.into_iter().map(|text| text.ids).collect::<Vec<_>>())
        });
        match work.await {
            Ok(vectors) => vectors.map_err(|error| failed(&self.identity.name, &error)),
            Err(error) => Err(RagError::Embed {
                embedder: self.identity.name.clone(),
                message: error.to_string(),
                hint: None,
            }),
        }
    }

    fn count_tokens(&self, text: &str) -> usize {
        // A text that its tokeniser cannot read is one that it could not embed either: as long as can be.
        self.encoder.count_tokens(&format!("{}{text}", self.identity.passage_prefix)).unwrap_or(usize::MAX)
    }
}
