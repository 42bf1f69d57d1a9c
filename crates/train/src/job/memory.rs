//! The memory plan: what is kept of activations.

use evalign_lm::available_memory_bytes;
use evalign_lm::training::{MemoryPlan, Recompute};

use super::RecomputeChoice;
use crate::trainer::micro_batch;
use crate::{Batching, MicroBatch, Policy, Prepared, TrainError};

/// The batch of most tokens, in file order.
fn largest_batch(data: &Prepared, size: usize) -> Option<MicroBatch> {
    let items: Vec<usize> = (0..data.items.len()).collect();
    items.chunks(size.max(1)).map(|items| micro_batch(data, items)).max_by_key(MicroBatch::tokens)
}

/// The largest micro-batches of an epoch, and of an evaluation.
pub(super) fn largest_batches(
    (data, batching): (&Prepared, &Batching),
    evaluated: Option<(&Prepared, usize)>,
) -> Vec<MicroBatch> {
    /// Micro-batches that are laid out to find the largest: sharing makes it another than that of most tokens.
    const CANDIDATES: usize = 8;
    let mut batches: Vec<Vec<usize>> = batching.epoch(0);
    batches.sort_by_key(|items| {
        std::cmp::Reverse(items.iter().map(|item| batching.lengths[*item]).sum::<usize>())
    });
    let mut largest: Vec<_> = batches.iter().take(CANDIDATES).map(|items| micro_batch(data, items)).collect();
    // An evaluation takes less for as many tokens, and perhaps has more of them.
    largest.extend(evaluated.and_then(|(data, size)| largest_batch(data, size)));
    largest
}

/// Chooses what is kept of activations, within the memory there is, for these micro-batches and `previous` bytes beside
/// the plan of a step.
pub(super) fn fit(
    policy: &mut Policy,
    batches: &[MicroBatch],
    previous: u64,
    recompute: RecomputeChoice,
    memory_bytes: Option<u64>,
) -> Result<MemoryPlan, TrainError> {
    /// Of what is left, this share is not planned with: caches, what the allocator does not give back.
    const MARGIN: u64 = 10;
    let available = memory_bytes.or_else(available_memory_bytes).unwrap_or(u64::MAX);
    let planned = |policy: &Policy| {
        let plan = policy.memory_plan(batches);
        MemoryPlan { optimiser: plan.optimiser + previous, ..plan }
    };
    policy.set_recompute(Recompute::Always);
    let least = planned(policy);
    // What the weights take is taken already.
    let needed = least.total().saturating_sub(least.weights);
    if recompute != RecomputeChoice::Never && needed > available {
        return Err(TrainError::Memory {
            needed_bytes: needed,
            available_bytes: available,
            hint: "lower `--per-device-train-batch-size` (and raise `--gradient-accumulation-steps` by as much), \
                   `--max-length` or `--lora-r`"
                .to_owned(),
        });
    }
    policy.set_recompute(match recompute {
        RecomputeChoice::Always => Recompute::Always,
        RecomputeChoice::Never => Recompute::Never,
        RecomputeChoice::Auto => Recompute::Within { bytes: (available - needed) / MARGIN * (MARGIN - 1) },
    });
    let plan = planned(policy);
    let needed = plan.total().saturating_sub(plan.weights);
    if recompute == RecomputeChoice::Never && needed > available {
        return Err(TrainError::Memory {
            needed_bytes: needed,
            available_bytes: available,
            hint: "use `--recompute auto`, which keeps what fits".to_owned(),
        });
    }
    Ok(plan)
}
