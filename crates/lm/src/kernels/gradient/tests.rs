//! Each kernel against finite differences, in f64, of the function it is the gradient of.

use super::super::{AttentionShape, Columns, Isa, Pool, Rows};
use super::*;

/// Pools of every instruction set, with one and three threads.
fn pools() -> Vec<Pool> {
    let sets = Isa::available().into_iter().flat_map(|isa| [(1, isa), (3, isa)]);
    sets.map(|(threads, isa)| Pool::with_isa(Some(threads), isa).unwrap()).collect()
}

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let next = |i: usize| {
        let bits = (seed * 7919 + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((bits ^ (bits >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..count).map(next).collect()
}

/// Gradient of `dy . f(x)` by central differences.
fn numeric(x: &[f32], dy: &[f32], f: &dyn Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let value = |x: &[f64]| f(x).iter().zip(dy).map(|(y, dy)| y * f64::from(*dy)).sum::<f64>();
    let step = 1e-5;
    (0..x.len())
        .map(|place| {
            let at = |change: f64| {
                let mut moved = x.clone();
                moved[place] += change;
                value(&moved)
            };
            (at(step) - at(-step)) / (2.0 * step)
        })
        .collect()
}

fn close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-3f64, |most, v| most.max(v.abs()));
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(*found) - expected).abs() < 1e-5 * largest,
            "{what} at {place}: {found} against {expected}"
        );
    }
}

