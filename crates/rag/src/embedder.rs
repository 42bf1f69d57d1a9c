mod probe;

use std::sync::Arc;

use async_trait::async_trait;
use evalign_core::Digest;
use serde::{Deserialize, Serialize};

use crate::RagError;
pub use probe::Probe;

/// Whether a text asks or answers: some models want another prefix for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextRole {
    Query,
    Passage,
}

/// How token vectors become the vector of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    Mean,
    Cls,
    /// A server does it and does not say how.
    Unknown,
}

/// What makes two vectors comparable: same identity, same space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbedderIdentity {
    /// As the user names it, for example `all-minilm-l6-v2`.
    pub name: String,
    /// Of the weights and the tokeniser; absent where a server does not show them.
    pub digest: Option<Digest>,
    pub dimension: usize,
    pub pooling: Pooling,
    pub query_prefix: String,
    pub passage_prefix: String,
    /// Special tokens included. Longer texts are cut by [`Embedder::embed`]; callers that must not lose
    /// text ask [`Embedder::count_tokens`] first.
    pub max_tokens: usize,
    /// What the model behind a name on a server makes of a known text. Absent where there is a digest of the weights, and
    /// in indexes that were made before this was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
}

impl EmbedderIdentity {
    /// Whether vectors of both can be compared. The name decides only where weights have no digest: a directory may
    /// hold what has a name elsewhere.
    #[must_use]
    pub fn is_same_space(&self, other: &Self) -> bool {
        let same_weights = match (&self.digest, &other.digest) {
            (Some(a), Some(b)) => a == b,
            (None, None) => self.name == other.name,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let same_model = match (&self.probe, &other.probe) {
            (Some(a), Some(b)) => a.is_same_model(b),
            _ => true,
        };
        same_weights
            && same_model
            && (self.dimension, self.pooling, self.max_tokens)
                == (other.dimension, other.pooling, other.max_tokens)
            && (&self.query_prefix, &self.passage_prefix) == (&other.query_prefix, &other.passage_prefix)
    }

    /// The same without what a server computes anew each time.
    #[must_use]
    pub fn without_probe(&self) -> Self {
        Self { probe: None, ..self.clone() }
    }

    /// The embedder of an index, by its settings.
    pub(crate) fn recorded(index: &str, settings: &serde_json::Value) -> Result<Self, RagError> {
        serde_json::from_value(settings["embedder"].clone()).map_err(|error| {
            RagError::index(index, format!("its settings are damaged: {error}"), "make it anew")
        })
    }

    /// Holds the embedder that is to search an index against the one that its settings record.
    ///
    /// # Errors
    /// [`RagError::Index`] where it is another one: hits would look right and be wrong.
    pub fn check_against(&self, index: &str, settings: &serde_json::Value) -> Result<(), RagError> {
        let recorded = Self::recorded(index, settings)?;
        if self.is_same_space(&recorded) {
            return Ok(());
        }
        if let (Some(is), Some(was)) = (&self.probe, &recorded.probe)
            && self.is_same_space(&recorded.without_probe())
        {
            return Err(RagError::index(
                index,
                format!(
                    "the model behind {} is another one than when it was made: the same text has another vector now \
                     (cosine {:.3})",
                    self.name,
                    is.cosine(was)
                ),
                "let the server have the model of then, or index the documents into another index",
            ));
        }
        let shown = |identity: &Self| {
            let digest = identity.digest.as_ref().map_or("without a digest", Digest::short);
            format!("{} ({digest}, {} numbers)", identity.name, identity.dimension)
        };
        Err(RagError::index(
            index,
            format!("it was made with the embedder {}, not {}", shown(&recorded), shown(self)),
            match recorded.name == self.name {
                true => "put the weights of then back, or index the documents into another index",
                false => "leave out `--embedder`, or index the documents into another index",
            },
        ))
    }
}

/// The embedder for an index, under the identity that the index records: a server computes the same vector a little
/// otherwise each time, and what is kept is found by the vector of then.
///
/// # Errors
/// As [`EmbedderIdentity::check_against`].
pub fn as_recorded(
    embedder: Arc<dyn Embedder>,
    index: &str,
    settings: &serde_json::Value,
) -> Result<Arc<dyn Embedder>, RagError> {
    embedder.identity().check_against(index, settings)?;
    Ok(under_probe(embedder, EmbedderIdentity::recorded(index, settings)?.probe))
}

/// The embedder under a probe of the same model.
pub(crate) fn under_probe(embedder: Arc<dyn Embedder>, probe: Option<Probe>) -> Arc<dyn Embedder> {
    if embedder.identity().probe == probe {
        return embedder;
    }
    let identity = EmbedderIdentity { probe, ..embedder.identity().clone() };
    Arc::new(UnderProbe { inner: embedder, identity })
}

struct UnderProbe {
    inner: Arc<dyn Embedder>,
    identity: EmbedderIdentity,
}

#[async_trait]
impl Embedder for UnderProbe {
    fn identity(&self) -> &EmbedderIdentity {
        &self.identity
    }

