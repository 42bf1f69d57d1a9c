use evalign_bench::{export_run, import_run};

use crate::Verdict;
use crate::args::{ExportArgs, ImportArgs};
use crate::commands::context::{find, open_store, owner, scoreboard};
use crate::output::{Failure, Output};

pub(super) fn export(args: &ExportArgs, output: Output) -> Result<Verdict, Failure> {
    let (store, id, run) = find(&args.run)?;
    let board = scoreboard(&run, &args.data, true)?;
    for file in export_run(&store, &id, &board, args.format, &args.out)? {
        output.result(&file.display().to_string())?;
    }
    Ok(Verdict::Good)
}

pub(super) fn import(args: &ImportArgs, output: Output) -> Result<Verdict, Failure> {
    let imported = import_run(&open_store()?, &args.dir, &owner("import"))?;
    let into = if imported.existed { "added to the run of the same specification" } else { "new run" };
    output.note(&format!("{} samples, {into}", imported.samples));
    output.result(imported.run.as_str())?;
    Ok(Verdict::Good)
}
