//! Low-rank adapters: what is asked for, and PEFT's files both ways.

use std::fmt;

/// What kind of adapter is trained (Hu et al. 2021, arXiv 2106.09685).
#[derive(Clone, Debug, PartialEq)]
pub struct LoraOptions {
    /// Rank.
    pub r: usize,
    pub alpha: f32,
    /// Share of the adapter's inputs that is dropped while training (not while evaluating).
    pub dropout: f32,
    /// Module names (`q_proj`, ...), or `all-linear` alone: every linear layer of the blocks.
    pub target_modules: Vec<String>,
    /// Scale `alpha / sqrt(r)` instead of `alpha / r` (Kalajdzievski 2023, arXiv 2312.03732).
    pub rslora: bool,
    /// Weight-decomposed adapters (Liu et al. 2024, arXiv 2402.09353).
    pub dora: bool,
}

impl Default for LoraOptions {
    fn default() -> Self {
        Self {
            r: 16,
            alpha: 32.0,
            dropout: 0.0,
            target_modules: vec!["all-linear".to_owned()],
            rslora: false,
            dora: false,
        }
    }
}

impl fmt::Display for LoraOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { r, alpha, dropout, target_modules, rslora, dora } = self;
        write!(f, "rank {r}, alpha {alpha}, on {}", target_modules.join(", "))?;
        if *dropout > 0.0 {
            write!(f, ", dropout {dropout}")?;
        }
        f.write_str(if *rslora { ", rank-stabilised" } else { "" })?;
        f.write_str(if *dora { ", weight-decomposed" } else { "" })
    }
}
