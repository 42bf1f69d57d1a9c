use serde::Serialize;

use super::Hit;
use crate::{Chunk, RagError, Reranker};

/// What a second look made of a hit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RerankShare {
    /// 0 to 1, see [`Reranker::relevance`].
    pub relevance: f64,
    /// The rank it had, from 1.
    pub rank_before: usize,
}

/// The hits in the order of their relevance, the first `limit`; among equals the one that stood higher. Their scores
/// stay those of the search.
///
/// # Errors
/// [`RagError::Index`] for hits that no indexer wrote; what the model reports.
pub async fn rerank(
    (index, tenant): (&str, &str),
    question: &str,
    reranker: &Reranker,
    mut hits: Vec<Hit>,
    limit: usize,
) -> Result<Vec<Hit>, RagError> {
    let chunk = |hit: &Hit| Chunk::from_payload(index, hit.id, tenant, &hit.payload);
    let chunks = hits.iter().map(chunk).collect::<Result<Vec<_>, _>>()?;
    let passages: Vec<&str> = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
    let relevance = reranker.relevance(question, &passages).await?;
    for (hit, relevance) in hits.iter_mut().zip(relevance) {
        hit.rerank = Some(RerankShare { relevance, rank_before: hit.rank });
    }
    let relevance = |hit: &Hit| hit.rerank.map_or(f64::NEG_INFINITY, |rerank| rerank.relevance);
    hits.sort_by(|a, b| relevance(b).total_cmp(&relevance(a)).then_with(|| a.rank.cmp(&b.rank)));
    hits.truncate(limit);
    for (place, hit) in hits.iter_mut().enumerate() {
        hit.rank = place + 1;
    }
    Ok(hits)
}
