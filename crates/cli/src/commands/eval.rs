use evalign_bench::{Catalog, ExportFormat, Scoreboard, draft, export_run};

use crate::Verdict;
use crate::args::EvalArgs;
use crate::commands::context::{load_model, load_options, open_store, roots};
use crate::commands::dry_run;
use crate::commands::procedure::judged;
use crate::commands::request::request_of;
use crate::commands::session::{Session, Start};
use crate::commands::spending::Spending;
use crate::output::{Failure, Output};

pub(super) fn eval(args: &EvalArgs, output: Output) -> Result<Verdict, Failure> {
    let request = request_of(args, output)?;
    let spending = Spending::of(&request, output)?;
    let catalog = Catalog::load(&request.include_path)?;
    // Whatever can fail without weights fails before they are loaded.
    let draft = draft(&request, &catalog, &roots(&request)?)?;
    let store = open_store()?;
    let mut options = load_options(&request)?;
    options.openai.needs = draft.all_needs()?;
    options.budget.clone_from(&spending.budget);
    let model = load_model(&request.model, &options, output)?;
    let plan = judged(draft, &request, (&model, &options), &store, output)?.bind(&*model)?;
    if args.dry_run {
        return dry_run::dry_run(&plan, &*model, &store, spending.price, args.json, output);
    }
    let session = Session {
        command: "eval",
        request: &request,
        catalog: &catalog,
        store: &store,
        start: if args.fork { Start::Fork } else { Start::BySpec },
        json: args.json,
        tolerance: args.limits.fail_on_error,
        spending,
        no_cache: args.no_cache,
        retry_errors: false,
    };
    let (verdict, results) = session.run(&plan, &model, output)?;
    if let Some(dir) = &args.output_path {
        let board = Scoreboard::of_run(&store.run(&results.run_id)?, &catalog, true)?;
        for file in export_run(&store, &results.run_id, &board, ExportFormat::LmEval, dir)? {
            output.note(&format!("wrote {}", file.display()));
        }
    }
    Ok(verdict)
}
