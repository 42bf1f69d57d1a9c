use std::ffi::OsString;
use std::path::PathBuf;

use crate::StoreError;

/// Where evalign keeps its state: `EVALIGN_HOME`, else the platform's data directory
/// (`$XDG_DATA_HOME/evalign` or `~/.local/share/evalign`; `~/Library/Application Support/evalign` on
/// macOS; `%LOCALAPPDATA%\evalign` on Windows). An empty variable counts as unset. Nothing is created.
///
/// # Errors
/// [`StoreError::NoHome`] where no variable names a directory.
pub fn home_dir() -> Result<PathBuf, StoreError> {
    resolve(|name| std::env::var_os(name)).ok_or(StoreError::NoHome)
}

fn resolve(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let dir = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = dir("EVALIGN_HOME") {
        return Some(home);
    }
    let data = if cfg!(target_os = "macos") {
        dir("HOME").map(|home| home.join("Library").join("Application Support"))
    } else if cfg!(windows) {
        dir("LOCALAPPDATA").or_else(|| dir("APPDATA"))
    } else {
        // The XDG specification: a relative path in the variable is to be ignored.
        dir("XDG_DATA_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| dir("HOME").map(|home| home.join(".local").join("share")))
    };
    data.map(|data| data.join("evalign"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Option<PathBuf> {
        resolve(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
    }

    #[test]
    fn evalign_home_wins_and_empty_is_unset() {
        assert_eq!(with(&[("EVALIGN_HOME", "/a"), ("HOME", "/h")]), Some("/a".into()));
        assert_eq!(with(&[]), None);
        #[cfg(target_os = "linux")]
        {
            let share = Some(PathBuf::from("/h/.local/share/evalign"));
            assert_eq!(with(&[("EVALIGN_HOME", ""), ("HOME", "/h")]), share);
            assert_eq!(with(&[("XDG_DATA_HOME", "relative"), ("HOME", "/h")]), share);
            assert_eq!(with(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]), Some("/x/evalign".into()));
        }
    }
}
