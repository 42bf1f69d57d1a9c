//! What asking a server costs: throughput, memory, processor time and how the adaptive limit behaves,
//! measured on the real binary against the scripted server (which runs in this process).
//!
//! ```text
//! cargo bench -p evalign --bench requests                      # all but the comparison
//! cargo bench -p evalign --bench requests -- throughput memory cliffs
//! cargo bench -p evalign --bench requests -- lm-eval=PYTHON    # a Python that has lm_eval 0.4.13
//! ```
//!
//! Linux only, because it reads `/proc`. Everything is printed as one JSON object for each measurement;
//! a measurement that misses its target (in `target`) makes the exit status 1. Run it on a calm machine.

#![expect(clippy::expect_used, clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod requests {
    pub(crate) mod other;
    pub(crate) mod process;
    pub(crate) mod work;
}

use std::process::ExitCode;
use std::time::Duration;

use evalign_testkit::openai_server::{Behaviour, Requests, ScriptedServer};
use requests::other::lm_eval;
use requests::process::Measured;
use requests::work::Work;
use serde_json::{Value, json};

const LATENCY_MS: f64 = 20.0;

/// Share of the ideal throughput, `limit / time the server takes`, that must be reached.
const LEAST_SHARE: f64 = 0.9;
const MOST_MIB: f64 = 150.0;
const MOST_CPU_MICROS: f64 = 100.0;
/// How far from the server's hidden cliff the adaptive limit may settle.
const CLIFF_TOLERANCE: f64 = 0.1;
const MOST_BURSTS: usize = 2;
/// Requests per second against those of lm-evaluation-harness.
const LEAST_SPEEDUP: f64 = 5.0;

fn main() -> ExitCode {
    let mut wanted: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if wanted.is_empty() {
        wanted = ["throughput", "memory", "cliffs"].map(str::to_owned).to_vec();
    }
    let mut good = true;
    for what in &wanted {
        let reports = match what.split_once('=') {
            None if what == "throughput" => vec![throughput()],
            None if what == "memory" => vec![memory()],
            None if what == "cliffs" => cliffs(20),
            Some(("cliffs", seeds)) => cliffs(seeds.parse().expect("a number of seeds")),
            Some(("lm-eval", python)) => compare(python),
            _ => {
                eprintln!("unknown measurement `{what}`: throughput, memory, cliffs[=SEEDS], lm-eval=PYTHON");
                return ExitCode::from(2);
            }
        };
        for report in reports {
            good &= report["good"] == true;
            println!("{report}");
        }
    }
    ExitCode::from(u8::from(!good))
}

fn server(behaviour: Behaviour) -> ScriptedServer {
    ScriptedServer::start(Behaviour { latency_ms: LATENCY_MS, ..behaviour })
}

/// Only what is asked about documents: finding out what the server can do is no part of the work.
fn asked(server: &ScriptedServer) -> Requests {
    server.requests().only(|entry| entry.text.starts_with(Work::PROMPT))
}

/// 10,000 short requests at a fixed limit.
fn throughput() -> Value {
    const REQUESTS: usize = 10_000;
    const LIMIT: f64 = 64.0;
    let server = server(Behaviour::default());
    let measured = Work::of(REQUESTS).evaluate(&server, &["--max-concurrency", "64"]);
    let requests = asked(&server);
    // What the server takes by its own clock, which is a timer's: whole milliseconds, rounded up.
    let service_ms = requests.mean_service_ms();
    let ideal = LIMIT / (service_ms / 1000.0);
    let reached = requests.len() as f64 / requests.span().as_secs_f64();
    let micros = 1e6 * measured.cpu.as_secs_f64() / requests.len() as f64;
    report(
        json!({"measurement": "throughput", "limit": LIMIT, "service_ms": service_ms, "ideal_per_second": ideal, "per_second": reached,
               "share_of_ideal": reached / ideal, "cpu_micros_per_request": micros,
               "target": {"share_of_ideal": LEAST_SHARE, "cpu_micros_per_request": MOST_CPU_MICROS}}),
        &measured,
        &requests,
        reached / ideal >= LEAST_SHARE && micros < MOST_CPU_MICROS,
    )
}

