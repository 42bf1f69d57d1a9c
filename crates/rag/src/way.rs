use serde::{Deserialize, Serialize};

use crate::SearchOptions;
use crate::chunker::ChunkSettings;

/// A way of searching a collection of documents: how they are cut, how they are found, how many hits are judged again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchWay {
    /// Documents are cut and count by their best chunk; absent: each is searched whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunking: Option<ChunkSettings>,
    pub options: SearchOptions,
    /// First hits that a reranker puts in another order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerank_depth: Option<usize>,
}
