//! What training wants to know of the distribution at a label, and its gradient.

use super::super::exp::exp_difference;
use super::super::isa::{Isa, per_isa};
use super::super::pool::{Pool, SharedSlice};
use super::super::rowwise::{LANES, add_lanes, row_max};

/// Logits summed in f32 before the sums are added up in f64.
const BLOCK: usize = 1024;

/// One label and the distribution that predicted it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LabelStatistics {
    /// Natural log-probability of the label.
    pub logprob: f32,
    /// Entropy of the distribution, in nats.
    pub entropy: f32,
    /// Mean of the logits over the vocabulary.
    pub mean_logit: f32,
    /// `ln(sum of squared probabilities)`.
    pub log_sum_squares: f32,
    /// No token is likelier (the first of equals).
    pub top: bool,
}

/// Statistics of each row of `logits` (`[tokens.len(), vocabulary]`) at its label; `logits` then holds the gradient of
/// that log-probability by them, `onehot - softmax`.
///
/// # Panics
/// When a label is not below the vocabulary or the lengths do not fit together.
pub fn label_statistics(pool: &Pool, logits: &mut [f32], tokens: &[u32]) -> Vec<LabelStatistics> {
    let mut statistics = vec![LabelStatistics::default(); tokens.len()];
    let vocabulary = logits.len() / tokens.len().max(1);
    assert_eq!(logits.len(), vocabulary * tokens.len(), "one row of logits for each label");
    assert!(tokens.iter().all(|token| (*token as usize) < vocabulary), "a label outside the vocabulary");
    let shared = SharedSlice::new(logits);
    pool.for_each_part(&mut statistics, 1, &|row, statistics| {
        #[expect(unsafe_code, reason = "each task gets its own row")]
        // SAFETY: row `row` belongs to this task alone.
        let logits = unsafe { shared.part(row * vocabulary, vocabulary) };
        statistics[0] = one(pool.isa(), logits, tokens[row] as usize);
    });
    statistics
}

fn one(isa: Isa, logits: &mut [f32], label: usize) -> LabelStatistics {
    let max = row_max(isa, logits);
    let asked = logits[label];
    let top = asked == max && !logits[..label].contains(&max);
    // Of e = exp(logit - max): sums of e, e (logit - max), e^2 and of the logits.
    let mut sums = [0.0f64; 4];
    for block in logits.chunks_mut(BLOCK) {
        let found = block_sums(isa, block, max);
        sums.iter_mut().zip(found).for_each(|(sum, found)| *sum += f64::from(found));
    }
    let [sum, weighted, squares, plain] = sums;
    let log_sum = sum.ln();
    scale(isa, logits, (-1.0 / sum) as f32);
    logits[label] += 1.0;
    LabelStatistics {
        logprob: (f64::from(asked) - f64::from(max) - log_sum) as f32,
        entropy: (log_sum - weighted / sum) as f32,
        mean_logit: (plain / logits.len() as f64) as f32,
        log_sum_squares: (squares.ln() - 2.0 * log_sum) as f32,
        top,
    }
}

/// Adds a logit to the four sums of its lane and replaces it by its exponential.
#[inline(always)]
fn add_logit(lanes: &mut [[f32; LANES]; 4], lane: usize, value: &mut f32, max: f32) {
    let difference = *value - max;
    let exp = exp_difference(difference);
    lanes[0][lane] += exp;
    // A token that is ruled out has no share in the entropy: 0 * -inf is not wanted.
    lanes[1][lane] += if exp > 0.0 { exp * difference } else { 0.0 };
    lanes[2][lane] = exp.mul_add(exp, lanes[2][lane]);
    lanes[3][lane] += *value;
    *value = exp;
}

per_isa! {
    fn block_sums(values: &mut [f32], max: f32) -> [f32; 4] {
        let mut lanes = [[0.0_f32; LANES]; 4];
        let (blocks, rest) = values.as_chunks_mut::<LANES>();
        for block in blocks {
            for (lane, value) in block.iter_mut().enumerate() {
                add_logit(&mut lanes, lane, value, max);
            }
        }
        for (lane, value) in rest.iter_mut().enumerate() {
            add_logit(&mut lanes, lane, value, max);
        }
        lanes.map(|lanes| add_lanes(&lanes))
    }
}

per_isa! {
    fn scale(values: &mut [f32], factor: f32) {
        for value in values.iter_mut() {
            *value *= factor;
        }
    }
}
