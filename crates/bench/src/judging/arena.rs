use std::collections::BTreeMap;
use std::path::PathBuf;

use evalign_core::{
    Digest, FinishReason, GenerateParams, ModelRef, Output, Request, RequestKind, RunStatus, SampleKey,
    SampleRecord, sample_seed,
};
use evalign_judge::{
    Aggregation, ArenaBattle, ArenaReport, BiasReport, Comparison, Judge, JudgedAnswer, JudgedPair,
    JuryAgreement, Material, Preference, family_of, jury_preferences, preference_agreement,
};
use evalign_model::Model;
use evalign_store::{NewRun, Store};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::file::{Stored, by_place, comparison_of, definition};
use super::votes::{Votes, pair_number};
use crate::pairing::{
    LoadedPrompt, Side, compare_scores, comparison_askings, digest_of_prompts, load_prompts, phase_spec,
    run_spec,
};
use crate::runner::{ActiveRun, Asking, Cancel, Phase, Progress, Steps};
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

fn verdict_step(judge: usize) -> String {
    format!("arena/verdict-{}", judge + 1)
}

/// Two answers to one prompt.
struct Meeting<'a> {
    doc: u64,
    number: u32,
    sides: (usize, usize),
    texts: [&'a str; 2],
}

impl<'a> Arena<'a> {
    /// Everything that can fail before anything is asked. `models` are the competitors'.
    ///
    /// # Errors
    /// Fewer than two competitors, no judge, prompts that cannot be read or do not fit the rubric.
    pub fn new(
        mut request: ArenaRequest,
        models: &[&dyn Model],
        judges: &'a [Judge],
    ) -> Result<Self, RunError> {
        let wrong = |message: &str, hint: &str| Err(BenchError::request(message, hint).into());
        if judges.is_empty() {
            return wrong("no judge is named", "name a model with `--judge`");
        }
        if models.len() < 2 || models.len() != request.competitors.len() {
            return wrong("an arena needs two competitors", "name two models or more");
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

    #[must_use]
    pub fn total_samples(&self) -> u64 {
        self.new.samples_total
    }

    /// Creates the run, or finds the one that asked the same, and takes its lease.
    ///
    /// # Errors
    /// As [`ActiveRun::start`].
    pub fn start(&self, store: &Store, owner: &str) -> Result<ActiveRun, RunError> {
        ActiveRun::start_phases(&self.new, store, owner)
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
        for (number, model) in (0u32..).zip(models) {
            let phase = Phase::new(self.answers(number), self.total_samples(), |_, _| Vec::new());
            let status = run.drive_phase(&phase, *model, progress, cancel).await?;
            if status != RunStatus::Completed {
                return Ok(status);
            }
        }
        let records = run.steps().answered(ANSWER)?;
        let answers = Answers::of(&records);
        for (index, judge) in self.judges.iter().enumerate() {
            let score =
                |sample: &PlannedSample, output: Option<&Output>| compare_scores(judge, sample, output);
            let mut askings = Vec::new();
            for meeting in self.meetings(&answers) {
                let prompt = usize::try_from(meeting.doc).ok().and_then(|doc| self.prompts.get(doc));
                let Some(prompt) = prompt.filter(|_| meeting.texts[0] != meeting.texts[1]) else { continue };
                let place = (verdict_step(index), meeting.doc, meeting.number);
                let name = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
                let sides = [
                    Side { name: name(meeting.sides.0), text: meeting.texts[0] },
                    Side { name: name(meeting.sides.1), text: meeting.texts[1] },
                ];
                askings.extend(comparison_askings(
                    judge,
                    (&place.0, place.1, place.2),
                    material(prompt),
                    sides,
                )?);
            }
            let phase = Phase::new(askings, self.total_samples(), score);
            let status = run.drive_phase(&phase, &**judge.model(), progress, cancel).await?;
            if status != RunStatus::Completed {
                return Ok(status);
            }
        }
        Ok(RunStatus::Completed)
    }

    fn answers(&self, competitor: u32) -> Vec<Asking> {
        let params = self.request.generation();
        let asking = |(doc, prompt): (u64, &LoadedPrompt)| {
            let key = SampleKey { task: ANSWER.to_owned(), doc, repeat: competitor };
            let params = GenerateParams { seed: sample_seed(params.seed, &key), ..params.clone() };
            let kind = RequestKind::Generate { prompt: prompt.prompt.clone(), params };
            Asking {
                request: Request { key, kind },
                doc: json!({ "prompt": prompt.text, "source": prompt.source, "reference": prompt.reference }),
                target: prompt.reference.clone().unwrap_or_default(),
            }
        };
        (0u64..).zip(&self.prompts).map(asking).collect()
    }

    /// Every two competitors that answered, prompt by prompt.
    fn meetings<'b>(&self, answers: &'b Answers) -> Vec<Meeting<'b>> {
        let count = self.request.competitors.len();
        let mut meetings = Vec::new();
        for doc in 0..self.prompts.len() as u64 {
            for a in 0..count {
                for b in a + 1..count {
                    if let (Some(first), Some(second)) =
                        (answers.of_competitor(doc, a), answers.of_competitor(doc, b))
                    {
                        let number = pair_number(count, a, b);
                        meetings.push(Meeting { doc, number, sides: (a, b), texts: [first, second] });
                    }
                }
            }
        }
        meetings
    }

