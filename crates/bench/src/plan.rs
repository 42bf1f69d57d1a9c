//! From a request to a plan: tasks resolved, rows found, worked examples decided, everything hashed.

mod check;
mod training;

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use evalign_core::{Digest, GenerateParams, RunSpec, ScoringMode, TaskSpec, Variant};
use evalign_data::DataRoots;
use evalign_model::{Model, Needs};
use serde_json::{Value, json};

use crate::document::Reader;
use crate::error::BenchError;
use crate::generated_choice;
use crate::judging;
use crate::plan::check::{check_capabilities, check_request};
use crate::planned::PlannedTask;
use crate::prompt::PromptStyle;
use crate::request::RunRequest;
use crate::rows::RowSource;
use crate::scorer::{SCORER_VERSION, Scorer};
use crate::shots::{Pool, Shots, ShotsContext};
use crate::task::{
    Catalog, FilterPipeline, FilterStep, Generation, MetricName, OutputKind, Sampler, TaskDefinition,
};
use crate::variant::{self, Rewriter};

pub(crate) use training::{TRAINING, training_draft};

/// A plan without its model: everything that can fail before weights are loaded has been tried.
#[derive(Debug)]
pub struct Draft {
    pub tasks: Vec<PlannedTask>,
    pub groups: Vec<PlannedGroup>,
    /// What the user should know about how the request was read.
    pub notes: Vec<String>,
    pub(crate) request: RunRequest,
}

/// A run, decided: what [`RunSpec`] says about it, and the tasks that yield its samples.
#[derive(Debug)]
pub struct Plan {
    pub spec: RunSpec,
    pub tasks: Vec<PlannedTask>,
    pub groups: Vec<PlannedGroup>,
    pub notes: Vec<String>,
}

/// A group whose members are all in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedGroup {
    pub name: String,
    pub version: String,
    /// Tasks and groups directly in it.
    pub members: Vec<String>,
    /// All leaf tasks under it.
    pub leaves: Vec<String>,
    /// Every sample counts equally; otherwise every leaf task does.
    pub weight_by_size: bool,
}

/// Resolves a request as far as possible without a model.
///
/// # Errors
/// Contradictory or empty requests, unknown tasks, definitions that do not fit together, datasets that
/// cannot be read or do not fit their task, more shots than there are rows.
pub fn draft(request: &RunRequest, catalog: &Catalog, roots: &DataRoots) -> Result<Draft, BenchError> {
    check_request(request)?;
    RunRequest::check_judges(request.judges())?;
    let mut names: Vec<String> = Vec::new();
    let mut groups = Vec::new();
    for task in &request.tasks {
        for leaf in catalog.leaves(task)? {
            if !names.contains(&leaf) {
                names.push(leaf);
            }
        }
        plan_groups(catalog, task, &mut groups)?;
    }
    let mut notes = Notes::default();
    let mut tasks = Vec::with_capacity(names.len());
    for name in &names {
        let plain = plan_task(request, catalog, roots, (name, None), &mut notes)?;
        let variants = variant::wanted(request, plain.definition(), &mut notes);
        tasks.push(plain);
        for variant in variants {
            // What there is to say about the task was said.
            let unsaid = &mut Notes::default();
            tasks.push(plan_task(request, catalog, roots, (name, Some(variant)), unsaid)?);
        }
    }
    variant::check_applies(request, &tasks)?;
    Ok(Draft { tasks, groups, notes: notes.into_lines(), request: request.clone() })
}

impl Draft {
    /// Samples over all tasks.
    #[must_use]
    pub fn total_samples(&self) -> u64 {
        self.tasks.iter().map(PlannedTask::len).sum()
    }

