use std::path::PathBuf;

use evalign_core::{
    Digest, GenerateParams, ModelRef, Output, Request, RequestKind, RunStatus, SampleKey, SampleRecord,
    sample_seed,
};
use evalign_judge::{Aggregation, ArenaReport, BiasReport, Judge, JuryAgreement, Material};
use evalign_model::Model;
use evalign_store::{NewRun, Store};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::file::definition;
use super::ratings::{Answers, Fought, meetings};
use crate::pairing::{
    LoadedPrompt, Side, compare_scores, comparison_askings, digest_of_prompts, load_prompts, phase_spec,
    run_spec,
};
use crate::runner::{ActiveRun, Asking, Cancel, Progress, RunOfSteps, Steps};
use crate::{BenchError, PlannedSample, RunError, RunRequest};

/// The step in which the competitors answer.
pub(super) const ANSWER: &str = "arena/answer";

/// What `evalign judge compare` asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArenaRequest {
    /// `arena`: what kind of run this is.
    pub procedure: String,
    /// The first competitor, how models are loaded and how answers are drawn. Its tasks are none.
    pub run: RunRequest,
    pub competitors: Vec<ModelRef>,
    pub judges: Vec<ModelRef>,
    /// How the judges are asked, in the caller's words: enough to make them anew.
    pub asked: serde_json::Value,
    pub prompts: PathBuf,
    /// Digest of each competitor's weights; filled in when the models are loaded.
    #[serde(default)]
    pub weights: Vec<Digest>,
}

impl ArenaRequest {
    /// What [`ArenaRequest::procedure`] is.
    pub const PROCEDURE: &'static str = "arena";

    /// How the competitors are asked: for their likeliest answer.
    #[must_use]
    pub fn generation(&self) -> GenerateParams {
        self.run.drawn_at(0.0)
    }

    /// # Errors
    /// Fewer than two competitors, or one that is named twice.
    pub fn check_competitors(competitors: &[ModelRef]) -> Result<(), BenchError> {
        if competitors.len() < 2 {
            return Err(BenchError::request("an arena needs two competitors", "name two models or more"));
        }
        let mut named = competitors.iter().enumerate();
        match named.find(|(at, model)| competitors[..*at].contains(model)) {
            Some((_, twice)) => Err(BenchError::request(
                format!("the model `{twice}` is named twice: its answers would be compared with themselves"),
                "name each model once",
            )),
            None => Ok(()),
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.competitors.iter().map(ToString::to_string).collect()
    }
}

/// An arena, ready to start.
#[derive(Debug)]
pub struct Arena<'a> {
    request: ArenaRequest,
    judges: &'a [Judge],
    prompts: Vec<LoadedPrompt>,
    new: NewRun,
}

/// What an arena found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArenaOutcome {
    pub prompts: u64,
    /// Answers that a competitor did not give.
    pub unanswered: u64,
    /// How several judges' verdicts became one. Absent in what was kept before it was said here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub aggregation: Option<Aggregation>,
    #[serde(flatten)]
    pub report: ArenaReport,
    /// Comparisons that people made; they count like those of the judges.
    pub votes: u64,
    /// By judge, what moves it besides the answers.
    pub judges: Vec<ArenaJudge>,
    /// Of several judges.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub jury: Option<JuryAgreement>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArenaJudge {
    pub judge: String,
    pub bias: BiasReport,
}

pub(super) fn verdict_step(judge: usize) -> String {
    format!("arena/verdict-{}", judge + 1)
}

impl RunOfSteps for Arena<'_> {
    fn new_run(&self) -> &NewRun {
        &self.new
    }
}

impl<'a> Arena<'a> {
    /// Everything that can fail before anything is asked. `models` are the competitors'. Without a judge it is people
    /// who judge ([`super::Votes`]).
    ///
    /// # Errors
    /// As [`ArenaRequest::check_competitors`], prompts that cannot be read or do not fit the rubric.
    pub fn new(
        mut request: ArenaRequest,
        models: &[&dyn Model],
        judges: &'a [Judge],
    ) -> Result<Self, RunError> {
        ArenaRequest::check_competitors(&request.competitors)?;
        if models.len() != request.competitors.len() {
            return Err(
                BenchError::request("an arena needs the model of each competitor", "name them all").into()
            );
        }
        request.weights = models.iter().map(|model| model.identity().weights.clone()).collect();
        let chat = request.run.chat_template.unwrap_or(models.iter().all(|model| model.capabilities().chat));
        let prompts = load_prompts(&request.prompts, request.run.limit, chat)?;
        let (count, dataset) = (prompts.len() as u64, digest_of_prompts(&prompts));
        let competitors: Vec<_> = models.iter().map(|model| model.identity()).collect();
        let many = u32::try_from(models.len()).unwrap_or(u32::MAX);
        let pairs = many * (many - 1) / 2;
        let params = request.generation();
        let mut tasks = vec![phase_spec(
            ANSWER,
            &json!({ "competitors": competitors }),
            &dataset,
            (count, many),
            Some(&params),
        )];
        for (index, judge) in judges.iter().enumerate() {
            tasks.push(phase_spec(
                &verdict_step(index),
                &definition(judge),
                &dataset,
                (count, pairs * 2),
                None,
            ));
        }
        let new = NewRun {
            spec: run_spec(models[0], request.run.seed, chat, tasks),
            request: json!(request),
            samples_total: count * (u64::from(many) + u64::from(pairs) * 2 * judges.len() as u64),
            fork: false,
        };
        for judge in judges {
            // A rubric that needs a reference fails here, not after all answers are there.
            let sides = [Side { name: 0, text: "" }, Side { name: 1, text: "" }];
            comparison_askings(judge, (ANSWER, 0, 0), material(&prompts[0]), sides)?;
        }
        Ok(Self { request, judges, prompts, new })
    }

