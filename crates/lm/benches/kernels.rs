//! Speed of the kernels on the shapes of SmolLM2-135M. Criterion's `thrpt` counts floating-point operations, so
//! "Gelem/s" reads as GFLOP/s; candle's matmul runs beside ours in the same process.

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use evalign_lm::kernels::{
    AttentionJob, AttentionShape, KvSegment, PackedMatrix, PanelDtype, Pool, Rows, Target, attention, linear,
    log_softmax_gather, rms_norm, silu_mul,
};

const SHAPE: AttentionShape =
    AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, window: None, causal: true };

fn pool() -> Pool {
    Pool::new(None).expect("the machine gives threads")
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1024) as f32 / 1024.0 - 0.5).collect()
}

fn products(criterion: &mut Criterion) {
    let pool = pool();
    let mut group = criterion.benchmark_group("linear");
    group.sample_size(10);
    for (k, n) in [(576, 576), (576, 192), (576, 1536), (1536, 576), (2048, 2048)] {
        let rows = values(n * k);
        let w = PackedMatrix::from_rows(&rows, n, k, PanelDtype::F32);
        let right = Tensor::from_vec(values(k * n), (k, n), &Device::Cpu).expect("tensor");
        for m in [1, 4, 16, 64, 256, 1024, 2048] {
            let x = values(m * k);
            let left = Tensor::from_slice(&x, (m, k), &Device::Cpu).expect("tensor");
            let mut out = vec![0.0; m * n];
            group.throughput(Throughput::Elements((2 * m * n * k) as u64));
            let name = format!("{m}x{k}x{n}");
            group.bench_function(BenchmarkId::new("evalign", &name), |bench| {
                bench.iter(|| linear(&pool, &x, &w, None, &mut out, false));
            });
            group.bench_function(BenchmarkId::new("candle", &name), |bench| {
                bench.iter(|| left.matmul(&right));
            });
        }
    }
    group.finish();
}

fn segment(positions: usize) -> KvSegment {
    let width = SHAPE.kv_heads * SHAPE.head_dim;
    let rows = values(positions * width);
    let mut segment = KvSegment::new(SHAPE.kv_heads, SHAPE.head_dim, positions);
    segment.append(Rows::new(&rows, positions, width), Rows::new(&rows, positions, width));
    segment
}

fn attentions(criterion: &mut Criterion) {
    let pool = pool();
    let mut group = criterion.benchmark_group("attention");
    group.sample_size(10);
    // Prefix length, new tokens, sequences.
    for (prefix, rows, count) in
        [(2500, 80, 25), (0, 600, 1), (70, 7, 64), (499, 1, 1), (1999, 1, 1), (499, 1, 16)]
    {
        let shared = segment(prefix);
        let owns: Vec<KvSegment> = (0..count).map(|_| segment(rows)).collect();
        let prefix_of_all = [&shared];
        let jobs: Vec<AttentionJob<'_>> = owns
            .iter()
            .enumerate()
            .map(|(job, own)| AttentionJob { first_row: job * rows, rows, prefix: &prefix_of_all, own })
            .collect();
        let width = SHAPE.heads * SHAPE.head_dim;
        let q = values(count * rows * width);
        let mut out = vec![0.0; q.len()];
        let visible: usize = count * (0..rows).map(|row| prefix + row + 1).sum::<usize>();
        group.throughput(Throughput::Elements((4 * width * visible) as u64));
        group.bench_function(format!("{count} x {rows} on {prefix}"), |bench| {
            bench.iter(|| attention(&pool, &SHAPE, Rows::new(&q, count * rows, width), &jobs, &mut out));
        });
    }
    group.finish();
}

fn rows(criterion: &mut Criterion) {
    let pool = pool();
    let mut group = criterion.benchmark_group("rows");
    group.sample_size(10);
    let (x, gate) = (values(1024 * 576), values(1024 * 1536));
    let (weight, mut normed, mut gated) = (values(576), values(1024 * 576), values(1024 * 1536));
    group.bench_function("rms_norm 1024x576", |bench| {
        bench.iter(|| rms_norm(&pool, &x, &weight, 1e-5, &mut normed));
    });
    group.bench_function("silu_mul 1024x1536", |bench| {
        bench.iter(|| silu_mul(&pool, &gate, &gate, &mut gated));
    });
    let (n, k) = (49_152, 576);
    let head = PackedMatrix::from_rows(&values(n * k), n, k, PanelDtype::F32);
    for m in [1, 16, 64] {
        let hidden = values(m * k);
        let targets: Vec<Target> = (0..m).map(|row| Target { row, token: row as u32 * 100 }).collect();
        group.throughput(Throughput::Elements((2 * m * n * k) as u64));
        group.bench_function(format!("log_softmax_gather {m}x{k}x{n}"), |bench| {
            bench.iter(|| log_softmax_gather(&pool, &hidden, &head, &targets));
        });
    }
    group.finish();
}

criterion_group!(benches, products, attentions, rows);
criterion_main!(benches);