    /// In which ways a model will be asked.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let chat = self.request.chat_template.unwrap_or(false);
        let asks = |output| self.tasks.iter().any(|task| task.definition().output == output);
        let log_likelihood = asks(OutputKind::MultipleChoice);
        let writes = |task: &&PlannedTask| task.definition().output == OutputKind::GenerateUntil;
        let mut generate: Vec<GenerateParams> = Vec::new();
        for task in self.tasks.iter().filter(writes) {
            if !generate.contains(&task.params) {
                generate.push(task.params.clone());
            }
        }
        Needs {
            chat: chat && (asks(OutputKind::GenerateUntil) || log_likelihood),
            completion: !chat,
            log_likelihood,
            generate,
        }
    }

    /// Completes the plan for a model, after checking that the model can be asked what the tasks ask.
    ///
    /// # Errors
    /// A model that cannot score choices, generate, score text, or take a chat or plain text.
    pub fn bind(self, model: &dyn Model) -> Result<Plan, BenchError> {
        let chat = self.request.chat_template.unwrap_or(false);
        for task in &self.tasks {
            check_capabilities(task, model, chat)?;
        }
        let identity = model.identity().clone();
        let mut notes = self.notes;
        if identity.chat_template.is_some() && self.request.chat_template.is_none() {
            notes.push(
                "prompts are sent without the model's chat template, as the benchmarks define them; \
                 `--chat-template` applies it, `--no-chat-template` makes this explicit"
                    .to_owned(),
            );
        }
        notes.extend(model.notes());
        notes.extend(judging::unjudged(&self.tasks));
        let spec = RunSpec {
            model: identity,
            mode: self.request.mode,
            scorer_version: SCORER_VERSION,
            seed: self.request.seed,
            chat_template: chat,
            system_instruction: self.request.system_instruction.clone(),
            rendered_at: model.clock().filter(|_| chat).map(|clock| clock.to_string()),
            tasks: self.tasks.iter().map(|task| task.spec().clone()).collect(),
        };
        Ok(Plan { spec, tasks: self.tasks, groups: self.groups, notes })
    }
}

impl Plan {
    /// Samples over all tasks; of those that are judged, with every judge's verdicts on every answer.
    #[must_use]
    pub fn total_samples(&self) -> u64 {
        let verdicts = |task: &PlannedTask| task.judge.as_ref().map_or(0, judging::TaskJudge::verdicts);
        let samples = |task: &PlannedTask| task.len() * (1 + verdicts(task));
        self.tasks.iter().map(samples).sum()
    }

    /// The leaf task of that name.
    #[must_use]
    pub fn task(&self, name: &str) -> Option<&PlannedTask> {
        self.tasks.iter().find(|task| task.name() == name)
    }
}

/// The draft of a request, bound to its model.
///
/// # Errors
/// As [`draft`] and [`Draft::bind`].
pub fn plan(
    request: &RunRequest,
    catalog: &Catalog,
    roots: &DataRoots,
    model: &dyn Model,
) -> Result<Plan, BenchError> {
    draft(request, catalog, roots)?.bind(model)
}

/// The groups under a name, outer ones first.
pub(crate) fn plan_groups(
    catalog: &Catalog,
    name: &str,
    groups: &mut Vec<PlannedGroup>,
) -> Result<(), BenchError> {
    let Some(group) = catalog.group(name) else { return Ok(()) };
    if groups.iter().any(|known| known.name == name) {
        return Ok(());
    }
    groups.push(PlannedGroup {
        name: group.name.clone(),
        version: group.version.clone(),
        members: group.members.clone(),
        leaves: catalog.leaves(name)?,
        weight_by_size: group.weight_by_size,
    });
    for member in &group.members {
        plan_groups(catalog, member, groups)?;
    }
    Ok(())
}

fn plan_task(
    request: &RunRequest,
    catalog: &Catalog,
    roots: &DataRoots,
    (name, variant): (&str, Option<Variant>),
    notes: &mut Notes,
) -> Result<PlannedTask, BenchError> {
    let definition = catalog.task(name)?.for_mode(request.mode).asked_as(variant)?;
    let mut definition = generated_choice::asked_for(definition, request)?;
    if definition.metrics.iter().any(|metric| metric.name == MetricName::AccGenerated) {
        let what = "asked for as a letter to write; `acc_generated` is not comparable with `acc`";
        notes.add(what.to_owned(), name);
    }
    let digest = definition.digest();
    apply_overrides(&mut definition, request, notes);
    let directory = catalog.directory(name);
    let rows = RowSource::evaluated(&definition, directory, roots)?;
    let pool = shots_pool(&definition, directory, roots)?;
    assemble(request, (definition, variant), digest, (rows, pool), notes)
}

