use evalign_core::{AtK, Estimate, RepeatResult};

use crate::output::{Table, estimate, percent_or_number};

/// What several answers to each document say, as a table of its own; nothing where there was one answer.
pub(super) fn repeats_text(repeats: &[RepeatResult]) -> String {
    if repeats.is_empty() {
        return String::new();
    }
    let headings =
        ["task", "filter", "metric", "measure", "value", "± stderr", "95 % interval", "n", "could be"];
    let mut table = Table::new(&headings, &[4, 5, 7]);
    for found in repeats {
        let mut push = |measure: String, value: &Estimate, bounds: Option<[f64; 2]>| {
            let [value, stderr, interval, n] = estimate(value);
            let bounds = bounds.filter(|[low, high]| low < high);
            let bounds = bounds.map_or_else(String::new, |[low, high]| {
                format!("{} – {}", percent_or_number(low), percent_or_number(high))
            });
            table.push(vec![
                found.task.clone(),
                found.filter.clone(),
                found.metric.clone(),
                measure,
                value,
                stderr,
                interval,
                n,
                bounds,
            ]);
        };
        let measures = |name: &str, steps: &[AtK]| -> Vec<(String, AtK)> {
            steps.iter().map(|step| (format!("{name}@{}", step.k), step.clone())).collect()
        };
        for (measure, step) in
            measures("pass", &found.pass).into_iter().chain(measures("maj", &found.majority))
        {
            push(measure, &step.estimate, step.bounds);
        }
        push("agreement".to_owned(), &found.agreement, None);
    }
    let mut text = format!("{}\n", table.text());
    for found in repeats {
        if let (Some(within), Some(between)) = (found.within_variance, found.between_variance) {
            let total = within + between;
            let share = if total > 0.0 { within / total * 100.0 } else { 0.0 };
            text += &format!(
                "{} {} ({}): variance {within:.4} within samples (the sampling of answers), {between:.4} between them: \
                 {share:.0} % is sampling\n",
                found.task, found.metric, found.filter
            );
        }
    }
    text
}