fn rms(x: &[f64], weight: &[f32], eps: f64) -> Vec<f64> {
    let rows = x.chunks_exact(weight.len());
    rows.flat_map(|row| {
        let factor = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64 + eps).sqrt();
        row.iter().zip(weight).map(move |(x, w)| x * factor * f64::from(*w)).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn norms() {
    let (rows, width, eps) = (3, 21, 1e-5f32);
    let (x, weight, dy) = (noise(1, rows * width), noise(2, width), noise(3, rows * width));
    let expected = numeric(&x, &dy, &|x| rms(x, &weight, f64::from(eps)));
    let by_weight = numeric(&weight, &dy, &|w| {
        let plain =
            rms(&x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), &vec![1.0; width], f64::from(eps));
        plain.iter().enumerate().map(|(place, value)| value * w[place % width]).collect()
    });
    let whole = Columns { stride: width, start: 0, width };
    for pool in pools() {
        let mut dx = vec![0.0; x.len()];
        rms_norm_gradient(&pool, &x, &weight, eps, &dy, &mut dx);
        close(&dx, &expected, "a norm");
        let mut in_place = dy.clone();
        rms_norm_heads_gradient(&pool, &x, &weight, eps, &mut in_place, whole);
        close(&in_place, &expected, "the norm of heads");
        let mut out = vec![0.0; width];
        rms_norm_weight_gradient((&x, whole), (&dy, whole), eps, pool.isa(), &mut out);
        close(&out, &by_weight, "a norm's weight");
    }
}

#[test]
fn gates() {
    let (rows, width) = (3, 19);
    let gate_up: Vec<f32> = noise(4, rows * 2 * width).iter().map(|v| 8.0 * v).collect();
    let dy = noise(5, rows * width);
    let expected = numeric(&gate_up, &dy, &|x| {
        let rows = x.chunks_exact(2 * width);
        rows.flat_map(|row| (0..width).map(move |i| row[i] / (1.0 + (-row[i]).exp()) * row[width + i]))
            .collect()
    });
    for pool in pools() {
        let mut out = vec![0.0; gate_up.len()];
        silu_mul_gradient(&pool, &gate_up, width, &dy, &mut out);
        close(&out, &expected, "a gate");
    }
}

#[test]
fn outer_products_of_any_shape() {
    for (rows, left_width, right_width) in
        [(1, 1, 1), (5, 3, 40), (400, 48, 33), (390, 90, 16), (900, 7, 300)]
    {
        let (left, right) = (noise(6, rows * left_width), noise(7, rows * right_width));
        let exact = |i: usize, j: usize| -> f64 {
            (0..rows)
                .map(|r| f64::from(left[r * left_width + i]) * f64::from(right[r * right_width + j]))
                .sum()
        };
        let expected: Vec<f64> = (0..left_width * right_width)
            .map(|at| 1.0 + 0.5 * exact(at / right_width, at % right_width))
            .collect();
        let mut bits: Option<Vec<f32>> = None;
        for pool in pools() {
            let mut out = vec![1.0; left_width * right_width];
            let (l, r) = (Rows::new(&left, rows, left_width), Rows::new(&right, rows, right_width));
            add_outer_product(&pool, (l, left_width), (r, right_width), 0.5, &mut out);
            close(&out, &expected, "an outer product");
            assert_eq!(bits.get_or_insert_with(|| out.clone()), &out, "another machine gives other bits");
        }
    }
}

/// Attention in f64: a trunk and its branches, rows as in the batch.
fn attend(qkv: &[f64], shape: &AttentionShape, trees: &[AttentionTree]) -> Vec<f64> {
    let (heads, kv_heads, dim) = (shape.heads, shape.kv_heads, shape.head_dim);
    let width = (heads + 2 * kv_heads) * dim;
    let mut out = vec![0.0; qkv.len() / width * heads * dim];
    let part = |row: usize, head: usize| &qkv[row * width + head * dim..row * width + (head + 1) * dim];
    for tree in trees {
        let empty = 0..0;
        let sequences =
            std::iter::once((&empty, &tree.trunk)).chain(tree.branches.iter().map(|b| (&tree.trunk, b)));
        for (prefix, own) in sequences {
            let keys: Vec<usize> = prefix.clone().chain(own.clone()).collect();
            for (place, row) in own.clone().enumerate() {
                let end = prefix.len() + place + 1;
                let seen = &keys[end.saturating_sub(shape.window.unwrap_or(end))..end];
                for head in 0..heads {
                    let kv = head / (heads / kv_heads);
                    let query = part(row, head);
                    let score = |key: &usize| -> f64 {
                        let products = query.iter().zip(part(*key, heads + kv)).map(|(q, k)| q * k);
                        (products.sum::<f64>() * f64::from(shape.scale)).exp()
                    };
                    let weights: Vec<f64> = seen.iter().map(score).collect();
                    let sum: f64 = weights.iter().sum();
                    for (key, weight) in seen.iter().zip(weights) {
                        for (index, value) in part(*key, heads + kv_heads + kv).iter().enumerate() {
                            out[(row * heads + head) * dim + index] += weight / sum * value;
                        }
                    }
                }
            }
        }
    }
    out
}

fn check_attention(shape: &AttentionShape, trees: &[AttentionTree], rows: usize, places: &[usize]) {
    let width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    let qkv: Vec<f32> = noise(8, rows * width).iter().map(|v| 3.0 * v).collect();
    let d_out = noise(9, rows * shape.heads * shape.head_dim);
    let wide: Vec<f64> = qkv.iter().map(|v| f64::from(*v)).collect();
    let out: Vec<f32> = attend(&wide, shape, trees).iter().map(|v| *v as f32).collect();
    let value =
        |x: &[f64]| attend(x, shape, trees).iter().zip(&d_out).map(|(y, dy)| y * f64::from(*dy)).sum::<f64>();
    let mut bits: Option<Vec<f32>> = None;
    for pool in pools() {
        let mut found = vec![f32::NAN; qkv.len()];
        attention_gradient(&pool, shape, &qkv, trees, (&out, &d_out), &mut found);
        assert_eq!(bits.get_or_insert_with(|| found.clone()), &found, "another machine gives other bits");
        for place in places {
            let at = |change: f64| {
                let mut moved = wide.clone();
                moved[*place] += change;
                value(&moved)
            };
            let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
            let off = (f64::from(found[*place]) - expected).abs();
            assert!(off < 2e-5, "{shape:?} at {place}: {} against {expected}", found[*place]);
        }
    }
}

#[test]
fn attention_of_trees() {
    let shape = |heads, kv_heads, head_dim, window| AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 0.4,
        window,
        causal: true,
    };
    let small = [
        AttentionTree { trunk: 0..3, branches: vec![3..5, 5..9] },
        AttentionTree { trunk: 9..13, branches: Vec::new() },
        AttentionTree { trunk: 13..13, branches: vec![13..14, 14..14] },
    ];
    for (heads, kv_heads, dim, window) in
        [(2, 1, 4, None), (4, 2, 8, None), (1, 1, 20, Some(2)), (3, 3, 6, Some(4))]
    {
        let places: Vec<usize> = (0..14 * (heads + 2 * kv_heads) * dim).collect();
        check_attention(&shape(heads, kv_heads, dim, window), &small, 14, &places);
    }
}

