use evalign_bench::{
    Breakdown, BreakdownOptions, Contamination, Corpus, FEWEST_WORDS, Measures, MeasuresWanted, NGRAM_WORDS,
    Reliability, Scoreboard, SwapAudit,
};
use evalign_core::{OutcomeCounts, RunId};
use evalign_store::Store;

use crate::args::MeasureArgs;
use crate::output::{Failure, Table, estimate, percent_or_number};

/// Places of found items that the table shows; JSON has all.
const PLACES_SHOWN: usize = 5;

impl MeasureArgs {
    pub(super) fn any(&self) -> bool {
        self.by.is_some() || !self.corpus.is_empty() || self.calibration.is_some() || self.swaps
    }

    /// Computes what is asked for; of one task or group where `task` names it.
    pub(super) fn of(
        &self,
        board: &Scoreboard,
        (store, run): (&Store, &RunId),
        task: Option<&str>,
    ) -> Result<Measures, Failure> {
        let corpus = match self.corpus.as_slice() {
            [] => None,
            files => Some(Corpus::open(files, &self.corpus_field)?),
        };
        let by = self.by.clone().map(|by| BreakdownOptions { by, cluster: self.cluster.clone() });
        let wanted = MeasuresWanted {
            task,
            by,
            corpus: corpus.as_ref(),
            calibration: self.calibration,
            swaps: self.swaps,
        };
        Ok(board.measures(store, run, &wanted)?)
    }
}

pub(super) fn text(measures: &Measures) -> String {
    let parts = [
        measures.breakdown.as_ref().map(breakdown_text),
        measures.contamination.as_ref().map(contamination_text),
        measures.calibration.as_deref().map(calibration_text),
        measures.swaps.as_deref().map(swaps_text),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
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
