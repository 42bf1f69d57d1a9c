use std::path::{Component, Path, PathBuf};

use crate::{DataError, DataRoots, DatasetSpec};

/// The files of a split, in order: from an include path or a local path, the data root, the hub's
/// cache, or the hub.
pub(crate) fn files(roots: &DataRoots, spec: &DatasetSpec) -> Result<Vec<PathBuf>, DataError> {
    let mut looked = Vec::new();
    if let Some(found) = local_files(roots, spec, &mut looked)? {
        return Ok(found);
    }
    check_name(&spec.path)?;
    if let Some(root) = &roots.data_root
        && let Some(found) = in_directory(&root.join(&spec.path), Some(root), spec, &mut looked)?
    {
        return Ok(found);
    }
    if let Some(cache) = &roots.hub_cache {
        if let Some(snapshot) = snapshot(cache, spec) {
            // The hub's cache links to its blobs by design, so links may lead out of the snapshot.
            if let Some(found) = in_directory(&snapshot, None, spec, &mut looked)? {
                return Ok(found);
            }
        } else {
            looked.push(cache.display().to_string());
        }
    }
    if !roots.offline && spec.path.matches('/').count() == 1 {
        let snapshot = crate::hub::fetch(roots, spec)?;
        if let Some(found) = in_directory(&snapshot, None, spec, &mut looked)? {
            return Ok(found);
        }
    }
    Err(DataError::NotFound { dataset: spec.describe(), looked, offline: roots.offline })
}

/// A file or directory named directly: absolute, or relative to an include path.
fn local_files(
    roots: &DataRoots,
    spec: &DatasetSpec,
    looked: &mut Vec<String>,
) -> Result<Option<Vec<PathBuf>>, DataError> {
    let base = Path::new(&spec.path);
    if base.is_absolute() {
        return in_directory(base, None, spec, looked);
    }
    let Some(files) = &spec.files else { return Ok(None) };
    let pattern = base.join(files);
    if Path::new(files).is_absolute() {
        return matching(Path::new(files), None, looked);
    }
    for root in &roots.include_paths {
        if let Some(found) = matching(&root.join(&pattern), Some(root), looked)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The split's files inside a dataset's directory (or snapshot).
fn in_directory(
    directory: &Path,
    root: Option<&Path>,
    spec: &DatasetSpec,
    looked: &mut Vec<String>,
) -> Result<Option<Vec<PathBuf>>, DataError> {
    if let Some(files) = &spec.files {
        return matching(&directory.join(files), root, looked);
    }
    // `default` is what the hub calls the only config of a dataset without configs.
    let folders: Vec<PathBuf> = match spec.config.as_deref() {
        Some(config) if config != "default" => {
            check_name(config)?;
            vec![directory.join(config)]
        }
        _ => vec![directory.join("data"), directory.join("default"), directory.to_owned()],
    };
    for folder in folders {
        let found = split_files(&folder, &spec.split)?;
        if !found.is_empty() {
            return found.into_iter().map(|f| contained(f, root)).collect::<Result<_, _>>().map(Some);
        }
        looked.push(folder.join(format!("{}-*", spec.split)).display().to_string());
    }
    Ok(None)
}

/// How a file name continues after the split's name.
pub(crate) enum Part {
    Whole,
    Shard { index: u32, of: u32 },
}

pub(crate) fn part_of(name: &str, split: &str) -> Option<Part> {
    const ENDINGS: [&str; 11] = [
        ".parquet",
        ".jsonl",
        ".jsonl.gz",
        ".jsonl.zst",
        ".json",
        ".ndjson",
        ".csv",
        ".csv.gz",
        ".csv.zst",
        ".json.gz",
        ".json.zst",
    ];
    let rest = name.strip_prefix(split)?;
    if ENDINGS.contains(&rest) {
        return Some(Part::Whole);
    }
    // `-00000-of-00003.parquet`, on older repositories `-00000-of-00003-0123456789abcdef.parquet`.
    let rest = rest.strip_prefix('-')?;
    let stem = ENDINGS.iter().find_map(|ending| rest.strip_suffix(ending))?;
    let mut numbers = stem.split('-');
    let (index, of, total) = (numbers.next()?, numbers.next()?, numbers.next()?);
    (of == "of").then_some(())?;
    Some(Part::Shard { index: index.parse().ok()?, of: total.parse().ok()? })
}

/// All files of one split in a folder, shards in order; empty where there are none.
fn split_files(folder: &Path, split: &str) -> Result<Vec<PathBuf>, DataError> {
    let Ok(entries) = fs_err::read_dir(folder) else { return Ok(Vec::new()) };
    let mut shards = Vec::new();
    let mut wholes = Vec::new();
    let mut expected = 0;
    for entry in entries {
        let entry = entry.map_err(|e| DataError::file(folder, e))?;
        match entry.file_name().to_str().and_then(|name| part_of(name, split)) {
            Some(Part::Whole) => wholes.push(entry.path()),
            Some(Part::Shard { index, of }) => {
                expected = of;
                shards.push((index, entry.path()));
            }
            None => {}
        }
    }
    shards.sort();
    wholes.sort();
    if shards.is_empty() {
        // `test.jsonl` beside `test.csv` is one dataset in two formats, not twice the rows.
        wholes.truncate(1);
        return Ok(wholes);
    }
    if shards.len() as u64 != u64::from(expected) || shards.iter().zip(0..).any(|((i, _), n)| *i != n) {
        let message = format!("split `{split}` has {} of {expected} files", shards.len());
        return Err(DataError::file(folder, message));
    }
    Ok(shards.into_iter().map(|(_, path)| path).collect())
}

/// Files matching a path whose last component may hold `*`, sorted by name.
fn matching(
    pattern: &Path,
    root: Option<&Path>,
    looked: &mut Vec<String>,
) -> Result<Option<Vec<PathBuf>>, DataError> {
    looked.push(pattern.display().to_string());
    let name = pattern.file_name().and_then(|n| n.to_str()).unwrap_or("");
    if !name.contains('*') {
        return if pattern.is_file() {
            Ok(Some(vec![contained(pattern.to_owned(), root)?]))
        } else {
            Ok(None)
        };
    }
    let folder = pattern.parent().unwrap_or(Path::new("."));
    let Ok(entries) = fs_err::read_dir(folder) else { return Ok(None) };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| DataError::file(folder, e))?;
        if entry.file_name().to_str().is_some_and(|candidate| glob(name, candidate)) {
            found.push(contained(entry.path(), root)?);
        }
    }
    found.sort();
    Ok((!found.is_empty()).then_some(found))
}

