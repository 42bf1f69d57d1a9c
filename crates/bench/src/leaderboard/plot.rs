//! Interval plots as SVG strings. Positions are percentages of the width, so that a plot fits a phone and
//! a desktop without scripts and its lines and text keep their size.

use super::{BoardBlock, BoardRow};
use crate::lower_is_better;

/// Room at both ends of the axis, in percent of the width.
const MARGIN: f64 = 4.0;

/// Most steps between gridlines.
const MOST_STEPS: f64 = 4.0;

/// The axis that the rows of blocks with the same task and metric share.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    /// Values are shares and shown in percent.
    pub(super) share: bool,
}

impl Scale {
    /// Wide enough for all values, intervals and bounds of a task's metric, whichever way it was measured,
    /// so that positions mean the same all over the page. `None` where no row has a value.
    pub(super) fn of(blocks: &[BoardBlock], task: &str, metric: &str) -> Option<Self> {
        let rows = || {
            let same = move |block: &&BoardBlock| block.task == task && block.metric == metric;
            blocks.iter().filter(same).flat_map(|block| &block.rows)
        };
        let accuracy = |row: &BoardRow| row.result.outcomes.unscored < row.result.outcomes.total();
        let share = !lower_is_better(metric) && rows().all(accuracy);
        let numbers = || {
            rows().flat_map(|row| {
                let estimate = &row.result.estimate;
                let spread = [estimate.ci95, row.result.bounds].into_iter().flatten().flatten();
                estimate.value.into_iter().chain(spread)
            })
        };
        let low = numbers().min_by(f64::total_cmp)?;
        let high = numbers().max_by(f64::total_cmp)?;
        // A point still needs an axis around it.
        let width = (high - low).max(if share { 0.02 } else { high.abs().max(1.0) * 0.02 });
        let step = nice_step(width / MOST_STEPS);
        let (mut first, mut last) = ((low / step).floor(), (high / step).ceil());
        if first == last {
            (first, last) = (first - 1.0, last + 1.0);
        }
        let ticks = (first as i64..=last as i64).map(|i| i as f64 * step);
        let ticks: Vec<f64> = ticks.filter(|tick| !share || (-1e-9..=1.0 + 1e-9).contains(tick)).collect();
        Some(Self { low: *ticks.first()?, high: *ticks.last()?, ticks, share })
    }

    /// Percent of the width.
    fn x(&self, value: f64) -> f64 {
        let within = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        MARGIN + (100.0 - 2.0 * MARGIN) * within
    }

    fn gridlines(&self) -> String {
        let line = |tick: &f64| {
            let x = self.x(*tick);
            format!("<line class=\"grid\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"0\" y2=\"100%\"/>")
        };
        self.ticks.iter().map(line).collect()
    }

    /// A number the way this axis shows it.
    pub(super) fn number(&self, value: f64) -> String {
        if self.share { format!("{:.1}", value * 100.0) } else { significant(value) }
    }

    pub(super) fn unit(&self) -> &'static str {
        if self.share { " %" } else { "" }
    }
}

/// The numbers under the gridlines.
pub(super) fn axis(scale: &Scale) -> String {
    let fine = scale.ticks.iter().any(|tick| (tick * 100.0 - (tick * 100.0).round()).abs() > 1e-6);
    let label = |tick: &f64| {
        let text = match (scale.share, fine) {
            (true, false) => format!("{:.0} %", tick * 100.0),
            (true, true) => format!("{:.1} %", tick * 100.0),
            (false, _) => significant(*tick),
        };
        format!("<text x=\"{:.2}%\" y=\"12\" text-anchor=\"middle\">{text}</text>", scale.x(*tick))
    };
    let labels: String = scale.ticks.iter().map(label).collect();
    format!("<svg class=\"axis\" width=\"100%\" height=\"16\" aria-hidden=\"true\">{labels}</svg>")
}

/// One row: the value as a dot (filled where the row may be first), its 95 % interval as a bar, and how
/// far undecided samples could move it as a dashed line.
pub(super) fn interval(scale: &Scale, row: &BoardRow) -> String {
    let estimate = &row.result.estimate;
    let mut marks = scale.gridlines();
    if let Some([low, high]) = row.result.bounds.filter(|[low, high]| low < high) {
        let (from, to) = (scale.x(low), scale.x(high));
        marks += &format!("<line class=\"bounds\" x1=\"{from:.2}%\" x2=\"{to:.2}%\" y1=\"50%\" y2=\"50%\"/>");
    }
    if let Some([low, high]) = estimate.ci95 {
        let (from, to) = (scale.x(low), scale.x(high));
        marks += &format!(
            "<rect class=\"ci\" x=\"{from:.2}%\" y=\"9\" width=\"{:.2}%\" height=\"10\" rx=\"5\"/>",
            to - from
        );
    }
    if let Some(value) = estimate.value {
        marks += &format!("<circle class=\"dot\" cx=\"{:.2}%\" cy=\"14\" r=\"5\"/>", scale.x(value));
    }
    let leads = row.rank.is_none_or(|[best, _]| best == 1);
    let class = if leads { "row leads" } else { "row" };
    format!(
        "<svg class=\"{class}\" width=\"100%\" height=\"28\" role=\"img\" aria-label=\"{}\">{marks}</svg>",
        spoken(scale, row)
    )
}

/// What the plot shows, in words.
fn spoken(scale: &Scale, row: &BoardRow) -> String {
    let estimate = &row.result.estimate;
    let number = |value: f64| scale.number(value) + scale.unit();
    let Some(value) = estimate.value else { return "no value".to_owned() };
    let interval = estimate.ci95.map_or_else(
        || "no interval".to_owned(),
        |[low, high]| format!("95 % interval {} to {}", number(low), number(high)),
    );
    let bounds =
        row.result.bounds.filter(|[low, high]| low < high).map_or_else(String::new, |[low, high]| {
            format!(", with undecided samples between {} and {}", number(low), number(high))
        });
    format!("{}, {interval}{bounds}, n {}", number(value), estimate.n)
}

/// The smallest of 1, 2, 2.5, 5 and 10 times a power of ten that is at least `raw`.
fn nice_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0].into_iter().find(|factor| factor * power >= raw * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// Four significant digits.
fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return "0".to_owned();
    }
    let digits = 3 - value.abs().log10().floor() as i64;
    match usize::try_from(digits) {
        Ok(digits) if digits <= 9 => {
            let text = format!("{value:.digits$}");
            if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            } else {
                text
            }
        }
        Ok(_) => format!("{value:.3e}"),
        Err(_) => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (raw, step) in [(0.017, 0.02), (0.02, 0.02), (0.021, 0.025), (0.3, 0.5), (7.0, 10.0), (1.0, 1.0)]
        {
            assert!((nice_step(raw) - step).abs() < 1e-12, "{raw}: {}", nice_step(raw));
        }
    }

    #[test]
    fn numbers_keep_four_digits() {
        for (value, text) in [
            (0.0, "0"),
            (12.3456, "12.35"),
            (1234.56, "1235"),
            (123_456.0, "123456"),
            (0.5, "0.5"),
            (-0.012_345, "-0.01235"),
        ] {
            assert_eq!(significant(value), text);
        }
    }
}
