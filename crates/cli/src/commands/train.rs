//! `evalign train`: settings become a job, the job a run with reports.

mod merge;
mod plan;
mod run;
mod score;
mod verify;

use std::path::{Path, PathBuf};

use evalign_core::ModelRef;
use evalign_data::{DataRoots, Dataset, DatasetSpec};
use evalign_fetch::{Models, block_on};
use evalign_lm::LoadOptions;
use evalign_train::{Job, RecomputeChoice, Settings, Sources, TrainConfig, TrainKind};

use crate::Verdict;
use crate::args::{TrainArgs, TrainCommand};
use crate::commands::context::absolute;
use crate::commands::progress::FetchBars;
use crate::output::{Failure, Output};

const GIB: f64 = (1u64 << 30) as f64;

pub(super) fn train(command: &TrainCommand, output: Output) -> Result<Verdict, Failure> {
    match command {
        TrainCommand::Sft(args) => start(TrainKind::Sft, args, output),
        TrainCommand::Reward(args) => start(TrainKind::Reward, args, output),
        TrainCommand::Dpo(args) => start(TrainKind::Dpo, args, output),
        TrainCommand::Merge(args) => merge::merge(args, output),
        TrainCommand::Score(args) => score::score(args, output),
        TrainCommand::Verify(args) => verify::verify(args, output),
    }
}

fn start(kind: TrainKind, args: &TrainArgs, output: Output) -> Result<Verdict, Failure> {
    let (from_file, notes) = match &args.config {
        Some(path) => Settings::read(path)?,
        None => (Settings::default(), Vec::new()),
    };
    for note in notes {
        output.note(&format!("note: {note}"));
    }
    let said = from_file.overridden(&args.settings)?;
    if args.preview.is_none() && !args.dry_run {
        // Before the model is loaded.
        out_directory(&said)?;
    }
    let config = TrainConfig::resolve(kind, &said)?;
    let sources = sources(&said, args, output)?;
    check_out(said.out.as_deref(), &sources)?;
    for note in config.unread(&said, sources.adapter.is_some()) {
        output.note(&format!("note: {note}"));
    }
    let load = load_options(&said)?;
    let recompute = match said.recompute.as_deref() {
        None | Some("auto") => RecomputeChoice::Auto,
        Some("always") => RecomputeChoice::Always,
        Some("never") => RecomputeChoice::Never,
        Some(other) => {
            return Err(Failure::new(
                format!("there is no `--recompute {other}`"),
                "use auto, always or never",
            ));
        }
    };
    let memory = memory_bytes(said.memory_gib)?;
    let mut job = Job::prepare(config, &sources, &load, (recompute, memory))?;
    let dropout = job.config.lora.as_ref().map_or(0.0, |lora| lora.dropout);
    if dropout > 0.0 && job.config.disable_dropout {
        output.note("note: `--lora-dropout` does nothing here; `--disable-dropout false` turns it on");
    }
    plan::tell_report(&job.data.report, &sources.rows, output);
    if let (Some(data), Some(rows)) = (&job.evaluation, &sources.evaluation) {
        plan::tell_report(&data.report, rows, output);
    }
    if let Some(items) = args.preview {
        return plan::preview(&job, items, output);
    }
    if args.dry_run {
        return plan::dry_run(&job, args.json, output);
    }
    run::run(&mut job, &sources, &out_directory(&said)?, args, output)
}

fn out_directory(said: &Settings) -> Result<PathBuf, Failure> {
    let out = said.out.as_deref().map(|out| absolute(Path::new(out)));
    out.ok_or_else(|| Failure::new("it is not said where the results go", "give `--out DIR`"))
}

/// Results must not take the place of what training starts from.
fn check_out(out: Option<&str>, sources: &Sources) -> Result<(), Failure> {
    let Some(out) = out.and_then(|out| fs_err::canonicalize(out).ok()) else { return Ok(()) };
    let inputs = [Some(&sources.model), sources.adapter.as_ref(), sources.reference.as_ref()];
    let is_out = |path: &&PathBuf| fs_err::canonicalize(path).is_ok_and(|path| path == out);
    match inputs.into_iter().flatten().find(is_out) {
        Some(path) => Err(Failure::new(
            format!("the results would replace {}, which training starts from", path.display()),
            "give another directory as `--out`",
        )),
        None => Ok(()),
    }
}

