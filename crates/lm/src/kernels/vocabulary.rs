//! The vocabulary projection: log-probabilities of asked tokens without ever holding all logits.
//!
//! The vocabulary is cut into fixed blocks of 1,024 tokens. For each row and block the largest logit, where it
//! is, and the sum of `exp(logit - largest)` are kept; the blocks are then combined in order in f64. Both steps
//! look at one row only, so a row's result does not depend on the others.

use super::aligned::with_scratch;
use super::exp::exp_difference;
use super::isa::{Isa, per_isa};
use super::kv::Rows;
use super::linear::{Part, linear, product, split_rows};
use super::packed::{PANEL, PackedMatrix};
use super::pool::{Pool, SharedSlice};
use super::rowwise::{LANES, add_lanes};

/// Panels in one block of the vocabulary. Part of the summation order: changing it changes last bits.
const BLOCK_PANELS: usize = 32;

/// Rows of logits held at once where the likeliest tokens are looked for.
const LOGIT_ROWS: usize = 32;

/// A token whose log-probability is asked for at a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Row of the hidden states.
    pub row: usize,
    /// Token id.
    pub token: u32,
}

/// What is known of one row's distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowSummary {
    /// The likeliest token; the lowest id where several are equal.
    pub argmax: u32,
    /// Its logit.
    pub max_logit: f32,
    /// `ln(sum(exp(logits)))`.
    pub log_sum_exp: f64,
}

impl RowSummary {
    /// The likeliest token and its log-probability.
    #[must_use]
    pub fn likeliest(&self) -> (u32, f64) {
        (self.argmax, f64::from(self.max_logit) - self.log_sum_exp)
    }

    /// The `count` likeliest tokens of the row that this is the summary of, in the order of [`largest`], with their
    /// log-probabilities.
    #[must_use]
    pub fn most_probable(&self, logits: &[f32], count: usize) -> Vec<(u32, f64)> {
        let logprob = |(token, logit)| (token, f64::from(logit) - self.log_sum_exp);
        largest(logits, count).into_iter().map(logprob).collect()
    }
}

/// Result of [`log_softmax_gather`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetScores {
    /// Natural log-probability of each target, in the order asked.
    pub logprobs: Vec<f64>,
    /// One summary for each row; a target is greedy if it is its row's `argmax`.
    pub rows: Vec<RowSummary>,
    /// For each row as many of the likeliest tokens as were asked for, with their log-probabilities; empty where nobody
    /// asked.
    pub most_probable: Vec<Vec<(u32, f64)>>,
}

#[derive(Clone, Copy, Debug)]
struct BlockSummary {
    max: f32,
    argmax: u32,
    sum: f32,
}

/// Log-probabilities of `targets` under `softmax(hidden head^T)`; `hidden` is `[m, k]`, row-major.
///
/// Memory is bounded by a block for each thread and 12 bytes for each row and 1,024 tokens.
///
/// # Panics
/// When lengths do not fit together or a target lies outside.
#[must_use]
pub fn log_softmax_gather(
    pool: &Pool,
    hidden: &[f32],
    head: &PackedMatrix,
    targets: &[Target],
) -> TargetScores {
    assert!(hidden.len().is_multiple_of(head.k()), "hidden must hold whole rows of {} values", head.k());
    let m = hidden.len() / head.k();
    assert!(
        targets.iter().all(|target| target.row < m && (target.token as usize) < head.n()),
        "target outside"
    );
    let mut order: Vec<usize> = (0..targets.len()).collect();
    order.sort_by_key(|index| targets[*index].row);
    let panels = head.n().div_ceil(PANEL);
    let blocks = panels.div_ceil(BLOCK_PANELS);
    let (tile_rows, block_rows) = split_rows(pool.isa(), m, 1);
    let row_blocks = m.div_ceil(block_rows);
    let mut summaries = vec![BlockSummary { max: f32::NEG_INFINITY, argmax: 0, sum: 0.0 }; m * blocks];
    let mut asked = vec![0.0_f32; targets.len()];
    let (shared_summaries, shared_asked) = (SharedSlice::new(&mut summaries), SharedSlice::new(&mut asked));
    pool.run(row_blocks * blocks, &|task| {
        let (row_block, block) = (task % row_blocks, task / row_blocks);
        let rows = row_block * block_rows..m.min((row_block + 1) * block_rows);
        let range = block * BLOCK_PANELS..panels.min((block + 1) * BLOCK_PANELS);
        let first = range.start * PANEL;
        let columns = head.n().min(range.end * PANEL) - first;
        with_scratch(rows.len() * range.len() * PANEL, |logits| {
            let (rows, panels) = (rows.clone(), range.clone());
            let part = Part { rows: rows.clone(), panels, then: None, tile_rows, packed_rows: tile_rows };
            product(pool.isa(), Rows::new(hidden, m, head.k()), head, &part, logits, None);
            let begin = order.partition_point(|index| targets[*index].row < rows.start);
            for index in order[begin..].iter().take_while(|index| targets[**index].row < rows.end) {
                let Target { row, token } = targets[*index];
                if let Some(column) = (token as usize).checked_sub(first).filter(|column| *column < columns) {
                    let at = ((column / PANEL) * rows.len() + row - rows.start) * PANEL + column % PANEL;
                    #[expect(unsafe_code, reason = "each target belongs to one task")]
                    // SAFETY: exactly one task has this target's row and token.
                    unsafe { shared_asked.part(*index, 1) }.copy_from_slice(&logits[at..=at]);
                }
            }
            for (place, row) in rows.clone().enumerate() {
                #[expect(unsafe_code, reason = "each row and block belongs to one task")]
                // SAFETY: exactly one task has this row and block.
                let summary = &mut unsafe { shared_summaries.part(row * blocks + block, 1) }[0];
                *summary = summarise(pool.isa(), logits, rows.len(), place, columns, first);
            }
        });
    });
    let rows: Vec<RowSummary> = summaries.chunks_exact(blocks.max(1)).map(combine).collect();
    let logprobs =
        targets.iter().zip(&asked).map(|(t, logit)| f64::from(*logit) - rows[t.row].log_sum_exp).collect();
    TargetScores { logprobs, rows, most_probable: Vec::new() }
}

