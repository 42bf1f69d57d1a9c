use std::net::SocketAddr;

use evalign_fetch::Home;
use evalign_serve::{
    App, BLOCKING_THREADS, Begun, Layer, ServedModels, Setting, Settings, Shutdown, begin, check_variables,
    listen, service, settings,
};
use evalign_store::Store;
use tokio::net::TcpListener;

use crate::Verdict;
use crate::args::{ServeArgs, ServeSettingsArgs};
use crate::commands::context::absolute;
use crate::commands::procedure::interrupted;
use crate::logs::lacks_traces;
use crate::output::{Failure, Output};

/// The settings in effect, and what each is and where it comes from.
pub(super) fn settings_of(
    args: &ServeSettingsArgs,
    home: &Home,
) -> Result<(Settings, Vec<Setting>), Failure> {
    let served = |models: &[(String, evalign_core::ModelRef)]| {
        (!models.is_empty()).then(|| ServedModels(models.iter().cloned().collect()))
    };
    let flags = Layer {
        address: args.address,
        models: served(&args.models),
        embedders: served(&args.embedders),
        workers: args.workers,
        data_root: args.data_root.as_deref().map(|path| Some(absolute(path))),
        include_path: (!args.include_path.is_empty())
            .then(|| args.include_path.iter().map(|path| absolute(path)).collect()),
        offline: args.offline.then_some(true),
        ..Layer::default()
    };
    check_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
    let lookup = |name: &str| std::env::var(name).ok();
    Ok(settings(home.path(), args.config.as_deref(), &lookup, flags)?)
}

pub(super) fn serve(args: &ServeArgs, output: Output) -> Result<Verdict, Failure> {
    let home = Home::from_env()?;
    let (settings, _) = settings_of(&args.settings, &home)?;
    let store = Store::open(home.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let address = settings.address;
    // A first key is shown once: it is not made by a server that cannot listen, and told before anything else can fail.
    let listener = runtime
        .block_on(TcpListener::bind(address))
        .map_err(|source| Failure::hinted(evalign_serve::ServeError::Listen { address, source }))?;
    let address = listener.local_addr().map_err(Failure::from_io)?;
    let begun = begin(home.path(), &store, &settings)?;
    tell(&begun, &store, address, output)?;
    let app = App::new(home.path(), store, settings)?;
    let router = service(app.clone());
    if lacks_traces() {
        output.note(
            "traces are asked for (OTEL_EXPORTER_OTLP_ENDPOINT), and this program was built without `otel`",
        );
    }
    output.note(&format!("listening on http://{address} (Ctrl-C ends it)"));
    let shutdown = Shutdown::default();
    runtime.block_on(async {
        tokio::spawn(watch_signals(shutdown.clone(), output));
        listen(app, router, listener, &shutdown).await;
    });
    // An engine may be in the middle of a batch; nobody waits for it.
    runtime.shutdown_background();
    drop(begun);
    Ok(Verdict::Good)
}

/// What was found at the start, and the first key if it was made now.
fn tell(begun: &Begun, store: &Store, address: SocketAddr, output: Output) -> Result<(), Failure> {
    if begun.taken_over > 0 {
        output.note(&format!("{} runs of an earlier server go on", begun.taken_over));
    }
    if let Some(key) = &begun.first_key {
        let link = evalign_serve::login_link(store, &key.record.id)?;
        output.note(&format!(
            "there was no key: this is the first, for everything; it is shown this once\n  {}\n\
             log in with a browser, once, within 15 minutes: http://{address}{link}",
            key.expose()
        ));
    }
    Ok(())
}

/// The first signal drains, the second ends at once.
async fn watch_signals(shutdown: Shutdown, output: Output) {
    while interrupted().await.is_ok() {
        shutdown.raise();
        output.note("ending: what is being answered is still answered (again to end at once)");
    }
}
