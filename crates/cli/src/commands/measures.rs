use evalign_bench::{
    Breakdown, BreakdownOptions, Contamination, Corpus, FEWEST_WORDS, NGRAM_WORDS, Reliability, Scoreboard,
    SwapAudit,
};
use evalign_core::{OutcomeCounts, RunId};
use evalign_store::Store;
use serde::Serialize;

use crate::args::MeasureArgs;
use crate::output::{Failure, Table, estimate, percent_or_number};

/// Places of found items that the table shows; JSON has all.
const PLACES_SHOWN: usize = 5;

/// What was asked for beyond the results of a run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Measures {
    #[serde(skip_serializing_if = "Option::is_none")]
    breakdown: Option<Breakdown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contamination: Option<Contamination>,
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration: Option<Vec<Reliability>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swaps: Option<Vec<SwapAudit>>,
}

impl MeasureArgs {
    pub(super) fn any(&self) -> bool {
        self.by.is_some() || !self.corpus.is_empty() || self.calibration.is_some() || self.swaps
    }
}

impl Measures {
    /// Computes what `args` ask for; of one task or group where `task` names it.
    pub(super) fn of(
        args: &MeasureArgs,
        board: &Scoreboard,
        store: &Store,
        run: &RunId,
        task: Option<&str>,
    ) -> Result<Self, Failure> {
        let kept = |name: &str| task.is_none_or(|task| task == name);
        let mut measures = Self::default();
        if let Some(by) = &args.by {
            let options = BreakdownOptions { by: by.clone(), cluster: args.cluster.clone() };
            let mut found = board.breakdown(store, run, &options)?;
            found.results.retain(|result| kept(&result.task));
            measures.breakdown = Some(found);
        }
        if !args.corpus.is_empty() {
            let corpus = Corpus::open(&args.corpus, &args.corpus_field)?;
            let mut found = board.contamination(store, run, &corpus)?;
            found.results.retain(|result| kept(&result.task));
            measures.contamination = Some(found);
        }
        if let Some(options) = args.calibration {
            let mut found = board.reliability(store, run, options)?;
            found.retain(|result| kept(&result.task));
            if found.is_empty() {
                return Err(Failure::new(
                    "no answer of the run says how sure the model was",
                    "calibration is of multiple choice by likelihood, as in mmlu and hellaswag",
                ));
            }
            measures.calibration = Some(found);
        }
        if args.swaps {
            let mut found = board.swaps(store, run)?;
            found.retain(|audit| kept(&audit.task));
            measures.swaps = Some(found);
        }
        Ok(measures)
    }

