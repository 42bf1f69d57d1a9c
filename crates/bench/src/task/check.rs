//! Checking task files: all of them, and everything that can be known without rows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use evalign_core::Hint as _;

use super::catalog::{Catalog, Entry, Origin, define, is_base, read, real_path, task_files, with_includes};
use super::family;
use super::file::{ExamplesFile, TaskFile};
use super::yaml::parse_yaml;
use crate::error::BenchError;

/// What checking one file found.
#[derive(Debug)]
pub struct CheckedFile {
    pub path: PathBuf,
    /// The names it defines (none, where it is a base for others), or the first thing wrong with it.
    pub names: Result<Vec<String>, BenchError>,
}

/// Checks one task file completely and returns the names it defines.
///
/// # Errors
/// Whatever is wrong with it, with file, line and field.
pub fn validate(path: &Path) -> Result<Vec<String>, BenchError> {
    Ok(check(path)?.into_iter().map(|(name, _)| name).collect())
}

/// Checks task files, and those directly in directories: each one, also after one that is wrong. Beside
/// what [`validate`] checks, no two may define the same name, and the members of groups must exist: among the
/// files checked, beside them, in the directories of `include`, or among the embedded ones.
///
/// # Errors
/// A directory that cannot be read, or that holds no task file; a task file of `include` that is wrong.
pub fn validate_all(paths: &[PathBuf], include: &[PathBuf]) -> Result<Vec<CheckedFile>, BenchError> {
    let files = files_of(paths)?;
    let mut catalog = Catalog::load(include)?;
    for directory in files.iter().filter_map(|file| file.parent()).collect::<BTreeSet<_>>() {
        add_neighbours(directory, &mut catalog);
    }
    let mut defined: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut checked = Vec::new();
    for path in files {
        let names = check(&path).and_then(|entries| {
            let names: Vec<String> = entries.iter().map(|(name, _)| name.clone()).collect();
            for (name, entry) in entries {
                if let Some(other) = defined.insert(name.clone(), path.clone()) {
                    let message = format!("`{name}` is already defined in {}", other.display());
                    return Err(BenchError::TaskFile { at: path.display().to_string(), message });
                }
                catalog.entries.insert(name, entry);
            }
            Ok(names)
        });
        checked.push(CheckedFile { path, names });
    }
    for file in &mut checked {
        let wrong =
            file.names.iter().flatten().find_map(|name| members_missing(&file.path, name, &catalog).err());
        if let Some(error) = wrong {
            file.names = Err(error);
        }
    }
    Ok(checked)
}

/// Every file once, directories as the task files in them.
fn files_of(paths: &[PathBuf]) -> Result<Vec<PathBuf>, BenchError> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let found = task_files(path)?;
        if found.is_empty() {
            return Err(BenchError::request(
                format!("no task files in {}", path.display()),
                "task files end in `.yaml`",
            ));
        }
        files.extend(found);
    }
    let mut seen = BTreeSet::new();
    files.retain(|file| seen.insert(real_path(file)));
    Ok(files)
}

/// What the other files of a directory define: a group that is checked may name it. Files that are wrong
/// are somebody else's problem here.
fn add_neighbours(directory: &Path, catalog: &mut Catalog) {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    for path in task_files(directory).unwrap_or_default().iter().filter(|path| !is_base(path)) {
        let defined = read(path).and_then(|text| define(&origin(path), &text));
        catalog.entries.extend(defined.unwrap_or_default());
    }
}

fn origin(path: &Path) -> Origin {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Origin { name: path.display().to_string(), directory: Some(directory.to_owned()) }
}

fn check(path: &Path) -> Result<Vec<(String, Entry)>, BenchError> {
    let (origin, text) = (origin(path), read(path)?);
    if is_base(path) {
        return check_base(&origin, &text).map(|()| Vec::new());
    }
    let alone =
        Catalog { entries: define(&origin, &text)?.into_iter().collect(), examples: Mutex::default() };
    if alone.entries.is_empty() {
        let message = "it defines no `task`, `group` or `family`; the name of a file that is only there to be \
                       included begins with `_`";
        return Err(BenchError::TaskFile { at: origin.name, message: message.to_owned() });
    }
    for name in alone.tasks().map(|task| task.name).collect::<Vec<_>>() {
        family::compile_check(&alone.task(&name)?)?;
    }
    Ok(alone.entries.into_iter().collect())
}

/// A base holds fields for others to include, or worked examples; what it lacks, they have.
fn check_base(origin: &Origin, text: &str) -> Result<(), BenchError> {
    let file = match TaskFile::parse(&origin.name, text) {
        Ok(file) => file,
        Err(_) if parse_yaml::<ExamplesFile>(&origin.name, text).is_ok() => return Ok(()),
        Err(error) => return Err(error),
    };
    if file.task.is_some() || file.group.is_some() || file.family_defined() {
        let message = "it defines a task, but files whose names begin with `_` are only there to be included";
        return Err(BenchError::TaskFile { at: origin.name.clone(), message: message.to_owned() });
    }
    with_includes(origin, file, 0).map(drop)
}

/// A group whose members, or theirs, are nowhere.
fn members_missing(path: &Path, name: &str, catalog: &Catalog) -> Result<(), BenchError> {
    if catalog.group(name).is_none() {
        return Ok(());
    }
    catalog.leaves(name).map(drop).map_err(|error| BenchError::TaskFile {
        at: path.display().to_string(),
        message: match error.hint() {
            Some(hint) => format!("group `{name}`: {error} ({hint})"),
            None => format!("group `{name}`: {error}"),
        },
    })
}