/// Puts a task together from its definition (overrides applied) and its rows.
pub(crate) fn assemble(
    request: &RunRequest,
    (definition, variant): (TaskDefinition, Option<Variant>),
    digest: Digest,
    (rows, pool): (RowSource, Pool),
    notes: &mut Notes,
) -> Result<PlannedTask, BenchError> {
    let name = definition.name.clone();
    let docs = chosen_docs(request, &name, rows.len(), notes)?;
    let count = definition.shots.count;
    let shots_digest = match &pool {
        Pool::Rows(rows) if count > 0 => Some(rows.digest().clone()),
        Pool::Rows(_) | Pool::Examples(_) => None,
    };
    let dataset = Digest::of_json(&json!({ "rows": rows.digest(), "shots": shots_digest }));
    let rewriter = variant.map(|variant| Rewriter::new(&definition, variant, request)).transpose()?;
    let source = &definition.dataset;
    let context = ShotsContext {
        task: &name,
        seed: request.seed,
        mode: request.mode,
        docs: docs[1],
        same_split: source.shots_split == source.split && source.shots_file == source.file,
    };
    let task = PlannedTask {
        spec: task_spec(request, &definition, (variant, rewriter.as_ref()), digest, dataset, docs),
        reader: Reader::new(&definition)?,
        shots: Shots::new(&definition.shots, count, pool, &context)?,
        style: style(request, &definition),
        params: params(definition.generation.as_ref()),
        seed: request.seed,
        scorer: Scorer::new(&definition, request.mode, definition.repeats)?,
        rendered_shots: Mutex::new(HashMap::new()),
        definition,
        rows,
        rewriter,
        judge: None,
        reward: None,
    };
    task.check_first()?;
    Ok(task)
}

/// Puts what the request says into the definition.
pub(crate) fn apply_overrides(definition: &mut TaskDefinition, request: &RunRequest, notes: &mut Notes) {
    let name = definition.name.clone();
    if let Some(shots) = request.shots {
        if definition.shots.fixed && shots != definition.shots.count {
            let fixed = definition.shots.count;
            notes.add(format!("`--shots {shots}` does not apply: the definition fixes {fixed} shots"), &name);
        } else {
            definition.shots.count = shots;
        }
    }
    if let Some(repeats) = request.repeats {
        tell_smaller_votes(definition, repeats, notes);
        definition.repeats = repeats;
    }
    let Some(generation) = &mut definition.generation else {
        let sampling =
            request.temperature.is_some() || request.max_tokens.is_some() || request.top_p.is_some();
        if sampling {
            notes.add("sampling options do not apply: nothing is generated".to_owned(), &name);
        }
        return;
    };
    generation.temperature = request.temperature.unwrap_or(generation.temperature);
    generation.max_tokens = request.max_tokens.unwrap_or(generation.max_tokens);
    generation.top_p = request.top_p.or(generation.top_p);
    generation.top_k = request.top_k.or(generation.top_k);
    generation.min_p = request.min_p.or(generation.min_p);
    if definition.repeats > 1 && generation.temperature == 0.0 {
        notes.add("repeats of greedy decoding give the same answer; set `--temperature`".to_owned(), &name);
    }
}

/// A filter that votes over all answers keeps its name, `maj@64` for example, as it does in the reference.
fn tell_smaller_votes(definition: &TaskDefinition, repeats: u32, notes: &mut Notes) {
    let of_all = |filter: &&FilterPipeline| {
        let first = filter.steps.iter().find(|step| {
            matches!(step, FilterStep::MajorityVote | FilterStep::TakeFirst | FilterStep::TakeFirstK(_))
        });
        first == Some(&FilterStep::MajorityVote)
    };
    let meant = definition.repeats;
    for filter in definition.filters.iter().filter(of_all).filter(|_| repeats != meant) {
        let note =
            format!("`{}` votes over all answers: {repeats} per document now, not {meant}", filter.name);
        notes.add(note, &definition.name);
    }
}

fn chosen_docs(
    request: &RunRequest,
    name: &str,
    total: u64,
    notes: &mut Notes,
) -> Result<[u64; 2], BenchError> {
    match (request.limit, request.samples) {
        (Some(limit), _) => Ok([0, limit.of(total)]),
        (None, None) => Ok([0, total]),
        (None, Some(range)) if range.start >= total => Err(BenchError::request(
            format!("`--samples {range}`: task `{name}` has only {total} documents"),
            format!("documents are numbered 0 to {}", total.saturating_sub(1)),
        )),
        (None, Some(range)) => {
            if range.end > total {
                notes.add(format!("`--samples {range}` ends past the last document"), name);
            }
            Ok([range.start, range.end.min(total)])
        }
    }
}

