//! A child process, and what it cost.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Ticks per second of the times in `/proc`: fixed in Linux's interface to programs.
const TICKS_PER_SECOND: f64 = 100.0;

const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// What a process took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) success: bool,
    pub(crate) wall: Duration,
    /// User and system time of all its threads.
    pub(crate) cpu: Duration,
    /// Most resident memory.
    pub(crate) peak_mib: f64,
}

/// Runs a command to its end. Its output goes nowhere, its errors to ours.
pub(crate) fn measure(command: &mut Command) -> Measured {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn().expect("the program starts");
    let process = format!("/proc/{}", child.id());
    let mut peak_mib = 0.0;
    // A process that has ended keeps its times until it is waited for; its memory is gone by then.
    let cpu = loop {
        if let Some(peak) = peak(&process) {
            peak_mib = peak;
        }
        let (state, cpu) = state_and_cpu(&process);
        if state == "Z" {
            break cpu;
        }
        std::thread::sleep(BETWEEN_LOOKS);
    };
    let wall = started.elapsed();
    let success = child.wait().expect("it has ended").success();
    Measured { success, wall, cpu, peak_mib }
}

fn peak(process: &str) -> Option<f64> {
    let status = fs_err::read_to_string(format!("{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

fn state_and_cpu(process: &str) -> (String, Duration) {
    let stat = fs_err::read_to_string(format!("{process}/stat")).expect("/proc");
    // The name in parentheses may hold anything; proc_pid_stat(5) counts the fields from 1.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let state = fields.first().copied().unwrap_or("Z").to_owned();
    (state, Duration::from_secs_f64((ticks(14) + ticks(15)) / TICKS_PER_SECOND))
}
