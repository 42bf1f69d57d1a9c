//! Learning rate by update: the schedules of transformers 5.23 (`optimization.py`), in f64.

use std::f64::consts::PI;

/// How the rate goes after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleKind {
    /// Down to 0 at the last update.
    Linear,
    /// Half a cosine down to the smallest rate.
    Cosine,
    /// Neither warm-up nor decay.
    Constant,
    ConstantWithWarmup,
    /// Constant, and down in the last updates.
    WarmupStableDecay,
}

/// The form of a decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decay {
    Linear,
    #[default]
    Cosine,
    /// `1 - sqrt(progress)` (Hägele et al. 2024, arXiv 2405.18392).
    OneMinusSqrt,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub kind: ScheduleKind,
    /// The rate at its highest.
    pub peak: f64,
    pub updates: u64,
    pub warmup: u64,
    /// Of [`ScheduleKind::WarmupStableDecay`]: the last updates, and how they go down.
    pub decay_updates: u64,
    pub decay: Decay,
    /// The smallest rate, as a share of the highest (cosine, and warmup-stable-decay).
    pub smallest_ratio: f64,
}

impl Schedule {
    /// The rate of update `update`, counted from 0.
    #[must_use]
    pub fn rate(&self, update: u64) -> f64 {
        self.peak * self.factor(update)
    }

    fn factor(&self, update: u64) -> f64 {
        if self.kind == ScheduleKind::Constant {
            return 1.0;
        }
        if update < self.warmup {
            let progress = update as f64 / self.warmup as f64;
            return match self.kind {
                ScheduleKind::WarmupStableDecay => self.above_smallest(progress),
                _ => progress,
            };
        }
        let after = |start: u64, length: u64| (update - start) as f64 / length.max(1) as f64;
        match self.kind {
            ScheduleKind::Constant | ScheduleKind::ConstantWithWarmup => 1.0,
            ScheduleKind::Linear => {
                let left = self.updates.saturating_sub(update) as f64;
                (left / self.updates.saturating_sub(self.warmup).max(1) as f64).max(0.0)
            }
            ScheduleKind::Cosine => {
                let progress = after(self.warmup, self.updates.saturating_sub(self.warmup));
                self.above_smallest(half_cosine(progress)).max(0.0)
            }
            ScheduleKind::WarmupStableDecay => {
                let start = self.updates.saturating_sub(self.decay_updates).max(self.warmup);
                if update < start {
                    return 1.0;
                }
                let progress = after(start, self.decay_updates);
                if progress >= 1.0 {
                    return self.smallest_ratio;
                }
                self.above_smallest(match self.decay {
                    Decay::Linear => 1.0 - progress,
                    Decay::Cosine => half_cosine(progress),
                    Decay::OneMinusSqrt => 1.0 - progress.sqrt(),
                })
                .max(0.0)
            }
        }
    }

    fn above_smallest(&self, factor: f64) -> f64 {
        factor * (1.0 - self.smallest_ratio) + self.smallest_ratio
    }
}

fn half_cosine(progress: f64) -> f64 {
    0.5 * (1.0 + (PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: ScheduleKind, warmup: u64) -> Vec<f64> {
        let schedule = Schedule {
            kind,
            peak: 1e-3,
            updates: 10,
            warmup,
            decay_updates: 4,
            decay: Decay::Cosine,
            smallest_ratio: 0.0,
        };
        (0..10).map(|update| schedule.rate(update)).collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{found:?}");
        }
    }

    /// Numbers from transformers 5.23, `get_scheduler(name, optimizer, num_warmup_steps, 10)`.
    #[test]
    fn rates_equal_transformers() {
        for (kind, warmup, expected) in EXPECTED {
            close(&rates(kind, warmup), &expected);
        }
    }

    type Case = (ScheduleKind, u64, [f64; 10]);

    #[rustfmt::skip]
    const EXPECTED: [Case; 5] = [
        (ScheduleKind::Linear, 0, [0.001, 0.0009000000000000001, 0.0008, 0.0007, 0.0006, 0.0005, 0.0004, 0.0003, 0.0002, 0.0001]),
        (ScheduleKind::Linear, 2, [0.0, 0.0005, 0.001, 0.000875, 0.00075, 0.000625, 0.0005, 0.000375, 0.00025, 0.000125]),
        (ScheduleKind::Cosine, 2, [0.0, 0.0005, 0.001, 0.0009619397662556434, 0.0008535533905932737, 0.000691341716182545, 0.0005, 0.0003086582838174551, 0.00014644660940672628, 3.806023374435663e-05]),
        (ScheduleKind::ConstantWithWarmup, 4, [0.0, 0.00025, 0.0005, 0.00075, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001]),
        (ScheduleKind::WarmupStableDecay, 2, [0.0, 0.0005, 0.001, 0.001, 0.001, 0.001, 0.001, 0.0008535533905932737, 0.0005, 0.00014644660940672628]),
    ];
}
