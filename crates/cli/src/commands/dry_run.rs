use std::time::Duration;

use evalign_bench::{Plan, PlannedTask};
use evalign_core::{Prompt, RequestKind};
use evalign_model::Model;
use evalign_store::Store;
use serde_json::json;

use crate::Verdict;
use crate::output::{Failure, Output, Table, seconds};

/// What a run would ask.
struct Bill<'a> {
    plan: &'a Plan,
    /// Tokens of each task's prompts, as if nothing were shared; absent where only a server knows.
    tasks: Vec<(&'a PlannedTask, Option<u64>)>,
    first_prompt: String,
    prompt_tokens: u64,
    /// Samples whose prompt the model cannot take: submitting it will say why.
    uncounted: u64,
    most_generated: u64,
    seconds: Option<f64>,
}

/// What a run would do and cost, without running it.
pub(super) fn dry_run(
    plan: &Plan,
    model: &dyn Model,
    store: &Store,
    as_json: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    let bill = Bill::of(plan, model, store)?;
    if as_json {
        output.json(&bill.document())?;
        return Ok(Verdict::Good);
    }
    for note in &plan.notes {
        output.note(&format!("note: {note}"));
    }
    output.result(&bill.text())?;
    Ok(Verdict::Good)
}

impl<'a> Bill<'a> {
    fn of(plan: &'a Plan, model: &dyn Model, store: &Store) -> Result<Self, Failure> {
        let mut bill = Self {
            plan,
            tasks: Vec::new(),
            first_prompt: String::new(),
            prompt_tokens: 0,
            uncounted: 0,
            most_generated: 0,
            seconds: None,
        };
        for task in &plan.tasks {
            let mut tokens = Some(0);
            for key in task.keys() {
                let kind = task.sample_by_key(&key)?.request.kind;
                let count = model.count_tokens(&kind);
                bill.uncounted += u64::from(count.is_none());
                tokens = tokens.zip(count).map(|(sum, count)| sum + count.prompt);
                if let RequestKind::Generate { params, .. } = &kind {
                    bill.most_generated += u64::from(params.max_tokens);
                }
                if bill.first_prompt.is_empty() {
                    bill.first_prompt = first_prompt(&kind, model);
                }
            }
            bill.prompt_tokens += tokens.unwrap_or(0);
            bill.tasks.push((task, tokens));
        }
        bill.seconds = estimated_seconds(store, plan, bill.prompt_tokens, bill.most_generated);
        Ok(bill)
    }

    fn document(&self) -> serde_json::Value {
        let task = |(task, tokens): &(&PlannedTask, Option<u64>)| {
            let spec = task.spec();
            json!({"task": spec.task, "version": spec.version, "protocol": spec.protocol, "shots": spec.shots,
                   "documents": spec.docs[1] - spec.docs[0], "repeats": spec.repeats, "samples": task.len(),
                   "prompt_tokens": tokens})
        };
        let spec = &self.plan.spec;
        json!({
            "model": spec.model, "compat": spec.mode, "seed": spec.seed, "samples": self.plan.total_samples(),
            "tasks": self.tasks.iter().map(task).collect::<Vec<_>>(), "first_prompt": self.first_prompt,
            "prompt_tokens": self.prompt_tokens, "uncounted_samples": self.uncounted, "most_generated_tokens": self.most_generated,
            "estimated_seconds": self.seconds, "cost_usd": 0.0, "notes": self.plan.notes,
        })
    }

    fn text(&self) -> String {
        let headings = ["task", "version", "shots", "documents", "repeats", "prompt tokens"];
        let mut table = Table::new(&headings, &[2, 3, 4, 5]);
        for (task, tokens) in &self.tasks {
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
        let time = match self.seconds.and_then(|secs| Duration::try_from_secs_f64(secs).ok()) {
            None => "not known before this model has run here".to_owned(),
            Some(time) => format!(
                "at most about {} at the speed of earlier runs, less where prompts share their beginning",
                seconds(time)
            ),
        };
        let uncounted = match self.uncounted {
            0 => String::new(),
            count => format!(
                "\nnot counted: {count} samples, whose prompts the model cannot take (too long, as a rule)"
            ),
        };
        format!(
            "{}\n{} samples, {} prompt tokens before sharing, at most {} generated tokens{uncounted}\n\
             time: {time}\ncost: none, the model runs here\n\nfirst prompt:\n{}",
            table.text(),
            self.plan.total_samples(),
            self.prompt_tokens,
            self.most_generated,
            self.first_prompt,
        )
    }
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
fn estimated_seconds(store: &Store, plan: &Plan, prompt: u64, generated: u64) -> Option<f64> {
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
