//! Values of flags, read from what was typed.

use evalign_bench::{DocRange, Limit};
use evalign_core::{Dtype, Outcome, ScoringMode};

/// Which documents `--limit` leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Extent {
    First(Limit),
    Range(DocRange),
}

/// Requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Concurrency(pub(crate) Option<u32>);

/// Failures that are accepted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tolerance {
    Samples(u64),
    Share(f64),
}

impl Tolerance {
    pub(crate) fn exceeded(self, failed: u64, total: u64) -> bool {
        match self {
            Self::Samples(n) => failed > n,
            Self::Share(share) => failed as f64 > share * total as f64,
        }
    }
}

pub(super) fn parse_extent(text: &str) -> Result<Extent, String> {
    if text.contains("..") { text.parse().map(Extent::Range) } else { text.parse().map(Extent::First) }
}

pub(crate) fn parse_dtype(text: &str) -> Result<Dtype, String> {
    [Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::Q]
        .into_iter()
        .find(|dtype| dtype.name() == text || long_name(*dtype) == text)
        .ok_or_else(|| "use f32, bf16, f16 or q".to_owned())
}

/// What transformers calls it.
fn long_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "float32",
        Dtype::Bf16 => "bfloat16",
        Dtype::F16 => "float16",
        Dtype::Q => "quantized",
    }
}

pub(super) fn parse_server(text: &str) -> Result<evalign_model::ServerKind, String> {
    text.parse()
}

pub(super) fn parse_mode(text: &str) -> Result<ScoringMode, String> {
    match text {
        "default" => Ok(ScoringMode::Default),
        "lm-eval" => Ok(ScoringMode::LmEval),
        _ => Err("use default or lm-eval".to_owned()),
    }
}

pub(super) fn parse_outcome(text: &str) -> Result<Outcome, String> {
    let names = || Outcome::ALL.map(Outcome::name).join(", ");
    Outcome::ALL.into_iter().find(|o| o.name() == text).ok_or_else(|| format!("use one of {}", names()))
}

/// lm-evaluation-harness takes up to four seeds; the last one seeds its worked examples.
pub(super) fn parse_seed(text: &str) -> Result<u64, String> {
    text.rsplit(',').next().unwrap_or(text).trim().parse().map_err(|_| "use a whole number".to_owned())
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|x: &f64| *x > 0.0 && x.is_finite())
        .ok_or_else(|| "use a number above 0".to_owned())
}

pub(super) fn at_least_one(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|n: &u64| *n > 0).ok_or_else(|| "use a whole number of at least 1".to_owned())
}

pub(super) fn parse_concurrency(text: &str) -> Result<Concurrency, String> {
    if text == "auto" {
        return Ok(Concurrency(None));
    }
    let number = text.parse().ok().filter(|n: &u32| *n > 0);
    number.map(|n| Concurrency(Some(n))).ok_or_else(|| "use a number of at least 1, or auto".to_owned())
}

pub(super) fn parse_tolerance(text: &str) -> Result<Tolerance, String> {
    match text {
        "true" => return Ok(Tolerance::Samples(0)),
        "false" => return Ok(Tolerance::Samples(u64::MAX)),
        _ => {}
    }
    if let Ok(samples) = text.parse() {
        return Ok(Tolerance::Samples(samples));
    }
    let share = text.parse().ok().filter(|x: &f64| (0.0..1.0).contains(x));
    share
        .map(Tolerance::Share)
        .ok_or_else(|| "use a number of samples, a share below 1, true or false".to_owned())
}