/// 100,000 samples, for the memory they take.
fn memory() -> Value {
    const REQUESTS: usize = 100_000;
    let server = ScriptedServer::start(Behaviour { latency_ms: 5.0, ..Behaviour::default() });
    let measured = Work::of(REQUESTS).evaluate(&server, &["--max-concurrency", "64"]);
    let requests = asked(&server);
    let mib = measured.peak_mib;
    let target = json!({"peak_mib": MOST_MIB});
    let good = mib < MOST_MIB && requests.len() >= REQUESTS;
    report(json!({"measurement": "memory", "target": target}), &measured, &requests, good)
}

/// The adaptive limit below cliffs it does not know of, with latencies that vary.
fn cliffs(seeds: u64) -> Vec<Value> {
    let mut reports = Vec::new();
    // The highest cliff with a longer latency: at 20 ms it would take 15,000 requests a second to reach it,
    // and it is not the machine that is measured here.
    for (cliff, latency_ms, count) in [(8, LATENCY_MS, 1500), (64, LATENCY_MS, 10_000), (300, 100.0, 15_000)]
    {
        for seed in 0..seeds {
            let behaviour = Behaviour { seed, latency_ms, cliff: Some(cliff), ..Behaviour::default() };
            reports.push(below_cliff(cliff, count, Behaviour { latency_jitter: 0.25, ..behaviour }));
        }
    }
    reports
}

fn below_cliff(cliff: usize, count: usize, behaviour: Behaviour) -> Value {
    let (seed, round_trip) = (behaviour.seed, Duration::from_secs_f64(behaviour.latency_ms / 1000.0));
    let server = ScriptedServer::start(behaviour);
    let measured = Work::of(count).evaluate(&server, &["--max-concurrency", "auto"]);
    let requests = asked(&server);
    let settled = requests.settled_in_flight(0.7);
    let bursts = requests.bursts_of_429(round_trip);
    let off = settled.abs_diff(cliff) as f64 / cliff as f64;
    let good = off <= CLIFF_TOLERANCE && bursts <= MOST_BURSTS;
    report(
        json!({"measurement": "cliff", "cliff": cliff, "seed": seed, "settled": settled, "bursts": bursts,
               "target": {"settled_within": CLIFF_TOLERANCE, "bursts": MOST_BURSTS}}),
        &measured,
        &requests,
        good,
    )
}

/// The same server and the same prompts, driven by lm-evaluation-harness and by evalign.
fn compare(python: &str) -> Vec<Value> {
    const REQUESTS: usize = 3000;
    let work = Work::of(REQUESTS);
    let mut reports = Vec::new();
    let mut best: f64 = 0.0;
    for concurrent in [16, 64, 256, 1000] {
        let server = server(Behaviour::default());
        let measured = lm_eval(python, &work, &server, concurrent);
        let requests = asked(&server);
        let reached = requests.len() as f64 / requests.span().as_secs_f64();
        best = best.max(reached);
        let what = json!({"measurement": "lm-eval", "num_concurrent": concurrent, "per_second": reached});
        reports.push(report(what, &measured, &requests, requests.len() >= REQUESTS));
    }
    for limit in ["64", "256", "auto"] {
        let server = server(Behaviour::default());
        let measured = Work::of(REQUESTS).evaluate(&server, &["--max-concurrency", limit]);
        let requests = asked(&server);
        let reached = requests.len() as f64 / requests.span().as_secs_f64();
        let what = json!({"measurement": "evalign beside lm-eval", "limit": limit, "per_second": reached,
                          "times_lm_eval_at_its_best": reached / best,
                          "target": {"times_lm_eval_at_its_best": LEAST_SPEEDUP}});
        // Whatever the limit, one of them must do; the widest is what a user of speed would choose.
        let good = limit != "256" || reached / best >= LEAST_SPEEDUP;
        reports.push(report(what, &measured, &requests, good));
    }
    reports
}

fn report(mut what: Value, measured: &Measured, requests: &Requests, good: bool) -> Value {
    let round_trip = Duration::from_secs_f64(LATENCY_MS / 1000.0);
    what["good"] = json!(good && measured.success);
    what["process"] = json!({
        "success": measured.success,
        "wall_seconds": measured.wall.as_secs_f64(),
        "cpu_seconds": measured.cpu.as_secs_f64(),
        "peak_mib": measured.peak_mib,
    });
    what["server"] = requests.summary(round_trip);
    what
}
