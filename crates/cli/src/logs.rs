//! What the program tells of its work while it works: on standard error as text or JSON, and as traces where they are
//! compiled in (feature `otel`) and somebody is named to take them (`OTEL_EXPORTER_OTLP_ENDPOINT`).

#[cfg(feature = "otel")]
mod traces;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};

use crate::args::{GlobalArgs, LogFormat};
use crate::output::{Failure, LogWriter};

/// Lives as long as there is something to tell: what is held back is told when it goes.
#[derive(Debug)]
pub(crate) struct Logs {
    #[cfg(feature = "otel")]
    _traces: Option<traces::Traces>,
}

/// # Errors
/// Traces are asked for and cannot be sent.
pub(crate) fn begin(global: &GlobalArgs) -> Result<Logs, Failure> {
    let default = match global.verbose {
        // The vector engine warns of settings that it has no way to be given, the parser of pages of what it leaves to
        // others in pages that are read all the same.
        0 => "warn,qdrant_edge=error,html5ever=error",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt::layer::<Registry>().with_writer(LogWriter::new).with_ansi(false);
    let lines = match global.log_format {
        LogFormat::Text => lines.without_time().with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    #[cfg(feature = "otel")]
    {
        let traces = traces::Traces::begin()?;
        subscriber.with(traces.as_ref().map(traces::Traces::layer)).init();
        Ok(Logs { _traces: traces })
    }
    #[cfg(not(feature = "otel"))]
    {
        subscriber.init();
        Ok(Logs {})
    }
}

/// Whether traces are asked for that this program was built without.
pub(crate) fn lacks_traces() -> bool {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !cfg!(feature = "otel") && ENDPOINTS.iter().any(is_set)
}

/// Who takes traces, as OpenTelemetry's programs read it.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
