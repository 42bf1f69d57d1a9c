//! Texts to vectors: tokens per second of a real encoder, in f32 and in 8-bit blocks.
//!
//! `EVALIGN_TEST_EMBEDDER=DIR cargo bench -p evalign-lm --bench encoder`, where DIR is all-MiniLM-L6-v2 or another
//! directory that [`TextEncoder::load`] reads. Texts are of 20 to 250 tokens, as passages are, and one of 25, as questions.
#![expect(clippy::print_stderr, reason = "a bench that cannot run says why")]

use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use evalign_lm::{LoadOptions, TextEncoder, quantise_encoder};

type Failure = Box<dyn std::error::Error>;

/// Tokens of a question.
const QUESTION: u32 = 25;

fn texts() -> Vec<Vec<u32>> {
    (0..64).map(|index| text(index, 20 + index * 37 % 230)).collect()
}

/// Word pieces of BERT's vocabulary.
fn text(index: u32, length: u32) -> Vec<u32> {
    (0..length).map(|place| 2000 + (index * 7919 + place * 104_729) % 27_000).collect()
}

fn measure(criterion: &mut Criterion, name: &str, directory: &Path) -> Result<(), Failure> {
    let texts = texts();
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(tokens as u64)).sample_size(10);
    for threads in [1, 2] {
        let options = LoadOptions { threads: Some(threads), ..LoadOptions::default() };
        let encoder = TextEncoder::load(directory, &options)?;
        group.bench_function(format!("{threads} threads"), |bencher| bencher.iter(|| encoder.embed(&texts)));
    }
    group.throughput(Throughput::Elements(u64::from(QUESTION)));
    let question = [text(0, QUESTION)];
    let encoder = TextEncoder::load(directory, &LoadOptions::default())?;
    group.bench_function("a question", |bencher| bencher.iter(|| encoder.embed(&question)));
    group.finish();
    Ok(())
}

fn run(criterion: &mut Criterion) -> Result<(), Failure> {
    let directory =
        PathBuf::from(std::env::var_os("EVALIGN_TEST_EMBEDDER").ok_or("EVALIGN_TEST_EMBEDDER is not set")?);
    measure(criterion, "encoder f32", &directory)?;
    let small = tempfile::tempdir()?;
    quantise_encoder(&directory, small.path())?;
    measure(criterion, "encoder q8_0", small.path())
}

fn encoder(criterion: &mut Criterion) {
    if let Err(error) = run(criterion) {
        eprintln!("skipped: encoder: {error}");
    }
}

criterion_group!(benches, encoder);
criterion_main!(benches);
