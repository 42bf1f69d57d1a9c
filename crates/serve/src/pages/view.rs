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
    /// Of a share: value and interval in percent of the bar.
    bar: Option<[f64; 3]>,
}

/// Where a value from 0 to 1 and its interval stand on a bar of 100; `None` for other numbers.
fn bar(value: Option<f64>, interval: [Option<f64>; 2]) -> Option<[f64; 3]> {
    let [low, high] = [interval[0]?, interval[1]?];
    let on_it = |number: f64| (0.0..=1.0).contains(&number);
    let numbers = [value?, low, high];
    numbers.iter().all(|number| on_it(*number)).then(|| numbers.map(|number| number * 100.0))
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
            let ends = [metric["ci95"][0].as_f64(), metric["ci95"][1].as_f64()];
            lines.push(ResultView {
                bar: bar(metric["value"].as_f64(), ends),
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
    /// Fields of the body: name, what it is, whether it must be there, and what it means.
    body: Vec<(String, String, bool, String)>,
    answers: Vec<(String, String)>,
}

/// The fields of a JSON body. What is uploaded as it is has none.
fn body_fields(document: &Value, content: &Value) -> Vec<(String, String, bool, String)> {
    let body = resolved(document, &content["application/json"]["schema"]);
    let required: Vec<&str> =
        body["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let fields = body["properties"].as_object().into_iter().flatten();
    let field = |(name, schema): (&String, &Value)| {
        let about =
            schema["description"].as_str().or_else(|| resolved(document, schema)["description"].as_str());
        let about = about.unwrap_or_default().to_owned();
        (name.clone(), kind(document, schema), required.contains(&name.as_str()), about)
    };
    fields.map(field).collect()
}

/// What a reference within the document leads to; anything else as it is.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let place = schema["$ref"].as_str().and_then(|place| place.strip_prefix('#'));
    place.and_then(|place| document.pointer(place)).unwrap_or(schema)
}

/// What a value is, in words: `integer`, `list of string`, `object or null`.
fn kind(document: &Value, schema: &Value) -> String {
    let schema = resolved(document, schema);
    let several = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array());
    if let Some(several) = several {
        let mut kinds: Vec<String> = several.iter().map(|one| kind(document, one)).collect();
        kinds.dedup();
        return kinds.join(" or ");
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => format!("list of {}", kind(document, &schema["items"])),
        Value::String(name) => name.clone(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => "any value".to_owned(),
    }
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
                body: body_fields(document, &route["requestBody"]["content"]),
                answers: answers
                    .map(|(status, answer)| (status.clone(), text(&answer["description"])))
                    .collect(),
            });
        }
    }
    routes
}
