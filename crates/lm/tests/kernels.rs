//! The kernels against their portable twin (bit for bit), against themselves under other batches, threads and
//! segmentations (bit for bit), and against plain f64 references (with tolerances).

use evalign_lm::kernels::{
    AttentionJob, AttentionShape, Columns, Isa, KvSegment, PackedMatrix, PanelDtype, Pool, RopePairing,
    RopeTable, Rows, Target, add_assign, attention, exp, gelu, largest, layer_norm, linear,
    log_softmax_gather, logits, most_probable, rms_norm, rms_norm_heads, rope, silu_mul, silu_mul_fused,
    softmax,
};
use proptest::prelude::*;

fn pools() -> Vec<Pool> {
    let mut pools = Vec::new();
    for isa in Isa::available() {
        for threads in [1, 3] {
            pools.push(Pool::with_isa(Some(threads), isa).expect("threads"));
        }
    }
    pools
}

fn fastest() -> Pool {
    Pool::new(Some(2)).expect("threads")
}

/// Reproducible values in -1..1 (splitmix64).
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (((z ^ (z >> 31)) >> 40) as f32 / (1_u64 << 23) as f32) - 1.0
        })
        .collect()
}

/// GELU with the Maclaurin series of the error function.
fn gelu_in_f64(x: f64) -> f64 {
    let z = x / std::f64::consts::SQRT_2;
    let (mut term, mut sum) = (z, z);
    for n in 1..80 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    0.5 * x * (1.0 + sum * 2.0 / std::f64::consts::PI.sqrt())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn close(got: f32, want: f64, tolerance: f64) -> bool {
    (f64::from(got) - want).abs() <= tolerance
}

fn dtype() -> impl Strategy<Value = PanelDtype> {
    prop_oneof![Just(PanelDtype::F32), Just(PanelDtype::Bf16), Just(PanelDtype::F16)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn linear_is_the_same_everywhere_and_right(
        m in 1_usize..60, n in 1_usize..120, k in prop_oneof![1_usize..70, 380_usize..420, 760_usize..780],
        dtype in dtype(), with_bias: bool, accumulate: bool, seed: u64,
    ) {
        let (x, w) = (noise(m * k, seed), noise(n * k, seed ^ 1));
        let (bias, before) = (noise(n, seed ^ 2), noise(m * n, seed ^ 3));
        let packed = PackedMatrix::from_rows(&w, n, k, dtype);
        let bias = with_bias.then_some(bias.as_slice());
        let mut expected: Option<Vec<u32>> = None;
        for pool in pools() {
            let mut out = before.clone();
            linear(&pool, &x, &packed, bias, &mut out, accumulate);
            let got = bits(&out);
            prop_assert!(expected.as_ref().is_none_or(|expected| *expected == got), "{pool:?}");
            expected = Some(got);
        }
        let mut weights = vec![0.0; k];
        let out = expected.unwrap_or_default();
        for j in 0..n {
            packed.row(j, &mut weights);
            for i in 0..m {
                let exact: f64 = (0..k).map(|l| f64::from(x[i * k + l]) * f64::from(weights[l])).sum();
                let exact = exact + bias.map_or(0.0, |bias| f64::from(bias[j]))
                    + if accumulate { f64::from(before[i * n + j]) } else { 0.0 };
                prop_assert!(close(f32::from_bits(out[i * n + j]), exact, 1e-6 * (k as f64 + 10.0)));
            }
        }
    }

    #[test]
    fn a_row_of_a_product_does_not_know_its_batch(m in 2_usize..200, n in 1_usize..200, k in 1_usize..500, seed: u64) {
        let pool = fastest();
        let (x, w) = (noise(m * k, seed), noise(n * k, seed ^ 1));
        let packed = PackedMatrix::from_rows(&w, n, k, PanelDtype::F32);
        let mut all = vec![0.0; m * n];
        linear(&pool, &x, &packed, None, &mut all, false);
        for row in [0, m / 2, m - 1] {
            let mut alone = vec![0.0; n];
            linear(&pool, &x[row * k..(row + 1) * k], &packed, None, &mut alone, false);
            prop_assert_eq!(bits(&alone), bits(&all[row * n..(row + 1) * n]));
        }
    }

    #[test]
    fn row_operations_are_the_same_everywhere_and_right(rows in 1_usize..30, width in 1_usize..200, seed: u64) {
        let (x, y) = (noise(rows * width, seed), noise(rows * width, seed ^ 1));
        let weight = noise(width, seed ^ 2);
        let mut expected: Option<Vec<Vec<u32>>> = None;
        for pool in pools() {
            let mut norm = vec![0.0; x.len()];
            rms_norm(&pool, &x, &weight, 1e-5, &mut norm);
            let mut heads = x.clone();
            let columns = Columns { stride: width, start: 0, width };
            rms_norm_heads(&pool, &mut heads, columns, &weight, 1e-5);
            prop_assert_eq!(bits(&norm), bits(&heads));
            let mut gated = vec![0.0; x.len()];
            silu_mul(&pool, &x, &y, &mut gated);
            let fused: Vec<f32> =
                x.chunks(width).zip(y.chunks(width)).flat_map(|(gate, up)| [gate, up].concat()).collect();
            let mut gated_fused = vec![0.0; x.len()];
            silu_mul_fused(&pool, &fused, width, &mut gated_fused);
            prop_assert_eq!(bits(&gated), bits(&gated_fused));
            let mut sum = x.clone();
            add_assign(&pool, &mut sum, &y);
            let mut soft = x.clone();
            softmax(&pool, &mut soft, width);
            let mut exponential = x.clone();
            exp(pool.isa(), &mut exponential);
            for (row, x) in x.chunks(width).enumerate() {
                let range = row * width..(row + 1) * width;
                let mean: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64;
                let total: f64 = x.iter().map(|v| f64::from(*v).exp()).sum();
                for (place, index) in range.enumerate() {
                    let value = f64::from(x[place]);
                    let scaled = value / (mean + 1e-5).sqrt() * f64::from(weight[place]);
                    prop_assert!(close(norm[index], scaled, 1e-5));
                    let silu = value / (1.0 + (-value).exp()) * f64::from(y[index]);
                    prop_assert!(close(gated[index], silu, 1e-6));
                    prop_assert!(close(soft[index], value.exp() / total, 1e-6));
                }
            }
            let got: Vec<Vec<u32>> = [norm, gated, sum, soft, exponential].iter().map(|all| bits(all)).collect();
            prop_assert!(expected.as_ref().is_none_or(|expected| *expected == got), "{pool:?}");
            expected = Some(got);
        }
    }

    #[test]
    fn layer_norm_and_gelu_are_right_and_the_same_everywhere(rows in 1_usize..60, width in 1_usize..400, seed: u64) {
        let x: Vec<f32> = noise(rows * width, seed).iter().map(|value| value * 4.0).collect();
        let (weight, bias) = (noise(width, seed ^ 1), noise(width, seed ^ 2));
        let mut expected = None;
        for pool in pools() {
            let (mut normed, mut gated) = (x.clone(), x.clone());
            layer_norm(&pool, &mut normed, &weight, &bias, 1e-5);
            gelu(&pool, &mut gated);
            for (row, x) in normed.chunks(width).zip(x.chunks(width)) {
                let mean = x.iter().map(|value| f64::from(*value)).sum::<f64>() / width as f64;
                let variance = x.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / width as f64;
                for (column, value) in row.iter().enumerate() {
                    let scaled = (f64::from(x[column]) - mean) / (variance + 1e-5).sqrt();
                    let want = scaled * f64::from(weight[column]) + f64::from(bias[column]);
                    prop_assert!((f64::from(*value) - want).abs() < 1e-4, "{value} {want}");
                }
            }
            for (value, x) in gated.iter().zip(&x) {
                prop_assert!((f64::from(*value) - gelu_in_f64(f64::from(*x))).abs() < 1e-6, "gelu({x}) = {value}");
            }
            let got = [bits(&normed), bits(&gated)];
            prop_assert!(expected.as_ref().is_none_or(|expected| *expected == got), "{pool:?}");
            expected = Some(got);
        }
    }

    #[test]
    fn rope_rotates_pairs(
        rows in 1_usize..20, heads in 1_usize..5, half in 1_usize..33, spare in 0_usize..5, interleaved: bool, seed: u64,
    ) {
        let head_dim = 2 * half + spare;
        let columns = Columns { stride: heads * head_dim + 7, start: 3, width: heads * head_dim };
        let x = noise(rows * columns.stride, seed);
        let angles = noise(64 * half, seed ^ 1);
        let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
        let positions: Vec<usize> = (0..rows).map(|row| (row * 37 + 5) % 64).collect();
        let pairing = if interleaved { RopePairing::Interleaved } else { RopePairing::Halves };
        let mut expected = x.clone();
        for (row, position) in positions.iter().enumerate() {
            for head in 0..heads {
                let base = row * columns.stride + 3 + head * head_dim;
                for pair in 0..half {
                    let (a, b) = if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
                    let (c, s) = (cos[position * half + pair], sin[position * half + pair]);
                    expected[base + a] = x[base + a] * c - x[base + b] * s;
                    expected[base + b] = x[base + b] * c + x[base + a] * s;
                }
            }
        }
        for pool in pools() {
            let mut got = x.clone();
            let table = RopeTable { cos: &cos, sin: &sin, half };
            rope(&pool, &mut got, columns, head_dim, &positions, table, pairing);
            prop_assert_eq!(bits(&got), bits(&expected));
        }
    }

    #[test]
    fn log_probabilities_are_right_and_do_not_know_their_batch(
        m in 1_usize..30, n in 2_usize..2200, k in 1_usize..20, dtype in dtype(), seed: u64,
    ) {
        let (hidden, w) = (noise(m * k, seed), noise(n * k, seed ^ 1));
        let head = PackedMatrix::from_rows(&w, n, k, dtype);
        let targets: Vec<Target> =
            (0..2 * m).map(|i| Target { row: (i * 7) % m, token: ((i * 1013 + 17) % n) as u32 }).collect();
        let pool = fastest();
        let mut all = vec![0.0; m * n];
        logits(&pool, &hidden, &head, &mut all);
        let got = log_softmax_gather(&pool, &hidden, &head, &targets);
        for (row, summary) in all.chunks(n).zip(&got.rows) {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            prop_assert_eq!(summary.max_logit, max);
            prop_assert_eq!(Some(summary.argmax as usize), row.iter().position(|value| *value == max));
            let sum: f64 = row.iter().map(|value| f64::from(*value).exp()).sum();
            prop_assert!((summary.log_sum_exp - sum.ln()).abs() < 1e-6);
        }
        for (target, logprob) in targets.iter().zip(&got.logprobs) {
            let logit = all[target.row * n + target.token as usize];
            prop_assert_eq!(*logprob, f64::from(logit) - got.rows[target.row].log_sum_exp);
        }
        for other in pools() {
            prop_assert_eq!(&log_softmax_gather(&other, &hidden, &head, &targets), &got);
        }
        let counts: Vec<usize> = (0..m).map(|row| [0, 1, 5, 20, n + 1][row % 5]).collect();
        let found = most_probable(&pool, &hidden, &head, &got.rows, &counts);
        for ((row, count), (summary, found)) in all.chunks(n).zip(&counts).zip(got.rows.iter().zip(&found)) {
            let mut sorted: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
            // Both zeros are one value, as they are where the largest are looked for.
            sorted.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
            sorted.truncate(*count);
            let logprob = |(token, logit): &(u32, f32)| (*token, f64::from(*logit) - summary.log_sum_exp);
            prop_assert_eq!(found, &sorted.iter().map(logprob).collect::<Vec<_>>());
            // Blocks are summed up in f32: `log_sum_exp` has an error of a few of its units in the last place (6e-8).
            prop_assert!(found.iter().map(|(_, logprob)| logprob.exp()).sum::<f64>() <= 1.0 + 1e-5);
        }
        for other in pools() {
            prop_assert_eq!(&most_probable(&other, &hidden, &head, &got.rows, &counts), &found);
        }
        let row = m - 1;
        let alone = log_softmax_gather(&pool, &hidden[row * k..], &head, &[]);
        prop_assert_eq!(alone.rows[0], got.rows[row]);
    }
}

#[test]
fn the_largest_are_in_order_and_what_is_no_number_is_none_of_them() {
    let logits = [1.0, f32::NAN, 3.0, f32::NEG_INFINITY, 3.0, 2.0, 3.0];
    assert_eq!(largest(&logits, 0), []);
    assert_eq!(largest(&logits, 2), [(2, 3.0), (4, 3.0)]);
    assert_eq!(largest(&logits, 9), [(2, 3.0), (4, 3.0), (6, 3.0), (5, 2.0), (0, 1.0)]);
}

#[test]
fn exp_is_within_one_unit_in_the_last_place() {
    let isa = Isa::detect();
    let mut worst = 0.0_f64;
    let mut inputs: Vec<f32> = (0..2_000_000).map(|i| -87.3 + i as f32 * (176.0 / 2_000_000.0)).collect();
    inputs.extend(noise(200_000, 5));
    inputs.extend(noise(200_000, 6).iter().map(|value| value * 1e-3));
    let mut outputs = inputs.clone();
    exp(isa, &mut outputs);
    for (input, output) in inputs.iter().zip(&outputs) {
        let exact = f64::from(*input).exp();
        if exact < f64::from(f32::MAX) {
            let unit = 2.0_f64.powf(exact.log2().floor() - 23.0);
            worst = worst.max((f64::from(*output) - exact).abs() / unit);
        }
    }
    assert!(worst < 1.0, "worst error {worst} units in the last place");
    let mut ends = [f32::NEG_INFINITY, -200.0, -104.5, 0.0, -0.0, 88.73, f32::INFINITY, f32::NAN, -100.0];
    exp(isa, &mut ends);
    assert_eq!(ends[..7], [0.0, 0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY]);
    assert!(ends[7].is_nan());
    assert!(close(ends[8], (-100.0_f64).exp(), 2e-45));
}

/// A sequence of keys and values `[positions, kv_heads * head_dim]`, to be cut into segments.
struct Sequence {
    keys: Vec<f32>,
    values: Vec<f32>,
    width: usize,
}

impl Sequence {
    fn new(positions: usize, shape: &AttentionShape, seed: u64) -> Self {
        let width = shape.kv_heads * shape.head_dim;
        Self { keys: noise(positions * width, seed), values: noise(positions * width, seed ^ 77), width }
    }

    fn len(&self) -> usize {
        self.keys.len() / self.width
    }

    /// Segments between the cuts; each is filled in `steps` appends.
    fn segments(&self, shape: &AttentionShape, cuts: &[usize], steps: usize) -> Vec<KvSegment> {
        let mut edges = vec![0];
        edges.extend(cuts);
        edges.push(self.len());
        edges
            .windows(2)
            .map(|edge| {
                let len = edge[1] - edge[0];
                let mut segment =
                    KvSegment::new(shape.kv_heads, shape.head_dim, if steps == 1 { len } else { 0 });
                let size = len.div_ceil(steps).max(1);
                let mut at = edge[0];
                while at < edge[1] {
                    let count = size.min(edge[1] - at);
                    segment.append(
                        Rows::new(&self.keys[at * self.width..], count, self.width),
                        Rows::new(&self.values[at * self.width..], count, self.width),
                    );
                    at += count;
                }
                segment
            })
            .collect()
    }

    /// Attention of the last `rows` positions in f64.
    fn reference(&self, shape: &AttentionShape, q: &[f32], rows: usize) -> Vec<f64> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
        let mut out = Vec::with_capacity(rows * heads * head_dim);
        for row in 0..rows {
            let end = if shape.causal { self.len() - rows + row + 1 } else { self.len() };
            let start = end.saturating_sub(shape.window.unwrap_or(end));
            for head in 0..heads {
                let query = &q[(row * heads + head) * head_dim..][..head_dim];
                let at = |position: usize| position * self.width + head / (heads / kv_heads) * head_dim;
                let scores: Vec<f64> = (start..end)
                    .map(|position| {
                        let key = &self.keys[at(position)..][..head_dim];
                        let dot: f64 =
                            query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        dot * f64::from(shape.scale)
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                for column in 0..head_dim {
                    let weighted: f64 = scores
                        .iter()
                        .zip(start..end)
                        .map(|(score, position)| {
                            (score - max).exp() * f64::from(self.values[at(position) + column])
                        })
                        .sum();
                    out.push(weighted / sum);
                }
            }
        }
        out
    }
}

/// Attention of the last `rows` positions over the sequence cut at `cuts`.
fn attend(
    pool: &Pool,
    shape: &AttentionShape,
    sequence: &Sequence,
    q: &[f32],
    rows: usize,
    cuts: &[usize],
    steps: usize,
) -> Vec<f32> {
    let segments = sequence.segments(shape, cuts, steps);
    let (own, prefix) = segments.split_last().expect("a segment");
    let prefix: Vec<&KvSegment> = prefix.iter().collect();
    let mut out = vec![f32::NAN; q.len()];
    let job = AttentionJob { first_row: 0, rows, prefix: &prefix, own };
    attention(pool, shape, Rows::new(q, rows, shape.heads * shape.head_dim), &[job], &mut out);
    out
}

fn attention_shape() -> impl Strategy<Value = AttentionShape> {
    let heads =
        prop_oneof![Just((9_usize, 3_usize)), Just((4, 4)), Just((14, 2)), Just((1, 1)), Just((8, 1))];
    let dim = prop_oneof![Just(8_usize), Just(64), Just(80), Just(24), Just(128)];
    let window =
        prop_oneof![3 => Just(None), 1 => (1_usize..40).prop_map(Some), 1 => (300_usize..500).prop_map(Some)];
    (heads, dim, window, any::<bool>()).prop_map(|((heads, kv_heads), head_dim, window, causal)| {
        AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window,
            causal: causal || window.is_some(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn attention_is_right_and_the_same_however_the_prefix_is_cut(
        shape in attention_shape(), prefix in prop_oneof![0_usize..70, 370_usize..400, 760_usize..900],
        rows in 1_usize..40, cuts in proptest::collection::vec(0.0_f64..1.0, 0..4), steps in 1_usize..5, seed: u64,
    ) {
        let sequence = Sequence::new(prefix + rows, &shape, seed);
        let q = noise(rows * shape.heads * shape.head_dim, seed ^ 9);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| (cut * prefix as f64) as usize).collect();
        cuts.sort_unstable();
        let pool = fastest();
        let whole = attend(&pool, &shape, &sequence, &q, rows, &[], 1);
        for (got, want) in whole.iter().zip(sequence.reference(&shape, &q, rows)) {
            prop_assert!(close(*got, want, 2e-6), "{got} {want}");
        }
        prop_assert_eq!(bits(&attend(&pool, &shape, &sequence, &q, rows, &cuts, steps)), bits(&whole));
        // The last row alone, as in decoding.
        let last = &q[(rows - 1) * shape.heads * shape.head_dim..];
        let alone = attend(&pool, &shape, &sequence, last, 1, &cuts, steps);
        prop_assert_eq!(bits(&alone), bits(&whole[whole.len() - alone.len()..]));
    }

    #[test]
    fn attention_is_the_same_on_every_instruction_set(
        shape in attention_shape(), prefix in 0_usize..60, rows in 1_usize..12, seed: u64,
    ) {
        let sequence = Sequence::new(prefix + rows, &shape, seed);
        let q = noise(rows * shape.heads * shape.head_dim, seed ^ 9);
        let expected = bits(&attend(&fastest(), &shape, &sequence, &q, rows, &[prefix / 2], 1));
        for pool in pools() {
            let got = attend(&pool, &shape, &sequence, &q, rows, &[], 1);
            prop_assert_eq!(&bits(&got), &expected, "{:?}", pool);
        }
    }
}

#[test]
fn sixteen_jobs_on_one_prefix_equal_each_alone() {
    let shape =
        AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, window: None, causal: true };
    let (width, prefix_len) = (shape.heads * shape.head_dim, 500);
    let prefix_sequence = Sequence::new(prefix_len, &shape, 1);
    let prefix = prefix_sequence.segments(&shape, &[], 1).remove(0);
    let lens: Vec<usize> = (0..16).map(|job| 1 + job * 5 % 37).collect();
    let owns: Vec<KvSegment> = lens
        .iter()
        .enumerate()
        .map(|(job, len)| Sequence::new(*len, &shape, 50 + job as u64).segments(&shape, &[], 1).remove(0))
        .collect();
    let rows: usize = lens.iter().sum();
    let q = noise(rows * width, 3);
    let shared = [&prefix];
    let mut jobs = Vec::new();
    let mut first_row = 0;
    for (len, own) in lens.iter().zip(&owns) {
        jobs.push(AttentionJob { first_row, rows: *len, prefix: &shared, own });
        first_row += len;
    }
    for threads in [1, 2, 3] {
        let pool = Pool::new(Some(threads)).expect("threads");
        let mut together = vec![0.0; q.len()];
        attention(&pool, &shape, Rows::new(&q, rows, width), &jobs, &mut together);
        for job in &jobs {
            let mut alone = vec![0.0; job.rows * width];
            let q = Rows::new(&q[job.first_row * width..], job.rows, width);
            attention(&pool, &shape, q, &[AttentionJob { first_row: 0, ..*job }], &mut alone);
            let range = job.first_row * width..(job.first_row + job.rows) * width;
            assert_eq!(bits(&alone), bits(&together[range]));
        }
    }
}

#[test]
fn what_a_row_may_not_see_cannot_reach_it() {
    let shape =
        AttentionShape { heads: 3, kv_heads: 1, head_dim: 16, scale: 0.25, window: None, causal: true };
    let rows = 11;
    let mut sequence = Sequence::new(rows, &shape, 1);
    let q = noise(rows * 48, 2);
    let clean = attend(&fastest(), &shape, &sequence, &q, rows, &[], 1);
    let last = (rows - 1) * 16;
    sequence.keys[last..].fill(f32::NAN);
    sequence.values[last..].fill(f32::INFINITY);
    let poisoned = attend(&fastest(), &shape, &sequence, &q, rows, &[], 1);
    let before = (rows - 1) * 48;
    assert_eq!(bits(&clean[..before]), bits(&poisoned[..before]));
    assert!(poisoned[before..].iter().all(|value| value.is_nan()));
}
