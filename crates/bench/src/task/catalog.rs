use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};

use super::definition::{OutputKind, TaskDefinition};
use super::embedded;
use super::family::{self, Leaf, Member};
use super::file::{ExamplesFile, TaskFile, Version};
use super::yaml::parse_yaml;
use crate::error::BenchError;

/// All tasks and groups there are: the embedded ones, and those of the include paths, which come first
/// where names agree.
#[derive(Debug)]
pub struct Catalog {
    pub(super) entries: BTreeMap<String, Entry>,
    /// Worked-example files already parsed; they are large and shared by families.
    pub(super) examples: Mutex<BTreeMap<String, Arc<ExamplesFile>>>,
}

#[derive(Debug)]
pub(super) enum Entry {
    Task { origin: Origin, file: Arc<TaskFile>, leaf: Leaf },
    Group(GroupDefinition),
}

/// The directory a task file lies in; its other files are looked for there.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// What errors call the file.
    pub(super) name: String,
    /// `None` for the embedded directory.
    pub(super) directory: Option<PathBuf>,
}

/// Tasks whose scores are aggregated under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDefinition {
    pub name: String,
    pub version: String,
    pub summary: String,
    /// Tasks and groups directly in it.
    pub members: Vec<String>,
    /// Every sample counts equally; otherwise every leaf task does.
    pub weight_by_size: bool,
}

/// A task as `evalign tasks list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSummary {
    pub name: String,
    pub version: String,
    pub summary: String,
    pub tags: Vec<String>,
    pub output: Option<OutputKind>,
}

impl Catalog {
    /// The embedded tasks and those of all `*.yaml` and `*.yml` files directly in `include_paths`. Files
    /// whose names begin with `_` define nothing: they are there for others to include. A directory or file
    /// that is named twice, in whatever spelling, counts once.
    ///
    /// # Errors
    /// An unreadable directory, a task file that is wrong, two files of the include paths that define the
    /// same name.
    pub fn load(include_paths: &[PathBuf]) -> Result<Self, BenchError> {
        Self::load_over(&[], include_paths)
    }

    /// As [`Catalog::load`] of `base`, with the tasks of `over` in the place of those of the same name. A
    /// directory of `base` need not be there any more where `over` names one.
    ///
    /// # Errors
    /// As [`Catalog::load`].
    pub fn load_over(base: &[PathBuf], over: &[PathBuf]) -> Result<Self, BenchError> {
        let mut catalog = Self { entries: BTreeMap::new(), examples: Mutex::default() };
        for (name, text) in embedded::FILES {
            if name.ends_with(".yaml") && !is_base(Path::new(name)) {
                let origin = Origin { name: (*name).to_owned(), directory: None };
                for (name, entry) in define(&origin, text)? {
                    catalog.entries.insert(name, entry);
                }
            }
        }
        let base: Vec<PathBuf> =
            base.iter().filter(|directory| over.is_empty() || directory.exists()).cloned().collect();
        catalog.add(&base)?;
        catalog.add(over)?;
        Ok(catalog)
    }

    /// Adds what directories define, in the place of what is there under the same name.
    fn add(&mut self, directories: &[PathBuf]) -> Result<(), BenchError> {
        let mut added: BTreeMap<String, String> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for directory in directories {
            for path in task_files(directory)? {
                if is_base(&path) || !seen.insert(real_path(&path)) {
                    continue;
                }
                let text = read(&path)?;
                let origin = Origin { name: path.display().to_string(), directory: Some(directory.clone()) };
                for (name, entry) in define(&origin, &text)? {
                    if let Some(other) = added.insert(name.clone(), origin.name.clone()) {
                        return Err(BenchError::TaskFile {
                            at: origin.name,
                            message: format!("`{name}` is already defined in {other}"),
                        });
                    }
                    self.entries.insert(name, entry);
                }
            }
        }
        Ok(())
    }

    /// All leaf tasks by name.
    pub fn tasks(&self) -> impl Iterator<Item = TaskSummary> {
        self.entries.iter().filter_map(|(name, entry)| match entry {
            Entry::Task { file, leaf, .. } => Some(TaskSummary {
                name: name.clone(),
                version: file.version.as_ref().map(|Version(text)| text.clone()).unwrap_or_default(),
                summary: leaf.describe(file.summary.as_deref().unwrap_or_default()),
                tags: file.tags.clone().unwrap_or_default(),
                output: file.output,
            }),
            Entry::Group(_) => None,
        })
    }

    /// All groups by name.
    pub fn groups(&self) -> impl Iterator<Item = &GroupDefinition> {
        self.entries.values().filter_map(|entry| match entry {
            Entry::Group(group) => Some(group),
            Entry::Task { .. } => None,
        })
    }

