//! Which of a repository's files make up a model.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use crate::names::nearest;
use crate::{FetchError, RepoPath};

/// Everything besides the weights that loading a model may need. What a repository lacks is skipped
/// here; the loader says if it cannot do without.
const COMPANIONS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
];
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// An index names every tensor: some tens of thousands for the largest models.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The files of a model within a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// One GGUF file, which holds everything.
    Gguf(RepoPath),
    /// A directory. `index` names further weight files to fetch once it is there.
    Directory { files: Vec<RepoPath>, index: Option<RepoPath> },
}

/// Chooses from a repository's files: the wanted file, else safetensors weights, else the only GGUF.
/// Pickled weights (`.bin`, `.pt`) are never chosen: loading them can run code.
///
/// # Errors
/// [`FetchError::Invalid`] saying what to choose from, [`FetchError::NotFound`] for a wanted file that
/// is not there.
pub(crate) fn choose(
    repo: &str,
    files: &[RepoPath],
    wanted: Option<&RepoPath>,
) -> Result<Selection, FetchError> {
    if let Some(wanted) = wanted {
        return choose_wanted(repo, files, wanted);
    }
    let has = |name: &str| files.iter().find(|file| file.as_str() == name).cloned();
    let top = |ending: &str| -> Vec<&RepoPath> {
        files.iter().filter(|file| file.depth() == 1 && file.as_str().ends_with(ending)).collect()
    };
    let index = has(INDEX);
    let safetensors = top(".safetensors");
    let weights = match (&index, has(SINGLE), safetensors.as_slice()) {
        (Some(index), _, _) => Some(index.clone()),
        (None, Some(single), _) => Some(single),
        (None, None, [only]) => Some((*only).clone()),
        (None, None, _) => None,
    };
    if let (Some(weights), Some(_)) = (weights, has("config.json")) {
        let mut chosen: Vec<RepoPath> = COMPANIONS.iter().filter_map(|name| has(name)).collect();
        chosen.push(weights);
        return Ok(Selection::Directory { files: chosen, index });
    }
    let ggufs: Vec<&RepoPath> = files.iter().filter(|file| file.as_str().ends_with(".gguf")).collect();
    match ggufs.as_slice() {
        [only] => Ok(Selection::Gguf((*only).clone())),
        [] => Err(unusable(
            repo,
            "it holds neither safetensors weights with a config.json nor a GGUF file",
            None,
        )),
        [first, ..] => {
            let names: Vec<&str> = ggufs.iter().map(|file| file.as_str()).collect();
            let hint =
                format!("choose one of {} with `--file`, for example `--file {first}`", names.join(", "));
            Err(unusable(repo, &format!("it holds {} GGUF files", ggufs.len()), Some(hint)))
        }
    }
}

fn choose_wanted(repo: &str, files: &[RepoPath], wanted: &RepoPath) -> Result<Selection, FetchError> {
    if !wanted.as_str().ends_with(".gguf") {
        return Err(FetchError::invalid(
            "file",
            wanted.as_str(),
            "only a .gguf file is a whole model by itself",
        ));
    }
    if files.contains(wanted) {
        return Ok(Selection::Gguf(wanted.clone()));
    }
    let ggufs = files.iter().map(RepoPath::as_str).filter(|file| file.ends_with(".gguf"));
    Err(FetchError::NotFound {
        what: format!("`{wanted}`"),
        place: format!("`{repo}`"),
        nearest: nearest(wanted.as_str(), ggufs),
    })
}

fn unusable(repo: &str, reason: &str, hint: Option<String>) -> FetchError {
    FetchError::Invalid { what: "model repository", value: repo.to_owned(), reason: reason.to_owned(), hint }
}

#[derive(Deserialize)]
struct Index {
    weight_map: serde_json::Map<String, serde_json::Value>,
}

