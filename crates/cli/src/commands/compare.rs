use evalign_bench::{
    CompareOptions, ComparedRun, Comparison, LeftOut, PairedTest, RunComparison, SHOWN_AT,
    compare as compare_runs,
};

use crate::Verdict;
use crate::args::CompareArgs;
use crate::commands::context::open_store_to_read;
use crate::output::{Failure, Output, Table, percent_or_number, precision};

pub(super) fn compare(args: &CompareArgs, output: Output) -> Result<Verdict, Failure> {
    let store = open_store_to_read()?;
    let (a, b) = (store.find_run(&args.a)?, store.find_run(&args.b)?);
    let options = CompareOptions {
        metric: args.metric.clone(),
        cluster: args.cluster.clone(),
        allow_different_protocols: args.allow_different_protocols,
    };
    let found = compare_runs(&store, &a, &b, &options)?;
    if args.json {
        output.json(&found)?;
    } else {
        output.result(&text(&found))?;
    }
    Ok(Verdict::Good)
}

fn text(found: &RunComparison) -> String {
    let headings = [
        "task",
        "metric",
        "n",
        "A",
        "B",
        "B − A",
        "± stderr",
        "95 % interval",
        "bootstrap",
        "only A : B",
        "p",
        "q",
        "detectable",
        "verdict",
    ];
    let mut table = Table::new(&headings, &[2, 3, 4, 5, 6, 9, 10, 11, 12]);
    for comparison in &found.comparisons {
        table.push(row(comparison));
    }
    let mut lines = vec![format!("A  {}\nB  {}\n{}", run(&found.a), run(&found.b), table.text())];
    lines.extend(found.comparisons.iter().filter_map(left_out));
    lines.extend(found.notes.iter().map(|note| format!("note: {note}")));
    if !found.protocol_differences.is_empty() {
        lines.push(
            "≠ measured in different ways, so that the difference is not the models' alone:".to_owned(),
        );
        lines.extend(found.protocol_differences.iter().map(|difference| format!("  {difference}")));
    }
    lines.push(legend(found));
    lines.join("\n")
}

fn run(run: &ComparedRun) -> String {
    let template = if run.chat_template { ", chat template" } else { "" };
    format!("{}  {}{}{template}", run.run_id, run.model.reference, precision(&run.model))
}

fn row(comparison: &Comparison) -> Vec<String> {
    let found = &comparison.result;
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), percent_or_number);
    let interval = |value: Option<[f64; 2]>| {
        value.map_or_else(|| "-".to_owned(), |[low, high]| format!("{} – {}", signed(low), signed(high)))
    };
    let task = match comparison.members {
        0 => comparison.task.clone(),
        members => format!("{} ({members} tasks)", comparison.task),
    };
    let metric = match comparison.filter.as_str() {
        "none" => comparison.metric.clone(),
        filter => format!("{} ({filter})", comparison.metric),
    };
    let n = match found.clusters {
        None => found.n.to_string(),
        Some(clusters) => format!("{} in {clusters}", found.n),
    };
    vec![
        task,
        metric,
        n,
        percent_or_number(found.a),
        percent_or_number(found.b),
        signed(found.difference),
        number(found.stderr),
        interval(found.ci95),
        interval(found.bootstrap_ci95),
        found
            .agreement
            .map_or_else(|| "-".to_owned(), |counts| format!("{} : {}", counts.only_a, counts.only_b)),
        found.p.map_or_else(|| "-".to_owned(), probability),
        comparison.q.map_or_else(|| "-".to_owned(), probability),
        number(found.detectable),
        verdict(comparison),
    ]
}

/// Who is better, where that was shown.
fn verdict(comparison: &Comparison) -> String {
    let verdict = match (comparison.is_shown(), comparison.is_b_better()) {
        (false, _) => "not shown",
        (true, true) => "B better",
        (true, false) => "A better",
    };
    if comparison.same_protocol { verdict.to_owned() } else { format!("{verdict} ≠") }
}

fn left_out(comparison: &Comparison) -> Option<String> {
    let found = &comparison.result;
    let LeftOut { undecided_a, undecided_b, undecided_both, only_in_a, only_in_b } = found.left_out;
    let counts = [
        (undecided_a, "A left undecided"),
        (undecided_b, "B left undecided"),
        (undecided_both, "both left undecided"),
        (only_in_a, "only A has"),
        (only_in_b, "only B has"),
    ];
    let parts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if parts.is_empty() {
        return None;
    }
    let bounds = found.bounds.map_or_else(String::new, |[low, high]| {
        format!("; decided otherwise, B − A could be {} to {}", signed(low), signed(high))
    });
    Some(format!(
        "left out of {} {} ({}): {} documents: {}{bounds}",
        comparison.task,
        comparison.metric,
        comparison.filter,
        found.left_out.undecided() + only_in_a + only_in_b,
        parts.join(", "),
    ))
}

fn legend(found: &RunComparison) -> String {
    let mut tests: Vec<PairedTest> = Vec::new();
    for comparison in &found.comparisons {
        if !tests.contains(&comparison.result.test) {
            tests.push(comparison.result.test);
        }
    }
    let tests: Vec<&str> = tests.into_iter().map(PairedTest::name).collect();
    let clustered = match found.cluster.as_deref() {
        Some(cluster) => format!("; clustered by {cluster}"),
        None => String::new(),
    };
    let mut lines = vec![
        format!("p: two-sided ({}){clustered}; q: adjusted over tasks (Benjamini-Hochberg)", tests.join("; ")),
        "detectable: the smallest true difference that as many pairs show in 4 of 5 cases (power 80 %, alpha 5 %)"
            .to_owned(),
        format!("verdict: shown where q (without q: p) is at most {SHOWN_AT}"),
    ];
    if found.comparisons.iter().any(stricter_than_its_interval) {
        lines.push(
            "an interval can leave out 0 where McNemar's exact test, which is stricter, shows nothing; its mid-p variant \
             is in --json"
                .to_owned(),
        );
    }
    if found.comparisons.iter().any(|comparison| comparison.lower_is_better) {
        lines.push("perplexities and bits per byte are compared in nats per unit; less is better".to_owned());
    }
    lines.join("\n")
}

fn stricter_than_its_interval(comparison: &Comparison) -> bool {
    let found = &comparison.result;
    let leaves_out_zero = found.ci95.is_some_and(|[low, high]| low > 0.0 || high < 0.0);
    found.test == PairedTest::Mcnemar && leaves_out_zero && found.p.is_some_and(|p| p > SHOWN_AT)
}

/// With its sign, also where it is positive.
fn signed(value: f64) -> String {
    let text = percent_or_number(value.abs());
    let zero = text.bytes().all(|b| matches!(b, b'0' | b'.'));
    match (zero, value < 0.0) {
        (true, _) => text,
        (false, true) => format!("−{text}"),
        (false, false) => format!("+{text}"),
    }
}

fn probability(p: f64) -> String {
    if p < 1e-4 { format!("{p:.0e}") } else { format!("{p:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_signs() {
        assert_eq!(signed(0.25), "+0.2500");
        assert_eq!(signed(-0.25), "−0.2500");
        assert_eq!(signed(-0.000_001), "0.0000");
        assert_eq!(probability(0.000_012), "1e-5");
        assert_eq!(probability(1.0), "1.0000");
    }
}
