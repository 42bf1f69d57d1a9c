//! 100,000 synthetic chunks in the embedded store: how fast they go in, how fast and how well they are found,
//! and what it costs in memory.
//!
//! ```text
//! cargo bench -p evalign-rag --bench large_index [-- CHUNKS]
//! ```
//!
//! Vectors lie around 2,000 centres, as those of texts do: vectors without any structure have no near
//! neighbours to find. Words follow Zipf's law.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and fails by panicking")]

use std::time::Instant;

use evalign_rag::{
    Bm25, CollectionSpec, EdgeStore, Leg, Point, Scope, SearchMode, SearchOptions, VectorStore,
};
use evalign_stats::{SplitMix64, quantile};
use serde_json::{Map, json};
use uuid::Uuid;

const DIMENSION: usize = 384;
const CENTRES: u64 = 2_000;
const WORDS: u64 = 30_000;
const CHUNK_WORDS: usize = 80;
const BATCH: usize = 1_000;
const QUERIES: usize = 200;
const TENANT: &str = "t";

/// Twelve uniform numbers less six: near enough to a normal one.
fn normal(random: &mut SplitMix64) -> f32 {
    let uniform = |random: &mut SplitMix64| (random.next_u64() >> 40) as f32 / (1u64 << 24) as f32;
    (0..12).map(|_| uniform(random)).sum::<f32>() - 6.0
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}

fn vector(centre: u64, random: &mut SplitMix64) -> Vec<f32> {
    let mut centres = SplitMix64::new(centre.wrapping_mul(0x9e37_79b9));
    unit((0..DIMENSION).map(|_| normal(&mut centres) + 0.6 * normal(random)).collect())
}

fn words(count: usize, random: &mut SplitMix64) -> Vec<String> {
    let zipf = |random: &mut SplitMix64| {
        let uniform = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        (WORDS as f64).powf(uniform) as u64
    };
    (0..count).map(|_| format!("w{}", zipf(random))).collect()
}

fn resident_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

#[tokio::main]
async fn main() {
    let chunks: usize =
        std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(100_000);
    let directory = tempfile::tempdir().unwrap();
    let store = EdgeStore::new(directory.path().to_owned());
    let spec =
        CollectionSpec { dimension: Some(DIMENSION), indexed_fields: Vec::new(), scalar_quantisation: false };
    store.ensure("c", &spec).await.unwrap();
    let mut random = SplitMix64::new(1);
    let start = Instant::now();
    let mut written = 0.0;
    for first in (0..chunks).step_by(BATCH) {
        let points: Vec<Point> =
            (first..chunks.min(first + BATCH)).map(|number| point(number, &mut random)).collect();
        let writing = Instant::now();
        store.upsert("c", points).await.unwrap();
        store.flush("c").await.unwrap();
        written += writing.elapsed().as_secs_f64();
    }
    println!(
        "written: {chunks} chunks in {written:.1} s ({:.0}/s, flushed every {BATCH}; {:.1} s with making them)",
        chunks as f64 / written,
        start.elapsed().as_secs_f64()
    );
    let indexing = Instant::now();
    store.optimise("c").await.unwrap();
    println!("indexed: {:?} in {:.1} s", store.info("c").await.unwrap(), indexing.elapsed().as_secs_f64());
    ask(&store).await;
    if let Some(mib) = resident_mib() {
        println!("memory: at most {mib:.0} MiB");
    }
}

fn point(number: usize, random: &mut SplitMix64) -> Point {
    let centre = random.below(CENTRES);
    let terms = words(CHUNK_WORDS, random);
    Point {
        id: Uuid::from_u128(number as u128 + 1),
        tenant: TENANT.to_owned(),
        dense: Some(vector(centre, random)),
        sparse: Bm25::new(CHUNK_WORDS as f64).document(&terms),
        payload: Map::from_iter([("text".to_owned(), json!(terms.join(" ")))]),
    }
}

async fn ask(store: &EdgeStore) {
    let mut random = SplitMix64::new(2);
    let scope = Scope::of(TENANT);
    let options = SearchOptions { mode: SearchMode::Hybrid, ..SearchOptions::default() };
    let (mut milliseconds, mut found, mut wanted) = (Vec::new(), 0, 0);
    for _ in 0..QUERIES {
        let vector = vector(random.below(CENTRES), &mut random);
        let dense = |exact| Leg::Dense { vector: vector.clone(), limit: 10, exact };
        let both = vec![
            Leg::Sparse { vector: Bm25::query(&words(6, &mut random)), limit: options.depth },
            Leg::Dense { vector: vector.clone(), limit: options.depth, exact: false },
        ];
        let start = Instant::now();
        let lists = store.legs("c", &scope, both).await.unwrap();
        let fused = options.fusion.fuse(&lists, &[]);
        milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
        assert!(!fused.is_empty());
        let lists = store.legs("c", &scope, vec![dense(false), dense(true)]).await.unwrap();
        wanted += lists[1].len();
        found += lists[1].iter().filter(|hit| lists[0].iter().any(|other| other.id == hit.id)).count();
    }
    milliseconds.sort_by(f64::total_cmp);
    let at = |share| quantile(&milliseconds, share).unwrap_or_default();
    println!("hybrid query without embedding: p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99));
    println!("recall@10 against exact search: {:.4}", found as f64 / wanted as f64);
}