/// The weight files an index names, sorted.
///
/// # Errors
/// [`FetchError::Corrupt`] for an index that is unreadable or names impossible files.
pub(crate) fn shards(index: &Path) -> Result<Vec<RepoPath>, FetchError> {
    let corrupt = |reason: String| FetchError::Corrupt { path: index.to_owned(), reason };
    let length = std::fs::metadata(index).map_err(FetchError::io("read", index))?.len();
    if length > MAX_INDEX_BYTES {
        return Err(corrupt(format!("a weight index of {length} bytes is not believable")));
    }
    let text = std::fs::read(index).map_err(FetchError::io("read", index))?;
    let parsed: Index =
        serde_json::from_slice(&text).map_err(|error| corrupt(format!("no weight index: {error}")))?;
    let names: BTreeSet<&str> = parsed.weight_map.values().filter_map(serde_json::Value::as_str).collect();
    if names.is_empty() {
        return Err(corrupt("it names no weight file".to_owned()));
    }
    names
        .into_iter()
        .map(|name| match RepoPath::new(name) {
            Ok(path) if path.depth() == 1 && name.ends_with(".safetensors") => Ok(path),
            Ok(_) | Err(_) => {
                Err(corrupt(format!("it names the weight file `{}`", crate::redact::printable(name))))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use evalign_core::Hint;

    use super::*;

    fn paths(names: &[&str]) -> Vec<RepoPath> {
        names.iter().map(|name| RepoPath::new(name).unwrap()).collect()
    }

    fn chosen(names: &[&str]) -> Vec<String> {
        match choose("a/b", &paths(names), None).unwrap() {
            Selection::Directory { files, .. } => files.iter().map(|f| f.as_str().to_owned()).collect(),
            Selection::Gguf(file) => vec![file.as_str().to_owned()],
        }
    }

    #[test]
    fn safetensors_directories() {
        let all = [
            "README.md",
            "config.json",
            "model.safetensors",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tokenizer.json",
        ];
        assert_eq!(chosen(&all), ["config.json", "tokenizer.json", "model.safetensors"]);
        let sharded = ["config.json", "consolidated.safetensors", "model-1.safetensors", INDEX];
        assert_eq!(chosen(&sharded), ["config.json", INDEX]);
        assert_eq!(chosen(&["config.json", "x.gguf", "odd.safetensors"]), ["config.json", "odd.safetensors"]);
    }

    #[test]
    fn gguf_repositories() {
        assert_eq!(chosen(&["README.md", "sub/x.gguf"]), ["sub/x.gguf"]);
        let files = paths(&["a-Q4.gguf", "a-Q8.gguf"]);
        let error = choose("a/b", &files, None).unwrap_err();
        assert!(error.hint().unwrap().contains("a-Q4.gguf, a-Q8.gguf with `--file`"));
        let wanted = RepoPath::new("a-Q8.gguf").unwrap();
        assert_eq!(choose("a/b", &files, Some(&wanted)).unwrap(), Selection::Gguf(wanted));
        let missing = choose("a/b", &files, Some(&RepoPath::new("a-Q9.gguf").unwrap())).unwrap_err();
        assert!(missing.hint().unwrap().contains("a-Q"));
    }

    #[test]
    fn promise_33_pickles_are_never_chosen() {
        let error =
            choose("a/b", &paths(&["config.json", "pytorch_model.bin"]), None).unwrap_err().to_string();
        assert!(error.contains("neither safetensors"), "{error}");
        assert!(choose("a/b", &paths(&["x.bin"]), Some(&RepoPath::new("x.bin").unwrap())).is_err());
    }

    #[test]
    fn an_index_cannot_name_files_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("i.json");
        let read = |name: &str| {
            fs_err::write(&index, serde_json::json!({"weight_map": {"w": name, "v": name}}).to_string())
                .unwrap();
            shards(&index).map(|files| files.len())
        };
        assert_eq!(read("model-1.safetensors").unwrap(), 1);
        for bad in ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "x.bin", ""] {
            assert!(read(bad).is_err(), "{bad}");
        }
        fs_err::write(&index, "{\"weight_map\":{").unwrap();
        assert!(shards(&index).unwrap_err().to_string().contains("i.json is damaged"));
    }
}
