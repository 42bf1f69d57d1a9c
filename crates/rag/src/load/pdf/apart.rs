//! A PDF in a process of its own, with bounded memory and time: whatever its parsers can be made to do (follow a file
//! without end, unpack gigabytes, make a table of all characters there could be) costs that one document.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{LARGEST_DOCUMENT_BYTES, PdfRefusal, PdfText};

/// Where PDFs are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PdfReader {
    /// In this process: see [`super::read_pdf`].
    #[default]
    Here,
    Apart(PdfProcess),
}

/// A program that gives its standard input to [`super::read_pdf`] and prints the result as JSON. It is started by the
/// system's shell, which can bound what a process takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PdfProcess {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub memory_mib: u64,
    pub time: Duration,
}

/// What a PDF may take: some hundred times what a book does.
const MEMORY_MIB: u64 = 2048;
const TIME: Duration = Duration::from_secs(60);
/// How often a process is asked whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);
/// An escaped text takes at most twice its bytes, but for control characters, which no page is full of.
const LONGEST_RESULT_BYTES: u64 = 2 * LARGEST_DOCUMENT_BYTES;

/// `$1` KiB of address space and `$2` seconds of CPU time, which also ends a process whose parent was killed. macOS
/// bounds no address space.
const BOUNDED: &str = if cfg!(target_os = "macos") {
    r#"ulimit -c 0; ulimit -t "$2" && shift 2 && exec "$@""#
} else {
    r#"ulimit -c 0; ulimit -v "$1" && ulimit -t "$2" && shift 2 && exec "$@""#
};

impl PdfProcess {
    /// With the usual bounds.
    #[must_use]
    pub fn new(program: PathBuf, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { program, arguments, memory_mib: MEMORY_MIB, time: TIME }
    }

    pub(super) fn read(&self, bytes: &[u8]) -> Result<PdfText, PdfRefusal> {
        let unusable = |message: String| PdfRefusal {
            message,
            hint: "if it can be trusted, print it into a new PDF and index that".to_owned(),
        };
        let mut child = self.start().map_err(|error| PdfRefusal {
            message: format!("the process that reads PDFs could not be started: {error}"),
            hint: "it takes a shell (`sh`) and room for one more process".to_owned(),
        })?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (status, result) = std::thread::scope(|scope| {
            // A process that died reads no more: its end says so.
            scope.spawn(move || input.map(|mut input| input.write_all(bytes)));
            let result = scope.spawn(move || {
                let mut result = Vec::new();
                let output = output.map(|output| output.take(LONGEST_RESULT_BYTES).read_to_end(&mut result));
                output.and_then(Result::ok).map(|_| result)
            });
            (self.wait(&mut child), result.join().ok().flatten())
        });
        let Some(status) = status else {
            return Err(unusable(format!("reading it takes longer than {} s", self.time.as_secs())));
        };
        let result = result.and_then(|result| serde_json::from_slice(&result).ok());
        match result.filter(|_| status.success()) {
            Some(read) => read,
            None => Err(unusable(format!(
                "reading it ended in `{status}`: it takes more than {} MiB, or is made to break its reader",
                self.memory_mib
            ))),
        }
    }

    fn start(&self) -> std::io::Result<Child> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(BOUNDED).arg("sh");
        command.arg((self.memory_mib * 1024).to_string());
        // It may use several cores.
        command.arg((self.time.as_secs() * 4).max(1).to_string());
        command.arg(&self.program).args(&self.arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
    }

    /// `None` where it had to be ended.
    fn wait(&self, child: &mut Child) -> Option<ExitStatus> {
        let started = Instant::now();
        while started.elapsed() < self.time {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => std::thread::sleep(PAUSE),
                Err(_) => break,
            }
        }
        // Both fail only where it has ended by itself.
        drop(child.kill());
        drop(child.wait());
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(script: &str) -> PdfProcess {
        let arguments = ["-c".to_owned(), script.to_owned()].into();
        PdfProcess { program: "sh".into(), arguments, memory_mib: 64, time: Duration::from_secs(5) }
    }

    #[test]
    fn what_a_process_prints_is_what_it_read() {
        let found = process(r#"cat >/dev/null; echo '{"Ok": {"text": "a", "pages": [0], "notes": []}}'"#);
        let read = PdfText { text: "a".to_owned(), pages: vec![0], notes: Vec::new() };
        assert_eq!(found.read(&vec![0; 1 << 20]), Ok(read));
        let refused = process(r#"echo '{"Err": {"message": "m", "hint": "h"}}'"#).read(b"").unwrap_err();
        assert_eq!((refused.message.as_str(), refused.hint.as_str()), ("m", "h"));
    }

    #[test]
    fn a_process_that_dies_or_never_ends_costs_the_document() {
        // Input that nobody reads blocks nobody.
        let bytes = vec![0; 1 << 20];
        for script in ["kill -9 $$", "exit 3", "echo '{'", "true"] {
            let refused = process(script).read(&bytes).unwrap_err();
            assert!(refused.message.contains("break its reader"), "{script}: {refused:?}");
        }
        // Reads a line without end into memory.
        let greedy = process("exec tail -n 1 /dev/zero").read(&bytes).unwrap_err();
        assert!(greedy.message.contains("more than 64 MiB"), "{greedy:?}");
        let started = Instant::now();
        let slow = PdfProcess { time: Duration::from_millis(200), ..process("exec sleep 60") };
        let slow = slow.read(&bytes).unwrap_err();
        assert!(slow.message.contains("longer than") && started.elapsed().as_secs() < 20, "{slow:?}");
        let nowhere = PdfProcess { program: "/no/such".into(), ..process("") }.read(&bytes).unwrap_err();
        assert!(nowhere.message.contains("ended in"), "{nowhere:?}");
    }
}