    /// Asks competitors and judges what is not answered yet. `models` are those of [`Arena::new`].
    ///
    /// # Errors
    /// As [`ActiveRun::drive`].
    pub async fn drive(
        &self,
        run: &mut ActiveRun,
        models: &[&dyn Model],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<RunStatus, RunError> {
        let total = self.total_samples();
        for (number, model) in (0u32..).zip(models) {
            let how = (total, |_: &PlannedSample, _: Option<&Output>| Vec::new());
            let status = run.drive_questions(self.answers(number), how, *model, (progress, cancel)).await?;
            if status != RunStatus::Completed {
                return Ok(status);
            }
        }
        for (index, judge) in self.judges.iter().enumerate() {
            let score =
                |sample: &PlannedSample, output: Option<&Output>| compare_scores(judge, sample, output);
            let documents = run.steps().by_document(ANSWER)?;
            let questions = documents.flat_map(|answered| {
                let asked = answered.map_err(RunError::from);
                match asked.and_then(|(doc, records)| self.comparisons((index, judge), doc, &records)) {
                    Ok(askings) => askings.into_iter().map(Ok).collect::<Vec<_>>(),
                    Err(error) => vec![Err(error)],
                }
            });
            let how = (total, score);
            let status = run.drive_questions(questions, how, &**judge.model(), (progress, cancel)).await?;
            if status != RunStatus::Completed {
                return Ok(status);
            }
        }
        Ok(RunStatus::Completed)
    }

    /// What a judge is asked about the answers to one prompt.
    fn comparisons(
        &self,
        (index, judge): (usize, &Judge),
        doc: u64,
        records: &[SampleRecord],
    ) -> Result<Vec<Asking>, RunError> {
        let Some(prompt) = usize::try_from(doc).ok().and_then(|doc| self.prompts.get(doc)) else {
            return Ok(Vec::new());
        };
        let (step, answers) = (verdict_step(index), Answers::of(records));
        let name = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let mut askings = Vec::new();
        for meeting in meetings(&answers, self.request.competitors.len()) {
            if meeting.is_even() {
                continue;
            }
            let sides = [
                Side { name: name(meeting.sides.0), text: meeting.texts[0] },
                Side { name: name(meeting.sides.1), text: meeting.texts[1] },
            ];
            let place = (step.as_str(), doc, meeting.number);
            askings.extend(comparison_askings(judge, place, material(prompt), sides)?);
        }
        Ok(askings)
    }

    fn answers(&self, competitor: u32) -> impl Iterator<Item = Result<Asking, RunError>> + Send {
        let params = self.request.generation();
        (0u64..).zip(&self.prompts).map(move |(doc, prompt)| {
            let key = SampleKey { task: ANSWER.to_owned(), doc, repeat: competitor };
            let params = GenerateParams { seed: sample_seed(params.seed, &key), ..params.clone() };
            let kind = RequestKind::Generate { prompt: prompt.prompt.clone(), params };
            Ok(Asking {
                request: Request { key, kind },
                doc: json!({ "prompt": prompt.text, "source": prompt.source, "reference": prompt.reference }),
                target: prompt.reference.clone().unwrap_or_default(),
            })
        })
    }

    /// What is stored, as ratings. Works on unfinished runs too.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn outcome(&self, store: &Store, steps: &Steps, how: Aggregation) -> Result<ArenaOutcome, RunError> {
        let fought = Fought::read(store, steps, &self.request)?;
        let names = self.request.judges.iter().map(ToString::to_string);
        Ok(ArenaOutcome {
            prompts: self.prompts.len() as u64,
            unanswered: (self.prompts.len() * self.request.competitors.len()) as u64 - fought.answers(),
            aggregation: Some(how),
            report: fought.report(&self.request, how),
            votes: fought.votes(),
            judges: names.zip(fought.biases()).map(|(judge, bias)| ArenaJudge { judge, bias }).collect(),
            jury: fought.agreement(),
        })
    }
}

fn material(prompt: &LoadedPrompt) -> Material<'_> {
    Material { prompt: &prompt.text, reference: prompt.reference.as_deref(), context: None }
}
