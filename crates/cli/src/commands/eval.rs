use evalign_bench::{Catalog, ExportFormat, RunRequest, Scoreboard, draft, export_run};

use crate::Verdict;
use crate::args::EvalArgs;
use crate::commands::context::{load_model, load_options, open_store, roots};
use crate::commands::dry_run;
use crate::commands::request::request_of;
use crate::commands::session::{Session, Start};
use crate::output::{Failure, Output};

pub(super) fn eval(args: &EvalArgs, output: Output) -> Result<Verdict, Failure> {
    let request = request_of(args, output)?;
    refuse_server_options(&request)?;
    let catalog = Catalog::load(&request.include_path)?;
    // Whatever can fail without weights fails before they are loaded.
    let draft = draft(&request, &catalog, &roots(&request)?)?;
    let store = open_store()?;
    let model = load_model(&request.model, &load_options(&request)?, output)?;
    let plan = draft.bind(&*model)?;
    if args.dry_run {
        return dry_run::dry_run(&plan, &*model, &store, args.json, output);
    }
    let session = Session {
        command: "eval",
        request: &request,
        catalog: &catalog,
        store: &store,
        start: if args.fork { Start::Fork } else { Start::BySpec },
        json: args.json,
        tolerance: args.limits.fail_on_error,
    };
    let (verdict, results) = session.run(&plan, model, output)?;
    if let Some(dir) = &args.output_path {
        let board = Scoreboard::of_run(&store.run(&results.run_id)?, &catalog, true)?;
        for file in export_run(&store, &results.run_id, &board, ExportFormat::LmEval, dir)? {
            output.note(&format!("wrote {}", file.display()));
        }
    }
    Ok(verdict)
}

/// Options that only a model server could follow are refused, not ignored.
pub(super) fn refuse_server_options(request: &RunRequest) -> Result<(), Failure> {
    let given = [
        (
            "--base-url",
            request.base_url.is_some() && request.model.provider == evalign_core::Provider::Openai,
        ),
        ("--budget-tokens", request.budget_tokens.is_some()),
        ("--budget-usd", request.budget_usd.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::new(
            format!("`{flag}` needs a model server, and this version measures local models only"),
            "leave it out",
        )),
        None => Ok(()),
    }
}
