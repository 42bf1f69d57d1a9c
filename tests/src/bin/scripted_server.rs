//! The scripted server as a process, so that any program can be driven against it:
//!
//! ```text
//! cargo run -p evalign-testkit --bin scripted-server -- --port 8000 --latency-ms 20 --cliff 64
//! curl http://127.0.0.1:8000/scripted/summary
//! ```

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use evalign_testkit::openai_server::{Behaviour, ScriptedServer};

/// An OpenAI-compatible server that answers, and fails, as told.
#[derive(Debug, Parser)]
#[command(name = "scripted-server")]
struct Arguments {
    /// Port on 127.0.0.1; 0 is any free one.
    #[arg(long, default_value_t = 0)]
    port: u16,

    /// How it behaves, as JSON (`Behaviour` in tests/src/openai_server says what there is).
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,

    /// Time from a request's arrival to its answer; overrides the script.
    #[arg(long, value_name = "MS")]
    latency_ms: Option<f64>,

    /// Answer 429 above so many requests in flight; overrides the script.
    #[arg(long, value_name = "N")]
    cliff: Option<usize>,

    /// A model it has; may be repeated.
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut behaviour = match &arguments.script {
        Some(path) => serde_json::from_slice::<Behaviour>(&fs_err::read(path)?)
            .with_context(|| path.display().to_string())?,
        None => Behaviour::default(),
    };
    behaviour.latency_ms = arguments.latency_ms.unwrap_or(behaviour.latency_ms);
    behaviour.cliff = arguments.cliff.or(behaviour.cliff);
    behaviour.models.extend(arguments.model);
    let server = ScriptedServer::start_at(behaviour, arguments.port)?;
    writeln!(std::io::stdout(), "{}", server.base_url())?;
    // Until it is killed.
    loop {
        std::thread::park();
    }
}
