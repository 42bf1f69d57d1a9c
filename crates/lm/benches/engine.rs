//! Speed of the engine on the real model: prefill, scoring with and without shared prefixes, decoding.
//!
//! Criterion's throughput is in tokens as asked for, so that sharing shows as speed; it is for comparing two
//! versions of this code. The line behind each measurement tells, of its fastest pass, what was really
//! computed, how much was shared, and which fraction that is of the machine's matmul rate in the same
//! process. `EVALIGN_TEST_MODEL=SmolLM2-135M-Instruct.Q4_1.gguf cargo bench -p evalign-lm --bench engine`
#![expect(clippy::print_stderr, reason = "what criterion has no column for")]

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use evalign_core::{Dtype, GenerateParams};
use evalign_lm::kernels::{Pool, matmul_rate};
use evalign_lm::{EngineStats, GenerateItem, LanguageModel, LoadOptions, ScoreItem, statistics};

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
    statistics(|on_event| model.log_likelihoods(items, on_event)).expect("scoring works")
}

fn generate(model: &LanguageModel, sequences: usize) -> EngineStats {
    let params = GenerateParams { max_tokens: 32, ..GenerateParams::default() };
    let items: Vec<GenerateItem> = (0..sequences as u32)
        .map(|i| GenerateItem { prompt: tokens(i, 16), params: params.clone(), stop_ids: Vec::new() })
        .collect();
    statistics(|on_event| model.generate(&items, on_event)).expect("generation works")
}

/// The same set, each answer in a call of its own.
fn score_apart(model: &LanguageModel, items: &[ScoreItem]) -> EngineStats {
    let mut total = EngineStats::default();
    for item in items {
        for answer in &item.continuations {
            let alone = ScoreItem { context: item.context.clone(), continuations: vec![answer.clone()] };
            total += score(model, &[alone]);
        }
    }
    total
}

/// Times a call that is asked for so many tokens. `rate` is the machine's, in GFLOP/s.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: (&str, Dtype),
    tokens: usize,
    rate: f64,
    call: impl Fn() -> EngineStats,
) {
    let seconds = |stats: &EngineStats| stats.prefill_seconds + stats.decode_seconds;
    let mut fastest: Option<EngineStats> = None;
    group.throughput(Throughput::Elements(tokens as u64));
    group.bench_function(BenchmarkId::new(id.0, id.1.name()), |bench| {
        bench.iter(|| {
            let stats = call();
            if fastest.is_none_or(|known| seconds(&stats) < seconds(&known)) {
                fastest = Some(stats);
            }
        });
    });
    let Some(stats) = fastest else { return };
    let phase = |name: &str, tokens: u64, flops: f64, seconds: f64| {
        let fraction = flops / seconds / (rate * 1e9);
        eprintln!(
            "  {name}: {:.1} tokens/s computed, {:.0} % of the matmul rate",
            tokens as f64 / seconds,
            100.0 * fraction
        );
    };
    let (prefilled, decoded) = (stats.computed_prompt_tokens, stats.generated_tokens);
    phase("prefill", prefilled, stats.prefill_flops, stats.prefill_seconds);
    if decoded > 0 {
        phase("decode", decoded, stats.decode_flops, stats.decode_seconds);
    }
    eprintln!("  sharing: {:.2}x", stats.prompt_tokens as f64 / prefilled as f64);
}

fn engine(criterion: &mut Criterion) {
    let Some(path) = evalign_testkit::real_model("bench engine") else { return };
    let pool = Pool::new(None).expect("the machine gives threads");
    let rate = matmul_rate(&pool).expect("candle multiplies").reference();
    eprintln!("matmul rate: {rate:.1} GFLOP/s");
    let mut group = criterion.benchmark_group("engine");
    group.sample_size(10);
    let one = [ScoreItem { context: tokens(1, 512), continuations: vec![vec![1]] }];
    let set = questions(4);
    let asked = 4 * 4 * (256 + 40 + 8);
    for dtype in [Dtype::F32, Dtype::Q] {
        let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
        let model = LanguageModel::load(path, &options).expect("the model loads");
        measure(&mut group, ("prefill_512", dtype), 512, rate, || score(&model, &one));
        measure(&mut group, ("shared", dtype), asked, rate, || score(&model, &set));
        measure(&mut group, ("unshared", dtype), asked, rate, || score_apart(&model, &set));
        for (name, sequences) in [("decode_1", 1), ("decode_16", 16)] {
            measure(&mut group, (name, dtype), sequences * 32, rate, || generate(&model, sequences));
        }
    }
    group.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