/// `*` stands for any characters; everything else for itself.
pub(crate) fn glob(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Refuses a file that a symbolic link or `..` takes out of its root.
fn contained(file: PathBuf, root: Option<&Path>) -> Result<PathBuf, DataError> {
    let Some(root) = root else { return Ok(file) };
    let real = fs_err::canonicalize(&file).map_err(|e| DataError::file(&file, e))?;
    let real_root = fs_err::canonicalize(root).map_err(|e| DataError::file(root, e))?;
    if real.starts_with(&real_root) {
        return Ok(file);
    }
    Err(DataError::file(&file, format!("lies outside {} (it is {})", root.display(), real.display())))
}

/// Dataset and config names come from task files: they may not climb out of a root.
fn check_name(name: &str) -> Result<(), DataError> {
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let ok = !name.is_empty() && plain && !name.contains(['\\', '\0']);
    ok.then_some(()).ok_or_else(|| DataError::BadName(name.to_owned()))
}

/// The directory of the wanted revision in the hub's cache: `refs/REVISION` names the commit under
/// `snapshots/`; a commit hash is itself.
fn snapshot(cache: &Path, spec: &DatasetSpec) -> Option<PathBuf> {
    let repo = cache.join(format!("datasets--{}", spec.path.replace('/', "--")));
    let revision = spec.revision.as_deref().unwrap_or("main");
    check_name(revision).ok()?;
    let commit = match fs_err::read_to_string(repo.join("refs").join(revision)) {
        Ok(commit) => commit.trim().to_owned(),
        Err(_) => revision.to_owned(),
    };
    check_name(&commit).ok()?;
    let snapshot = repo.join("snapshots").join(commit);
    snapshot.is_dir().then_some(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, fits) in [
            ("*.jsonl", "a.jsonl", true),
            ("a*b*.c", "axxbyy.c", true),
            ("a*b*.c", "axxyy.c", false),
            ("a.c", "a.c", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(glob(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn names_cannot_climb() {
        for name in ["..", "a/../b", "/etc", "", "./a", "a\\b"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("openai/gsm8k").is_ok());
    }

    #[test]
    fn shards_are_recognised() {
        assert!(matches!(part_of("test.jsonl.zst", "test"), Some(Part::Whole)));
        assert!(matches!(
            part_of("test-00002-of-00005.parquet", "test"),
            Some(Part::Shard { index: 2, of: 5 })
        ));
        assert!(matches!(
            part_of("validation-00000-of-00001-ab12.parquet", "validation"),
            Some(Part::Shard { index: 0, of: 1 })
        ));
        assert!(part_of("test_extra.jsonl", "test").is_none());
        assert!(part_of("test-notes.parquet", "test").is_none());
    }
}
