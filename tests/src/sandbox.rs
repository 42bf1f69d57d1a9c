use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::binary;

/// A home directory for one test, and the binary run in it. Nothing of the user's environment is seen,
/// and no network is asked.
#[derive(Debug)]
pub struct Sandbox {
    dir: tempfile::TempDir,
}

/// How a command came out.
#[derive(Clone, Debug)]
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// # Panics
    /// When the output is not one JSON document.
    #[must_use]
    #[expect(clippy::panic, reason = "a failed test says what was printed")]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A scripted model's file.
#[derive(Clone, Debug, Default)]
pub struct Script(serde_json::Map<String, Value>);

impl Script {
    /// Answers drawn from this seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::default().with("seed", json!(seed))
    }

    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.0.insert(field.to_owned(), value);
        self
    }
}

impl Sandbox {
    /// # Panics
    /// Without a temporary directory.
    #[must_use]
    #[expect(clippy::expect_used, reason = "no test without a directory")]
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where the store lies.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// Writes a file into the sandbox.
    ///
    /// # Panics
    /// When it cannot be written.
    #[expect(clippy::expect_used, reason = "no test without its files")]
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent).expect("a directory");
        }
        fs_err::write(&path, content).expect("a file");
        path
    }

    /// Writes a scripted model and returns its reference.
    pub fn model(&self, script: &Script) -> String {
        let path = self.write("model.json", Value::Object(script.0.clone()).to_string());
        format!("scripted/{}", path.display())
    }

    /// The binary with arguments, in an environment of its own.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.path()).env_clear();
        // What the system needs to start a process, and what makes tests of paths portable.
        for name in ["PATH", "SYSTEMROOT", "TMPDIR", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("HOME", self.path()).env("EVALIGN_HOME", self.home()).env("HF_HUB_OFFLINE", "1");
        command
    }

    /// Runs the binary to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[expect(clippy::expect_used, reason = "no test without the binary")]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().expect("the binary starts").into()
    }

    /// Runs the binary, which must end well.
    ///
    /// # Panics
    /// When it does not.
    pub fn ok(&self, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.status, 0, "{arguments:?}: {ran:?}");
        ran
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}
