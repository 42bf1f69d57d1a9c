use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use evalign_data::Limits;
use evalign_judge::{Check, Finding, LintReport, Severity, check_file};
use serde_json::json;

use crate::Verdict;
use crate::args::PairsCheckArgs;
use crate::output::{Failure, Output};

pub(in crate::commands) fn check(args: &PairsCheckArgs, output: Output) -> Result<Verdict, Failure> {
    let mut shown = Shown { args, output, counts: BTreeMap::new(), kept: Vec::new(), failed: None };
    let checked = check_file(&args.file, &Limits::default(), &mut |unit, finding| {
        shown.show(unit, finding);
        if shown.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(failure) = shown.failed {
        return Err(failure);
    }
    let Some((report, unit)) = checked else { return Ok(Verdict::Interrupted) };
    let errors = report.count(Severity::Error);
    if args.json {
        output.json(&json!({"file": args.file, "report": report, "errors": errors,
                            "warnings": report.count(Severity::Warning), "findings": shown.kept}))?;
    } else {
        output.result(&text(&args.file, &report, unit))?;
    }
    Ok(if errors == 0 { Verdict::Good } else { Verdict::Failed })
}

/// Prints findings as they come, so many of each kind.
struct Shown<'a> {
    args: &'a PairsCheckArgs,
    output: Output,
    counts: BTreeMap<Check, u64>,
    /// Those that a JSON document shows.
    kept: Vec<Finding>,
    failed: Option<Failure>,
}

impl Shown<'_> {
    fn show(&mut self, unit: &str, finding: Finding) {
        let count = self.counts.entry(finding.check).or_default();
        *count += 1;
        if *count > self.args.limit || self.failed.is_some() {
            return;
        }
        if self.args.json {
            self.kept.push(finding);
            return;
        }
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let file = self.args.file.display();
        let place = if finding.place == 0 { String::new() } else { format!(", {unit} {}", finding.place) };
        let field = finding.field.map(|field| format!(", field `{field}`")).unwrap_or_default();
        let line =
            format!("{file}{place}{field}: {severity}: {} [{}]", finding.message, finding.check.name());
        self.failed = self.output.result(&line).err();
    }
}

fn text(file: &Path, report: &LintReport, unit: &str) -> String {
    let counts: Vec<String> =
        report.findings.iter().map(|(check, count)| format!("{count} {}", check.name())).collect();
    let found = if counts.is_empty() { "nothing to object to".to_owned() } else { counts.join(", ") };
    let mut lines = vec![format!(
        "{}: {} {unit}s of the layout {}: {found}",
        file.display(),
        report.rows,
        report.layout.unwrap_or("unknown")
    )];
    if let Some(share) = report.lengths.chosen_longer_share() {
        lines.push(format!(
            "the chosen side is the longer one in {:.0} % of {} pairs that differ in length",
            100.0 * share,
            report.lengths.chosen_longer + report.lengths.rejected_longer
        ));
    }
    if report.not_compared > 0 {
        lines.push(format!(
            "{} {unit}s were not compared with earlier ones: there are too many",
            report.not_compared
        ));
    }
    lines.join("\n")
}
