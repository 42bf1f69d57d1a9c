//! Bradley-Terry on rewards.

use super::dual::Dual;
use super::{Slope, pairs};
use crate::{Item, MicroBatch, Scale};

/// `-p log s(d) - (1 - p) log s(-d)` with `d = r_w - r_l - margin` and `p` the item's soft label (1 without one),
/// plus `center * (r_w + r_l)^2`. `rewards`: all chosen, then all rejected.
pub(super) fn slope(center: Option<f32>, batch: &MicroBatch, rewards: &[f32], scale: Scale) -> Slope {
    let count = pairs(batch);
    let mut slope =
        Slope { by_reward: vec![0.0; rewards.len()], rewards: rewards.to_vec(), ..Slope::default() };
    let sides = rewards.iter().zip(rewards.iter().skip(count));
    for (index, (item, (chosen, rejected))) in batch.items.iter().zip(sides).enumerate() {
        let Item::Pair { margin, label, .. } = item else { continue };
        let (chosen, rejected) =
            (Dual::variable(f64::from(*chosen), 0), Dual::variable(f64::from(*rejected), 1));
        let difference = chosen - rejected - Dual::constant(margin.map_or(0.0, f64::from));
        let right = label.map_or(1.0, f64::from);
        let mut value =
            -difference.log_sigmoid().scale(right) - (-difference).log_sigmoid().scale(1.0 - right);
        if let Some(center) = center {
            value = value + (chosen + rejected).square().scale(f64::from(center));
        }
        let value = value.scale(f64::from(scale.items));
        slope.loss += value.value;
        slope.by_reward[index] = value.slope[0] as f32;
        slope.by_reward[count + index] = value.slope[1] as f32;
    }
    slope
}