fn shots_pool(
    definition: &TaskDefinition,
    directory: Option<&std::path::Path>,
    roots: &DataRoots,
) -> Result<Pool, BenchError> {
    if definition.shots.count == 0 || !definition.shots.examples.is_empty() {
        return Ok(Pool::Examples(definition.shots.examples.clone()));
    }
    match RowSource::shots(definition, directory, roots)? {
        Some(rows) => Ok(Pool::Rows(rows)),
        None => Err(BenchError::request(
            format!("task `{}` names nothing to take worked examples from", definition.name),
            "run it with `--shots 0`, or give its dataset a `shots_split`",
        )),
    }
}

fn style(request: &RunRequest, definition: &TaskDefinition) -> PromptStyle {
    PromptStyle {
        system_instruction: request.system_instruction.clone(),
        target_delimiter: definition.target_delimiter.clone(),
        shots_delimiter: definition.shots.delimiter.clone(),
        chat: request.chat_template.unwrap_or(false),
        multiturn: request.multiturn,
    }
}

fn params(generation: Option<&Generation>) -> GenerateParams {
    let Some(generation) = generation else { return GenerateParams::default() };
    GenerateParams {
        max_tokens: generation.max_tokens,
        temperature: generation.temperature,
        top_p: generation.top_p,
        top_k: generation.top_k,
        min_p: generation.min_p,
        repetition_penalty: generation.repetition_penalty,
        stop: generation.until.clone(),
        seed: 0,
        logprobs: false,
        top_logprobs: 0,
        form: None,
    }
}

fn task_spec(
    request: &RunRequest,
    definition: &TaskDefinition,
    (variant, rewriter): (Option<Variant>, Option<&Rewriter>),
    digest: Digest,
    dataset: Digest,
    docs: [u64; 2],
) -> TaskSpec {
    let shots = definition.shots.count;
    let generation =
        definition.generation.as_ref().and_then(|g| serde_json::to_value(g).ok()).unwrap_or(Value::Null);
    let drawn = shots > 0 && definition.shots.sampler != Sampler::FirstN;
    let stream = match request.mode {
        ScoringMode::LmEval => "lm-eval",
        ScoringMode::Default => "per-document",
    };
    let mut protocol = json!({
        "definition": digest,
        "dataset": dataset,
        "mode": request.mode.name(),
        "scorer_version": SCORER_VERSION,
        "shots": shots,
        "shots_stream": drawn.then_some(stream),
        "shots_seed": drawn.then_some(request.seed),
        "repeats": definition.repeats,
        "generation": generation,
        "chat_template": request.chat_template.unwrap_or(false),
        "multiturn": request.multiturn,
        "system_instruction": request.system_instruction,
    });
    // Absent for the plain task, so that its protocol is the same with and without variants beside it.
    if let (Some(rewriter), Some(fields)) = (rewriter, protocol.as_object_mut()) {
        fields.insert("variant".to_owned(), rewriter.protocol());
    }
    let protocol = Digest::of_json(&protocol);
    TaskSpec {
        task: variant.map_or_else(|| definition.name.clone(), |variant| variant.task_name(&definition.name)),
        version: definition.version.clone(),
        definition: digest,
        dataset,
        protocol,
        shots,
        repeats: definition.repeats,
        docs,
        generation,
        variant,
    }
}

/// Notes, each once, with the tasks it is about.
#[derive(Debug, Default)]
pub(crate) struct Notes(BTreeMap<String, Vec<String>>);

impl Notes {
    pub(crate) fn add(&mut self, note: String, task: &str) {
        self.0.entry(note).or_default().push(task.to_owned());
    }

    fn into_lines(self) -> Vec<String> {
        let line = |(note, tasks): (String, Vec<String>)| match tasks.as_slice() {
            [first, _, ..] => format!("{first} and {} more tasks: {note}", tasks.len() - 1),
            [only] => format!("{only}: {note}"),
            [] => note,
        };
        self.0.into_iter().map(line).collect()
    }
}