    async fn embed(&self, texts: &[String], role: TextRole) -> Result<Vec<Vec<f32>>, RagError> {
        self.inner.embed(texts, role).await
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.inner.count_tokens(text)
    }
}

/// Turns texts into vectors of unit length.
#[async_trait]
pub trait Embedder: Send + Sync {
    fn identity(&self) -> &EmbedderIdentity;

    /// One vector of `identity().dimension` numbers per text, in the order of `texts`.
    ///
    /// # Errors
    /// [`RagError::Embed`] where the backend fails; no partial result is returned.
    async fn embed(&self, texts: &[String], role: TextRole) -> Result<Vec<Vec<f32>>, RagError>;

    /// Tokens of a text with the prefix of a passage and the special tokens, by the embedder's own tokeniser.
    fn count_tokens(&self, text: &str) -> usize;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity(name: &str, digest: Option<&str>) -> EmbedderIdentity {
        EmbedderIdentity {
            name: name.to_owned(),
            digest: digest.map(Digest::of),
            dimension: 384,
            pooling: Pooling::Mean,
            query_prefix: String::new(),
            passage_prefix: String::new(),
            max_tokens: 256,
            probe: None,
        }
    }

    struct Fixed(EmbedderIdentity);

    #[async_trait]
    impl Embedder for Fixed {
        fn identity(&self) -> &EmbedderIdentity {
            &self.0
        }

        async fn embed(&self, texts: &[String], _: TextRole) -> Result<Vec<Vec<f32>>, RagError> {
            Ok(vec![vec![1.0]; texts.len()])
        }

        fn count_tokens(&self, text: &str) -> usize {
            text.len()
        }
    }

    #[test]
    fn an_index_keeps_the_probe_that_it_was_made_with() {
        let on_server = |vector: &[f32]| EmbedderIdentity {
            probe: Some(Probe::of(vector)),
            ..identity("openai/a", None)
        };
        let was = on_server(&[0.6, 0.8]);
        let opened = |identity: EmbedderIdentity, recorded: &EmbedderIdentity| {
            as_recorded(Arc::new(Fixed(identity)), "i", &json!({"embedder": recorded}))
        };
        let (rounded, changed) = (on_server(&[0.6001, 0.7999]), on_server(&[0.8, 0.6]));
        assert_ne!(rounded, was);
        assert_eq!(*opened(rounded.clone(), &was).ok().unwrap().identity(), was);
        let error = opened(changed, &was).err().unwrap().to_string();
        assert!(error.contains("the model behind openai/a is another one"), "{error}");
        // An index of before probes were recorded.
        let without = was.without_probe();
        assert_eq!(*opened(rounded, &without).ok().unwrap().identity(), without);
    }

    #[test]
    fn an_index_is_searched_with_what_it_was_made_with() {
        let settings = json!({"embedder": identity("minilm", Some("weights"))});
        let check = |identity: EmbedderIdentity| identity.check_against("i", &settings);
        check(identity("./a/directory", Some("weights"))).unwrap();
        for other in [
            identity("bge", Some("others")),
            identity("minilm", None),
            EmbedderIdentity { max_tokens: 128, ..identity("minilm", Some("weights")) },
        ] {
            let error = check(other).unwrap_err().to_string();
            assert!(error.contains("made with the embedder minilm"), "{error}");
        }
        assert!(identity("openai/a", None).is_same_space(&identity("openai/a", None)));
        assert!(!identity("openai/a", None).is_same_space(&identity("openai/b", None)));
    }
}
