use std::path::{Path, PathBuf};

use evalign_bench::{BenchError, Catalog, task_schema, validate_all};
use serde_json::json;

use crate::Verdict;
use crate::output::{Failure, Output, Table, print_error};

pub(super) fn list(
    all: bool,
    as_json: bool,
    include: &[PathBuf],
    output: Output,
) -> Result<Verdict, Failure> {
    let catalog = Catalog::load(include)?;
    let members: Vec<&String> = catalog.groups().flat_map(|group| &group.members).collect();
    let mut table = Table::new(&["task", "version", "kind", "what it is"], &[]);
    let mut documents = Vec::new();
    for group in catalog.groups().filter(|group| all || !members.contains(&&group.name)) {
        let tasks = catalog.leaves(&group.name)?.len();
        let kind = format!("group of {tasks}");
        table.push(vec![group.name.clone(), group.version.clone(), kind, group.summary.clone()]);
        documents.push(json!({"name": group.name, "version": group.version, "group": true, "tasks": tasks,
                              "members": group.members, "summary": group.summary}));
    }
    for task in catalog.tasks().filter(|task| all || !members.contains(&&task.name)) {
        let kind = task.output.map_or_else(String::new, |output| output.name().replace('_', " "));
        table.push(vec![task.name.clone(), task.version.clone(), kind, task.summary.clone()]);
        documents
            .push(json!({"name": task.name, "version": task.version, "group": false, "output": task.output,
                              "tags": task.tags, "summary": task.summary}));
    }
    if as_json {
        output.json(&documents)?;
        return Ok(Verdict::Good);
    }
    output.result(&table.text())?;
    if !all {
        output.note("hint: `--all` also shows the members of groups");
    }
    Ok(Verdict::Good)
}

pub(super) fn validate(
    paths: &[PathBuf],
    include: &[PathBuf],
    schema: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    if schema {
        output.json(&task_schema())?;
        return Ok(Verdict::Good);
    }
    let checked = validate_all(paths, include)?;
    let mut wrong = 0;
    for file in &checked {
        match &file.names {
            Ok(names) if names.is_empty() => {
                output.result(&format!("{}: a base for other files", file.path.display()))?;
            }
            Ok(names) => output.result(&format!("{}: {}", file.path.display(), names.join(", ")))?,
            Err(error) => {
                wrong += 1;
                print_error(output, &anyhow::anyhow!("{}", error_text(error, &file.path)), None);
            }
        }
    }
    if wrong > 0 {
        return Err(Failure::new(
            format!("{wrong} of {} task files cannot be used", checked.len()),
            "`evalign tasks validate --schema` prints what a task file may hold",
        ));
    }
    output.note(&format!("{} task files, all good", checked.len()));
    Ok(Verdict::Good)
}

/// The error, with its cause and the file, whichever of them it does not say itself.
fn error_text(error: &BenchError, path: &Path) -> String {
    let mut text = error.to_string();
    if let Some(cause) = std::error::Error::source(error).map(ToString::to_string) {
        text = format!("{text}: {cause}");
    }
    let path = path.display().to_string();
    if text.contains(&path) { text } else { format!("{path}: {text}") }
}
