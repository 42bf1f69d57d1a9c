//! ONNX Runtime: where its shared library is, and loading it once.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use evalign_fetch::Home;

use crate::RagError;

/// Names the library's file; nothing else is looked at then.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// Loads ONNX Runtime and returns the file it was loaded from: the given one, else that of `ORT_DYLIB_PATH`, else the
/// one that `evalign models pull onnxruntime` brought, else one that a Python installation holds. A process loads it
/// once.
///
/// # Errors
/// [`RagError::Invalid`] where there is none, or none that can be used, with what was tried.
pub fn load_onnx_runtime(given: Option<&Path>) -> Result<PathBuf, RagError> {
    static LOADED: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = loaded.as_ref() {
        return Ok(path.clone());
    }
    let mut refused = Vec::new();
    let candidates = match given {
        Some(path) => vec![path.to_owned()],
        None => libraries(&|name| std::env::var(name).ok()),
    };
    for path in candidates {
        // What would be configured here is configured by fastembed; the library stays loaded.
        match ort::init_from(&path).map(drop) {
            Ok(()) => return Ok(loaded.insert(path).clone()),
            Err(error) => refused.push(error.to_string()),
        }
    }
    let message = match refused.is_empty() {
        true => "its shared library is not on this machine".to_owned(),
        false => refused.join("; "),
    };
    Err(RagError::invalid(
        "ONNX Runtime",
        message,
        format!(
            "`evalign models pull onnxruntime` gets it, or name its file in {VARIABLE} (version 1.24 or later)"
        ),
    ))
}

/// Files that may be the library, the first choice first.
fn libraries(lookup: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let var = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
    if let Some(path) = var(VARIABLE) {
        return vec![std::path::absolute(&path).unwrap_or_else(|_| PathBuf::from(path))];
    }
    let mut found = Vec::new();
    if let Ok(home) = Home::from_lookup(var) {
        found.extend(libraries_in(&home.libraries().join("onnxruntime")));
    }
    for packages in site_packages(&var) {
        found.extend(libraries_in(&packages.join("onnxruntime").join("capi")));
    }
    found
}

/// Where Python installations keep packages: the active environment, those whose `python3` can be called, the
/// user's own.
fn site_packages(var: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let mut prefixes: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| var(name)).map(PathBuf::from).collect();
    for directory in std::env::split_paths(&var("PATH").unwrap_or_default()) {
        let is_python = ["python3", "python", "python.exe"].iter().any(|name| directory.join(name).is_file());
        let prefix = if cfg!(windows) { Some(directory.as_path()) } else { directory.parent() };
        prefixes.extend(prefix.filter(|_| is_python).map(Path::to_owned));
    }
    prefixes.extend(var("HOME").map(|home| PathBuf::from(home).join(".local")));
    let mut packages: Vec<PathBuf> = Vec::new();
    for prefix in prefixes {
        packages.push(prefix.join("Lib").join("site-packages"));
        let versions =
            names_in(&prefix.join("lib")).into_iter().rev().filter(|name| name.starts_with("python3"));
        for version in versions {
            let version = prefix.join("lib").join(version);
            packages.extend(["site-packages", "dist-packages"].map(|name| version.join(name)));
        }
    }
    packages
}

fn libraries_in(directory: &Path) -> Vec<PathBuf> {
    let names = names_in(directory).into_iter().rev().filter(|name| is_library(name));
    names.map(|name| directory.join(name)).collect()
}

/// `libonnxruntime.so.1.31.1`, `libonnxruntime.1.31.1.dylib`, `onnxruntime.dll`; not what it loads itself.
fn is_library(name: &str) -> bool {
    let stem = format!("{}onnxruntime.", std::env::consts::DLL_PREFIX);
    let suffix = std::env::consts::DLL_SUFFIX;
    name.starts_with(&stem) && (name.ends_with(suffix) || name.contains(&format!("{suffix}.")))
}

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_variable_wins_then_our_folder_then_python() {
        let place = tempfile::tempdir().unwrap();
        let touch = |name: &str| {
            let path = place.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(&path, "").unwrap();
            path
        };
        let ours = touch("home/lib/onnxruntime/libonnxruntime.so.1.31.1");
        let newer = touch("py/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.30.0");
        touch("py/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime_providers_shared.so");
        let older = touch("py/lib/python3.11/dist-packages/onnxruntime/capi/libonnxruntime.so");
        touch("py/bin/python3");
        let lookup = |variable: Option<&str>| {
            let at = |name: &str| place.path().join(name).display().to_string();
            let values = [
                ("EVALIGN_HOME", Some(at("home"))),
                ("PATH", Some(format!("/nowhere:{}", at("py/bin")))),
                (VARIABLE, variable.map(str::to_owned)),
            ];
            libraries(&move |name| values.iter().find(|(key, _)| *key == name)?.1.clone())
        };
        assert_eq!(lookup(None), [ours, newer, older]);
        assert_eq!(lookup(Some("/opt/libonnxruntime.so")), [PathBuf::from("/opt/libonnxruntime.so")]);
    }
}
