use evalign_bench::{
    ActiveRun, AnsweringRequest, ArenaRequest, Catalog, CritiqueRequest, FileJudgingRequest, Filters,
    InjectionsRequest, PairFiles, PairsRequest, RetrievalRequest, Votes, check_resume, draft, request_of,
};
use evalign_data::FileKind;
use evalign_store::StoredRun;
use serde_json::json;

use crate::Verdict;
use crate::args::ResumeArgs;
use crate::commands::context::{find, load_model, load_options, owner, roots};
use crate::commands::procedure::judged;
use crate::commands::request::set_budget;
use crate::commands::session::{Session, Start};
use crate::commands::spending::Spending;
use crate::commands::{critique, injections, judge, pairs, rag};
use crate::output::{Failure, Output};

pub(super) fn resume(args: &ResumeArgs, output: Output) -> Result<Verdict, Failure> {
    let (store, id, mut stored) = find(&args.run)?;
    if stored.request.get("procedure").is_some() {
        refuse_for_steps(args)?;
        if args.retry_errors {
            let mut run = ActiveRun::resume(&id, &store, &owner("resume"))?;
            let reopened = run.reopen_failed()?;
            run.release()?;
            output.note(&format!("{reopened} samples had no answer and are asked again"));
        }
        for (field, most) in
            [("budget_tokens", args.budget.budget_tokens), ("budget_requests", args.budget.budget_requests)]
        {
            if let (Some(request), Some(most)) = (stored.request.get_mut("run"), most) {
                request[field] = json!(most);
            }
        }
        if let Some(request) = stored.request.get_mut("run") {
            request["resumes"] = json!(id);
        }
    }
    if let Some(verdict) = resume_steps(&stored, args.json, output)? {
        return Ok(verdict);
    }
    let mut request = request_of(&stored)?;
    set_budget(&mut request, &args.budget);
    if let Some(concurrency) = args.max_concurrency {
        request.max_concurrency = concurrency.0;
    }
    let spending = Spending::of(&request, output)?;
    let catalog = Catalog::load(&request.include_path)?;
    let draft = draft(&request, &catalog, &roots(&request)?)?;
    let mut options = load_options(&request)?;
    options.openai.needs = draft.all_needs()?;
    options.budget.clone_from(&spending.budget);
    if !args.fork {
        // Prompts that name the day go on naming the one the run was started on.
        let rendered_at = stored.spec.rendered_at.as_deref();
        options.now = rendered_at.map(str::parse).transpose().map_err(anyhow::Error::from)?;
    }
    let model = load_model(&request.model, &options, output)?;
    let plan = judged(draft, &request, (&model, &options), &store, output)?.bind(&*model)?;
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
    Ok(session.run(&plan, &model, output)?.0)
}

/// Flags that say how an evaluation goes on, and nothing about a run of steps.
fn refuse_for_steps(args: &ResumeArgs) -> Result<(), Failure> {
    let budget = &args.budget;
    let given = [
        ("--fork", args.fork),
        ("--max-concurrency", args.max_concurrency.is_some()),
        ("--budget-usd", budget.budget_usd.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::new(
            format!("`{flag}` does not apply to a run of several steps"),
            "leave it out; with other flags the command that started the run starts another one",
        )),
        None => Ok(()),
    }
}

/// Goes on with a run of steps. `None`: it is an ordinary one.
fn resume_steps(stored: &StoredRun, json: bool, output: Output) -> Result<Option<Verdict>, Failure> {
    Ok(match stored.request["procedure"].as_str() {
        Some(CritiqueRequest::PROCEDURE) => {
            let request: CritiqueRequest = pairs::request(stored)?;
            Some(critique::run(request, (None, FileKind::default()), json, output)?)
        }
        Some(ArenaRequest::PROCEDURE) => Some(judge::run_arena(pairs::request(stored)?, json, output)?),
        Some(FileJudgingRequest::PROCEDURE) => {
            let wanted = judge::Wanted { json, ..judge::Wanted::default() };
            Some(judge::run_file(&pairs::request(stored)?, wanted, output)?)
        }
        Some(PairsRequest::PROCEDURE) => {
            let wanted = pairs::Wanted {
                out: None,
                filters: Filters::default(),
                strategy: None,
                decontaminate: true,
                files: PairFiles::default(),
                json,
            };
            Some(pairs::run_request(pairs::request(stored)?, &wanted, output)?)
        }
        Some(RetrievalRequest::PROCEDURE) => {
            Some(rag::evaluate_stored(&pairs::request(stored)?, json, output)?)
        }
        Some(AnsweringRequest::PROCEDURE) => {
            Some(rag::answer_stored(&pairs::request(stored)?, json, output)?)
        }
        Some(Votes::PROCEDURE) => {
            return Err(Failure::new(
                format!("{} holds the votes of one person", stored.id),
                format!("go on with `evalign judge vote {}`", stored.id),
            ));
        }
        Some(InjectionsRequest::PROCEDURE) => {
            let request: InjectionsRequest = pairs::request(stored)?;
            Some(injections::run(&request, json, output)?)
        }
        Some(other) => {
            return Err(Failure::new(
                format!("{} (`{other}`) is work of the service", stored.id),
                format!("go on with it there: `POST /v1/runs/{}/resume`", stored.id),
            ));
        }
        None => None,
    })
}
