//! What runs of several steps have in common: an async runtime that watches for Ctrl-C, and how they end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use evalign_bench::{Cancel, Cast, Draft, Progress, RunError, RunRequest};
use evalign_core::{GenerateParams, ModelRef, Provider, RunId, RunStatus};
use evalign_model::{LoadOptions, Model};
use evalign_store::Store;

use crate::Verdict;
use crate::args::AnswerArgs;
use crate::commands::context::{absolute, load_model};
use crate::commands::progress::RunBar;
use crate::output::{Failure, Output};

/// A terminal may deliver one key press to the whole process group and a wrapper repeat it: within this time it is one.
pub(super) const ONE_PRESS: Duration = Duration::from_millis(200);

/// Does the work on an async runtime while watching for Ctrl-C.
pub(super) fn on_runtime<T>(
    output: Output,
    work: impl AsyncFnOnce(&dyn Progress, &Cancel) -> Result<T, RunError>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let bar = RunBar::new(output);
    let cancel = Cancel::default();
    let done = runtime.block_on(async {
        tokio::spawn(watch_interrupts(cancel.clone(), output));
        work(&bar, &cancel).await
    });
    bar.finish();
    // The engine may be in the middle of a batch; nobody waits for it.
    runtime.shutdown_timeout(Duration::from_millis(10));
    Ok(done?)
}

/// The first Ctrl-C (or SIGTERM) ends the run with what is finished, the second at once.
pub(super) async fn watch_interrupts(cancel: Cancel, output: Output) {
    let mut last: Option<Instant> = None;
    loop {
        if interrupted().await.is_err() {
            return;
        }
        if last.is_some_and(|at| at.elapsed() < ONE_PRESS) {
            continue;
        }
        last = Some(Instant::now());
        cancel.raise();
        output.note(
            "stopping: what is being answered is still taken, nothing more is asked (again to stop at once)",
        );
    }
}

#[cfg(unix)]
pub(super) async fn interrupted() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
pub(super) async fn interrupted() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

/// How a run that stopped before its end is told, and the exit status. `None` for a completed one.
pub(super) fn stopped(run: &RunId, status: RunStatus, output: Output) -> Option<Verdict> {
    let (what, verdict) = match status {
        RunStatus::Completed => return None,
        RunStatus::BudgetExhausted => {
            ("the budget is exhausted; everything answered is kept", Verdict::Failed)
        }
        _ => ("interrupted; everything finished is kept", Verdict::Interrupted),
    };
    output.note(&format!("{what}\nhint: go on with `evalign resume {run}`"));
    Some(verdict)
}

/// A request for answers to what is no benchmark.
pub(super) fn answer_request(model: &ModelRef, tasks: Vec<String>, args: &AnswerArgs) -> RunRequest {
    let mut request = RunRequest::new(located(model), tasks);
    request.limit = args.limit;
    request.max_tokens = args.max_tokens;
    request.temperature = args.temperature;
    request.top_p = args.top_p;
    request.chat_template = args.no_chat_template.then_some(false);
    request.seed = args.seed;
    request.dtype = args.engine.dtype;
    request.device.clone_from(&args.engine.device);
    request.memory_gib = args.engine.memory_gib;
    request.deterministic = args.engine.deterministic;
    request.base_url.clone_from(&args.server.base_url);
    request.server = args.server.server;
    request.budget_tokens = args.budget_tokens;
    request.budget_requests = args.budget_requests;
    request.model_settings = args.server.model_settings.as_deref().map(absolute);
    request.stream = args.server.stream;
    request.data_root = args.data.data_root.as_deref().map(absolute);
    request.include_path = args.data.include_path.iter().map(|path| absolute(path)).collect();
    request.offline = args.data.offline;
    request
}

/// With an absolute path, so that the run is the same from every directory.
pub(super) fn located(model: &ModelRef) -> ModelRef {
    let mut model = model.clone();
    let path = std::path::Path::new(&model.name);
    if model.provider != Provider::Openai && path.is_relative() && path.exists() {
        model.name = absolute(path).display().to_string();
    }
    model.adapter = model.adapter.map(|adapter| absolute(&adapter));
    model
}

/// The draft with the judges that the request names, where it names any. `model` is loaded already, in case it judges
/// itself.
pub(super) fn judged(
    draft: Draft,
    request: &RunRequest,
    loaded: (&Arc<dyn Model>, &LoadOptions),
    store: &Store,
    output: Output,
) -> Result<Draft, Failure> {
    draft.with_judges(loaded, store, |judge, options| {
        if let (Some(path), None) = (&request.prices, request.price_of(judge)?) {
            output.note(&format!("note: cost unknown: {} has no price for `{}`", path.display(), judge.name));
        }
        load_model(judge, options, output)
    })
}

/// The models of a run of several steps, loaded as those of one step are.
pub(super) fn cast(
    parts: &[(&ModelRef, GenerateParams)],
    request: &RunRequest,
    store: &Store,
    output: Output,
) -> Result<Cast, Failure> {
    let load = |reference: &ModelRef, options: &LoadOptions| load_model(reference, options, output);
    let cast = Cast::load(parts, request, store, load)?;
    for note in cast.notes() {
        output.note(&format!("note: {note}"));
    }
    Ok(cast)
}
