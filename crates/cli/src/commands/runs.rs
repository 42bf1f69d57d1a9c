use evalign_store::{INTERRUPTED, StoredRun};
use serde_json::json;

use crate::Verdict;
use crate::args::RunsArgs;
use crate::commands::context::open_store_to_read;
use crate::output::{Failure, Output, Table};

pub(super) fn runs(args: &RunsArgs, output: Output) -> Result<Verdict, Failure> {
    let store = open_store_to_read()?;
    let runs = store.runs(args.limit)?;
    let statuses = runs.iter().map(|run| store.status_name(&run.id)).collect::<Result<Vec<_>, _>>()?;
    if args.json {
        let list: Vec<_> = runs
            .iter()
            .zip(&statuses)
            .map(|(run, status)| {
                json!({"run_id": run.id, "status": status, "model": run.spec.model.reference,
                       "tasks": task_names(run), "samples_done": run.samples_done, "samples_total": run.samples_total,
                       "created": time(run.created_ms), "fork": run.fork})
            })
            .collect();
        output.json(&list)?;
        return Ok(Verdict::Good);
    }
    if runs.is_empty() {
        output.note("there are no runs yet\nhint: `evalign quickstart` makes one");
        return Ok(Verdict::Good);
    }
    let mut table = Table::new(&["run", "started", "status", "samples", "model", "tasks"], &[3]);
    for (run, status) in runs.iter().zip(&statuses) {
        table.push(vec![
            run.id.to_string(),
            time(run.created_ms),
            (*status).to_owned(),
            format!("{}/{}", run.samples_done, run.samples_total),
            run.spec.model.reference.to_string(),
            task_names(run),
        ]);
    }
    output.result(&table.text())?;
    if statuses.contains(&INTERRUPTED) {
        output.note("hint: `evalign resume RUN` goes on with a run that was interrupted");
    }
    Ok(Verdict::Good)
}

/// The names that were typed.
fn task_names(run: &StoredRun) -> String {
    if let Some(procedure) = run.request["procedure"].as_str() {
        return procedure.to_owned();
    }
    let typed: Option<Vec<&str>> =
        run.request["tasks"].as_array().map(|tasks| tasks.iter().filter_map(|task| task.as_str()).collect());
    typed.unwrap_or_default().join(", ")
}

/// `2026-11-22 02:31:05Z`.
fn time(unix_ms: u64) -> String {
    let shown = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    shown.map_or_else(|| "-".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}
