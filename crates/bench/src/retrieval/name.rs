use evalign_core::{ModelRef, Provider};
use evalign_rag::{Fusion, SearchMode, SearchOptions, SearchWay};

/// A name that shows in tables: `local/bm25`, `local/dense:NAME`, `local/hybrid-rrf60:NAME`, with what differs from
/// plain hybrid search: `-chunks200` for documents cut into chunks of 200 tokens, `-prefix` for these searched together
/// with the document's title, `-rerank20` for 20 hits judged again.
#[must_use]
pub fn way_of_searching(way: &SearchWay, embedder: Option<&str>) -> ModelRef {
    let (options, plain) = (&way.options, SearchOptions::default());
    let mut name = match options.mode {
        SearchMode::Bm25 => "bm25".to_owned(),
        SearchMode::Dense => "dense".to_owned(),
        SearchMode::Hybrid => {
            let fusion = match options.fusion {
                Fusion::Rrf { k } => format!("rrf{k}"),
                Fusion::MinMax => "min-max".to_owned(),
                Fusion::Dbsf => "dbsf".to_owned(),
            };
            let weight =
                (options.bm25_weight != plain.bm25_weight).then(|| format!("-words{}", options.bm25_weight));
            let depth = (options.depth != plain.depth).then(|| format!("-depth{}", options.depth));
            let feedback = options.feedback.map(|by| format!("-feedback{}x{}", by.hits, by.weight));
            let more = [weight, depth, feedback].into_iter().flatten();
            format!("hybrid-{fusion}{}", more.collect::<String>())
        }
    };
    if let Some(chunking) = way.chunking {
        let overlap = match chunking.overlap_tokens {
            0 => String::new(),
            tokens => format!("+{tokens}"),
        };
        let prefix = if chunking.prefix { "-prefix" } else { "" };
        name += &format!("-chunks{}{overlap}{prefix}", chunking.max_tokens);
    }
    if let Some(depth) = way.rerank_depth {
        name += &format!("-rerank{depth}");
    }
    if let Some(embedder) = embedder {
        name += &format!(":{embedder}");
    }
    ModelRef { provider: Provider::Local, name, adapter: None }
}