    /// The group of that name, if it is one.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&GroupDefinition> {
        match self.entries.get(name) {
            Some(Entry::Group(group)) => Some(group),
            Some(Entry::Task { .. }) | None => None,
        }
    }

    /// Leaf tasks under a task or group name, each once, in definition order.
    ///
    /// # Errors
    /// An unknown name (the error holds the nearest one), a group that contains itself.
    pub fn leaves(&self, name: &str) -> Result<Vec<String>, BenchError> {
        let mut found = Vec::new();
        self.collect(name, &mut Vec::new(), &mut found)?;
        Ok(found)
    }

    fn collect(&self, name: &str, path: &mut Vec<String>, found: &mut Vec<String>) -> Result<(), BenchError> {
        match self.entries.get(name) {
            None => Err(BenchError::UnknownTask { name: name.to_owned(), nearest: self.nearest(name) }),
            Some(Entry::Task { .. }) => {
                if !found.iter().any(|leaf| leaf == name) {
                    found.push(name.to_owned());
                }
                Ok(())
            }
            Some(Entry::Group(_)) if path.iter().any(|outer| outer == name) => Err(BenchError::request(
                format!("the group `{name}` contains itself"),
                "remove it from its members",
            )),
            Some(Entry::Group(group)) => {
                path.push(name.to_owned());
                for member in &group.members {
                    self.collect(member, path, found)?;
                }
                path.pop();
                Ok(())
            }
        }
    }

    /// The complete definition of a leaf task.
    ///
    /// # Errors
    /// An unknown name, a group's name, a definition that is incomplete or does not fit together.
    pub fn task(&self, name: &str) -> Result<TaskDefinition, BenchError> {
        match self.entries.get(name) {
            None => Err(BenchError::UnknownTask { name: name.to_owned(), nearest: self.nearest(name) }),
            Some(Entry::Group(_)) => Err(BenchError::request(
                format!("`{name}` is a group of tasks"),
                "name one of its tasks; `evalign tasks list` shows them",
            )),
            Some(Entry::Task { origin, file, leaf }) => {
                let examples = self.examples(origin, file, leaf)?;
                family::complete(&origin.name, file, leaf, examples)
            }
        }
    }

    /// Directory that the task's own files lie in; `None` for the embedded ones.
    pub(crate) fn directory(&self, name: &str) -> Option<&Path> {
        match self.entries.get(name) {
            Some(Entry::Task { origin, .. }) => origin.directory.as_deref(),
            Some(Entry::Group(_)) | None => None,
        }
    }

    fn examples(
        &self,
        origin: &Origin,
        file: &TaskFile,
        leaf: &Leaf,
    ) -> Result<Option<Vec<Map<String, Value>>>, BenchError> {
        let Some(shots) = &file.shots else { return Ok(None) };
        let Some(name) = &shots.examples_file else { return Ok(None) };
        let key = shots.examples_key.as_ref().map_or_else(|| leaf.name.clone(), |key| leaf.describe(key));
        let cache_key = format!("{:?}/{name}", origin.directory);
        let mut parsed = self.examples.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let all = match parsed.get(&cache_key) {
            Some(all) => all.clone(),
            None => {
                let all: Arc<ExamplesFile> = Arc::new(parse_yaml(name, &sibling(origin, name)?)?);
                parsed.insert(cache_key, all.clone());
                all
            }
        };
        match all.get(&key) {
            Some(examples) => Ok(Some(examples.clone())),
            None => Err(BenchError::TaskFile {
                at: name.clone(),
                message: format!("no worked examples under `{key}`, which task `{}` asks for", leaf.name),
            }),
        }
    }

    fn nearest(&self, name: &str) -> Option<String> {
        let scored = self.entries.keys().map(|known| (strsim::jaro_winkler(name, known), known));
        let best = scored.max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))?;
        (best.0 > 0.8).then(|| best.1.clone())
    }
}

impl Leaf {
    fn describe(&self, text: &str) -> String {
        self.member.fill(text)
    }
}

