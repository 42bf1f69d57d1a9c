use std::path::PathBuf;

use evalign_core::{
    Digest, GenerateParams, ModelIdentity, ModelRef, Output, Request, RequestKind, RunStatus, SampleKey,
    SampleRecord, sample_seed,
};
use evalign_data::DataRoots;
use evalign_judge::{Material, Strategy};
use evalign_model::Model;
use evalign_store::{NewRun, Store};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::decontaminate::Decontamination;
use super::filters::{Filters, PairsReport};
use super::judged::{Side, compare_scores, comparison_askings};
use super::judges::Judges;
use super::prompts::{LoadedPrompt, digest_of_prompts, load_prompts};
use super::{candidates, phase_spec, run_spec};
use crate::plan::training_draft;
use crate::runner::{ActiveRun, Asking, Cancel, Progress, Steps};
use crate::{BenchError, BuiltPair, Catalog, Plan, PlannedSample, RunError, RunRequest};

/// Names of the steps, which are also the stored samples' tasks.
const ANSWER: &str = "pairs/answer";
const COMPARE: &str = "pairs/compare";
/// Most answers to one prompt: every two of them are compared in both orders.
const MOST_ANSWERS: u32 = 64;
/// Answers to one prompt from this similarity on are the same answer.
const SAME_ANSWER: f64 = 0.8;

/// What `evalign pairs build` asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairsRequest {
    /// `pairs`: what kind of run this is.
    pub procedure: String,
    /// The first model, how it is loaded and how answers are drawn; `repeats` of them for each prompt. Its tasks are
    /// those whose training rows are used, or none where there is a file of prompts.
    pub run: RunRequest,
    /// Models that answer too.
    pub more_models: Vec<ModelRef>,
    pub judge: Option<ModelRef>,
    pub rubric: String,
    /// Instead of the rubric: a principle of this constitution, drawn for each pair of answers.
    #[serde(default)]
    pub constitution: Option<String>,
    pub prompts: Option<PathBuf>,
    /// How the prompts were first made into pairs; what was asked does not depend on it.
    pub strategy: Strategy,
    /// Filled in when the models are loaded.
    #[serde(default)]
    pub samplers: Vec<ModelIdentity>,
    #[serde(default)]
    pub judge_digest: Option<Digest>,
    #[serde(default)]
    pub judge_weights: Option<Digest>,
    #[serde(default)]
    pub rubric_digest: Option<Digest>,
    #[serde(default)]
    pub constitution_digest: Option<Digest>,
}

impl PairsRequest {
    /// What [`PairsRequest::procedure`] is.
    pub const PROCEDURE: &'static str = "pairs";

    /// How answers to prompts are drawn: not all alike.
    fn generation(&self) -> GenerateParams {
        GenerateParams { logprobs: true, ..self.run.drawn_at(0.8) }
    }

    /// With which parameters answers will be asked for.
    ///
    /// # Errors
    /// A request that makes no sense; training rows that cannot be read.
    pub fn generations(
        &self,
        catalog: &Catalog,
        roots: &DataRoots,
    ) -> Result<Vec<GenerateParams>, BenchError> {
        self.check()?;
        match self.prompts {
            Some(_) => Ok(vec![self.generation()]),
            None => Ok(training_draft(&self.run, catalog, roots)?.needs().generate),
        }
    }

    /// Worked examples can be taken out of the pairs' prompts where each of them is a turn of its own.
    fn show_examples_as_turns(&mut self) -> Result<(), BenchError> {
        self.run.multiturn = self.run.shots.is_some_and(|shots| shots > 0);
        if self.run.multiturn && self.run.chat_template != Some(true) {
            return Err(BenchError::request(
                "worked examples are turns of a chat here, and no chat template is applied",
                "name a model with a chat template and leave out `--no-chat-template`, or leave out `--shots`",
            ));
        }
        Ok(())
    }

    fn answers(&self) -> u32 {
        self.run.repeats.unwrap_or(1)
    }

