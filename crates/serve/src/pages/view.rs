//! What pages show, as they show it.

use evalign_bench::{BoardBlock, BoardRow};
use serde::Serialize;
use serde_json::Value;

/// A text as a value in a query.
pub(super) fn urlencode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Unix time in seconds, in UTC.
pub(super) fn time(secs: i64) -> String {
    jiff::Timestamp::from_second(secs)
        .map_or_else(|_| "-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// A block of the leaderboard.
#[derive(Serialize)]
pub(super) struct BlockView {
    task: String,
    metric: String,
    filter: String,
    shots: u32,
    compat: &'static str,
    protocol: String,
    rows: Vec<RowView>,
}

#[derive(Serialize)]
struct RowView {
    run: String,
    model: String,
    rank: String,
    value: String,
    interval: String,
    n: u64,
    plot: Option<Plot>,
}

/// An interval on a line from 0 to 100.
#[derive(Serialize)]
struct Plot {
    low: f64,
    value: f64,
    high: f64,
}

pub(super) fn block(block: &BoardBlock) -> BlockView {
    let intervals = block.rows.iter().filter_map(|row| row.result.estimate.ci95);
    let span = intervals.fold(None, |span: Option<[f64; 2]>, [low, high]| {
        Some(span.map_or([low, high], |span| [span[0].min(low), span[1].max(high)]))
    });
    BlockView {
        task: block.task.clone(),
        metric: block.metric.clone(),
        filter: block.filter.clone(),
        shots: block.shots,
        compat: block.compat.name(),
        protocol: block.protocol.short().to_owned(),
        rows: block.rows.iter().map(|row| row_view(row, span)).collect(),
    }
}

fn row_view(row: &BoardRow, span: Option<[f64; 2]>) -> RowView {
    let estimate = &row.result.estimate;
    let number = |value: f64| format!("{value:.4}");
    RowView {
        run: row.run_id.to_string(),
        model: row.model.reference.clone(),
        rank: match row.rank {
            None => "-".to_owned(),
            Some([best, worst]) if best == worst => best.to_string(),
            Some([best, worst]) => format!("{best}–{worst}"),
        },
        value: estimate.value.map_or_else(|| "-".to_owned(), number),
        interval: estimate
            .ci95
            .map_or_else(|| "-".to_owned(), |[low, high]| format!("{low:.4} to {high:.4}")),
        n: estimate.n,
        plot: plot(estimate.value, estimate.ci95, span),
    }
}

fn plot(value: Option<f64>, interval: Option<[f64; 2]>, span: Option<[f64; 2]>) -> Option<Plot> {
    let ([low, high], [from, to]) = (interval?, span?);
    let width = (to - from).max(f64::MIN_POSITIVE);
    // Room for the ends of the whiskers.
    let place = |number: f64| ((number - from) / width).mul_add(96.0, 2.0).clamp(0.0, 100.0);
    Some(Plot { low: place(low), value: place(value?), high: place(high) })
}

/// A line of a run's results.
#[derive(Serialize)]
pub(super) struct ResultView {
    task: String,
    metric: String,
    filter: String,
    value: String,
    interval: String,
    n: u64,
}

/// The numbers of a run's stored results, task by task. What has another shape (runs of several steps) shows
/// none; it is downloaded whole.
pub(super) fn results(results: &Value) -> Vec<ResultView> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    for task in list(&results["results"]) {
        for metric in list(&task["metrics"]) {
            let number =
                |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
            let interval = match metric["ci95"].as_array().map(Vec::as_slice) {
                Some([low, high]) => format!("{} to {}", number(low), number(high)),
                _ => "-".to_owned(),
            };
            lines.push(ResultView {
                task: text(&task["task"]),
                metric: text(&metric["name"]),
                filter: text(&metric["filter"]),
                value: number(&metric["value"]),
                interval,
                n: metric["n"].as_u64().unwrap_or_default(),
            });
        }
    }
    lines
}

/// A route of the OpenAPI document.
#[derive(Serialize)]
pub(super) struct RouteView {
    method: String,
    path: String,
    summary: String,
    description: String,
    parameters: Vec<(String, String, String)>,
    answers: Vec<(String, String)>,
}

pub(super) fn routes(document: &Value) -> Vec<RouteView> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut routes = Vec::new();
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, route) in methods.as_object().into_iter().flatten() {
            let parameters = route["parameters"].as_array().into_iter().flatten();
            let answers = route["responses"].as_object().into_iter().flatten();
            routes.push(RouteView {
                method: method.to_uppercase(),
                path: path.clone(),
                summary: text(&route["summary"]),
                description: text(&route["description"]),
                parameters: parameters
                    .map(|p| (text(&p["name"]), text(&p["in"]), text(&p["description"])))
                    .collect(),
                answers: answers
                    .map(|(status, answer)| (status.clone(), text(&answer["description"])))
                    .collect(),
            });
        }
    }
    routes
}
