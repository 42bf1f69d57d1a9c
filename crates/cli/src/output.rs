//! The one way out: everything evalign prints passes through [`Output`], and with it through
//! [`sanitize`], because models and datasets decide part of what is printed.

mod error;
mod tables;

use std::io::{IsTerminal, Write};
use std::path::Path;

use evalign_core::is_obeyed;
pub(crate) use evalign_core::sanitize;

use crate::args::LogFormat;
pub(crate) use error::{Failure, print_error};
pub(crate) use tables::{Table, csv, estimate, markdown, percent_or_number, precision, seconds};

/// Standard output for results, standard error for everything else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) progress: bool,
    log_format: LogFormat,
}

impl Output {
    pub(crate) fn new(no_progress: bool) -> Self {
        let quiet = no_progress || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self { progress: !quiet && std::io::stderr().is_terminal(), log_format: LogFormat::Text }
    }

    /// With standard error in this format. Bars are for people.
    pub(crate) fn logging(self, log_format: LogFormat) -> Self {
        Self { progress: self.progress && log_format == LogFormat::Text, log_format }
    }

    /// A result, with a line end.
    ///
    /// # Errors
    /// [`Failure::BrokenPipe`] when nobody reads any more.
    pub(crate) fn result(self, text: &str) -> Result<(), Failure> {
        self.raw_result(&(sanitize(text) + "\n"))
    }

    /// Part of a result, at once: the rest of its line follows.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub(crate) fn part(self, text: &str) -> Result<(), Failure> {
        self.raw_result(&sanitize(text))
    }

    /// A JSON document. What a terminal would obey is escaped the way JSON escapes, so that a reader of
    /// the document gets it back.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub(crate) fn json(self, value: &impl serde::Serialize) -> Result<(), Failure> {
        self.raw_result(&(json_text(value)? + "\n"))
    }

    /// Writes what would go to standard output into a file instead, in place only when complete.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn file(self, path: &Path, text: &str) -> Result<(), Failure> {
        let partial = path.with_added_extension("partial");
        fs_err::write(&partial, sanitize(text) + "\n").map_err(Failure::from_io)?;
        fs_err::rename(&partial, path).map_err(Failure::from_io)?;
        self.note(&format!("written to {}", path.display()));
        Ok(())
    }

    fn raw_result(self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::from_io)
    }

    /// A line about what is going on.
    pub(crate) fn note(self, text: &str) {
        self.line("INFO", text);
    }

    fn line(self, level: &str, text: &str) {
        let line = match self.log_format {
            LogFormat::Text => text.to_owned(),
            // As the lines of the log are.
            LogFormat::Json => {
                let now = jiff::Timestamp::now().to_string();
                serde_json::json!({"timestamp": now, "level": level, "message": text, "target": "evalign"})
                    .to_string()
            }
        };
        // Nothing can be done, and nothing is lost, where standard error is closed.
        let _ = writeln!(std::io::stderr().lock(), "{}", sanitize(&line));
    }
}

/// Pretty JSON in which what a terminal would obey is escaped the way JSON escapes.
///
/// # Errors
/// A value that JSON cannot hold.
pub(crate) fn json_text(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    let mut safe = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        // Line feeds of the layout; those inside strings are escaped already.
        if c == '\n' || !is_obeyed(c) {
            safe.push(c);
        } else {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
    }
    Ok(safe)
}

/// Log lines on standard error, through [`sanitize`] like everything else.
#[derive(Debug)]
pub(crate) struct LogWriter;

impl LogWriter {
    pub(crate) fn new() -> Self {
        Self
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let clean = sanitize(&String::from_utf8_lossy(line));
        std::io::stderr().lock().write_all(clean.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().lock().flush()
    }
}