    /// Answers of all models to one prompt.
    fn candidates(&self) -> u32 {
        self.answers().saturating_mul(1 + u32::try_from(self.more_models.len()).unwrap_or(u32::MAX))
    }

    fn check(&self) -> Result<(), BenchError> {
        let wrong = |message: &str, hint: &str| Err(BenchError::request(message, hint));
        match (self.strategy, &self.prompts, self.run.tasks.as_slice()) {
            (Strategy::RevisionVsOriginal, ..) => wrong(
                "revisions are made by `evalign critique`",
                "run `evalign critique`, which writes pairs of its own; `evalign pairs export RUN` writes them again",
            ),
            (Strategy::RightVsWrong, Some(_), _) | (Strategy::RightVsWrong, _, []) => wrong(
                "right and wrong are known of tasks only",
                "name a task with `--task`, for example `one_step_arithmetic`; `evalign tasks list` shows all",
            ),
            (Strategy::RightVsWrong, None, _) if !self.more_models.is_empty() => {
                wrong("right-vs-wrong takes the answers of one model", "run it once for each model")
            }
            (Strategy::RightVsWrong, None, _) => Ok(()),
            (_, None, _) | (_, Some(_), [_, ..]) => wrong(
                "this strategy takes prompts from a file",
                "name it with `--prompts`, or use `--strategy right-vs-wrong` with `--task`",
            ),
            (_, Some(_), []) if self.judge.is_none() => {
                wrong("this strategy needs a judge", "name a model with `--judge`")
            }
            (_, Some(_), []) => Ok(()),
        }?;
        match self.candidates() {
            0 | 1 => wrong("one answer makes no pair", "ask for more with `--samples`"),
            2..=MOST_ANSWERS => Ok(()),
            _ => wrong(
                "too many answers to one prompt: every two are compared in both orders",
                "ask for at most 64 with `--samples`, all models together",
            ),
        }
    }
}

/// A run that makes pairs, ready to start.
#[derive(Debug)]
pub struct Build {
    pub request: PairsRequest,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Task(Box<Plan>),
    Prompts { prompts: Vec<LoadedPrompt>, new: Box<NewRun> },
}

impl Build {
    /// Everything that can fail before anything is asked. `models`: the first and then the others.
    ///
    /// # Errors
    /// A request that makes no sense, prompts or training rows that cannot be read, a model that cannot be asked.
    pub fn new(
        mut request: PairsRequest,
        (catalog, roots): (&Catalog, &DataRoots),
        models: &[&dyn Model],
        judges: Option<&Judges>,
    ) -> Result<Self, RunError> {
        request.check()?;
        let Some(first) = models.first() else {
            return Err(BenchError::request("no model is named", "name one with `--model`").into());
        };
        request.run.chat_template.get_or_insert(first.capabilities().chat);
        request.samplers = models.iter().map(|model| model.identity().clone()).collect();
        request.judge_digest = judges.map(Judges::digest);
        request.judge_weights = judges.map(|judges| judges.identity().weights.clone());
        request.rubric_digest = judges.map(Judges::rubric_digest);
        request.constitution_digest = judges.and_then(Judges::constitution_digest);
        let Some(path) = request.prompts.clone() else {
            request.show_examples_as_turns()?;
            let plan = training_draft(&request.run, catalog, roots)?.bind(*first)?;
            return Ok(Self { request, source: Source::Task(Box::new(plan)) });
        };
        let chat = request.run.chat_template.unwrap_or(false);
        let prompts = load_prompts(&path, request.run.limit, chat)?;
        let new = new_run(&request, &prompts, *first)?;
        Ok(Self { request, source: Source::Prompts { prompts, new: Box::new(new) } })
    }

    /// Samples when it is complete.
    #[must_use]
    pub fn total_samples(&self) -> u64 {
        match &self.source {
            Source::Task(plan) => plan.total_samples(),
            Source::Prompts { new, .. } => new.samples_total,
        }
    }

