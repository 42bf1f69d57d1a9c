//! Speed of the engine on the real model: prefill, prefix sharing, decoding.
//!
//! Throughput is in tokens as asked for, so that sharing shows as speed. Fractions of the machine's matmul
//! rate are printed by `evalign bench engine`; criterion is for comparing two versions of this code.

use std::ops::ControlFlow;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use evalign_core::{Dtype, GenerateParams};
use evalign_lm::{EngineStats, GenerateItem, LanguageModel, LoadOptions, ScoreItem};

fn tokens(seed: u32, count: usize) -> Vec<u32> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(7919).wrapping_add(seed.wrapping_mul(104_729))) % 40_000)
        .collect()
}

/// Questions after a common beginning, each with four answers.
fn questions(count: u32) -> Vec<ScoreItem> {
    let question = |i: u32| ScoreItem {
        context: [tokens(0, 256), tokens(i + 1, 40)].concat(),
        continuations: (0..4).map(|answer| tokens(1000 + 4 * i + answer, 8)).collect(),
    };
    (0..count).map(question).collect()
}

fn score(model: &LanguageModel, items: &[ScoreItem]) -> EngineStats {
    model.log_likelihoods(items, &mut |_, _| ControlFlow::Continue(())).expect("scoring works")
}

fn generate(model: &LanguageModel, sequences: u32) -> EngineStats {
    let params = GenerateParams { max_tokens: 32, ..GenerateParams::default() };
    let items: Vec<GenerateItem> = (0..sequences)
        .map(|i| GenerateItem { prompt: tokens(i, 16), params: params.clone(), stop_ids: Vec::new() })
        .collect();
    model.generate(&items, &mut |_, _| ControlFlow::Continue(())).expect("generation works")
}

fn engine(criterion: &mut Criterion) {
    let Some(path) = evalign_testkit::real_model("bench engine") else { return };
    let mut group = criterion.benchmark_group("engine");
    group.sample_size(10);
    for dtype in [Dtype::F32, Dtype::Q] {
        let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
        let model = LanguageModel::load(path, &options).expect("the model loads");
        let name = dtype.name();
        let one = [ScoreItem { context: tokens(1, 512), continuations: vec![vec![1]] }];
        group.throughput(Throughput::Elements(512));
        group.bench_function(BenchmarkId::new("prefill_512", name), |bench| {
            bench.iter(|| score(&model, &one));
        });
        let set = questions(4);
        group.throughput(Throughput::Elements(4 * 4 * (256 + 40 + 8)));
        group.bench_function(BenchmarkId::new("shared", name), |bench| bench.iter(|| score(&model, &set)));
        for sequences in [1, 16] {
            group.throughput(Throughput::Elements(u64::from(sequences) * 32));
            let id = BenchmarkId::new(format!("decode_{sequences}"), name);
            group.bench_function(id, |bench| bench.iter(|| generate(&model, sequences)));
        }
    }
    group.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