/// The names a file defines. A base file defines none.
pub(super) fn define(origin: &Origin, text: &str) -> Result<Vec<(String, Entry)>, BenchError> {
    let file = with_includes(origin, TaskFile::parse(&origin.name, text)?, 0)?;
    let kinds = [file.task.is_some(), file.group.is_some(), file.family_defined()];
    match kinds.iter().filter(|kind| **kind).count() {
        0 => return Ok(Vec::new()),
        1 => {}
        _ => {
            return Err(BenchError::TaskFile {
                at: origin.name.clone(),
                message: "a file defines a `task`, a `group` or a `family`, not several".to_owned(),
            });
        }
    }
    if let Some(name) = &file.group {
        check_name(&origin.name, name)?;
        return Ok(vec![(name.clone(), Entry::Group(group(origin, name, &file)?))]);
    }
    let file = Arc::new(file);
    let task =
        |leaf: Leaf| (leaf.name.clone(), Entry::Task { origin: origin.clone(), file: file.clone(), leaf });
    if let Some(name) = &file.task {
        check_name(&origin.name, name)?;
        return Ok(vec![task(Leaf { name: name.clone(), member: Member::default() })]);
    }
    let Some(of) = &file.family else { return Ok(Vec::new()) };
    let summary = of.summary(file.summary.as_deref().unwrap_or_default());
    let (leaves, groups) = family::expand(&origin.name, of, &summary)?;
    let groups = groups.into_iter().map(|group| (group.name.clone(), Entry::Group(group)));
    Ok(leaves.into_iter().map(task).chain(groups).collect())
}

fn group(origin: &Origin, name: &str, file: &TaskFile) -> Result<GroupDefinition, BenchError> {
    let members = file.members.clone().filter(|members| !members.is_empty());
    Ok(GroupDefinition {
        name: name.to_owned(),
        version: file.version.as_ref().map_or_else(|| "1".to_owned(), |Version(text)| text.clone()),
        summary: file.summary.clone().unwrap_or_default(),
        members: members.ok_or_else(|| BenchError::TaskFile {
            at: origin.name.clone(),
            message: format!("field `members`: the group `{name}` has none"),
        })?,
        weight_by_size: file.weight_by_size.unwrap_or(true),
    })
}

const MAX_INCLUDE_DEPTH: usize = 8;

pub(super) fn with_includes(origin: &Origin, file: TaskFile, depth: usize) -> Result<TaskFile, BenchError> {
    let Some(name) = &file.include else { return Ok(file) };
    let fail = |message: String| BenchError::TaskFile { at: origin.name.clone(), message };
    if depth == MAX_INCLUDE_DEPTH {
        return Err(fail(format!("field `include`: more than {MAX_INCLUDE_DEPTH} files deep (a circle?)")));
    }
    let base = TaskFile::parse(name, &sibling(origin, name)?)?;
    let base = with_includes(origin, base, depth + 1)?;
    Ok(file.over(base))
}

/// The text of a file that a task file names: beside it, or embedded.
fn sibling(origin: &Origin, name: &str) -> Result<String, BenchError> {
    let fail = |message: String| BenchError::TaskFile { at: origin.name.clone(), message };
    if !is_plain_file_name(name) {
        return Err(fail(format!("`{name}` is not a file name; files are looked for beside the task file")));
    }
    if let Some(directory) = &origin.directory {
        let path = directory.join(name);
        if path.is_file() {
            return read(&path);
        }
    }
    let embedded = embedded::text(name).map(str::to_owned);
    embedded.ok_or_else(|| fail(format!("there is no file `{name}` beside the task file")))
}

fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Names are `[a-z0-9][a-z0-9._-]{0,63}`: they become file names and URL parts.
pub(super) fn check_name(file: &str, name: &str) -> Result<(), BenchError> {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ok = (1..=64).contains(&name.len())
        && name.bytes().next().is_some_and(valid)
        && name.bytes().all(|b| valid(b) || matches!(b, b'.' | b'_' | b'-'));
    if ok {
        return Ok(());
    }
    Err(BenchError::TaskFile {
        at: file.to_owned(),
        message: format!(
            "`{name}` is not a task name (lower-case letters, digits, `.`, `_`, `-`, at most 64, a letter or digit first)"
        ),
    })
}

/// Whether a file is there for others to include.
pub(super) fn is_base(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"_"))
}

/// One spelling for each file; a path that cannot be followed is its own.
pub(super) fn real_path(path: &Path) -> PathBuf {
    fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Task files and bases directly in a directory, by name.
pub(super) fn task_files(directory: &Path) -> Result<Vec<PathBuf>, BenchError> {
    let failed = |source| BenchError::Read { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs_err::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

pub(super) fn read(path: &Path) -> Result<String, BenchError> {
    let bytes = fs_err::read(path).map_err(|source| BenchError::Read { path: path.to_owned(), source })?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
        BenchError::TaskFile {
            at: format!("{}:{line}", path.display()),
            message: "this is not UTF-8 text; save the file with the encoding UTF-8".to_owned(),
        }
    })
}
