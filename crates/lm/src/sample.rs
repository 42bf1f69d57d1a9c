//! Choosing the next token from a row of logits.
//!
//! Order and definitions are transformers' (`generation/logits_process.py`, `GenerationMixin`):
//! repetition penalty, temperature, top-k, top-p, min-p, then one draw. The penalty also applies to
//! greedy decoding, as it does there.

use std::cmp::Ordering;

use evalign_core::{GenerateParams, MOST_TOP_LOGPROBS};

use crate::kernels::{self, Isa};

/// A request's own random stream: the n-th number is a function of the seed and n only, so that neither
/// batching nor order can change what is drawn. SplitMix64's output function (Steele, Lea, Flood 2014,
/// "Fast splittable pseudorandom number generators", figure 17), applied twice to a Weyl sequence.
#[derive(Clone, Copy, Debug)]
struct Stream {
    seed: u64,
}

impl Stream {
    /// The n-th number, uniform in [0, 1) with 53 bits.
    fn uniform(self, n: u64) -> f64 {
        const WEYL: u64 = 0x9e37_79b9_7f4a_7c15;
        let bits = mix(mix(self.seed.wrapping_add(WEYL)).wrapping_add(n.wrapping_add(1).wrapping_mul(WEYL)));
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// exp(-60) of the largest probability: a whole vocabulary of such tokens weighs less than one step of
/// the random number, so none can be drawn.
const NEGLIGIBLE: f64 = -60.0;

/// Tokens whose weights are added up before one of them is looked for: a draw looks at the sums first.
const BLOCK: usize = 512;

/// Index of the largest value; the lowest index wins a tie, NaN never wins.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, &value) in logits.iter().enumerate() {
        if value > best.1 {
            best = (index as u32, value);
        }
    }
    best.0
}

/// The sampler of one request.
#[derive(Debug)]
pub(crate) struct Sampler {
    temperature: f64,
    top_k: Option<usize>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    penalty: Option<f32>,
    stream: Stream,
    /// Reused between tokens.
    candidates: Vec<(f64, u32)>,
    weights: Vec<f32>,
}

