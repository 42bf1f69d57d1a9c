//! Runs with a model that answers as told, in a store of their own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use evalign_core::{
    ChoiceLogLikelihood, FinishReason, Hint as _, ModelIdentity, Outcome, Output, Prompt, Request,
    RequestKind, Response, RunResults, RunStatus, SampleRecord, ScoringMode, Seconds, TokenLogprob, Usage,
};
use evalign_judge::{Judge, JudgeOptions, Prompts, Rubric};
use evalign_model::{Capabilities, DateTime, Model, Replies, TokenCount};
use evalign_store::{SampleFilter, Store};
use serde_json::json;

use super::{identity, request};
use crate::{
    ActiveRun, Cancel, Catalog, Cause, ExportFormat, FileJudging, FileJudgingRequest, JudgedSource, Progress,
    RunEnd, RunError, RunOfSteps as _, RunRequest, Scoreboard, Snapshot, VerifyOptions, export_run,
    import_run, rescore, verify,
};

/// Answers every request by a function of it.
struct Answering {
    identity: ModelIdentity,
    answer: fn(&Request) -> Output,
    clock: Option<DateTime>,
}

impl Answering {
    fn with(answer: fn(&Request) -> Output) -> Self {
        Self { identity: identity(), answer, clock: None }
    }
}

impl Model for Answering {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn context_length(&self) -> Option<usize> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::ALL
    }

    fn count_tokens(&self, _: &RequestKind) -> Option<TokenCount> {
        None
    }

    fn render(&self, _: &Prompt) -> Option<String> {
        None
    }

    fn clock(&self) -> Option<DateTime> {
        self.clock
    }

    fn submit(&self, requests: Vec<Request>) -> Replies {
        let (_, none) = Replies::channel();
        let usage = Usage { prompt_tokens: 3, computed_prompt_tokens: 3, ..Usage::default() };
        let response = |request: &Request| Response {
            output: (self.answer)(request),
            usage: Some(usage),
            truncated_tokens: 0,
            cached: false,
            latency: None,
        };
        none.preceded_by(requests.iter().map(|request| Ok(response(request))).enumerate().collect::<Vec<_>>())
    }

    fn timing(&self) -> Seconds {
        Seconds::default()
    }
}

/// A store, and what is needed to plan for it.
struct World {
    store: Store,
    catalog: Catalog,
    dir: tempfile::TempDir,
}

impl World {
    /// With the task files of `tasks`, where given, beside those that ship.
    fn new(tasks: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let include: Vec<PathBuf> = tasks.map(Path::to_owned).into_iter().collect();
        Self { store, catalog: Catalog::load(&include).unwrap(), dir }
    }

    /// Runs a request in the run its spec has, until `progress` says stop.
    fn drive(&self, request: &RunRequest, model: &dyn Model, progress: &Stop) -> RunEnd {
        let plan = crate::plan(request, &self.catalog, &evalign_data::DataRoots::default(), model).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let request = serde_json::to_value(request).unwrap();
        let mut run = ActiveRun::start(&plan, request, &self.store, "test", false).unwrap();
        let end = runtime.block_on(run.drive(&plan, model, progress, &progress.cancel)).unwrap();
        if self.store.run(&end.run).unwrap().results.is_none() {
            let results = self.board(&end, true).unwrap().aggregate(&self.store, &end.run).unwrap();
            self.store.save_results(run.lease(), &json!(results)).unwrap();
        }
        run.release().unwrap();
        end
    }

    fn board(&self, end: &RunEnd, strict: bool) -> Result<Scoreboard, RunError> {
        Scoreboard::of_run(&self.store.run(&end.run).unwrap(), &self.catalog, strict)
    }

    fn results(&self, end: &RunEnd) -> RunResults {
        serde_json::from_value(self.store.run(&end.run).unwrap().results.unwrap()).unwrap()
    }

    fn samples(&self, end: &RunEnd) -> Vec<SampleRecord> {
        self.store.samples(&end.run, SampleFilter::default()).unwrap().map(Result::unwrap).collect()
    }
}

/// Interrupts a run after some answers.
struct Stop {
    left: AtomicU64,
    cancel: Cancel,
}

impl Stop {
    fn after(answers: u64) -> Self {
        Self { left: AtomicU64::new(answers), cancel: Cancel::default() }
    }

    fn never() -> Self {
        Self::after(u64::MAX)
    }
}

