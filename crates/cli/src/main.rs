//! The `evalign` binary: reads the command line, calls the crates that do the work, prints what they say.
//!
//! `args` says what can be typed, `commands` what happens then, `output` is the only way anything gets
//! printed, `logs` what is told beside it. Standard output carries results, standard error everything else. Exit status: 0 all well; 1
//! the run finished but a comparison or a threshold failed; 2 it did not; 130 interrupted.

mod args;
mod commands;
mod logs;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::output::{Failure, Output, print_error};

/// Small pieces of text and JSON come and go on several threads at once, which the system's allocators are
/// slow at: a tenth of the time that asking a server takes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit status of what was interrupted: 128 and the number of SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

/// How a command that ran to its end came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// A comparison or a threshold failed.
    Failed,
    Interrupted,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = Output::new(cli.global.no_progress).logging(cli.global.log_format);
    let logs = logs::begin(&cli.global);
    keep_decoders_quiet();
    let done = logs.and_then(|_logs| commands::run(cli.command, output));
    match done {
        Ok(Verdict::Good) | Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(1),
        Ok(Verdict::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(Failure::Error { error, hint }) => {
            print_error(output, &error, hint.as_deref());
            ExitCode::from(2)
        }
    }
}

/// Help and version go to standard output and are no error. What was typed wrong is one, with a hint like
/// every other.
fn usage(error: &clap::Error) -> ExitCode {
    const CLOSING: &str = "For more information, try '--help'.";
    let text = error.to_string();
    // Without a terminal there is nothing to colour, and nothing can be done where it has gone.
    match text.trim_end().strip_suffix(CLOSING) {
        Some(text) if error.use_stderr() => {
            let hint = "hint: `--help` after the command shows what it takes";
            Output::new(true).note(&format!("{}\n{hint}", text.trim_end()));
        }
        _ => drop(error.print()),
    }
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

/// A damaged file can make its decoder panic. Where that is caught it becomes an error that names the file; the
/// panic's own words would only stand in front of it. Every other panic is told.
fn keep_decoders_quiet() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if evalign_data::panic_is_caught() {
            tracing::debug!(%panic, "caught");
        } else {
            tell(panic);
        }
    }));
}
