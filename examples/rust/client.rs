//! Starts a run and watches it to its end: `cargo run --release --example client`. EVALIGN_URL and EVALIGN_KEY say where
//! and who.

use std::env::var;
use std::error::Error;
use std::io::Write;

use reqwest::Client;
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // This build of reqwest leaves the choice of cryptography to its user.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = var("EVALIGN_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".to_owned());
    let model = var("EVALIGN_MODEL").unwrap_or_else(|_| "smollm2".to_owned());
    watch(&url, &var("EVALIGN_KEY")?, &model, &mut std::io::stdout()).await
}

/// Writes what happens, and what came of it.
pub(crate) async fn watch(
    url: &str,
    key: &str,
    model: &str,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let client = Client::new();
    let body = json!({"model": model, "tasks": ["samples_knowledge"], "limit": 5});
    let posted = client.post(format!("{url}/v1/runs")).bearer_auth(key);
    let posted = posted.header("content-type", "application/json").body(body.to_string()).send().await?;
    let run: Value = serde_json::from_str(&posted.error_for_status()?.text().await?)?;
    let run = format!("{url}/v1/runs/{}", run["id"].as_str().ok_or("a run has an id")?);

    // After a broken connection, `last-event-id` with the last one's id goes on where it broke.
    let mut events = client.get(format!("{run}/events")).bearer_auth(key).send().await?.error_for_status()?;
    let mut text = Vec::new();
    while let Some(piece) = events.chunk().await? {
        text.extend_from_slice(&piece);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            if let Some(data) = line.strip_prefix(b"data: ") {
                let event: Value = serde_json::from_slice(data)?;
                writeln!(out, "{} {}", event["id"], event["type"])?;
            }
        }
    }

    let results = client.get(format!("{run}/results")).bearer_auth(key).send().await?;
    let results: Value = serde_json::from_str(&results.error_for_status()?.text().await?)?;
    for task in results["results"].as_array().into_iter().flatten() {
        for metric in task["metrics"].as_array().into_iter().flatten() {
            let name = (&task["task"], &metric["name"]);
            writeln!(out, "{} {} {} n={}", name.0, name.1, metric["value"], metric["n"])?;
        }
    }
    Ok(())
}
