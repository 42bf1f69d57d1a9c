//! A question from its text to the fused list, in the embedded store: how long that takes, and how long each part of it.
//!
//! ```text
//! EVALIGN_TEST_EMBEDDER=DIR cargo bench -p evalign-rag --bench query -- COLLECTION
//! ```
//!
//! DIR is all-MiniLM-L6-v2 or another directory that [`LocalEmbedder::load`] reads, COLLECTION one in BEIR's layout. Only
//! questions are embedded: documents have arbitrary vectors, which are as fast to search.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and fails by panicking")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use async_trait::async_trait;
use evalign_rag::embed::{EmbedOptions, LocalEmbedder};
use evalign_rag::{
    BeirCollection, BeirEvaluation, EdgeStore, Embedder, EmbedderIdentity, RagError, SearchMode,
    SearchOptions, TextRole,
};
use evalign_stats::{SplitMix64, quantile};

/// Times that all questions are asked.
const ROUNDS: usize = 3;

/// Embeds questions; documents get vectors of their number.
struct Questions(LocalEmbedder);

#[async_trait]
impl Embedder for Questions {
    fn identity(&self) -> &EmbedderIdentity {
        self.0.identity()
    }

    async fn embed(&self, texts: &[String], role: TextRole) -> Result<Vec<Vec<f32>>, RagError> {
        let any = |random: &mut SplitMix64| (random.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        match role {
            TextRole::Query => self.0.embed(texts, role).await,
            TextRole::Passage => {
                let seeds = texts.iter().map(|text| text.len() as u64);
                let dimension = self.identity().dimension;
                let vector = |mut random| (0..dimension).map(|_| any(&mut random)).collect();
                Ok(seeds.map(|seed| vector(SplitMix64::new(seed))).collect())
            }
        }
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.0.count_tokens(text)
    }
}

#[tokio::main]
async fn main() {
    let Some(model) = std::env::var_os("EVALIGN_TEST_EMBEDDER").map(PathBuf::from) else {
        return println!("skipped: EVALIGN_TEST_EMBEDDER is not set");
    };
    let Some(beir) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) else {
        return println!("skipped: no collection is named");
    };
    let embedder = Questions(LocalEmbedder::load("local", &model, &EmbedOptions::default()).unwrap());
    let collection = BeirCollection::open(Path::new(&beir), "test").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = EdgeStore::new(directory.path().to_owned());
    let evaluation = BeirEvaluation::new(&collection, (&store, "bench"), Some(&embedder));
    evaluation.ingest(&|_| {}).await.unwrap();
    for round in 1..=ROUNDS {
        println!("round {round} of {} questions, milliseconds", collection.queries.len());
        let mut embedding = Vec::new();
        for query in &collection.queries {
            let start = Instant::now();
            embedder.embed(std::slice::from_ref(&query.text), TextRole::Query).await.unwrap();
            embedding.push(start.elapsed().as_secs_f64());
        }
        print("embedding", embedding);
        for (name, mode) in [
            ("words", SearchMode::Bm25),
            ("embedding and vectors", SearchMode::Dense),
            ("all", SearchMode::Hybrid),
        ] {
            let options = SearchOptions { mode, exact: true, ..SearchOptions::default() };
            let mut seconds = Vec::new();
            for query in &collection.queries {
                seconds.push(evaluation.answer(query, &options).await.unwrap().seconds);
            }
            print(name, seconds);
        }
    }
}

fn print(name: &str, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    let at = |share| quantile(&seconds, share).unwrap_or_default() * 1e3;
    println!("{name:22} p10 {:6.2}  p50 {:6.2}  p90 {:6.2}", at(0.1), at(0.5), at(0.9));
}