/// All logits, `out = hidden head^T` as `[m, vocabulary]`: for sampling.
///
/// # Panics
/// When lengths do not fit together.
pub fn logits(pool: &Pool, hidden: &[f32], head: &PackedMatrix, out: &mut [f32]) {
    linear(pool, hidden, head, None, out, false);
}

/// The likeliest tokens of the rows of which `counts` asks for any, after [`log_softmax_gather`] has summed them up. Their
/// logits are computed once more, a few rows at a time: they were never there as a whole.
///
/// # Panics
/// When lengths do not fit together.
#[must_use]
pub fn most_probable(
    pool: &Pool,
    hidden: &[f32],
    head: &PackedMatrix,
    summaries: &[RowSummary],
    counts: &[usize],
) -> Vec<Vec<(u32, f64)>> {
    let mut found = vec![Vec::new(); counts.len()];
    let shared = SharedSlice::new(&mut found);
    let asked: Vec<usize> = (0..counts.len()).filter(|row| counts[*row] > 0).collect();
    let mut values = Vec::new();
    for rows in asked.chunks(LOGIT_ROWS) {
        let hidden: Vec<f32> =
            rows.iter().flat_map(|row| &hidden[row * head.k()..(row + 1) * head.k()]).copied().collect();
        values.resize(rows.len() * head.n(), 0.0);
        logits(pool, &hidden, head, &mut values);
        pool.run(rows.len(), &|task| {
            let (row, logits) = (rows[task], &values[task * head.n()..(task + 1) * head.n()]);
            #[expect(unsafe_code, reason = "each row belongs to one task")]
            // SAFETY: a row is asked for once, and exactly one task has it.
            let found = &mut unsafe { shared.part(row, 1) }[0];
            *found = summaries[row].most_probable(logits, counts[row]);
        });
    }
    found
}

/// The summary of one row of logits: the same bits as [`log_softmax_gather`] gives for it.
#[must_use]
pub fn summarise_logits(isa: Isa, logits: &[f32]) -> RowSummary {
    let block = BLOCK_PANELS * PANEL;
    let blocks = logits.chunks(block).enumerate();
    let blocks: Vec<_> = blocks.map(|(i, part)| summarise(isa, part, 1, 0, part.len(), i * block)).collect();
    if blocks.is_empty() {
        return RowSummary { argmax: 0, max_logit: f32::NEG_INFINITY, log_sum_exp: f64::NEG_INFINITY };
    }
    combine(&blocks)
}

/// The `count` largest logits and their tokens, largest first, of equal ones the lowest id; without what is no number
/// and what is impossible. One pass: a place among the first is looked for only by what is larger than the last of them.
#[must_use]
pub fn largest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut found: Vec<(u32, f32)> = Vec::with_capacity(count.min(logits.len()) + 1);
    let mut least = if count == 0 { f32::INFINITY } else { f32::NEG_INFINITY };
    for (token, &logit) in logits.iter().enumerate() {
        if logit > least {
            let place = found.partition_point(|(_, other)| *other >= logit);
            found.insert(place, (token as u32, logit));
            found.truncate(count);
            if let Some((_, last)) = found.get(count - 1) {
                least = *last;
            }
        }
    }
    found
}

/// Adds up the blocks of one row, in order.
fn combine(blocks: &[BlockSummary]) -> RowSummary {
    let mut best = blocks[0];
    for block in &blocks[1..] {
        if block.max > best.max {
            best = *block;
        }
    }
    let max = f64::from(best.max);
    let sum: f64 = blocks.iter().map(|block| f64::from(block.sum) * (f64::from(block.max) - max).exp()).sum();
    RowSummary { argmax: best.argmax, max_logit: best.max, log_sum_exp: max + sum.ln() }
}

per_isa! {
    /// Row `place` of `[panel][rows][32]` logits, of which the first `columns` exist.
    fn summarise(logits: &[f32], rows: usize, place: usize, columns: usize, first: usize) -> BlockSummary {
        let panel = |index: usize| &logits[(index * rows + place) * PANEL..][..PANEL.min(columns - index * PANEL)];
        let mut max = f32::NEG_INFINITY;
        let mut argmax = 0;
        for index in 0..columns.div_ceil(PANEL) {
            let values = panel(index);
            let largest = values.iter().fold(f32::NEG_INFINITY, |max, value| if *value > max { *value } else { max });
            if largest > max {
                max = largest;
                argmax = index * PANEL + values.iter().position(|value| *value == largest).unwrap_or(0);
            }
        }
        let mut lanes = [0.0_f32; LANES];
        for index in 0..columns.div_ceil(PANEL) {
            for part in panel(index).chunks(LANES) {
                for (lane, value) in lanes.iter_mut().zip(part) {
                    *lane += exp_difference(*value - max);
                }
            }
        }
        BlockSummary { max, argmax: (first + argmax) as u32, sum: add_lanes(&lanes) }
    }
}
