//! What the service counts, in Prometheus's text format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use evalign_model::EngineLoad;

/// Upper bounds of the buckets of all histograms, in seconds.
const BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0];

#[derive(Clone, Copy, Debug, Default)]
struct Histogram {
    /// Observations up to each bound, and beyond the last.
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, seconds: f64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum += seconds;
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut cumulative = 0;
        let comma = if labels.is_empty() { "" } else { "," };
        for (count, bound) in
            self.counts.iter().zip(BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]))
        {
            cumulative += count;
            // Writing into a text does not fail.
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {cumulative}");
        }
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}_sum{braces} {}\n{name}_count{braces} {cumulative}", self.sum);
    }
}

/// By method, route as declared, and status: never by what clients choose.
type Route = (String, String, u16);

/// Counters and histograms of one server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<Route, Histogram>>,
    /// From a request for a completion to its first token, by model.
    first_token: Mutex<BTreeMap<String, Histogram>>,
    tokens: Mutex<BTreeMap<(String, &'static str), u64>>,
    pub(crate) in_flight: AtomicI64,
    pub(crate) streams: AtomicI64,
    pub(crate) panics: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) cached_answers: AtomicU64,
    pub(crate) samples: AtomicU64,
    pub(crate) sample_tokens: AtomicU64,
}

impl Metrics {
    pub(crate) fn request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (method.to_owned(), route.to_owned(), status);
        requests.entry(key).or_default().observe(took.as_secs_f64());
    }

    pub(crate) fn first_token(&self, model: &str, took: Duration) {
        let mut models = self.first_token.lock().unwrap_or_else(PoisonError::into_inner);
        models.entry(model.to_owned()).or_default().observe(took.as_secs_f64());
    }

    pub(crate) fn tokens(&self, model: &str, prompt: u64, generated: u64) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        *tokens.entry((model.to_owned(), "prompt")).or_default() += prompt;
        *tokens.entry((model.to_owned(), "generated")).or_default() += generated;
    }

    /// Everything, with how many jobs wait and are being done, and what the engines do.
    pub(crate) fn text(&self, queued: u64, running: u64, engines: &[(&str, EngineLoad)]) -> String {
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, values: &[(String, String)]| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        };
        let one = |value: String| vec![(String::new(), value)];
        let counter = |value: &AtomicU64| one(value.load(Ordering::Relaxed).to_string());
        let gauge = |value: &AtomicI64| one(value.load(Ordering::Relaxed).to_string());
        family("evalign_jobs_queued", "gauge", "Jobs that wait.", &one(queued.to_string()));
        family("evalign_jobs_running", "gauge", "Jobs being done.", &one(running.to_string()));
        family("evalign_requests_in_flight", "gauge", "Requests being answered.", &gauge(&self.in_flight));
        family("evalign_event_streams", "gauge", "Open event streams.", &gauge(&self.streams));
        family("evalign_panics_total", "counter", "Handlers that panicked.", &counter(&self.panics));
        family(
            "evalign_refused_total",
            "counter",
            "Requests refused for load or rate.",
            &counter(&self.refused),
        );
        family("evalign_samples_total", "counter", "Samples finished.", &counter(&self.samples));
        family(
            "evalign_sample_tokens_total",
            "counter",
            "Tokens of these, read and written.",
            &counter(&self.sample_tokens),
        );
        family(
            "evalign_cached_answers_total",
            "counter",
            "Samples answered from the response cache.",
            &counter(&self.cached_answers),
        );
        let tokens: Vec<_> = self
            .tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|((model, kind), count)| {
                (format!("{{model=\"{model}\",kind=\"{kind}\"}}"), count.to_string())
            })
            .collect();
        family(
            "evalign_tokens_total",
            "counter",
            "Tokens of completions, those included that their clients left.",
            &tokens,
        );
        let of_engines = |value: fn(&EngineLoad) -> u64| -> Vec<_> {
            let told = |(model, load): &(&str, EngineLoad)| {
                (format!("{{model=\"{model}\"}}"), value(load).to_string())
            };
            engines.iter().map(told).collect()
        };
        let steps = of_engines(|load| load.steps);
        family("evalign_engine_steps_total", "counter", "Forward passes for completions.", &steps);
        let sequences = of_engines(|load| load.sequences as u64);
        family("evalign_engine_sequences", "gauge", "Completions being written.", &sequences);
        self.histograms(&mut out);
        out
    }

    fn histograms(&self, out: &mut String) {
        let name = "evalign_http_request_seconds";
        let _ = writeln!(out, "# HELP {name} Time to the head of an answer.\n# TYPE {name} histogram");
        for ((method, route, status), histogram) in
            &*self.requests.lock().unwrap_or_else(PoisonError::into_inner)
        {
            let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
            histogram.write(out, name, &labels);
        }
        let name = "evalign_time_to_first_token_seconds";
        let _ = writeln!(out, "# HELP {name} Time to a completion's first token.\n# TYPE {name} histogram");
        for (model, histogram) in &*self.first_token.lock().unwrap_or_else(PoisonError::into_inner) {
            histogram.write(out, name, &format!("model=\"{model}\""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative() {
        let metrics = Metrics::default();
        metrics.request("GET", "/v1/runs", 200, Duration::from_millis(2));
        metrics.request("GET", "/v1/runs", 200, Duration::from_secs(500));
        let text = metrics.text(3, 1, &[]);
        assert!(text.contains("evalign_jobs_queued 3\n"));
        let labels = "method=\"GET\",route=\"/v1/runs\",status=\"200\"";
        for line in [
            format!("evalign_http_request_seconds_bucket{{{labels},le=\"0.001\"}} 0"),
            format!("evalign_http_request_seconds_bucket{{{labels},le=\"0.0025\"}} 1"),
            format!("evalign_http_request_seconds_bucket{{{labels},le=\"120\"}} 1"),
            format!("evalign_http_request_seconds_bucket{{{labels},le=\"+Inf\"}} 2"),
            format!("evalign_http_request_seconds_count{{{labels}}} 2"),
        ] {
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }
}
