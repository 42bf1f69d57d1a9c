use evalign_core::{Digest, GenerateParams, RunSpec, ScoringMode, TaskSpec};
use evalign_model::Model;
use serde_json::{Value, json};

use crate::scorer::SCORER_VERSION;

/// One step of a run of phases, as its specification has it.
pub(crate) fn phase_spec(
    name: &str,
    definition: &Value,
    dataset: &Digest,
    (docs, repeats): (u64, u32),
    params: Option<&GenerateParams>,
) -> TaskSpec {
    let definition = Digest::of_json(definition);
    TaskSpec {
        task: name.to_owned(),
        version: "1".to_owned(),
        protocol: Digest::of_json(&json!({ "definition": definition, "dataset": dataset })),
        definition,
        dataset: dataset.clone(),
        shots: 0,
        repeats,
        docs: [0, docs],
        generation: params.map_or(Value::Null, |params| json!(params)),
        variant: None,
    }
}

/// The specification of a run of phases. `model` is the one that answers; every other model is part of the phases'
/// definitions.
pub(crate) fn run_spec(model: &dyn Model, seed: u64, chat: bool, tasks: Vec<TaskSpec>) -> RunSpec {
    RunSpec {
        model: model.identity().clone(),
        mode: ScoringMode::Default,
        scorer_version: SCORER_VERSION,
        seed,
        chat_template: chat,
        system_instruction: None,
        rendered_at: model.clock().filter(|_| chat).map(|clock| clock.to_string()),
        tasks,
    }
}
