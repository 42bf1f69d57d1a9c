//! What pages show, as they show it.

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