/// Longer than a block of queries and than a chunk of keys.
#[test]
fn attention_over_blocks_and_chunks() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 4, scale: 0.5, window: None, causal: true };
    let trees = [AttentionTree { trunk: 0..130, branches: vec![130..430, 430..440] }];
    let places: Vec<usize> = (0..440 * 16).step_by(977).collect();
    check_attention(&shape, &trees, 440, &places);
    let windowed = AttentionShape { window: Some(100), ..shape };
    check_attention(&windowed, &trees, 440, &places);
}

#[test]
fn labels() {
    let (rows, vocabulary) = (3, 1500);
    let logits: Vec<f32> = noise(10, rows * vocabulary).iter().map(|v| 12.0 * v).collect();
    let tokens = [0u32, 77, 1499];
    let log_sum = |row: &[f64]| row.iter().map(|v| v.exp()).sum::<f64>().ln();
    for pool in pools() {
        let mut gradient = logits.clone();
        let found = label_statistics(&pool, &mut gradient, &tokens);
        for (index, statistics) in found.iter().enumerate() {
            let row: Vec<f64> =
                logits[index * vocabulary..(index + 1) * vocabulary].iter().map(|v| f64::from(*v)).collect();
            let (label, sum) = (tokens[index] as usize, log_sum(&row));
            let p: Vec<f64> = row.iter().map(|v| (v - sum).exp()).collect();
            let entropy: f64 = -p.iter().map(|p| p * p.ln()).sum::<f64>();
            let near = |found: f32, expected: f64| {
                assert!((f64::from(found) - expected).abs() < 2e-5, "{found} {expected}");
            };
            near(statistics.logprob, row[label] - sum);
            near(statistics.entropy, entropy);
            near(statistics.mean_logit, row.iter().sum::<f64>() / vocabulary as f64);
            near(statistics.log_sum_squares, p.iter().map(|p| p * p).sum::<f64>().ln());
            for (place, p) in p.iter().enumerate() {
                let expected = f64::from(u8::from(place == label)) - p;
                near(gradient[index * vocabulary + place], expected);
            }
        }
    }
    let mut tied = vec![1.0, 3.0, 3.0, 0.0, 3.0, 3.0];
    let found = label_statistics(&pools()[0], &mut tied, &[1, 2]);
    assert_eq!((found[0].top, found[1].top), (true, false));
}

#[test]
fn dropout_is_a_function_of_its_keys() {
    let pool = &pools()[0];
    let keys: Vec<u64> = (0..200).collect();
    let mut all = vec![1.0; 200 * 50];
    drop_out(pool, &mut all, 50, 0.3, 7, &keys);
    let kept = all.iter().filter(|value| **value != 0.0).count() as f64 / all.len() as f64;
    assert!((kept - 0.7).abs() < 0.02, "{kept} were kept");
    assert!(all.iter().all(|value| *value == 0.0 || (*value - 1.0 / 0.7).abs() < 1e-6));
    assert_eq!(kept_values(50, 0.3, 7, &keys), all);
    let mut one = vec![1.0; 50];
    drop_out(pool, &mut one, 50, 0.3, 7, &keys[20..21]);
    assert_eq!(one, all[20 * 50..21 * 50]);
}
