use evalign_bench::{Catalog, ExportFormat, Plan, RunRequest, Scoreboard, draft, export_run};
use evalign_core::{Prompt, RequestKind};
use evalign_model::Model;
use serde_json::json;

use crate::Verdict;
use crate::args::EvalArgs;
use crate::commands::context::{load_model, load_options, open_store, roots};
use crate::commands::request::request_of;
use crate::commands::session::{Session, Start};
use crate::output::{Failure, Output, Table, seconds};

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
        return dry_run(&plan, &*model, &store, args.json, output);
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

/// What a run would do and cost, without running it.
fn dry_run(
    plan: &Plan,
    model: &dyn Model,
    store: &evalign_store::Store,
    as_json: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    let mut rows = Vec::new();
    let mut first = None;
    let (mut prompt_tokens, mut most_generated) = (0u64, 0u64);
    for task in &plan.tasks {
        let mut tokens = Some(0u64);
        for key in task.keys() {
            let sample = task.sample_by_key(&key)?;
            let counted = model.count_tokens(&sample.request.kind);
            tokens = tokens.zip(counted).map(|(sum, count)| sum + count.prompt);
            if let RequestKind::Generate { params, .. } = &sample.request.kind {
                most_generated += u64::from(params.max_tokens);
            }
            first.get_or_insert_with(|| first_prompt(&sample.request.kind, model));
        }
        prompt_tokens += tokens.unwrap_or(0);
        rows.push((task, tokens));
    }
    let time = estimated_seconds(store, plan, prompt_tokens, most_generated);
    if as_json {
        let tasks: Vec<_> = rows
            .iter()
            .map(|(task, tokens)| {
                let spec = task.spec();
                json!({"task": spec.task, "version": spec.version, "protocol": spec.protocol, "shots": spec.shots,
                       "documents": spec.docs[1] - spec.docs[0], "repeats": spec.repeats, "samples": task.len(),
                       "prompt_tokens": tokens})
            })
            .collect();
        output.json(&json!({
            "model": plan.spec.model, "compat": plan.spec.mode, "seed": plan.spec.seed,
            "samples": plan.total_samples(), "tasks": tasks, "first_prompt": first,
            "prompt_tokens": prompt_tokens, "most_generated_tokens": most_generated,
            "estimated_seconds": time, "cost_usd": 0.0, "notes": plan.notes,
        }))?;
        return Ok(Verdict::Good);
    }
    let mut table =
        Table::new(&["task", "version", "shots", "documents", "repeats", "prompt tokens"], &[2, 3, 4, 5]);
    for (task, tokens) in &rows {
        let spec = task.spec();
        table.push(vec![
            spec.task.clone(),
            spec.version.clone(),
            spec.shots.to_string(),
            (spec.docs[1] - spec.docs[0]).to_string(),
            spec.repeats.to_string(),
            tokens.map_or_else(|| "-".to_owned(), |tokens| tokens.to_string()),
        ]);
    }
    let time = time.map_or_else(
        || "not known before this model has run here".to_owned(),
        |time| {
            format!(
                "at most about {} at the speed of earlier runs, less where prompts share their beginning",
                seconds(std::time::Duration::from_secs_f64(time))
            )
        },
    );
    for note in &plan.notes {
        output.note(&format!("note: {note}"));
    }
    output.result(&format!(
        "{}\n{} samples, {prompt_tokens} prompt tokens before sharing, at most {most_generated} generated tokens\ntime: {time}\ncost: none, the model runs here\n\nfirst prompt:\n{}",
        table.text(),
        plan.total_samples(),
        first.unwrap_or_default(),
    ))?;
    Ok(Verdict::Good)
}

fn first_prompt(kind: &RequestKind, model: &dyn Model) -> String {
    let shown = |prompt: &Prompt| {
        model.render(prompt).unwrap_or_else(|| match prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Chat(messages) => json!(messages).to_string(),
        })
    };
    match kind {
        RequestKind::LogLikelihood { context, continuations } => {
            format!("{}\n\ncontinuations: {}", shown(context), json!(continuations))
        }
        RequestKind::Generate { prompt, .. } => shown(prompt),
        RequestKind::Perplexity { text } => text.clone(),
    }
}

/// From the speed of earlier runs of the same weights in the same form; an upper bound, because it
/// assumes that nothing is shared and every answer is as long as allowed.
fn estimated_seconds(store: &evalign_store::Store, plan: &Plan, prompt: u64, generated: u64) -> Option<f64> {
    let model = &plan.spec.model;
    let runs = store.runs(50).ok()?;
    let same = runs.iter().filter(|run| {
        let other = &run.spec.model;
        other.weights == model.weights && other.dtype == model.dtype && other.device == model.device
    });
    let (mut computed, mut prefill, mut made, mut decode) = (0u64, 0.0, 0u64, 0.0);
    for run in same {
        computed += run.usage.computed_prompt_tokens;
        prefill += run.seconds.prefill;
        made += run.usage.generated_tokens;
        decode += run.seconds.decode;
    }
    let prompt_time = (computed > 0).then(|| prompt as f64 * prefill / computed as f64)?;
    let generated_time = match (generated, made) {
        (0, _) => 0.0,
        (_, 0) => return None,
        _ => generated as f64 * decode / made as f64,
    };
    Some(prompt_time + generated_time)
}