fn memory_bytes(gib: Option<f64>) -> Result<Option<u64>, Failure> {
    match gib {
        None => Ok(None),
        Some(gib) if gib.is_finite() && gib > 0.0 => Ok(Some((gib * GIB) as u64)),
        Some(gib) => {
            Err(Failure::new(format!("{gib} GiB is not an amount of memory"), "give a positive number"))
        }
    }
}

fn load_options(said: &Settings) -> Result<LoadOptions, Failure> {
    let dtype = said.dtype.as_deref().map(|name| {
        crate::args::parse_dtype(name.trim_start_matches("torch."))
            .map_err(|_| Failure::new(format!("there is no `--dtype {name}`"), "use f32, bf16, f16 or q"))
    });
    Ok(LoadOptions {
        device: said.device.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
        dtype: dtype.transpose()?,
        ..LoadOptions::default()
    })
}

fn sources(said: &Settings, args: &TrainArgs, output: Output) -> Result<Sources, Failure> {
    let missing = |what: &str, hint: &str| Failure::new(format!("no {what} is named"), hint);
    let model = said.model.as_deref().ok_or_else(|| {
        missing("model", "give `--model REF`, for example `--model local/smollm2-135m-instruct`")
    })?;
    let data = said.data.as_deref().ok_or_else(|| missing("data", "give `--data FILE`"))?;
    let model: ModelRef = model.parse()?;
    let adapter = match (&model.adapter, &said.adapter) {
        (Some(_), Some(_)) => {
            return Err(Failure::new("two adapters are named", "give `+adapter=DIR` or `--adapter DIR`"));
        }
        (Some(adapter), None) => Some(adapter.clone()),
        (None, adapter) => adapter.as_ref().map(PathBuf::from),
    };
    let reference = said.ref_model.as_deref().map(str::parse::<ModelRef>).transpose()?;
    if reference.as_ref().is_some_and(|reference| reference.adapter.is_some()) {
        return Err(Failure::new(
            "a reference with an adapter is not supported",
            "merge it with `evalign train merge` and name the merged model",
        ));
    }
    let resolve = |reference: &ModelRef| resolve(reference, args.offline, output);
    let dataset = |name: &str| open(name, args.data_root.as_deref(), args.offline);
    Ok(Sources {
        model: resolve(&model)?,
        model_name: format!("local/{}", model.name),
        chat_template: said.chat_template_path.as_ref().map(PathBuf::from),
        adapter,
        reference: reference.as_ref().map(resolve).transpose()?,
        rows: dataset(data)?,
        evaluation: said.eval_data.as_deref().map(dataset).transpose()?,
        evaluation_fraction: said.eval_fraction.unwrap_or(0.0),
    })
}

/// The files of a local model, fetched where they are not here.
fn resolve(reference: &ModelRef, offline: bool, output: Output) -> Result<PathBuf, Failure> {
    if reference.provider != evalign_core::Provider::Local {
        return Err(Failure::new(
            format!("`{reference}` is no model on this machine"),
            "only local models are trained: `local/PATH` or `local/ORG/REPO`",
        ));
    }
    let bars = FetchBars::new(output);
    let progress = |event: evalign_fetch::Event<'_>| bars.event(&event);
    let path = block_on(async { Models::from_env(offline)?.resolve(&reference.name, &progress).await });
    bars.finish();
    Ok(path?)
}

/// A file, or the `train` split of a dataset in the data root or on the hub.
fn open(name: &str, data_root: Option<&Path>, offline: bool) -> Result<Dataset, Failure> {
    let is_file = Path::new(name).exists()
        || Path::new(name)
            .extension()
            .is_some_and(|kind| ["jsonl", "json", "parquet", "csv"].iter().any(|k| kind == *k));
    // A pattern may name several files.
    if is_file && !name.contains(['*', '?', '[', '{']) && !Path::new(name).exists() {
        return Err(Failure::new(
            format!("{name}: there is no such file"),
            "check the path; datasets of the hub are named `ORG/NAME`",
        ));
    }
    let spec = match is_file {
        true => DatasetSpec {
            files: Some(absolute(Path::new(name)).display().to_string()),
            ..DatasetSpec::default()
        },
        false => DatasetSpec { path: name.to_owned(), split: "train".to_owned(), ..DatasetSpec::default() },
    };
    let roots = DataRoots::from_env(data_root.map(Path::to_path_buf), Vec::new(), offline)?;
    Ok(evalign_data::open(&roots, &spec)?)
}