impl Sampler {
    pub(crate) fn new(params: &GenerateParams) -> Self {
        Self {
            temperature: params.temperature,
            top_k: params.top_k.filter(|k| *k > 0).map(|k| k as usize),
            top_p: params.top_p.filter(|p| *p < 1.0),
            min_p: params.min_p.filter(|p| *p > 0.0),
            penalty: params.repetition_penalty.filter(|p| *p != 1.0).map(|p| p as f32),
            stream: Stream { seed: params.seed },
            candidates: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Why the parameters describe no distribution, or `Ok`.
    pub(crate) fn check(params: &GenerateParams) -> Result<(), String> {
        let bad = |name: &str, value: f64| Err(format!("{name} is {value}"));
        if !(params.temperature.is_finite() && params.temperature >= 0.0) {
            return bad("temperature", params.temperature);
        }
        if params.top_logprobs > MOST_TOP_LOGPROBS {
            return Err(format!("top_logprobs is {}, of at most {MOST_TOP_LOGPROBS}", params.top_logprobs));
        }
        match params {
            GenerateParams { top_p: Some(p), .. } if !(*p > 0.0 && *p <= 1.0) => bad("top_p", *p),
            GenerateParams { min_p: Some(p), .. } if !(0.0..=1.0).contains(p) => bad("min_p", *p),
            GenerateParams { repetition_penalty: Some(p), .. } if !(*p > 0.0 && p.is_finite()) => {
                bad("repetition_penalty", *p)
            }
            _ => Ok(()),
        }
    }

    /// Logits are other numbers after [`Sampler::choose`] than before.
    pub(crate) fn changes_logits(&self) -> bool {
        self.penalty.is_some()
    }

    /// Chooses the `n`-th generated token. `seen` are the prompt's and all generated tokens; logits are
    /// overwritten.
    pub(crate) fn choose(&mut self, logits: &mut [f32], seen: &[&[u32]], n: u64) -> u32 {
        if let Some(penalty) = self.penalty {
            penalise(logits, seen, penalty);
        }
        if self.temperature == 0.0 {
            return argmax(logits);
        }
        let uniform = self.stream.uniform(n);
        if self.top_k.is_none() && self.top_p.is_none() && self.min_p.is_none() {
            return self.draw_from_all(logits, uniform);
        }
        self.keep_candidates(logits);
        self.draw(uniform)
    }

    /// One draw from all tokens: no list of candidates, and the exponentials of a vector at a time. Sums are in f64.
    fn draw_from_all(&mut self, logits: &[f32], uniform: f64) -> u32 {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let inverse = (1.0 / self.temperature) as f32;
        self.weights.clear();
        self.weights.extend(logits.iter().map(|&value| (value - max) * inverse));
        kernels::exp(Isa::detect(), &mut self.weights);
        let sum = |block: &[f32]| block.iter().filter(|w| !w.is_nan()).map(|&w| f64::from(w)).sum::<f64>();
        let sums: Vec<f64> = self.weights.chunks(BLOCK).map(sum).collect();
        let mut left = uniform * sums.iter().sum::<f64>();
        let mut last = argmax(logits);
        for (number, (block, sum)) in self.weights.chunks(BLOCK).zip(sums).enumerate() {
            if left >= sum {
                left -= sum;
                continue;
            }
            for (place, &weight) in block.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                last = (number * BLOCK + place) as u32;
                left -= f64::from(weight);
                if left < 0.0 {
                    return last;
                }
            }
        }
        // Rounding may leave a remainder: the last token that was looked at.
        last
    }

    /// Fills `candidates` with (unnormalised probability, token), most probable first where that is
    /// needed for a cut.
    fn keep_candidates(&mut self, logits: &[f32]) {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        self.candidates.clear();
        let scaled = |value: f32| (f64::from(value) - max) / self.temperature;
        self.candidates.extend(
            logits
                .iter()
                .enumerate()
                .map(|(id, &value)| (scaled(value), id as u32))
                .filter(|(exponent, _)| *exponent > NEGLIGIBLE)
                .map(|(exponent, id)| (exponent.exp(), id)),
        );
        if let Some(k) = self.top_k {
            let k = k.min(self.candidates.len());
            sort_leading(&mut self.candidates, k);
            self.candidates.truncate(k);
        }
        if let Some(top_p) = self.top_p {
            cut_top_p(&mut self.candidates, top_p);
        }
        if let Some(min_p) = self.min_p {
            // The most probable candidate has probability 1 before normalisation.
            self.candidates.retain(|(probability, _)| *probability >= min_p);
        }
    }

    fn draw(&self, uniform: f64) -> u32 {
        let total: f64 = self.candidates.iter().map(|(probability, _)| probability).sum();
        let mut left = uniform * total;
        for (probability, id) in &self.candidates {
            left -= probability;
            if left < 0.0 {
                return *id;
            }
        }
        // Rounding may leave a remainder: the last candidate with any probability.
        self.candidates.iter().rev().find(|(probability, _)| *probability > 0.0).map_or(0, |(_, id)| *id)
    }
}

/// Keskar et al. 2019 (arXiv 1909.05858, section 4.1) as transformers applies it: each token once,
/// positive logits divided, negative ones multiplied.
fn penalise(logits: &mut [f32], seen: &[&[u32]], penalty: f32) {
    let mut ids: Vec<u32> = seen.iter().flat_map(|part| part.iter().copied()).collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// More probable first, then lower id: a total order, so that ties cannot depend on the sort.
fn by_probability(a: &(f64, u32), b: &(f64, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Puts the `count` most probable candidates in front, in order.
fn sort_leading(candidates: &mut [(f64, u32)], count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, by_probability);
    }
    candidates[..count].sort_unstable_by(by_probability);
}

/// Keeps the smallest most-probable set whose mass reaches `top_p` (Holtzman et al. 2020, arXiv
/// 1904.09751, section 3.1). Only as many candidates as needed are sorted.
fn cut_top_p(candidates: &mut Vec<(f64, u32)>, top_p: f64) {
    let total: f64 = candidates.iter().map(|(probability, _)| probability).sum();
    let mut sorted = 256.min(candidates.len());
    loop {
        sort_leading(candidates, sorted);
        let mut mass = 0.0;
        for (index, (probability, _)) in candidates[..sorted].iter().enumerate() {
            mass += probability;
            if mass >= top_p * total {
                candidates.truncate(index + 1);
                return;
            }
        }
        if sorted == candidates.len() {
            return;
        }
        sorted = (sorted * 8).min(candidates.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> GenerateParams {
        GenerateParams { temperature: 1.0, ..GenerateParams::default() }
    }

    fn logits_of(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    fn counts(params: &GenerateParams, probabilities: &[f64], draws: u64) -> Vec<u64> {
        let mut sampler = Sampler::new(params);
        let mut counts = vec![0; probabilities.len()];
        for n in 0..draws {
            counts[sampler.choose(&mut logits_of(probabilities), &[], n) as usize] += 1;
        }
        counts
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let probabilities = [0.5, 0.3, 0.15, 0.05];
        let counts = counts(&params(), &probabilities, 40_000);
        for (count, p) in counts.iter().zip(probabilities) {
            let sigma = (40_000.0 * p * (1.0 - p)).sqrt();
            assert!((*count as f64 - 40_000.0 * p).abs() < 4.5 * sigma, "{counts:?}");
        }
    }

    #[test]
    fn a_draw_from_all_takes_the_token_that_a_draw_from_candidates_takes() {
        let logits: Vec<f32> =
            (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 / 400.0).collect();
        for (temperature, draws) in [(0.7, 400), (1.0, 400), (3.0, 400)] {
            let mut sampler = Sampler::new(&GenerateParams { temperature, ..params() });
            let same = (0..draws)
                .filter(|n| {
                    let uniform = sampler.stream.uniform(*n);
                    sampler.keep_candidates(&logits);
                    sampler.draw(uniform) == sampler.draw_from_all(&logits, uniform)
                })
                .count();
            // Sums in another order: a draw on the edge between two tokens may fall to the other one.
            assert!(same as u64 >= draws - 1, "{same} of {draws} at {temperature}");
        }
        let mut sampler = Sampler::new(&params());
        for logits in [&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY][..], &[f32::NAN, 1.0, -200.0]] {
            for n in 0..50 {
                assert_eq!(sampler.choose(&mut logits.to_vec(), &[], n), 1);
            }
        }
    }

    #[test]
    fn filters_keep_what_transformers_keeps() {
        let probabilities = [0.05, 0.5, 0.15, 0.3];
        let support = |p: GenerateParams| -> Vec<usize> {
            counts(&p, &probabilities, 3000)
                .iter()
                .enumerate()
                .filter(|(_, c)| **c > 0)
                .map(|(i, _)| i)
                .collect()
        };
        assert_eq!(support(GenerateParams { top_k: Some(2), ..params() }), [1, 3]);
        assert_eq!(support(GenerateParams { top_p: Some(0.79), ..params() }), [1, 3]);
        assert_eq!(support(GenerateParams { top_p: Some(0.81), ..params() }), [1, 2, 3]);
        assert_eq!(support(GenerateParams { top_p: Some(0.01), ..params() }), [1]);
        assert_eq!(support(GenerateParams { min_p: Some(0.2), ..params() }), [1, 2, 3]);
        // top-p sees what top-k left: 0.5 of 0.8 reaches 0.6.
        assert_eq!(support(GenerateParams { top_k: Some(2), top_p: Some(0.6), ..params() }), [1]);
    }

    #[test]
    fn top_p_over_a_wide_vocabulary_needs_more_than_one_round() {
        let mut candidates: Vec<(f64, u32)> = (0..5000).map(|id| (1.0, id)).collect();
        cut_top_p(&mut candidates, 0.5);
        assert_eq!(candidates.len(), 2500);
        assert!(candidates.iter().enumerate().all(|(i, (_, id))| i as u32 == *id));
    }

    #[test]
    fn greedy_takes_the_lowest_index_and_ignores_nan() {
        assert_eq!(argmax(&[f32::NAN, 1.0, 3.0, 3.0]), 2);
        let mut sampler = Sampler::new(&GenerateParams::default());
        assert_eq!(sampler.choose(&mut [1.0, 2.0, 2.0], &[], 0), 1);
    }

    #[test]
    fn the_penalty_counts_each_token_once() {
        let mut logits = [2.0, -2.0, 1.0];
        penalise(&mut logits, &[&[0, 1, 0], &[1]], 2.0);
        assert_eq!(logits, [1.0, -4.0, 1.0]);
    }

    #[test]
    fn streams_differ_by_seed_and_position_only() {
        let a = Stream { seed: 1 };
        assert_eq!(a.uniform(5).to_bits(), Stream { seed: 1 }.uniform(5).to_bits());
        assert_ne!(a.uniform(5).to_bits(), a.uniform(6).to_bits());
        assert_ne!(a.uniform(5).to_bits(), Stream { seed: 2 }.uniform(5).to_bits());
        let mean: f64 = (0..10_000).map(|n| a.uniform(n)).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01);
    }

    #[test]
    fn impossible_parameters_are_named() {
        for (bad, name) in [
            (GenerateParams { temperature: -1.0, ..params() }, "temperature"),
            (GenerateParams { temperature: f64::NAN, ..params() }, "temperature"),
            (GenerateParams { top_p: Some(0.0), ..params() }, "top_p"),
            (GenerateParams { min_p: Some(1.5), ..params() }, "min_p"),
            (GenerateParams { repetition_penalty: Some(0.0), ..params() }, "repetition_penalty"),
            (GenerateParams { top_logprobs: 21, ..params() }, "top_logprobs"),
        ] {
            assert!(Sampler::check(&bad).unwrap_err().contains(name));
        }
        assert!(Sampler::check(&params()).is_ok());
    }
}