impl Progress for Stop {
    fn progress(&self, _: &Snapshot) {}

    fn sample(&self, _: &SampleRecord) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.cancel.raise();
        }
    }
}

fn sample_suite(docs: u64) -> RunRequest {
    let mut request = request(ScoringMode::Default);
    request.tasks = vec!["samples".to_owned()];
    request.limit = Some(crate::Limit::Docs(docs));
    request
}

/// Every third document gets an answer that holds no number.
fn broken(request: &Request) -> Output {
    let bad = request.key.doc % 3 == 1;
    match &request.kind {
        RequestKind::LogLikelihood { continuations, .. } => {
            let sum = |i| if bad && i == 1 { f64::NAN } else { -1.0 };
            let choice = |i| ChoiceLogLikelihood { sum: sum(i), tokens: 1, greedy: false };
            Output::LogLikelihood { choices: (0..continuations.len()).map(choice).collect() }
        }
        RequestKind::Generate { .. } => {
            let logprob = if bad { f64::NEG_INFINITY } else { -0.5 };
            let token = TokenLogprob::new("18".to_owned(), logprob);
            Output::Text {
                text: "18".to_owned(),
                finish: FinishReason::Stop,
                logprobs: Some(vec![token]),
                reasoning: None,
            }
        }
        RequestKind::Perplexity { .. } => Output::Perplexity { sum: f64::INFINITY, tokens: 2 },
    }
}

/// A model that overflows gives such answers in every session: a run that stops at them never ends.
#[test]
fn answers_that_are_no_numbers_are_errors_of_their_samples() {
    let world = World::new(None);
    let (request, model) = (sample_suite(4), Answering::with(broken));
    let end = world.drive(&request, &model, &Stop::never());
    assert_eq!((end.status, end.finished, end.failed), (RunStatus::Completed, 12, 3));
    for record in world.samples(&end) {
        let bad = record.key.doc == 1;
        assert_eq!(record.output.is_none(), bad, "{}", record.key);
        assert_eq!(record.scores.iter().all(|score| score.outcome == Outcome::Error), bad, "{}", record.key);
        assert_eq!(record.usage.prompt_tokens, 3, "the tokens were spent");
        let error = record.error.unwrap_or_default();
        let named = error.contains("log-probability of token 0")
            || error.contains("log-likelihood of choice 1 is NaN");
        assert_eq!(named, bad, "{error}");
    }
    let again = world.drive(&request, &model, &Stop::never());
    assert_eq!((again.finished, again.failed), (0, 3), "earlier sessions count too");
    let results = world.results(&end).results;
    let leaf = results.iter().find(|result| result.task == "samples_knowledge").unwrap();
    assert_eq!((leaf.metrics[0].estimate.n, leaf.metrics[0].outcomes.error), (3, 1));
}

/// A run of steps whose chat template names the day, resumed on another one, is no other run.
#[test]
fn a_run_of_steps_goes_on_on_the_day_it_was_begun_on() {
    let world = World::new(None);
    let rows = world.dir.path().join("rows.jsonl");
    fs_err::write(&rows, "{\"prompt\": \"Q\", \"answer\": \"x\"}\n").unwrap();
    let start = |day: &str, resumes: Option<&evalign_core::RunId>| {
        let clock = Some(format!("{day}T12:00:00").parse().unwrap());
        let model = std::sync::Arc::new(Answering { clock, ..Answering::with(plain) });
        let prompts = std::sync::Arc::new(Prompts::load(&[]).unwrap());
        let rubric = Rubric::find("helpfulness", &[]).unwrap();
        let judges = [Judge::new(model, rubric, prompts, JudgeOptions::default()).unwrap()];
        let mut run = request(ScoringMode::Default);
        run.resumes = resumes.cloned();
        let asked = FileJudgingRequest {
            procedure: FileJudgingRequest::PROCEDURE.to_owned(),
            run,
            judges: Vec::new(),
            asked: json!(null),
            source: JudgedSource::File(rows.clone()),
        };
        let run = FileJudging::new(&asked, &judges, &world.store)?.start(&world.store, "test")?;
        let id = run.id.clone();
        run.release()?;
        Ok::<_, RunError>(id)
    };
    let begun = start("2026-03-01", None).unwrap();
    let error = start("2026-03-02", Some(&begun)).unwrap_err();
    assert!(error.to_string().contains("rendered_at") && error.to_string().contains("2026-03-02"), "{error}");
    assert_eq!(start("2026-03-01", Some(&begun)).unwrap(), begun);
    assert_eq!(world.store.runs(9).unwrap().len(), 1);
}