    /// What the user should know.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        match &self.source {
            Source::Task(plan) => &plan.notes,
            Source::Prompts { .. } => &[],
        }
    }

    /// Creates the run, or finds the one that asked the same, and takes its lease.
    ///
    /// # Errors
    /// As [`ActiveRun::start`].
    pub fn start(&self, store: &Store, owner: &str) -> Result<ActiveRun, RunError> {
        match &self.source {
            Source::Task(plan) => ActiveRun::start(plan, json!(self.request), store, owner, false),
            Source::Prompts { new, .. } => ActiveRun::start_phases(new, store, owner),
        }
    }

    /// Asks what is not answered yet.
    ///
    /// # Errors
    /// As [`ActiveRun::drive`].
    pub async fn drive(
        &self,
        run: &mut ActiveRun,
        (models, judges): (&[&dyn Model], Option<&Judges>),
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<RunStatus, RunError> {
        let prompts = match (&self.source, models.first()) {
            (Source::Task(plan), Some(model)) => {
                return Ok(run.drive(plan, *model, progress, cancel).await?.status);
            }
            (Source::Prompts { prompts, .. }, _) => prompts,
            (Source::Task(_), None) => return Ok(RunStatus::Failed),
        };
        let total = self.total_samples();
        for (number, model) in (0u32..).zip(models) {
            let asked = prompts.iter().zip(0u64..);
            let questions = asked.flat_map(|(prompt, doc)| self.ask(prompt, doc, number)).map(Ok);
            let how = (total, |_: &PlannedSample, _: Option<&Output>| Vec::new());
            match run.drive_questions(questions, how, *model, (progress, cancel)).await? {
                RunStatus::Completed => {}
                stopped => return Ok(stopped),
            }
        }
        let Some(judges) = judges else { return Ok(RunStatus::Completed) };
        let questions = run.steps().by_document(ANSWER)?.flat_map(|answered| {
            let asked = answered.map_err(RunError::from);
            match asked.and_then(|(doc, records)| self.comparisons(doc, &records, prompts, judges)) {
                Ok(askings) => askings.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            }
        });
        let judge = judges.any();
        let score = |sample: &PlannedSample, output: Option<&Output>| compare_scores(judge, sample, output);
        run.drive_questions(questions, (total, score), &**judge.model(), (progress, cancel)).await
    }

    fn ask(&self, prompt: &LoadedPrompt, doc: u64, model: u32) -> Vec<Asking> {
        let (answers, params) = (self.request.answers(), self.request.generation());
        let asking = |answer: u32| {
            let key = SampleKey { task: ANSWER.to_owned(), doc, repeat: model * answers + answer };
            let params = GenerateParams { seed: sample_seed(params.seed, &key), ..params.clone() };
            let kind = RequestKind::Generate { prompt: prompt.prompt.clone(), params };
            Asking {
                request: Request { key, kind },
                doc: json!({ "prompt": prompt.text, "source": prompt.source, "reference": prompt.reference }),
                target: prompt.reference.clone().unwrap_or_default(),
            }
        };
        (0..answers).map(asking).collect()
    }

    /// Every two distinct answers to a prompt, in both orders.
    fn comparisons(
        &self,
        doc: u64,
        records: &[SampleRecord],
        prompts: &[LoadedPrompt],
        judges: &Judges,
    ) -> Result<Vec<Asking>, RunError> {
        let prompt = usize::try_from(doc).ok().and_then(|doc| prompts.get(doc));
        let (Some(sampler), Some(prompt)) = (self.request.samplers.first(), prompt) else {
            return Ok(Vec::new());
        };
        let (answers, _) = candidates::distinct(candidates::candidates(records, |_| sampler), SAME_ANSWER);
        let material =
            Material { prompt: &prompt.text, reference: prompt.reference.as_deref(), context: None };
        let mut askings = Vec::new();
        for (index, a) in answers.iter().enumerate() {
            for b in &answers[index + 1..] {
                let number = pair_number(a.place, b.place, self.request.candidates());
                let (judge, principle) = judges.of(self.request.run.seed, doc, number);
                let sides = [Side { name: a.place, text: &a.text }, Side { name: b.place, text: &b.text }];
                let mut both = comparison_askings(judge, (COMPARE, doc, number), material, sides)?;
                if let Some(principle) = principle {
                    both.iter_mut().for_each(|asking| asking.doc["principle"] = json!(principle));
                }
                askings.extend(both);
            }
        }
        Ok(askings)
    }

    /// Pairs from what is stored, and what became of everything.
    ///
    /// # Errors
    /// A failure of the store, or evaluated rows that cannot be read.
    pub fn pairs(
        steps: &Steps,
        request: &PairsRequest,
        strategy: Strategy,
        filters: &Filters,
        (catalog, roots): (&Catalog, &DataRoots),
        decontamination: Option<&Decontamination>,
    ) -> Result<(Vec<(bool, BuiltPair)>, PairsReport), RunError> {
        let mut report = PairsReport::default();
        let place = (request.run.seed, steps.run.as_str());
        let pairs = if request.prompts.is_none() {
            right_wrong(steps, request, (catalog, roots), &mut report)?
        } else {
            let judged = super::judged_pairs::Judged {
                request,
                strategy,
                per_model: request.answers(),
                candidates: request.candidates(),
                same_answer: SAME_ANSWER,
            };
            judged.pairs((steps.by_document(ANSWER)?, steps.by_document(COMPARE)?), place, &mut report)?
        };
        let divided = filters.apply(pairs, decontamination, &mut report);
        Ok((divided, report))
    }
}