    pub(super) fn text(&self) -> String {
        let parts = [
            self.breakdown.as_ref().map(breakdown_text),
            self.contamination.as_ref().map(contamination_text),
            self.calibration.as_deref().map(calibration_text),
            self.swaps.as_deref().map(swaps_text),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
    }
}

fn breakdown_text(found: &Breakdown) -> String {
    let headings = ["task", "filter", "metric", "of", "value", "± stderr", "95 % interval", "n", "undecided"];
    let mut table = Table::new(&headings, &[4, 5, 7, 8]);
    for result in &found.results {
        let name = [result.task.clone(), result.filter.clone(), result.metric.clone()];
        let mut push = |of: String, cells: [String; 4], undecided: String| {
            table.push([&name[..], &[of], &cells[..], &[undecided]].concat());
        };
        push("all".to_owned(), estimate(&result.overall), String::new());
        for group in &result.groups {
            let of = group.label.clone().unwrap_or_else(|| format!("(no {})", found.by));
            push(of, estimate(&group.estimate), undecided(&group.outcomes).to_string());
        }
    }
    let clusters = match &found.cluster {
        Some(cluster) => format!("; within a group items with the same {cluster} are a cluster"),
        None => String::new(),
    };
    format!(
        "by {}\n{}\nerrors of `all` take each {} as a cluster{clusters}",
        found.by,
        table.text(),
        found.by
    )
}

fn contamination_text(found: &Contamination) -> String {
    let headings =
        ["task", "filter", "metric", "items", "value", "± stderr", "95 % interval", "n", "undecided"];
    let mut table = Table::new(&headings, &[4, 5, 7, 8]);
    for result in &found.results {
        let parts = [
            ("all", &result.all),
            ("clean", &result.clean),
            ("dirty", &result.dirty),
            ("cannot be told", &result.undecided),
        ];
        for (items, part) in parts {
            let name = [result.task.clone(), result.filter.clone(), result.metric.clone(), items.to_owned()];
            let [value, stderr, interval, n] = estimate(&part.estimate);
            let outcomes = [value, stderr, interval, n, undecided(&part.outcomes).to_string()];
            table.push([&name[..], &outcomes[..]].concat());
        }
    }
    let corpus = &found.corpus;
    let dirty = found.found.iter().filter(|item| item.dirty).count();
    let mut text = format!(
        "contamination: {} files, {} texts, {} words{}\n{}\n\
         {dirty} items share {NGRAM_WORDS} words in a row with the corpus, or stand in it whole; {} with fewer than \
         {FEWEST_WORDS} words were found, which may be chance",
        corpus.files,
        corpus.texts,
        corpus.words,
        match corpus.rows_without_text {
            0 => String::new(),
            rows => format!(" ({rows} rows without a text)"),
        },
        table.text(),
        found.found.len() - dirty,
    );
    for item in found.found.iter().filter(|item| item.dirty).take(PLACES_SHOWN) {
        text +=
            &format!("\n  {}[{}] in {}, text {}: {}", item.task, item.doc, item.file, item.text, item.ngram);
    }
    if dirty > PLACES_SHOWN {
        text += &format!("\n  and {} more (`--json` has all)", dirty - PLACES_SHOWN);
    }
    text
}

fn calibration_text(found: &[Reliability]) -> String {
    let headings = ["task", "confidence", "share right", "95 % interval", "n"];
    let mut table = Table::new(&headings, &[1, 2, 4]);
    let mut lines = Vec::new();
    for result in found {
        for bin in &result.bins {
            let [value, _, interval, n] = estimate(&bin.accuracy);
            table.push(vec![result.task.clone(), percent_or_number(bin.mean_confidence), value, interval, n]);
        }
        let [value, stderr, interval, n] = estimate(&result.ece);
        lines.push(format!(
            "{}: expected calibration error {value} ± {stderr} ({interval}, n {n}, {}), largest error {}",
            result.task,
            result.binning,
            percent_or_number(result.largest_error)
        ));
    }
    format!("calibration\n{}\n{}", table.text(), lines.join("\n"))
}

/// Items that are neither right nor wrong.
pub(super) fn undecided(outcomes: &OutcomeCounts) -> u64 {
    outcomes.total() - outcomes.correct - outcomes.wrong
}

fn swaps_text(found: &[SwapAudit]) -> String {
    let headings =
        ["task", "group", "and", "items", "first", "second", "difference", "95 % interval", "largest"];
    let mut table = Table::new(&headings, &[3, 4, 5, 6, 8]);
    let mut notes = Vec::new();
    for audit in found {
        for pair in &audit.differences {
            table.push(vec![
                audit.task.clone(),
                pair.first.clone(),
                pair.second.clone(),
                pair.items.to_string(),
                format!("{:.4}", pair.mean_first),
                format!("{:.4}", pair.mean_second),
                format!("{:+.4}", pair.difference),
                pair.ci95.map_or_else(|| "-".to_owned(), |[low, high]| format!("{low:+.4} to {high:+.4}")),
                format!("{:.4}", pair.largest),
            ]);
        }
        if audit.rows_without_value > 0 {
            notes.push(format!("\n{}: {} rows have no value", audit.task, audit.rows_without_value));
        }
    }
    format!("groups, item by item\n{}{}", table.text(), notes.concat())
}
