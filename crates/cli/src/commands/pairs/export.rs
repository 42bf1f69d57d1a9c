use std::path::Path;

use evalign_bench::{Catalog, CritiqueRequest, PairsRequest, Steps};
use evalign_data::Limits;
use evalign_judge::{Converted, Finding, Strategy, convert_file};
use evalign_store::StoredRun;
use serde_json::json;

use super::{Wanted, decontamination, filters, pair_files, pairs, tell, write};
use crate::Verdict;
use crate::args::PairsExportArgs;
use crate::commands::context::{find_to_read, roots};
use crate::commands::critique;
use crate::output::{Failure, Output};

pub(in crate::commands) fn export(args: &PairsExportArgs, output: Output) -> Result<Verdict, Failure> {
    let path = Path::new(&args.what);
    if path.is_file() {
        return convert(path, args, output);
    }
    let (store, id, run) = find_to_read(&args.what)?;
    let steps = Steps::of(&store, &id);
    match run.request["procedure"].as_str() {
        Some(CritiqueRequest::PROCEDURE) => {
            if args.filters.strategy.is_some_and(|strategy| strategy != Strategy::RevisionVsOriginal) {
                return Err(Failure::new(
                    "a critique pairs each revision with what it revises",
                    "leave out `--strategy`",
                ));
            }
            let mut request: CritiqueRequest = request(&run)?;
            request.run.data_root = args.data.data_root.clone().or(request.run.data_root);
            request.run.include_path.extend(args.data.include_path.iter().cloned());
            request.run.offline |= args.data.offline;
            critique::write(&steps, &request, &wanted(args)?, output)?;
        }
        Some(PairsRequest::PROCEDURE) => {
            let request: PairsRequest = request(&run)?;
            let catalog = Catalog::load_over(&request.run.include_path, &args.data.include_path)?;
            let mut where_rows_are = request.run.clone();
            where_rows_are.data_root = args.data.data_root.clone().or(where_rows_are.data_root);
            where_rows_are.offline |= args.data.offline;
            let wanted = wanted(args)?;
            let roots = roots(&where_rows_are)?;
            let index = decontamination(&wanted, &catalog, &roots)?;
            let (rows, report) = pairs(&steps, &request, &wanted, (&catalog, &roots), index.as_ref())?;
            write(&args.out, &rows, wanted.files, output)?;
            tell(&id, &report, &wanted, output)?;
        }
        _ => {
            return Err(Failure::new(
                format!("{id} made no pairs"),
                "name a run of `evalign pairs build` or `evalign critique`, or a file",
            ));
        }
    }
    Ok(Verdict::Good)
}

fn wanted(args: &PairsExportArgs) -> Result<Wanted<'_>, Failure> {
    Ok(Wanted {
        out: Some(&args.out),
        filters: filters(&args.filters)?,
        strategy: args.filters.strategy,
        decontaminate: !args.filters.no_decontamination,
        files: pair_files(&args.files),
        json: false,
    })
}

/// What a run of steps was asked for. Prompts that name the day go on naming the one the run was started on.
pub(in crate::commands) fn request<T: serde::de::DeserializeOwned>(run: &StoredRun) -> Result<T, Failure> {
    let mut request = run.request.clone();
    if let (Some(run_request), Some(now)) = (request.get_mut("run"), &run.spec.rendered_at) {
        run_request["now"] = json!(now);
    }
    serde_json::from_value(request).map_err(|error| {
        Failure::new(
            format!("the request of {} cannot be read: {error}", run.id),
            "it was made by another version of evalign: use that one, or run it again",
        )
    })
}

/// Faulty rows that are told one by one.
const FAULTS_SHOWN: u64 = 5;

/// Rows of a file in another layout, style or format, with the columns that say where they come from. Those that
/// `pairs check` calls wrong are left out.
fn convert(path: &Path, args: &PairsExportArgs, output: Output) -> Result<Verdict, Failure> {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or("rows");
    let name = name.strip_suffix(".jsonl").unwrap_or(name);
    if !args.filters.untouched() {
        return Err(Failure::new(
            "filters apply to runs: the rows of a file are written as they are",
            "leave them out, or name the run that made the file",
        ));
    }
    let wanted = pair_files(&args.files);
    let target = args.out.join(format!("{name}.{}", wanted.kind.extension()));
    if target.exists() && same_file(&target, path) {
        return Err(Failure::new(
            format!("{} would be written over itself", path.display()),
            "name another directory with `--out`",
        ));
    }
    fs_err::create_dir_all(&args.out).map_err(Failure::from_io)?;
    let mut told = 0u64;
    let mut faulty = |unit: &str, place: u64, finding: &Finding| {
        told += 1;
        if told <= FAULTS_SHOWN {
            output.note(&format!("{}, {unit} {place}: left out: {}", path.display(), finding.message));
        }
    };
    let how = (wanted.layout, wanted.style, wanted.kind);
    let Converted { rows, left_out, faulty, unit } =
        convert_file(path, &Limits::default(), &target, how, &mut faulty)?;
    output.note(&format!("{rows} rows in {}", target.display()));
    if left_out > 0 {
        output.note(&format!("note: {left_out} {unit}s cannot be written in the layout {}", wanted.layout));
    }
    if faulty > 0 {
        output.note(&format!(
            "{faulty} {unit}s are left out because they would teach the wrong thing\n\
             hint: `evalign pairs check {}` shows them all",
            path.display()
        ));
        return Ok(Verdict::Failed);
    }
    Ok(Verdict::Good)
}

fn same_file(a: &Path, b: &Path) -> bool {
    fs_err::canonicalize(a).ok().is_some_and(|a| fs_err::canonicalize(b).ok() == Some(a))
}
