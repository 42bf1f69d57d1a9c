use evalign_bench::{Catalog, export_run, export_steps, import_run};
use evalign_core::Hint as _;

use crate::Verdict;
use crate::args::{ExportArgs, ImportArgs};
use crate::commands::context::{find_to_read, open_store, owner, scoreboard};
use crate::output::{Failure, Output};

pub(super) fn export(args: &ExportArgs, output: Output) -> Result<Verdict, Failure> {
    let (store, id, run) = find_to_read(&args.run)?;
    if run.request.get("procedure").is_some() {
        for file in export_steps(&store, &id, args.format, &args.out)? {
            output.result(&file.display().to_string())?;
        }
        return Ok(Verdict::Good);
    }
    let board = scoreboard(&run, &args.data, true)?;
    if run.scored_by.is_some() {
        output.note("note: this run was scored again, by other rules than it was run with");
    }
    for file in export_run(&store, &id, &board, args.format, &args.out)? {
        output.result(&file.display().to_string())?;
    }
    Ok(Verdict::Good)
}

pub(super) fn import(args: &ImportArgs, output: Output) -> Result<Verdict, Failure> {
    let catalog = Catalog::load(&args.include_path)?;
    let imported = import_run(&open_store()?, &args.dir, (&owner("import"), &catalog), Ok)?;
    let into = if imported.existed { "added to the run of the same specification" } else { "new run" };
    output.note(&format!("{} samples, {into}", imported.samples));
    if let Some(error) = &imported.no_results {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        output.note(&format!("the samples are stored, their results could not be computed: {error}{hint}"));
    }
    output.result(imported.run.as_str())?;
    Ok(Verdict::Good)
}
