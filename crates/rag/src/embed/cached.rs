use std::sync::Arc;

use async_trait::async_trait;
use evalign_core::Digest;
use evalign_store::Store;
use serde_json::json;

use crate::embedder::under_probe;
use crate::{Embedder, EmbedderIdentity, Probe, RagError, TextRole};

/// Keeps vectors by content: a text that was embedded once, by whatever index, is looked up.
pub struct CachedEmbedder {
    inner: Arc<dyn Embedder>,
    store: Store,
}

impl std::fmt::Debug for CachedEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedEmbedder").field("store", &self.store).finish_non_exhaustive()
    }
}

impl CachedEmbedder {
    #[must_use]
    pub fn new(inner: Arc<dyn Embedder>, store: Store) -> Self {
        Self { inner, store }
    }

    /// As [`CachedEmbedder::new`], where no index records the embedder: a server computes its probe a little otherwise in
    /// each session, and what is kept is found by the probe that was seen first. Another model has one of its own.
    ///
    /// # Errors
    /// What the store reports.
    pub fn across_sessions(inner: Arc<dyn Embedder>, store: Store) -> Result<Self, RagError> {
        let inner = match &inner.identity().probe {
            Some(probe) => {
                let first = first_seen(&store, &inner.identity().without_probe(), probe)?;
                under_probe(inner, Some(first))
            }
            None => inner,
        };
        Ok(Self::new(inner, store))
    }
}

/// The probe that was seen first of this model. They are kept as vectors of the text that they are of, numbered by model.
fn first_seen(store: &Store, identity: &EmbedderIdentity, probe: &Probe) -> Result<Probe, RagError> {
    let model = vector_key(identity, Probe::TEXT, TextRole::Passage);
    let mut number = 0u64;
    loop {
        let key = [Digest::of_json(&json!(["probe", model, number]))];
        match store.vectors(&key)?.into_iter().next().flatten().map(|vector| Probe::of(&vector)) {
            // A server that answers with zeros is like nothing, itself included.
            Some(seen) if seen == *probe || seen.is_same_model(probe) => return Ok(seen),
            Some(_) => number += 1,
            // Read again: another process may have been first.
            None => store.put_vectors(key.map(|key| (key, probe.vector())).into())?,
        }
    }
}

/// What the vector of a text is kept under: everything that decides it. Without a digest of the weights the name stands
/// for them, and what a server makes of its probe beside both.
pub(crate) fn vector_key(identity: &EmbedderIdentity, text: &str, role: TextRole) -> Digest {
    let model = match &identity.digest {
        Some(digest) => digest.as_str(),
        None => identity.name.as_str(),
    };
    let prefix = match role {
        TextRole::Query => &identity.query_prefix,
        TextRole::Passage => &identity.passage_prefix,
    };
    let mut key = json!([model, identity.pooling, identity.max_tokens, prefix, text]);
    if let (Some(probe), Some(parts)) = (&identity.probe, key.as_array_mut()) {
        parts.push(json!(probe));
    }
    Digest::of_json(&key)
}

#[async_trait]
impl Embedder for CachedEmbedder {
    fn identity(&self) -> &EmbedderIdentity {
        self.inner.identity()
    }

    async fn embed(&self, texts: &[String], role: TextRole) -> Result<Vec<Vec<f32>>, RagError> {
        let keys: Vec<Digest> = texts.iter().map(|text| vector_key(self.identity(), text, role)).collect();
        let mut vectors = self.store.vectors(&keys)?;
        let missing: Vec<usize> = (0..texts.len()).filter(|index| vectors[*index].is_none()).collect();
        if !missing.is_empty() {
            let wanted: Vec<String> = missing.iter().map(|index| texts[*index].clone()).collect();
            let computed = self.inner.embed(&wanted, role).await?;
            // Questions are asked once; only passages come again.
            if role == TextRole::Passage {
                let kept = missing.iter().zip(&computed).map(|(index, v)| (keys[*index].clone(), v.clone()));
                self.store.put_vectors(kept.collect())?;
            }
            for (index, vector) in missing.into_iter().zip(computed) {
                vectors[index] = Some(vector);
            }
        }
        Ok(vectors.into_iter().flatten().collect())
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.inner.count_tokens(text)
    }
}
