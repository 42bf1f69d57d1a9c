//! The machine's matmul rate, against which every speed is stated.

use std::time::Instant;

use candle_core::{Device, Tensor};

use super::linear::linear;
use super::packed::{PackedMatrix, PanelDtype};
use super::pool::Pool;

/// Products of each shape; the best counts.
const REPEATS: usize = 5;

/// Rates of f32 matrix products in GFLOP/s, the best of five.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatmulRate {
    /// candle's `Tensor::matmul`, 1024 x 576 x 1536.
    pub candle_1024x576x1536: f64,
    /// candle's `Tensor::matmul`, 2048 cubed.
    pub candle_2048: f64,
    /// [`linear`] with packed weights, 1024 x 576 x 1536.
    pub linear_1024x576x1536: f64,
    /// [`linear`] with packed weights, 2048 cubed.
    pub linear_2048: f64,
    /// Threads of the pool.
    pub threads: usize,
    /// Threads that candle uses (`RAYON_NUM_THREADS` or the number of cores).
    pub candle_threads: usize,
}

impl MatmulRate {
    /// The reference rate: the better of candle's two.
    #[must_use]
    pub fn reference(&self) -> f64 {
        self.candle_1024x576x1536.max(self.candle_2048)
    }
}

/// Measures both engines on both shapes (about half a second).
///
/// # Errors
/// When candle cannot multiply.
pub fn matmul_rate(pool: &Pool) -> candle_core::Result<MatmulRate> {
    Ok(MatmulRate {
        candle_1024x576x1536: candle_rate(1024, 576, 1536)?,
        candle_2048: candle_rate(2048, 2048, 2048)?,
        linear_1024x576x1536: linear_rate(pool, 1024, 576, 1536),
        linear_2048: linear_rate(pool, 2048, 2048, 2048),
        threads: pool.threads(),
        candle_threads: candle_core::utils::get_num_threads(),
    })
}

fn linear_rate(pool: &Pool, m: usize, k: usize, n: usize) -> f64 {
    let (x, rows) = (pattern(m * k), pattern(n * k));
    let w = PackedMatrix::from_rows(&rows, n, k, PanelDtype::F32);
    let mut out = vec![0.0; m * n];
    let best = (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            linear(pool, &x, &w, None, &mut out, false);
            std::hint::black_box(&mut out);
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    gflops(m, k, n, best)
}

fn candle_rate(m: usize, k: usize, n: usize) -> candle_core::Result<f64> {
    let x = Tensor::from_vec(pattern(m * k), (m, k), &Device::Cpu)?;
    let w = Tensor::from_vec(pattern(k * n), (k, n), &Device::Cpu)?;
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let start = Instant::now();
        std::hint::black_box(x.matmul(&w)?);
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(gflops(m, k, n, best))
}

fn gflops(m: usize, k: usize, n: usize, seconds: f64) -> f64 {
    2.0 * m as f64 * k as f64 * n as f64 / seconds / 1e9
}

/// Values of ordinary size without a random number generator.
fn pattern(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1024) as f32 / 1024.0 - 0.5).collect()
}
