use crate::RagError;
use crate::fusion::Fused;
use crate::mmr::Diverse;

/// A list of hits, as far as it was not taken yet.
pub(super) enum Ranked {
    ByScore(std::vec::IntoIter<Fused>),
    Diverse(Diverse<Fused>),
}

impl Ranked {
    /// The next so many hits, and what is left. Diverse ones are picked where blocking is allowed: with many legs that
    /// are deep it takes a second.
    pub(super) async fn next(self, most: usize) -> Result<(Vec<Fused>, Self), RagError> {
        match self {
            Self::ByScore(mut hits) => Ok((hits.by_ref().take(most).collect(), Self::ByScore(hits))),
            Self::Diverse(mut hits) => {
                let pick = move || (hits.by_ref().take(most).collect(), Self::Diverse(hits));
                tokio::task::spawn_blocking(pick)
                    .await
                    .map_err(|error| RagError::broken("in this process", &error))
            }
        }
    }
}