/// The first choice is likeliest, and every text is `18`.
fn plain(request: &Request) -> Output {
    match &request.kind {
        RequestKind::LogLikelihood { continuations, .. } => {
            let choice = |i| ChoiceLogLikelihood { sum: -1.0 - f64::from(i), tokens: 1, greedy: false };
            Output::LogLikelihood { choices: (0..continuations.len() as u32).map(choice).collect() }
        }
        RequestKind::Generate { .. } => Output::Text {
            text: "18".to_owned(),
            finish: FinishReason::Stop,
            logprobs: None,
            reasoning: None,
        },
        RequestKind::Perplexity { .. } => Output::Perplexity { sum: -3.0, tokens: 2 },
    }
}

#[test]
fn an_import_that_completes_a_run_brings_its_results_up_to_date() {
    let (whole, part) = (World::new(None), World::new(None));
    let (request, model) = (sample_suite(10), Answering::with(plain));
    let full = whole.drive(&request, &model, &Stop::never());
    let out = tempfile::tempdir().unwrap();
    let board = whole.board(&full, true).unwrap();
    export_run(&whole.store, &full.run, &board, ExportFormat::Jsonl, out.path()).unwrap();

    let end = part.drive(&request, &model, &Stop::after(7));
    assert_eq!((end.status, end.finished), (RunStatus::Cancelled, 7));
    assert_ne!(part.results(&end).results, whole.results(&full).results);
    let imported = import_run(&part.store, out.path(), ("test", &part.catalog), Ok).unwrap();
    assert!(imported.existed && imported.no_results.is_none() && imported.run == end.run);
    assert_eq!(imported.samples, 23);
    let results = part.results(&end);
    assert_eq!(results.results, whole.results(&full).results);
    assert_eq!(results.status, RunStatus::Completed);
    assert_eq!(part.store.run(&end.run).unwrap().status, RunStatus::Completed);
}

/// A task of `rows` rows whose answer must be what `target` makes of them.
fn write_task(dir: &Path, rows: u64, target: &str) {
    let row =
        |i: u64| json!({"q": format!("{i}?"), "a": if i + 1 == rows { "last" } else { "18" }}).to_string();
    fs_err::write(dir.join("rows.jsonl"), (0..rows).map(|i| row(i) + "\n").collect::<String>()).unwrap();
    let task = format!(
        "task: mine\nversion: \"1\"\nsummary: \"Mine\"\ndataset: {{file: rows.jsonl}}\noutput: generate_until\n\
         prompt: \"{{{{q}}}}\"\ntarget: \"{target}\"\ngeneration: {{until: [\"\\n\"], max_tokens: 8}}\n\
         metrics: [{{name: exact_match}}]\n"
    );
    fs_err::write(dir.join("mine.yaml"), task).unwrap();
}

fn of_mine() -> RunRequest {
    let mut request = request(ScoringMode::Default);
    request.tasks = vec!["mine".to_owned()];
    request
}

/// More samples than were once replaced at a time.
#[test]
fn a_rescore_that_fails_changes_nothing() {
    let tasks = tempfile::tempdir().unwrap();
    write_task(tasks.path(), 2100, "{{a}}");
    let mut world = World::new(Some(tasks.path()));
    let end = world.drive(&of_mine(), &Answering::with(plain), &Stop::never());
    let before = (world.samples(&end), world.results(&end));
    // Every answer would be wrong, if the last row could be read.
    write_task(tasks.path(), 2100, "{{a if a == '18' else nothing.there}}!");
    world.catalog = Catalog::load(&[tasks.path().to_owned()]).unwrap();
    let board = world.board(&end, false).unwrap();
    assert!(rescore(&world.store, &end.run, &board, None, "test").is_err());
    assert!((world.samples(&end), world.results(&end)) == before);
    assert_eq!(world.store.run(&end.run).unwrap().scored_by, None);
}