    /// What is stored, as ratings. Works on unfinished runs too.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn outcome(&self, store: &Store, steps: &Steps, how: Aggregation) -> Result<ArenaOutcome, RunError> {
        let records = steps.answered(ANSWER)?;
        let answers = Answers::of(&records);
        let meetings = self.meetings(&answers);
        let mut members: Vec<Vec<Comparison>> = Vec::new();
        for (index, judge) in self.judges.iter().enumerate() {
            let stored = by_place(&steps.answered(&verdict_step(index))?);
            members.push(meetings.iter().map(|meeting| verdict_on(judge, &stored, meeting)).collect());
        }
        let said: Vec<Vec<Preference>> =
            members.iter().map(|all| all.iter().map(|c| c.outcome.clone()).collect()).collect();
        let verdicts = jury_preferences(&said, how);
        let mut battles = Vec::new();
        let mut unscored: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for (meeting, verdict) in meetings.iter().zip(&verdicts) {
            match verdict.points_a() {
                Some(points) => {
                    battles.push(ArenaBattle::new(meeting.doc, meeting.sides, points, meeting.texts));
                }
                None => *unscored.entry(meeting.sides).or_default() += 1,
            }
        }
        let votes = Votes::cast(store, &steps.run)?;
        for meeting in &meetings {
            for points in votes.get(&(meeting.doc, meeting.number)).into_iter().flatten() {
                battles.push(ArenaBattle::new(meeting.doc, meeting.sides, *points, meeting.texts));
            }
        }
        let seed = self.request.run.seed;
        Ok(ArenaOutcome {
            prompts: self.prompts.len() as u64,
            unanswered: (self.prompts.len() * self.request.competitors.len() - answers.0.len()) as u64,
            report: ArenaReport::of(&self.request.names(), &battles, &unscored, seed),
            votes: votes.values().map(Vec::len).sum::<usize>() as u64,
            judges: self
                .judges
                .iter()
                .zip(&members)
                .map(|(judge, all)| self.bias(judge, &meetings, all))
                .collect(),
            jury: (said.len() > 1).then(|| preference_agreement(&said)),
        })
    }

    fn bias(&self, judge: &Judge, meetings: &[Meeting<'_>], said: &[Comparison]) -> ArenaJudge {
        let families: Vec<String> = self.request.competitors.iter().map(family_of).collect();
        let reference = &judge.model().identity().reference;
        // Answers that are the same were not shown to it.
        let shown = meetings.iter().zip(said).filter(|(meeting, _)| meeting.texts[0] != meeting.texts[1]);
        let pairs: Vec<JudgedPair<'_>> = shown
            .map(|(meeting, comparison)| {
                let answer =
                    |side: usize, text| JudgedAnswer { text, family: families.get(side).map(String::as_str) };
                JudgedPair {
                    comparison,
                    // Those of one prompt share answers.
                    group: usize::try_from(meeting.doc).unwrap_or(usize::MAX),
                    a: answer(meeting.sides.0, meeting.texts[0]),
                    b: answer(meeting.sides.1, meeting.texts[1]),
                    people: None,
                }
            })
            .collect();
        ArenaJudge { judge: reference.to_string(), bias: BiasReport::of(&pairs, Some(&family_of(reference))) }
    }
}

/// Two equal answers are equally good: nobody has to be asked.
fn verdict_on(judge: &Judge, stored: &Stored, meeting: &Meeting<'_>) -> Comparison {
    let mut comparison = comparison_of(judge, stored, meeting.doc, meeting.number);
    if meeting.texts[0] == meeting.texts[1] {
        comparison.outcome = Preference::Tie;
        comparison.probability_a = Some(0.5);
    }
    comparison
}

fn material(prompt: &LoadedPrompt) -> Material<'_> {
    Material { prompt: &prompt.text, reference: prompt.reference.as_deref(), context: None }
}

/// The competitors' answers by prompt and competitor.
pub(super) struct Answers(BTreeMap<(u64, u32), String>);

impl Answers {
    /// Those that were finished; one that was cut off at its limit counts, one that was withheld does not.
    pub(super) fn of(records: &[SampleRecord]) -> Self {
        let answered = records.iter().filter_map(|record| match record.output.as_ref()? {
            Output::Text { text, finish: FinishReason::Stop | FinishReason::Length, .. } => {
                Some(((record.key.doc, record.key.repeat), text.clone()))
            }
            _ => None,
        });
        Self(answered.collect())
    }

    pub(super) fn of_competitor(&self, doc: u64, competitor: usize) -> Option<&str> {
        let competitor = u32::try_from(competitor).ok()?;
        self.0.get(&(doc, competitor)).map(String::as_str)
    }

    pub(super) fn docs(&self) -> impl Iterator<Item = u64> {
        let docs: std::collections::BTreeSet<u64> = self.0.keys().map(|(doc, _)| *doc).collect();
        docs.into_iter()
    }
}
