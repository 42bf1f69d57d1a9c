use evalign_data::DataRoots;

use super::check::check_request;
use super::{Draft, Notes, apply_overrides, assemble, shots_pool};
use crate::error::BenchError;
use crate::request::RunRequest;
use crate::rows::RowSource;
use crate::task::{Catalog, TaskDefinition};

/// What the name of a task over its training rows ends in.
pub(crate) const TRAINING: &str = ":train";

/// The draft of a request over the training rows of its tasks, for making training data: under names of their
/// own, and with the log-probabilities of what is generated.
///
/// # Errors
/// As [`draft`]; a task without training rows, or whose training rows are those that it is evaluated on.
pub(crate) fn training_draft(
    request: &RunRequest,
    catalog: &Catalog,
    roots: &DataRoots,
) -> Result<Draft, BenchError> {
    check_request(request)?;
    let mut names: Vec<String> = Vec::new();
    for task in &request.tasks {
        names.extend(catalog.leaves(task)?);
    }
    names.sort();
    names.dedup();
    let mut notes = Notes::default();
    let mut tasks = Vec::with_capacity(names.len());
    for name in &names {
        let mut definition = training_definition(catalog.task(name)?.for_mode(request.mode))?;
        let digest = definition.digest();
        apply_overrides(&mut definition, request, &mut notes);
        let directory = catalog.directory(name);
        let rows = RowSource::evaluated(&definition, directory, roots)?;
        let pool = shots_pool(&definition, directory, roots)?;
        let mut task = assemble(request, (definition, None), digest, (rows, pool), &mut notes)?;
        task.params.logprobs = true;
        tasks.push(task);
    }
    Ok(Draft { tasks, groups: Vec::new(), notes: notes.into_lines(), request: request.clone() })
}

/// The task with its training rows in the place of those that it is evaluated on.
fn training_definition(mut definition: TaskDefinition) -> Result<TaskDefinition, BenchError> {
    let (name, source) = (definition.name.clone(), &mut definition.dataset);
    if source.shots_split.is_none() && source.shots_file.is_none() {
        return Err(BenchError::request(
            format!("task `{name}` names no training rows"),
            "preference pairs are made from rows that no score is measured on; choose a task with a `shots_split`",
        ));
    }
    if (&source.shots_split, &source.shots_file) == (&source.split, &source.file) {
        return Err(BenchError::request(
            format!("task `{name}` takes its worked examples from the rows that it is evaluated on"),
            "preference pairs are made from rows that no score is measured on; choose another task",
        ));
    }
    (source.split, source.file) = (source.shots_split.clone(), source.shots_file.clone());
    definition.name = format!("{name}{TRAINING}");
    Ok(definition)
}