#[test]
fn a_run_remembers_what_it_was_scored_by() {
    let tasks = tempfile::tempdir().unwrap();
    write_task(tasks.path(), 5, "{{a}}");
    let mut world = World::new(Some(tasks.path()));
    let (request, model) = (of_mine(), Answering::with(plain));
    let end = world.drive(&request, &model, &Stop::after(3));
    let asked = world.results(&end).results[0].clone();
    let correct = |world: &World| world.results(&end).results[0].metrics[0].outcomes.correct;
    assert_eq!(correct(&world), 3);

    write_task(tasks.path(), 5, "{{a}}!");
    world.catalog = Catalog::load(&[tasks.path().to_owned()]).unwrap();
    let refused = world.board(&end, true).unwrap_err();
    assert!(matches!(&refused, RunError::ScoredOtherwise { .. }), "{refused}");
    assert!(refused.hint().is_some_and(|hint| hint.contains("evalign rescore")));
    let board = world.board(&end, false).unwrap();
    let rescored = rescore(&world.store, &end.run, &board, None, "test").unwrap();
    assert_eq!((rescored.samples, rescored.changed, rescored.other_rules), (3, 3, true));
    assert_eq!(correct(&world), 0);
    let other = world.results(&end).results[0].clone();
    assert_ne!(other.protocol, asked.protocol, "not comparable with the scores before");

    // It can be exported, and comes back as what it is.
    let board = world.board(&end, true).unwrap();
    let out = tempfile::tempdir().unwrap();
    export_run(&world.store, &end.run, &board, ExportFormat::Jsonl, out.path()).unwrap();
    let elsewhere = World::new(None);
    let imported = import_run(&elsewhere.store, out.path(), ("test", &elsewhere.catalog), Ok).unwrap();
    let copy = elsewhere.store.run(&imported.run).unwrap();
    assert_eq!(copy.scored_by, world.store.run(&end.run).unwrap().scored_by);
    assert_eq!(serde_json::from_value::<RunResults>(copy.results.unwrap()).unwrap().results[0], other);

    // Going on with the files it was started with, all of it is scored by them.
    write_task(tasks.path(), 5, "{{a}}");
    world.catalog = Catalog::load(&[tasks.path().to_owned()]).unwrap();
    let end = world.drive(&request, &model, &Stop::never());
    assert_eq!((end.status, end.finished), (RunStatus::Completed, 2));
    assert_eq!(world.store.run(&end.run).unwrap().scored_by, None);
    assert_eq!((correct(&world), world.results(&end).results[0].protocol.clone()), (4, asked.protocol));
    // What was scored by the other rules does not mix with it.
    assert!(import_run(&world.store, out.path(), ("test", &world.catalog), Ok).is_err());
}

/// A reference over the whole set is no reproach to a run over a part of it.
#[test]
fn only_what_both_are_about_is_compared() {
    let world = World::new(None);
    let model = Answering::with(plain);
    let mut request = sample_suite(10);
    request.tasks = vec!["samples_knowledge".to_owned()];
    let whole = world.drive(&request, &model, &Stop::never());
    let out = tempfile::tempdir().unwrap();
    let board = world.board(&whole, true).unwrap();
    export_run(&world.store, &whole.run, &board, ExportFormat::LmEval, out.path()).unwrap();
    let file = out.path().join("samples_samples_knowledge.jsonl");
    let verified = |end: &RunEnd| {
        verify(&world.store, &end.run, &world.board(end, true).unwrap(), &file, &VerifyOptions::default())
    };
    let found = verified(&whole).unwrap();
    assert_eq!((found.items, found.outside, found.equal), (10, 0, 10));

    (request.limit, request.samples) = (None, Some(crate::DocRange { start: 6, end: 12 }));
    let part = world.drive(&request, &model, &Stop::never());
    let found = verified(&part).unwrap();
    assert_eq!((found.items, found.outside, found.equal), (4, 6, 4));
    assert_eq!(found.divergences, []);

    request.samples = Some(crate::DocRange { start: 4, end: 9 });
    let stopped = world.drive(&request, &model, &Stop::after(2));
    let found = verified(&stopped).unwrap();
    assert_eq!((found.items, found.outside, found.equal), (5, 5, 2));
    assert!(found.divergences.iter().all(|divergence| divergence.cause == Cause::Missing));
    assert_eq!(found.divergences.iter().map(|divergence| divergence.doc).collect::<Vec<_>>(), [6, 7, 8]);

    request.samples = Some(crate::DocRange { start: 20, end: 22 });
    let elsewhere = world.drive(&request, &model, &Stop::never());
    assert!(matches!(verified(&elsewhere), Err(RunError::NothingToCompare { lines: 10, .. })));
}