fn right_wrong(
    steps: &Steps,
    request: &PairsRequest,
    (catalog, roots): (&Catalog, &DataRoots),
    report: &mut PairsReport,
) -> Result<Vec<BuiltPair>, RunError> {
    let Some(sampler) = request.samplers.first() else { return Ok(Vec::new()) };
    let mut pairs = Vec::new();
    let mut leaves = Vec::new();
    for task in &request.run.tasks {
        leaves.extend(catalog.leaves(task)?);
    }
    leaves.sort();
    leaves.dedup();
    for leaf in leaves {
        let evaluated = Decontamination::of_tasks(Some(std::slice::from_ref(&leaf)), catalog, roots)?;
        if let Some(task) = evaluated.unavailable().first() {
            return Err(BenchError::request(
                format!("the rows that task `{task}` is evaluated on are not here, so that nothing can be kept apart from them"),
                "get them (`--data-root`), or choose another task",
            )
            .into());
        }
        let documents = steps.by_document(&format!("{leaf}{}", crate::plan::TRAINING))?;
        let place = (request.run.seed, steps.run.as_str());
        pairs.extend(super::right_wrong::pairs(documents, sampler, place, &evaluated, report)?);
    }
    Ok(pairs)
}

/// The number of a pair of answers among all of a prompt, whichever others there are.
pub(super) fn pair_number(a: u32, b: u32, candidates: u32) -> u32 {
    a * candidates + b
}

fn new_run(request: &PairsRequest, prompts: &[LoadedPrompt], first: &dyn Model) -> Result<NewRun, RunError> {
    let (count, candidates) = (prompts.len() as u64, request.candidates());
    let dataset = digest_of_prompts(prompts);
    let params = request.generation();
    let answer = json!({ "samplers": request.samplers });
    let compare = json!({ "judge": request.judge_digest, "weights": request.judge_weights });
    let comparisons = candidates * (candidates - 1);
    let chat = request.run.chat_template.unwrap_or(false);
    Ok(NewRun {
        spec: run_spec(
            first,
            request.run.seed,
            chat,
            vec![
                phase_spec(ANSWER, &answer, &dataset, (count, candidates), Some(&params)),
                phase_spec(COMPARE, &compare, &dataset, (count, comparisons), None),
            ],
        ),
        request: json!(request),
        samples_total: count * u64::from(candidates + comparisons),
        fork: false,
    })
}
