use std::time::Duration;

use evalign_bench::{Detectable, Plan, PlannedTask, detectable};
use evalign_core::{Prompt, Provider, RequestKind, Usage};
use evalign_model::{Model, Price};
use evalign_store::Store;
use serde_json::json;

use crate::Verdict;
use crate::output::{Failure, Output, Table, percent_or_number, seconds};

/// Bytes of text that a token stands for, roughly: where only a server can count.
const BYTES_PER_TOKEN: f64 = 4.0;

/// What a run would ask.
struct Bill<'a> {
    plan: &'a Plan,
    /// Tokens of each task's prompts, as if nothing were shared; absent where only a server knows.
    tasks: Vec<(&'a PlannedTask, Option<u64>)>,
    first_prompt: String,
    prompt_tokens: u64,
    /// Estimated from the length of the prompts, because only the server can count.
    prompt_tokens_estimated: bool,
    /// Samples whose prompt the model cannot take: submitting it will say why.
    uncounted: u64,
    most_generated: u64,
    seconds: Option<f64>,
    /// Absent where no price is known.
    most_usd: Option<f64>,
    /// The smallest differences the run could show.
    detectable: Vec<Detectable>,
}

/// What a run would do and cost, without running it.
pub(super) fn dry_run(
    plan: &Plan,
    model: &dyn Model,
    store: &Store,
    price: Option<Price>,
    as_json: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    let bill = Bill::of(plan, model, store, price)?;
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
    fn of(plan: &'a Plan, model: &dyn Model, store: &Store, price: Option<Price>) -> Result<Self, Failure> {
        let mut bill = Self {
            plan,
            tasks: Vec::new(),
            first_prompt: String::new(),
            prompt_tokens: 0,
            prompt_tokens_estimated: false,
            uncounted: 0,
            most_generated: 0,
            seconds: None,
            most_usd: None,
            detectable: detectable(plan, store)?,
        };
        // A server counts when it is asked, and not before.
        let counts = plan.spec.model.reference.provider != Provider::Openai;
        for task in &plan.tasks {
            let (mut tokens, mut bytes) = (Some(0), 0);
            for key in task.keys() {
                let kind = task.sample_by_key(&key)?.request.kind;
                let count = model.count_tokens(&kind);
                bill.uncounted += u64::from(count.is_none() && counts);
                tokens = tokens.zip(count).map(|(sum, count)| sum + count.prompt);
                bytes += prompt_bytes(&kind);
                if let RequestKind::Generate { params, .. } = &kind {
                    bill.most_generated += u64::from(params.max_tokens);
                }
                if bill.first_prompt.is_empty() {
                    bill.first_prompt = first_prompt(&kind, model);
                }
            }
            bill.prompt_tokens += tokens.unwrap_or((bytes as f64 / BYTES_PER_TOKEN) as u64);
            bill.prompt_tokens_estimated |= tokens.is_none();
            bill.tasks.push((task, tokens));
        }
        bill.seconds = estimated_seconds(store, plan, bill.prompt_tokens, bill.most_generated);
        bill.most_usd = match plan.spec.model.reference.provider {
            Provider::Local | Provider::Scripted => Some(0.0),
            Provider::Openai => price.map(|price| {
                let (prompt_tokens, generated_tokens) = (bill.prompt_tokens, bill.most_generated);
                price.usd(&Usage { prompt_tokens, generated_tokens, ..Usage::default() })
            }),
        };
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
            "prompt_tokens": self.prompt_tokens, "most_generated_tokens": self.most_generated,
            "prompt_tokens_estimated": self.prompt_tokens_estimated, "uncounted_samples": self.uncounted,
            "estimated_seconds": self.seconds, "cost_usd": self.most_usd, "notes": self.plan.notes,
            "detectable": self.detectable,
        })
    }

    fn text(&self) -> String {
        let headings = [
            "task",
            "version",
            "shots",
            "documents",
            "repeats",
            "prompt tokens",
            "detects unpaired",
            "detects paired",
        ];
        let mut table = Table::new(&headings, &[2, 3, 4, 5, 6, 7]);
        for (task, tokens) in &self.tasks {
            let spec = task.spec();
            let limits = self.detectable.iter().find(|found| found.task == spec.task);
            let limit = |side: fn(&Detectable) -> Option<f64>| {
                limits.and_then(side).map_or_else(|| "-".to_owned(), percent_or_number)
            };
            table.push(vec![
                spec.task.clone(),
                spec.version.clone(),
                spec.shots.to_string(),
                (spec.docs[1] - spec.docs[0]).to_string(),
                spec.repeats.to_string(),
                tokens.map_or_else(|| "-".to_owned(), |tokens| tokens.to_string()),
                limit(|found| found.unpaired),
                limit(|found| found.paired),
            ]);
        }
        let time = match self.seconds.and_then(|secs| Duration::try_from_secs_f64(secs).ok()) {
            None => "not known before this model has run here".to_owned(),
            Some(time) => format!(
                "at most about {} at the speed of earlier runs, less where prompts share their beginning",
                seconds(time)
            ),
        };
        let cost = match (self.plan.spec.model.reference.provider, self.most_usd) {
            (Provider::Local | Provider::Scripted, _) => "none, the model runs here".to_owned(),
            (Provider::Openai, None) => "not known without a price of the model (`--prices FILE`)".to_owned(),
            (Provider::Openai, Some(usd)) => format!("at most about {usd:.4} USD"),
        };
        let uncounted = match self.uncounted {
            0 => String::new(),
            count => format!(
                "\nnot counted: {count} samples, whose prompts the model cannot take (too long, as a rule)"
            ),
        };
        format!(
            "{}\n{}{} samples, {}{} prompt tokens before sharing, at most {} generated tokens{uncounted}\n\
             time: {time}\ncost: {cost}\n\nfirst prompt:\n{}",
            table.text(),
            self.limits(),
            self.plan.total_samples(),
            if self.prompt_tokens_estimated { "about " } else { "" },
            self.prompt_tokens,
            self.most_generated,
            self.first_prompt,
        )
    }

    /// What groups can show, and what the columns mean.
    fn limits(&self) -> String {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), percent_or_number);
        let group = |found: &Detectable| {
            let (unpaired, paired) = (number(found.unpaired), number(found.paired));
            format!("{}: {} documents, detects {unpaired} unpaired, {paired} paired\n", found.task, found.n)
        };
        let is_leaf = |found: &&Detectable| self.tasks.iter().any(|(task, _)| task.name() == found.task);
        let groups: String = self.detectable.iter().filter(|found| !is_leaf(found)).map(group).collect();
        let share = |measured: bool| self.detectable.iter().find(|found| found.measured == measured);
        let disagreement = match (share(true), share(false)) {
            (None, None) => return String::new(),
            (Some(_), None) => "as often as two earlier runs did".to_owned(),
            (None, Some(assumed)) => {
                format!("on {:.0} % of documents (assumed)", assumed.discordance * 100.0)
            }
            (Some(_), Some(assumed)) => format!(
                "as often as two earlier runs did, where there are any, else on {:.0} % of documents",
                assumed.discordance * 100.0
            ),
        };
        format!(
            "{groups}detects: the smallest true difference of accuracy found in 4 of 5 comparisons at 5 % (unpaired: around \
             50 %; paired, as by `evalign compare`: of models that disagree {disagreement})\n"
        )
    }
}

/// Length of what a server would be sent. Without shared prefixes each continuation costs the prompt
/// again.
fn prompt_bytes(kind: &RequestKind) -> u64 {
    let length = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Chat(messages) => messages.iter().map(|message| message.content.len()).sum(),
    };
    let bytes = match kind {
        RequestKind::LogLikelihood { context, continuations } => {
            continuations.iter().map(|continuation| length(context) + continuation.len()).sum()
        }
        RequestKind::Generate { prompt, .. } => length(prompt),
        RequestKind::Perplexity { text } => text.len(),
    };
    bytes as u64
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
    // Servers do not say how long they read.
    let prompt_time = (computed > 0 && prefill > 0.0).then(|| prompt as f64 * prefill / computed as f64)?;
    let generated_time = match (generated, made) {
        (0, _) => 0.0,
        (_, 0) => return None,
        _ => generated as f64 * decode / made as f64,
    };
    Some(prompt_time + generated_time)
}
