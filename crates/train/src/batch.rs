//! Which items make which update: a pure function of the seed and the update's number, so that a run can go on
//! anywhere.
//!
//! As in TRL (transformers' `Trainer`), an epoch is cut into micro-batches of `batch_size` items, those into
//! updates of `accumulation` micro-batches; the last of each may be short, and nothing spans two epochs.

use crate::random::{MersenneTwister, SplitMix};

/// In which order an epoch goes through the items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As in the file.
    Sequential,
    /// Anew each epoch.
    Shuffled,
    /// Shuffled, then items of like lengths put together: micro-batches waste little on padding, and their
    /// order stays random.
    LengthBuckets,
    /// What torch's seeded `RandomSampler` makes of `seed + epoch`, as accelerate calls it.
    Torch,
}

/// Micro-batches whose items are sorted by length together under [`Order::LengthBuckets`].
const BUCKET_BATCHES: usize = 50;

#[derive(Clone, Debug)]
pub struct Batching {
    pub order: Order,
    /// Items in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in an update.
    pub accumulation: usize,
    pub seed: u64,
    /// Tokens of each item.
    pub lengths: Vec<usize>,
}

impl Batching {
    fn batches_per_epoch(&self) -> usize {
        self.lengths.len().div_ceil(self.batch_size)
    }

    #[must_use]
    pub fn updates_per_epoch(&self) -> u64 {
        self.batches_per_epoch().div_ceil(self.accumulation) as u64
    }

    /// Epoch of an update, counted from 0, and the update's place in it.
    #[must_use]
    pub fn place(&self, update: u64) -> (u64, u64) {
        (update / self.updates_per_epoch(), update % self.updates_per_epoch())
    }

    /// Epochs that have been seen after so many updates: whole micro-batches of an epoch, as transformers counts.
    #[must_use]
    pub fn epochs_after(&self, updates: u64) -> f64 {
        let Some(last) = updates.checked_sub(1) else { return 0.0 };
        let (epoch, place) = self.place(last);
        let batches = self.batches_per_epoch();
        let done = ((place as usize + 1) * self.accumulation).min(batches);
        epoch as f64 + done as f64 / batches.max(1) as f64
    }

    /// Items that the first `updates` updates have trained on, ascending.
    #[must_use]
    pub fn seen(&self, updates: u64) -> Vec<usize> {
        if updates >= self.updates_per_epoch() {
            return (0..self.lengths.len()).collect();
        }
        let batches = (updates as usize).saturating_mul(self.accumulation);
        let mut seen: Vec<usize> = self.epoch(0).into_iter().take(batches).flatten().collect();
        seen.sort_unstable();
        seen
    }

    /// The micro-batches of update `update` (from 0), each a list of items.
    #[cfg(test)]
    fn of_update(&self, update: u64) -> Vec<Vec<usize>> {
        let (epoch, place) = self.place(update);
        self.part(&self.epoch(epoch), place).to_vec()
    }

    /// The micro-batches of an epoch's update number `place`, of all those of the epoch.
    pub(crate) fn part<'a>(&self, epoch: &'a [Vec<usize>], place: u64) -> &'a [Vec<usize>] {
        let start = (usize::try_from(place).unwrap_or(usize::MAX)).saturating_mul(self.accumulation);
        let end = start.saturating_add(self.accumulation).min(epoch.len());
        &epoch[start.min(end)..end]
    }

    /// All micro-batches of an epoch, in order.
    pub(crate) fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let items = self.lengths.len();
        let mut order: Vec<usize> = (0..items).collect();
        match self.order {
            Order::Sequential => {}
            Order::Shuffled | Order::LengthBuckets => SplitMix::new(self.seed, epoch).shuffle(&mut order),
            Order::Torch => order = MersenneTwister::new(self.seed.wrapping_add(epoch)).permutation(items),
        }
        if self.order == Order::LengthBuckets {
            for bucket in order.chunks_mut(self.batch_size * BUCKET_BATCHES) {
                bucket.sort_by_key(|item| std::cmp::Reverse(self.lengths[*item]));
            }
        }
        let mut batches: Vec<Vec<usize>> = order.chunks(self.batch_size).map(<[usize]>::to_vec).collect();
        if self.order == Order::LengthBuckets {
            // A short last batch stays last, or updates would hold fewer items in the middle of an epoch.
            let full = items / self.batch_size;
            SplitMix::new(!self.seed, epoch).shuffle(&mut batches[..full]);
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn batching(order: Order, items: usize, batch_size: usize, accumulation: usize) -> Batching {
        let lengths = (0..items).map(|item| (item * 7919) % 101).collect();
        Batching { order, batch_size, accumulation, seed: 42, lengths }
    }

    #[test]
    fn an_epoch_ends_short_and_the_next_begins_anew() {
        let sequential = batching(Order::Sequential, 5, 2, 2);
        assert_eq!(sequential.updates_per_epoch(), 2);
        assert_eq!(sequential.of_update(0), [vec![0, 1], vec![2, 3]]);
        assert_eq!(sequential.of_update(1), [vec![4]]);
        assert_eq!(sequential.of_update(2), [vec![0, 1], vec![2, 3]]);
        assert_eq!(
            [1, 2, 3].map(|updates| sequential.epochs_after(updates)),
            [2.0 / 3.0, 1.0, 1.0 + 2.0 / 3.0]
        );
    }

    /// torch 2.15: `torch.randperm(12, generator=g)` with `g.manual_seed(42)`, then 43.
    #[test]
    fn the_order_is_torchs() {
        let torch = batching(Order::Torch, 12, 12, 1);
        assert_eq!(torch.of_update(0), [[6, 8, 1, 7, 0, 2, 10, 11, 4, 3, 5, 9]]);
        assert_eq!(torch.of_update(1), [[4, 6, 7, 2, 9, 8, 1, 5, 0, 10, 11, 3]]);
    }

    #[test]
    fn buckets_hold_like_lengths() {
        let padding = |order| -> usize {
            let batching = batching(order, 400, 8, 1);
            let waste = |batch: &Vec<usize>| {
                let longest = batch.iter().map(|item| batching.lengths[*item]).max().unwrap();
                batch.iter().map(|item| longest - batching.lengths[*item]).sum::<usize>()
            };
            (0..50).flat_map(|update| batching.of_update(update)).map(|batch| waste(&batch)).sum()
        };
        assert!(padding(Order::LengthBuckets) * 5 < padding(Order::Shuffled));
    }

    proptest! {
        #[test]
        fn every_epoch_holds_every_item_once(
            items in 1usize..80,
            batch_size in 1usize..9,
            accumulation in 1usize..5,
            epoch in 0u64..3,
            order in prop_oneof![
                Just(Order::Sequential), Just(Order::Shuffled), Just(Order::LengthBuckets), Just(Order::Torch)
            ],
        ) {
            let batching = batching(order, items, batch_size, accumulation);
            let updates = batching.updates_per_epoch();
            let seen: Vec<usize> =
                (epoch * updates..(epoch + 1) * updates).flat_map(|update| batching.of_update(update)).flatten().collect();
            prop_assert_eq!(seen.len(), items);
            prop_assert_eq!(seen.into_iter().collect::<BTreeSet<_>>().len(), items);
            let before = |updates: u64| (0..updates).flat_map(|update| batching.of_update(update)).flatten();
            for updates in 0..=updates + 1 {
                prop_assert_eq!(batching.seen(updates), before(updates).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
            }
        }
    }
}
