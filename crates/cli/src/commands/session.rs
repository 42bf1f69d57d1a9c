use evalign_bench::{ActiveRun, Catalog, KeptResults, Plan, RunEnd, RunRequest, conclude};
use evalign_core::{RunId, RunResults, RunStatus};
use evalign_model::Model;
use evalign_store::Store;

use crate::Verdict;
use crate::args::Tolerance;
use crate::commands::context::{cached, owner};
use crate::commands::procedure::on_runtime;
use crate::commands::show::{judges_text, results_text};
use crate::commands::spending::Spending;
use crate::output::{Failure, Output};

/// Which run the plan becomes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start<'a> {
    /// The one its specification has, or a new one.
    BySpec,
    /// A new one in any case.
    Fork,
    /// This one, which was checked to have the plan's specification.
    Resume(&'a RunId),
}

/// What to do with a planned run.
pub(super) struct Session<'a> {
    pub(super) command: &'a str,
    pub(super) request: &'a RunRequest,
    pub(super) catalog: &'a Catalog,
    pub(super) store: &'a Store,
    pub(super) start: Start<'a>,
    pub(super) json: bool,
    pub(super) tolerance: Tolerance,
    pub(super) spending: Spending,
    /// Ask again for samples whose call failed in an earlier session.
    pub(super) retry_errors: bool,
    /// Ask the model even where its answer is known.
    pub(super) no_cache: bool,
}

impl Session<'_> {
    /// Runs what is pending, aggregates, keeps and prints the results.
    pub(super) fn run(
        &self,
        plan: &Plan,
        model: &std::sync::Arc<dyn Model>,
        output: Output,
    ) -> Result<(Verdict, RunResults), Failure> {
        for note in &plan.notes {
            output.note(&format!("note: {note}"));
        }
        let owner = owner(self.command);
        let mut run = match self.start {
            Start::Resume(id) => ActiveRun::resume(id, self.store, &owner)?,
            Start::BySpec | Start::Fork => {
                let request = serde_json::to_value(self.request).map_err(anyhow::Error::from)?;
                ActiveRun::start(plan, request, self.store, &owner, matches!(self.start, Start::Fork))?
            }
        };
        if self.retry_errors {
            let reopened = run.reopen_failed()?;
            output.note(&format!("{reopened} samples had no answer and are asked again"));
        }
        run.set_price(self.spending.price);
        run.set_budget(self.spending.budget.clone());
        self.spending.count_earlier(&self.store.run(&run.id)?);
        self.tell_start(&run, plan, output)?;
        let remembering = (!self.no_cache).then(|| cached(model.clone(), self.store));
        let asked: &dyn Model = match &remembering {
            Some(model) => model,
            None => &**model,
        };
        let mut end =
            on_runtime(output, async |progress, cancel| run.drive(plan, asked, progress, cancel).await)?;
        if end.from_cache > 0 {
            let (known, finished) = (end.from_cache, end.finished);
            output.note(&format!(
                "note: {known} of {finished} answers were known from earlier runs of this model and not asked again \
                 (`--no-cache` asks)"
            ));
        }
        let results = conclude(&run, &end, self.store, self.catalog)?;
        run.release()?;
        let kept = KeptResults { results, judging: std::mem::take(&mut end.judging) };
        if self.json {
            output.json(&kept)?;
        } else {
            output.result(&(results_text(&kept.results) + &judges_text(&kept.judging)))?;
        }
        Ok((self.verdict(&end, plan.total_samples(), output), kept.results))
    }

    fn tell_start(&self, run: &ActiveRun, plan: &Plan, output: Output) -> Result<(), Failure> {
        let (done, total) = (run.finished(), plan.total_samples());
        let state = match (run.existed, done) {
            (false, _) => format!("{total} samples"),
            (true, done) if done == total => "all samples are there from before".to_owned(),
            (true, done) => format!("going on after {done} of {total} samples"),
        };
        output.note(&format!("{} in {}: {state}", run.id, self.store.path().display()));
        if self.store.run(&run.id)?.scored_by.is_some() {
            output.note(if done == total {
                "note: this run was scored again, by other rules than it was run with (`evalign rescore`); these \
                 are its results by them"
            } else {
                "note: this run was scored again, by other rules than it was run with; as samples are added to \
                 it, all are scored by those it was run with, and `evalign rescore` can be repeated afterwards"
            });
        }
        Ok(())
    }

    fn verdict(&self, end: &RunEnd, total: u64, output: Output) -> Verdict {
        if end.status == RunStatus::Cancelled {
            output.note(&format!(
                "interrupted; everything finished is kept\nhint: go on with `evalign resume {}`",
                end.run
            ));
            return Verdict::Interrupted;
        }
        if end.status == RunStatus::BudgetExhausted {
            output.note(&format!(
                "the budget is exhausted; everything answered is kept\n\
                 hint: go on with `evalign resume {}` and a larger `--budget-*`; it counts all sessions of the run",
                end.run
            ));
            return Verdict::Failed;
        }
        let (failed, run) = (end.failed, &end.run);
        if self.tolerance.exceeded(failed, total) {
            output.note(&format!(
                "{failed} of {total} samples have no answer because the call failed; they count as neither right nor \
                 wrong\nhint: `evalign show {run} --samples --outcome error` shows why, `evalign resume {run} \
                 --retry-errors` asks them again"
            ));
            return Verdict::Failed;
        }
        Verdict::Good
    }
}
