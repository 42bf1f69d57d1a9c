use std::path::{Path, PathBuf};

use super::built_in::entry_path;
use super::{ModelState, Models, PullOptions, Reference};
use crate::{BuiltIn, FetchError, Progress};

impl Models {
    /// Turns the name behind `local/` into a path to load: an existing path first, then an alias, then
    /// a hub model, from the cache where it is complete there (whether the hub has moved on is asked by
    /// `pull` only), else pulled.
    ///
    /// A built-in model's digests are checked every time; a damaged one is an error, not a silent
    /// download, because someone may want to know what happened to it.
    ///
    /// # Errors
    /// All of [`FetchError`].
    pub async fn resolve(&self, name: &str, progress: Progress<'_>) -> Result<PathBuf, FetchError> {
        let path = Path::new(name);
        if path.exists() {
            return Ok(path.to_owned());
        }
        if looks_like_a_path(name) {
            return Err(FetchError::NotFound {
                what: format!("`{}`", crate::redact::printable(name)),
                place: "this machine".to_owned(),
                nearest: sibling(path),
            });
        }
        let reference = self.reference(name)?;
        match &reference {
            Reference::BuiltIn(model) => {
                if let Some(path) = self.present_built_in(model).await? {
                    return Ok(path);
                }
            }
            Reference::Hub(hub) => {
                if let Some(path) = self.cached_model(hub)? {
                    return Ok(path);
                }
            }
        }
        Ok(self.pull(&reference, &PullOptions::default(), progress).await?.path)
    }

    async fn present_built_in(&self, model: &'static BuiltIn) -> Result<Option<PathBuf>, FetchError> {
        let found = self.find_built_in(model).await?;
        match found.state {
            ModelState::Present => Ok(Some(entry_path(model, &found.dir))),
            ModelState::Corrupt { file, reason } => Err(FetchError::Corrupt { path: file, reason }),
            ModelState::Absent | ModelState::Incomplete { .. } => Ok(None),
        }
    }
}

/// Whether a name behind `local/` can only have been meant as a path, so that a typing error is not asked of the hub.
#[must_use]
pub fn looks_like_a_path(name: &str) -> bool {
    let path = Path::new(name);
    let is_file_name = name.ends_with(".gguf") && name.split('/').count() <= 2;
    path.is_absolute()
        || name.starts_with(['.', '~'])
        || name.ends_with('/')
        || name.contains('\\')
        || is_file_name
}

/// The most similar name beside a path that does not exist.
fn sibling(path: &Path) -> Option<String> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let nearest = crate::names::nearest(path.file_name()?.to_str()?, names.iter().map(String::as_str))?;
    Some(path.with_file_name(nearest).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_from_names() {
        for path in ["/a/b", "./m", "../m.gguf", "~/m", "m.gguf", "models/m.gguf", "dir/", "c:\\m"] {
            assert!(looks_like_a_path(path), "{path}");
        }
        for name in ["smollm2-135m-instruct", "org/repo", "org/repo@main", "org/repo/m.gguf"] {
            assert!(!looks_like_a_path(name), "{name}");
        }
    }
}
