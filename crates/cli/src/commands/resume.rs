use evalign_bench::{Catalog, check_resume, draft, request_of};

use crate::Verdict;
use crate::args::ResumeArgs;
use crate::commands::context::{find, load_model, load_options, roots};
use crate::commands::request::set_budget;
use crate::commands::session::{Session, Start};
use crate::commands::spending::Spending;
use crate::output::{Failure, Output};

pub(super) fn resume(args: &ResumeArgs, output: Output) -> Result<Verdict, Failure> {
    let (store, id, stored) = find(&args.run)?;
    let mut request = request_of(&stored)?;
    set_budget(&mut request, &args.budget);
    if let Some(concurrency) = args.max_concurrency {
        request.max_concurrency = concurrency.0;
    }
    let spending = Spending::of(&request, output)?;
    let catalog = Catalog::load(&request.include_path)?;
    let draft = draft(&request, &catalog, &roots(&request)?)?;
    let mut options = load_options(&request)?;
    options.openai.needs = draft.needs();
    options.budget.clone_from(&spending.budget);
    if !args.fork {
        // Prompts that name the day go on naming the one the run was started on.
        let rendered_at = stored.spec.rendered_at.as_deref();
        options.now = rendered_at.map(str::parse).transpose().map_err(anyhow::Error::from)?;
    }
    let model = load_model(&request.model, &options, output)?;
    let plan = draft.bind(&*model)?;
    if args.fork {
        for difference in stored.spec.differences(&plan.spec) {
            output.note(&format!("changed: {difference}"));
        }
    } else {
        check_resume(&stored, &plan)?;
    }
    let session = Session {
        command: "resume",
        request: &request,
        catalog: &catalog,
        store: &store,
        start: if args.fork { Start::Fork } else { Start::Resume(&id) },
        json: args.json,
        tolerance: args.fail_on_error,
        spending,
        no_cache: false,
        retry_errors: args.retry_errors,
    };
    Ok(session.run(&plan, model, output)?.0)
}
