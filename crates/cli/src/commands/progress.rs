use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use evalign_bench::{Progress, Snapshot};
use evalign_core::SampleRecord;
use evalign_fetch::Event;
use evalign_rag::ingest::IngestProgress;
use evalign_rag::{TimeLeft, TuneStep, TuneSteps};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{Output, sanitize, seconds};

/// How often the bar is redrawn.
const REDRAW_AFTER: Duration = Duration::from_millis(100);

/// How often a run is reported on where there is no terminal to draw on.
const REPORT_EVERY: Duration = Duration::from_secs(30);

fn bar(output: Output, total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(
        Some(total),
        if output.progress { ProgressDrawTarget::stderr_with_hz(4) } else { ProgressDrawTarget::hidden() },
    );
    // The templates are constants of this file; a wrong one would only cost the bar its looks.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Shows how far a run is: a bar on a terminal, a line now and then elsewhere.
#[derive(Debug)]
pub(super) struct RunBar {
    output: Output,
    bar: ProgressBar,
    /// When the bar was last changed, and the last line written.
    shown: Mutex<(Instant, Instant)>,
}

impl RunBar {
    pub(super) fn new(output: Output) -> Self {
        let bar = bar(output, 0, "{bar:30} {pos}/{len} samples  {msg}");
        let now = Instant::now();
        Self { output, bar, shown: Mutex::new((now.checked_sub(REDRAW_AFTER).unwrap_or(now), now)) }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Shows how far the indexing of documents is.
#[derive(Debug)]
pub(super) struct IngestBar(ProgressBar);

impl IngestBar {
    pub(super) fn new(output: Output) -> Self {
        Self(bar(output, 0, "{bar:30} {pos}/{len} documents  {msg}"))
    }

    pub(super) fn show(&self, progress: IngestProgress) {
        self.0.set_length(progress.of_documents as u64);
        self.0.set_position(progress.documents as u64);
        self.0.set_message(format!("{} chunks", progress.chunks));
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// Counts documents and queries of an evaluation.
#[derive(Debug)]
pub(super) struct CountBar(ProgressBar);

impl CountBar {
    pub(super) fn new(output: Output, total: u64) -> Self {
        Self(bar(output, total, "{bar:30} {pos}/{len} documents and queries"))
    }

    pub(super) fn advance(&self, more: u64) {
        self.0.inc(more);
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// Counts what a sweep over ways of searching does, and reckons how long the rest takes: a bar on a terminal, a line now
/// and then elsewhere.
#[derive(Debug)]
pub(super) struct SweepBar {
    output: Output,
    bar: ProgressBar,
    begun: Instant,
    /// What is left, and when the bar or the last line was written.
    state: Mutex<(TimeLeft, Instant)>,
}

impl SweepBar {
    pub(super) fn new(output: Output, steps: TuneSteps) -> Self {
        let bar = bar(output, steps.total(), "{bar:30} {pos}/{len} documents and queries  {msg}");
        let now = Instant::now();
        Self { output, bar, begun: now, state: Mutex::new((TimeLeft::new(steps), now)) }
    }

    pub(super) fn advance(&self, step: TuneStep, more: u64) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (left, shown) = &mut *state;
        left.advance(step, more, self.begun.elapsed());
        let every = if self.output.progress { REDRAW_AFTER } else { REPORT_EVERY };
        if shown.elapsed() < every {
            return;
        }
        *shown = Instant::now();
        let message = time_left(left.left());
        if self.output.progress {
            self.bar.set_position(left.done());
            self.bar.set_message(message);
        } else {
            let of = self.bar.length().unwrap_or_default();
            self.output.note(&format!("{}/{of} documents and queries, {message}", left.done()));
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn time_left(left: Option<Duration>) -> String {
    match left {
        Some(left) => format!("{} left", seconds(left)),
        None => "time left not known yet".to_owned(),
    }
}

fn describe(snapshot: &Snapshot) -> String {
    let rate = snapshot.usage.prompt_tokens + snapshot.usage.generated_tokens;
    let per_second = rate as f64 / snapshot.elapsed.as_secs_f64().max(1e-3);
    let mut text = time_left(snapshot.remaining);
    text += &format!(", {per_second:.0} tokens/s");
    if snapshot.failed > 0 {
        text += &format!(", {} failed", snapshot.failed);
    }
    text
}

impl Progress for RunBar {
    fn progress(&self, snapshot: &Snapshot) {
        let mut shown = self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (drawn, reported) = &mut *shown;
        if self.output.progress {
            // Thousands of samples may finish in a second, and nobody reads that fast.
            if drawn.elapsed() >= REDRAW_AFTER || snapshot.done == snapshot.total {
                *drawn = Instant::now();
                self.bar.set_length(snapshot.total);
                self.bar.set_position(snapshot.done);
                self.bar.set_message(describe(snapshot));
            }
        } else if reported.elapsed() > REPORT_EVERY {
            *reported = Instant::now();
            self.output.note(&format!(
                "{}/{} samples, {}",
                snapshot.done,
                snapshot.total,
                describe(snapshot)
            ));
        }
    }

    fn sample(&self, record: &SampleRecord) {
        tracing::debug!(sample = %record.key, error = record.error.as_deref(), "answered");
    }
}

/// Shows downloads: a bar per file on a terminal, notes everywhere.
#[derive(Debug)]
pub(super) struct FetchBars {
    output: Output,
    all: MultiProgress,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
}

impl FetchBars {
    pub(super) fn new(output: Output) -> Self {
        let target = if output.progress {
            ProgressDrawTarget::stderr_with_hz(4)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self { output, all: MultiProgress::with_draw_target(target), bars: Mutex::default() }
    }

    pub(super) fn event(&self, event: &Event<'_>) {
        let mut bars = self.bars.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::Started { file, done, total } => {
                let template = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left  {msg}";
                let bar = self.all.add(bar(self.output, total.unwrap_or(0), template));
                bar.set_message(sanitize(file));
                bar.set_position(*done);
                bars.insert((*file).to_owned(), bar);
                if !self.output.progress {
                    self.output.note(&format!("fetching {file}"));
                }
            }
            Event::Advanced { file, done, .. } => {
                if let Some(bar) = bars.get(*file) {
                    bar.set_position(*done);
                }
            }
            Event::Finished { file, .. } => {
                if let Some(bar) = bars.remove(*file) {
                    bar.finish_and_clear();
                }
            }
            Event::Note(text) => self.output.note(text),
            _ => {}
        }
    }

    pub(super) fn finish(&self) {
        let mut bars = self.bars.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for bar in std::mem::take(&mut *bars).into_values() {
            bar.finish_and_clear();
        }
    }
}

/// Shows how far training is: a bar on a terminal, a line now and then elsewhere.
#[derive(Debug)]
pub(super) struct TrainBar {
    output: Output,
    bar: ProgressBar,
    /// Updates of earlier sessions, and when the last line was written.
    state: Mutex<(u64, Option<Instant>)>,
}

impl TrainBar {
    pub(super) fn new(output: Output) -> Self {
        let bar = bar(output, 0, "{bar:30} {pos}/{len} updates  {msg}");
        Self { output, bar, state: Mutex::new((0, None)) }
    }

    pub(super) fn event(&self, event: &evalign_train::Event<'_>, last: &evalign_train::Metrics) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            evalign_train::Event::Started { update, updates, .. } => {
                if *update > 0 {
                    self.output.note(&format!("going on after update {update} of {updates}"));
                }
                state.0 = *update;
            }
            evalign_train::Event::Referenced { batches, of } => {
                self.bar.set_length(*of as u64);
                self.bar.set_position(*batches as u64);
                self.bar.set_message("(micro-batches of the reference)");
                let due = state.1.is_none_or(|at| at.elapsed() > REPORT_EVERY);
                if !self.output.progress && due {
                    state.1 = Some(Instant::now());
                    self.output.note(&format!("reference: {batches}/{of} micro-batches"));
                }
            }
            evalign_train::Event::Progress { update, updates, tokens, seconds: spent } => {
                let done = update - state.0;
                // The micro-batch belongs to an update that is not counted yet.
                let left = (done > 0).then(|| spent / done as f64 * (updates - update) as f64);
                let left = left.map_or_else(String::new, |left| {
                    format!(", {} left", seconds(Duration::from_secs_f64(left)))
                });
                let message =
                    format!("{}{:.0} tokens/s{left}", training_line(last), *tokens as f64 / spent.max(1e-9));
                self.bar.set_length(*updates);
                self.bar.set_position(*update);
                self.bar.set_message(message.clone());
                let due = state.1.is_none_or(|at| at.elapsed() > REPORT_EVERY);
                if !self.output.progress && done > 0 && due {
                    state.1 = Some(Instant::now());
                    self.output.note(&format!("{update}/{updates} updates, {message}"));
                }
            }
            _ => {}
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// The metrics that say most.
fn training_line(last: &evalign_train::Metrics) -> String {
    let named = [
        ("loss", "loss"),
        ("rewards/accuracies", "accuracy"),
        ("rewards/margins", "margin"),
        ("accuracy", "accuracy"),
    ];
    let shown = named.iter().filter_map(|(name, shown)| Some(format!("{shown} {:.3}, ", last.get(name)?)));
    shown.collect()
}
