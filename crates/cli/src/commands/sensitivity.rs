use evalign_core::{Estimate, OptionOrderResult, PerturbationResult, RunResults};

use crate::commands::measures::undecided;
use crate::output::{Table, estimate, percent_or_number};

/// What asking in other ways did to the scores, as tables of their own; nothing where it was not asked for.
pub(super) fn sensitivity_text(results: &RunResults) -> String {
    let mut text = String::new();
    if !results.option_order.is_empty() {
        text += &format!("order of options\n{}\n", option_order(&results.option_order).text());
    }
    if !results.perturbations.is_empty() {
        text += &format!("perturbed questions\n{}\n", perturbations(&results.perturbations).text());
    }
    text
}

fn option_order(results: &[OptionOrderResult]) -> Table {
    let headings =
        ["task", "filter", "metric", "measure", "value", "± stderr", "95 % interval", "n", "undecided"];
    let mut table = Table::new(&headings, &[4, 5, 7, 8]);
    for result in results {
        let mut push = |measure: String, found: &Estimate, undecided: Option<u64>| {
            let name = [result.task.clone(), result.filter.clone(), result.metric.clone(), measure];
            let undecided = undecided.map_or_else(String::new, |count| count.to_string());
            table.push([&name[..], &estimate(found)[..], &[undecided]].concat());
        };
        for (places, order) in result.orders.iter().enumerate() {
            let measure = match places {
                0 => "options as given".to_owned(),
                places => format!("moved up by {places}"),
            };
            push(measure, &order.estimate, Some(undecided(&order.outcomes)));
        }
        push("all orders".to_owned(), &result.mean, None);
        push("answer changes with the order".to_owned(), &result.changed, Some(result.undecided));
        let debiased = &result.debiased;
        push("order averaged out".to_owned(), &debiased.estimate, Some(undecided(&debiased.outcomes)));
        let items = result.recall_by_place.iter().map(|recall| recall.n).sum();
        let spread = Estimate { value: result.recall_std, stderr: None, ci95: None, n: items };
        push("std of recall over places".to_owned(), &spread, None);
    }
    table
}

fn perturbations(results: &[PerturbationResult]) -> Table {
    let headings = [
        "task",
        "filter",
        "metric",
        "perturbation",
        "plain",
        "perturbed",
        "drop",
        "± stderr",
        "95 % interval",
        "n",
        "p",
        "lost",
        "gained",
        "undecided",
        "touched",
    ];
    let mut table = Table::new(&headings, &[4, 5, 6, 7, 9, 10, 11, 12, 13, 14]);
    let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), percent_or_number);
    for result in results {
        let kind = match result.rate {
            Some(rate) => format!("{} ({} % of letters)", result.perturbation, rate * 100.0),
            None => result.perturbation.to_string(),
        };
        let [drop, stderr, interval, n] = estimate(&result.drop);
        table.push(vec![
            result.task.clone(),
            result.filter.clone(),
            result.metric.clone(),
            kind,
            shown(result.plain.estimate.value),
            shown(result.perturbed.estimate.value),
            drop,
            stderr,
            interval,
            n,
            result.p_value.map_or_else(|| "-".to_owned(), |p| format!("{p:.3}")),
            result.lost.to_string(),
            result.gained.to_string(),
            result.undecided.to_string(),
            result.touched.to_string(),
        ]);
    }
    table
}
