//! Training jobs and their curves.

use std::sync::Arc;

use axum::extract::State;
use evalign_train::{Line, charts, last_values};
use http::StatusCode;
use minijinja::{Value, context};
use serde::Deserialize;
use serde_json::Value as Json;

use super::{ON_A_PAGE, Page, first, page, serialized};
use crate::app::App;
use crate::error::ApiError;
use crate::extract::{Query, RunPath, Tenanted};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrainingsPage {
    /// The last job of the page before.
    after: Option<String>,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<TrainingsPage>,
) -> Page {
    let caller = tenanted.caller.clone();
    let none = |id: &str| ApiError::not_found("training job", id);
    let after = query.after.map(|id| id.parse().map_err(|_| none(&id))).transpose()?;
    let found = move |app: &App| app.trainings(&tenanted.store, after.as_ref(), ON_A_PAGE + 1);
    let (jobs, next) = first(app.blocking(found).await?, |job| &job.id);
    let content = context! { title => "Training", jobs => serialized(&jobs), next };
    Ok(page(StatusCode::OK, "trainings", Some(&caller), content))
}

/// The alarms among the lines of a job: at which update, and what they say.
fn alarms(lines: &[Line]) -> Vec<(u64, String)> {
    let alarm = |line: &Line| {
        let message = line.get("message").filter(|_| line.contains_key("alarm"))?.as_str()?;
        Some((line.get("step").and_then(Json::as_u64)?, message.to_owned()))
    };
    lines.iter().filter_map(alarm).collect()
}

/// The curves of a job, as far as it has come.
pub(super) async fn training(State(app): State<Arc<App>>, tenanted: Tenanted, RunPath(id): RunPath) -> Page {
    let caller = tenanted.caller.clone();
    let (job, lines) = app
        .blocking(move |app| {
            let job = app.training(&tenanted.store, &id)?;
            Ok((job, app.training_metrics(&id)?))
        })
        .await?;
    let settings: Vec<(String, String)> =
        job.settings.as_object().into_iter().flatten().filter_map(set).collect();
    let last: Vec<(&str, f64)> =
        last_values(&lines).into_iter().filter(|(name, _)| *name != "step").collect();
    let content = context! {
        title => format!("Training {}", job.id),
        is_active => matches!(job.status, "queued" | "running"),
        job => serialized(&job),
        settings => serialized(settings),
        // Names in it are escaped where it is made.
        charts => Value::from_safe_string(charts(&lines)),
        last => serialized(last),
        alarms => serialized(alarms(&lines)),
        updates => lines.iter().filter_map(|line| line.get("step").and_then(Json::as_u64)).max(),
    };
    Ok(page(StatusCode::OK, "training", Some(&caller), content))
}

/// A setting that was given.
fn set((name, value): (&String, &Json)) -> Option<(String, String)> {
    let text = match value {
        Json::Null => return None,
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some((name.clone(), text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pages::templates;

    fn lines(values: &[Json]) -> Vec<Line> {
        values.iter().map(|line| line.as_object().unwrap().clone()).collect()
    }

    #[test]
    fn promise_32_metrics_and_alarms_are_text() {
        let lines = lines(&[
            json!({"step": 1, "loss": 0.7, "<script>": 1.0}),
            json!({"step": 2, "loss": 0.5, "alarm": "gradient_spike", "message": "<img src=x onerror=y>"}),
        ]);
        assert_eq!(alarms(&lines), [(2, "<img src=x onerror=y>".to_owned())]);
        let job = json!({"id": "run_0", "status": "running", "kind": "dpo", "model": "m", "file": "<b>",
                         "trained_model": null, "error": "<i>", "created_at": 0, "progress": null});
        let content = context! {
            title => "t", csrf => None::<String>, tenant => None::<String>, is_active => true,
            job => serialized(job), settings => serialized([("a", "<u>")]),
            charts => Value::from_safe_string(charts(&lines)), last => serialized(last_values(&lines)),
            alarms => serialized(alarms(&lines)), updates => 2,
        };
        let page = templates().get_template("training").unwrap().render(content).unwrap();
        for hostile in ["<script>", "<img", "<b>", "<i>", "<u>"] {
            assert!(!page.contains(hostile), "{hostile}: {page}");
        }
        assert!(page.contains("<polyline") && page.contains("Loss: loss from 0.7000"), "{page}");
    }
}
