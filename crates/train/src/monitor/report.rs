//! One page that needs nothing else: what was trained, on what, and how it went.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::chart::{Series, chart, escape, short};
use super::jsonl::{Line, read_metrics};
use crate::TrainError;
use crate::checkpoint::write_synced;

/// What the page says beside the curves: names and values.
pub type Facts = Vec<(String, String)>;

/// A prompt and what the model answered before and after training.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SampledText {
    pub prompt: String,
    pub before: String,
    /// Absent before the end.
    pub after: Option<String>,
}

/// Charts, in order: a title and the metrics in it.
const CHARTS: [(&str, &[&str]); 10] = [
    ("Loss", &["loss", "eval_loss"]),
    ("Rewards", &["rewards/chosen", "rewards/rejected"]),
    ("Margin", &["rewards/margins", "eval_rewards/margins", "margin", "eval_margin"]),
    ("Accuracy", &["rewards/accuracies", "eval_rewards/accuracies", "accuracy", "eval_accuracy"]),
    ("Token accuracy", &["mean_token_accuracy", "eval_mean_token_accuracy"]),
    ("Log-probabilities", &["logps/chosen", "logps/rejected"]),
    ("KL to the reference, on chosen answers", &["kl", "eval_kl"]),
    ("Lengths of completions, in tokens", &["lengths/chosen", "lengths/rejected", "eval_lengths/generated"]),
    ("Gradient norm, before clipping", &["grad_norm"]),
    ("Learning rate", &["learning_rate"]),
];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#222}\
    .grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1rem}figure{margin:0}\
    figcaption{font-weight:600}table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;\
    vertical-align:top}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f6f6;padding:.6rem;margin:0}.alarm{color:#b00020}";

/// Writes `report.html` from `metrics.jsonl` beside it.
///
/// # Errors
/// The files cannot be read or written.
pub fn write_report(
    directory: &Path,
    title: &str,
    facts: &[(String, String)],
    samples: &[SampledText],
) -> Result<(), TrainError> {
    let lines = read_metrics(&directory.join("metrics.jsonl"))?;
    write_synced(&directory.join("report.html"), page(title, facts, samples, &lines).as_bytes())
}

pub(super) fn page(
    title: &str,
    facts: &[(String, String)],
    samples: &[SampledText],
    lines: &[Line],
) -> String {
    let title = escape(title);
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style>\
         <h1>{title}</h1>\n"
    );
    html += &table(facts.iter().map(|(name, value)| (name.as_str(), value.clone())));
    for line in lines.iter().filter(|line| line.contains_key("alarm")) {
        let text =
            |name: &str| line.get(name).map(|value| value.as_str().map_or(value.to_string(), str::to_owned));
        let (step, message) = (text("step").unwrap_or_default(), text("message").unwrap_or_default());
        // Writing into a string cannot fail.
        let _ = writeln!(html, "<p class=\"alarm\">⚠ update {}: {}</p>", escape(&step), escape(&message));
    }
    html += "<div class=\"grid\">\n";
    html += &charts(lines);
    html += "</div>\n<h2>Last values</h2>\n";
    html += &table(last_values(lines).into_iter().map(|(name, value)| (name, short(value))));
    if !samples.is_empty() {
        html += "<h2>Answers before and after</h2>\n<table><tr><th>prompt<th>before<th>after</tr>\n";
        for sample in samples {
            let cell = |text: &str| format!("<td><pre>{}</pre>", escape(text));
            let after = sample.after.as_deref().unwrap_or("(not yet)");
            let _ =
                writeln!(html, "<tr>{}{}{}</tr>", cell(&sample.prompt), cell(&sample.before), cell(after));
        }
        html += "</table>\n";
    }
    html + "</html>\n"
}

/// The curves of a run as SVG figures, loss first; what was not measured has none. Names in them are escaped.
#[must_use]
pub fn charts(lines: &[Line]) -> String {
    let mut html = String::new();
    for (title, names) in CHARTS {
        let series: Vec<Series> = names.iter().filter_map(|name| series(name, lines)).collect();
        if !series.is_empty() {
            // Writing into a string cannot fail.
            let _ =
                writeln!(html, "<figure><figcaption>{title}</figcaption>{}</figure>", chart(title, &series));
        }
    }
    html
}

fn table<'a>(rows: impl Iterator<Item = (&'a str, String)>) -> String {
    let row =
        |(name, value): (&str, String)| format!("<tr><th>{}<td>{}</tr>\n", escape(name), escape(&value));
    format!("<table>\n{}</table>\n", rows.map(row).collect::<String>())
}

fn series(name: &str, lines: &[Line]) -> Option<Series> {
    let point = |line: &Line| Some((line.get("step")?.as_f64()?, line.get(name)?.as_f64()?));
    let points: Vec<(f64, f64)> = lines.iter().filter_map(point).collect();
    (!points.is_empty()).then(|| Series { name: name.to_owned(), points })
}

/// The last value of each metric, in the order in which they first appeared.
#[must_use]
pub fn last_values(lines: &[Line]) -> Vec<(&str, f64)> {
    let mut values: Vec<(&str, f64)> = Vec::new();
    for (name, value) in lines.iter().flatten() {
        let Some(value) = Value::as_f64(value) else { continue };
        match values.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => values.push((name, value)),
        }
    }
    values
}
