//! Tests that need several modules together.

mod catalog;
mod prompts;
mod robustness;
mod running;
mod scoring;
mod selection;

use std::sync::LazyLock;

use evalign_core::{Digest, ModelIdentity, ScoringMode};
use serde_json::{Map, Value};

use crate::plan::{Notes, apply_overrides, assemble};
use crate::rows::RowSource;
use crate::shots::Pool;
use crate::task::TaskDefinition;
use crate::{BenchError, Catalog, PlannedTask, RunRequest};

fn request(mode: ScoringMode) -> RunRequest {
    let mut request = RunRequest::new("scripted/none".parse().unwrap(), vec!["t".to_owned()]);
    request.mode = mode;
    request
}

fn identity() -> ModelIdentity {
    ModelIdentity {
        reference: "scripted/none".parse().unwrap(),
        weights: Digest::of("w"),
        tokenizer: Digest::of("t"),
        chat_template: None,
        adapter: None,
        trained_on: None,
        dtype: "f32".to_owned(),
        device: "cpu".to_owned(),
    }
}

fn rows(values: &[Value]) -> Vec<Map<String, Value>> {
    values.iter().map(|value| value.as_object().unwrap().clone()).collect()
}

fn source(values: &[Value]) -> RowSource {
    let text = serde_json::to_string(values).unwrap();
    RowSource::Embedded { name: "rows".to_owned(), rows: rows(values).into(), digest: Digest::of(text) }
}

/// A task over rows written in a test, with worked examples from `shots` unless the task brings its own.
fn planned(
    request: &RunRequest,
    definition: &TaskDefinition,
    evaluated: &[Value],
    shots: &[Value],
) -> Result<PlannedTask, BenchError> {
    let mut definition = definition.for_mode(request.mode);
    let mut notes = Notes::default();
    apply_overrides(&mut definition, request, &mut notes);
    let own = definition.shots.examples.clone();
    let pool = if definition.shots.count == 0 || !own.is_empty() {
        Pool::Examples(own)
    } else {
        Pool::Rows(source(shots))
    };
    let digest = definition.digest();
    assemble(request, (definition, None), digest, (source(evaluated), pool), &mut notes)
}

fn embedded(name: &str) -> TaskDefinition {
    static CATALOG: LazyLock<Catalog> = LazyLock::new(|| Catalog::load(&[]).unwrap());
    CATALOG.task(name).unwrap()
}
