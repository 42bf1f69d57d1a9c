use std::path::{Path, PathBuf};

use evalign_bench::{Catalog, task_schema, validate as check_file};
use serde_json::json;

use crate::Verdict;
use crate::output::{Failure, Output, Table};

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

pub(super) fn validate(files: &[PathBuf], schema: bool, output: Output) -> Result<Verdict, Failure> {
    if schema {
        output.json(&task_schema())?;
        return Ok(Verdict::Good);
    }
    for file in
        files.iter().map(|file| task_files(file)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten()
    {
        let names = check_file(&file)?;
        output.result(&format!("{}: {}", file.display(), names.join(", ")))?;
    }
    Ok(Verdict::Good)
}

/// A file, or the task files in a directory.
fn task_files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs_err::read_dir(path).map_err(anyhow::Error::from)? {
        let file = entry.map_err(anyhow::Error::from)?.path();
        if file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            found.push(file);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Failure::new(
            format!("no task files in {}", path.display()),
            "task files end in `.yaml`",
        ));
    }
    Ok(found)
}
