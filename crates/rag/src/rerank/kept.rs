//! Judgements that are kept. They lie among the kept vectors, so `rag gc` takes them too.

use std::collections::BTreeMap;
use std::time::Instant;

use evalign_core::Digest;
use evalign_store::Store;
use serde_json::json;

use super::{Judgement, Reranker, all_judged};
use crate::RagError;

impl Reranker {
    /// The judgement of each passage, in their order: those that are kept, the others made together, each at its share
    /// of the time.
    ///
    /// # Errors
    /// What the model and the store report.
    pub(crate) async fn judgements(
        &self,
        question: &str,
        passages: &[&str],
    ) -> Result<Vec<Judgement>, RagError> {
        let model = self.digest();
        let key = |passage: &&str| Digest::of_json(&json!(["relevance", model, question, passage]));
        let keys: Vec<Digest> = passages.iter().map(key).collect();
        let mut known = match &self.kept {
            Some(store) => kept(store, &keys)?,
            None => BTreeMap::new(),
        };
        // Several chunks may have the same text.
        let open: BTreeMap<&Digest, &str> = (keys.iter().zip(passages.iter().copied()))
            .filter(|(key, _)| !known.contains_key(*key))
            .collect();
        if !open.is_empty() {
            let wanted: Vec<&str> = open.values().copied().collect();
            let start = Instant::now();
            let made = self.relevance(question, &wanted).await?;
            let seconds = start.elapsed().as_secs_f64() / wanted.len() as f64;
            let made = made.into_iter().map(|relevance| Judgement { relevance, seconds }.as_kept());
            let made: Vec<(Digest, Vec<f32>)> = open.into_keys().cloned().zip(made).collect();
            known.extend(read(&made));
            if let Some(store) = &self.kept {
                store.put_vectors(made)?;
            }
        }
        all_judged(keys.iter().map(|key| known.get(key).copied()))
    }
}

fn kept(store: &Store, keys: &[Digest]) -> Result<BTreeMap<Digest, Judgement>, RagError> {
    let found = keys.iter().cloned().zip(store.vectors(keys)?);
    let found: Vec<(Digest, Vec<f32>)> = found.filter_map(|(key, numbers)| Some((key, numbers?))).collect();
    Ok(read(&found).collect())
}

fn read(kept: &[(Digest, Vec<f32>)]) -> impl Iterator<Item = (Digest, Judgement)> {
    kept.iter().filter_map(|(key, numbers)| Some((key.clone(), Judgement::of_kept(numbers)?)))
}

impl Judgement {
    /// The relevance as its nearest `f32` and what that leaves (48 bits of it), and the seconds. New judgements go the same
    /// way, so that they rank as they will when they are looked up.
    fn as_kept(self) -> Vec<f32> {
        let nearest = self.relevance as f32;
        vec![nearest, (self.relevance - f64::from(nearest)) as f32, self.seconds as f32]
    }

    fn of_kept(numbers: &[f32]) -> Option<Self> {
        match numbers {
            [nearest, rest, seconds] => {
                Some(Self { relevance: f64::from(*nearest) + f64::from(*rest), seconds: f64::from(*seconds) })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judgement_comes_back_as_it_was_kept() {
        for relevance in [0.0, 1e-30, 0.1 + 0.2, 1.0 / 3.0, 0.999_999_999_9, 1.0] {
            let kept = Judgement { relevance, seconds: 0.25 }.as_kept();
            let back = Judgement::of_kept(&kept).unwrap();
            assert!((back.relevance - relevance).abs() <= relevance * 1e-14, "{relevance}: {back:?}");
            assert_eq!((back.seconds, back.as_kept()), (0.25, kept));
        }
        assert_eq!(Judgement::of_kept(&[0.5]), None);
    }
}
