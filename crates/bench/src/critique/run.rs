use std::path::PathBuf;

use evalign_core::{Digest, GenerateParams, ModelIdentity, ModelRef, Output, RunStatus, SampleKey};
use evalign_judge::{Constitution, Critic, Judge, Material, Principle, Reviewed};
use evalign_model::Model;
use evalign_store::NewRun;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::chain::{
    ANSWER, Chain, NEW_ANSWER, VERIFY, chains, critique_step, critiques, revision_step, step,
};
use crate::pairing::{
    LoadedPrompt, Side, compare_scores, comparison_askings, digest_of_prompts, load_prompts, phase_spec,
    run_spec,
};
use crate::runner::{ActiveRun, Asking, Cancel, Progress, RunOfSteps, Steps};
use crate::{BenchError, PlannedSample, RunError, RunRequest};

/// Far more than a chain of revisions gains by: each round asks four times about every prompt.
const MOST_ROUNDS: u32 = 32;

/// What `evalign critique` asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CritiqueRequest {
    /// `critique`: what kind of run this is.
    pub procedure: String,
    /// The model that answers, criticises and revises, how it is loaded and how texts are drawn. Its tasks are none.
    pub run: RunRequest,
    pub prompts: PathBuf,
    pub constitution: String,
    pub rounds: u32,
    pub judge: ModelRef,
    pub rubric: String,
    /// Filled in when the models are loaded.
    #[serde(default)]
    pub bound: Option<CritiqueBound>,
}

impl CritiqueRequest {
    /// What [`CritiqueRequest::procedure`] is.
    pub const PROCEDURE: &'static str = "critique";

    /// How texts are drawn: answers are to differ (temperature 1 in the paper).
    #[must_use]
    pub fn generation(&self) -> GenerateParams {
        self.run.drawn_at(1.0)
    }
}

/// What a run of critiques was made with, as far as its rows say so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CritiqueBound {
    pub constitution: Constitution,
    pub sampler: ModelIdentity,
    pub judge_digest: Digest,
    pub rubric_digest: Digest,
    pub template_digest: Digest,
    pub prompts: u64,
}

/// A run of critiques, ready to start.
#[derive(Debug)]
pub struct Critique<'a> {
    pub request: CritiqueRequest,
    constitution: Constitution,
    critic: Critic,
    judge: &'a Judge,
    prompts: Vec<LoadedPrompt>,
    new: NewRun,
}

impl RunOfSteps for Critique<'_> {
    fn new_run(&self) -> &NewRun {
        &self.new
    }
}

impl<'a> Critique<'a> {
    /// Everything that can fail before anything is asked.
    ///
    /// # Errors
    /// A constitution, templates or prompts that cannot be read, a request that makes no sense.
    pub fn new(mut request: CritiqueRequest, model: &dyn Model, judge: &'a Judge) -> Result<Self, RunError> {
        if request.rounds == 0 {
            return Err(BenchError::request("`--rounds` is 0", "use 1 or more").into());
        }
        if request.rounds > MOST_ROUNDS {
            let (message, hint) =
                (format!("`--rounds` is {}", request.rounds), format!("use {MOST_ROUNDS} or fewer"));
            return Err(BenchError::request(message, hint).into());
        }
        let run = &request.run;
        let constitution = Constitution::find(&request.constitution, &run.include_path)?;
        let chat = run.chat_template.unwrap_or(model.capabilities().chat);
        let critic = Critic::new(&run.include_path, request.generation(), model.special_tokens(), chat)?;
        let prompts = load_prompts(&request.prompts, run.limit, chat)?;
        request.bound = Some(CritiqueBound {
            constitution: constitution.clone(),
            sampler: model.identity().clone(),
            judge_digest: judge.digest(),
            rubric_digest: judge.rubric().digest(),
            template_digest: critic.template_digest().clone(),
            prompts: prompts.len() as u64,
        });
        let new = new_run(&request, (&constitution, &critic, judge), &prompts, (model, chat));
        Ok(Self { request, constitution, critic, judge, prompts, new })
    }

    /// Asks what is not answered yet.
    ///
    /// # Errors
    /// As [`ActiveRun::drive`].
    pub async fn drive(
        &self,
        run: &mut ActiveRun,
        model: &dyn Model,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<RunStatus, RunError> {
        let total = self.total_samples();
        let watched = (progress, cancel);
        let plain = |_: &PlannedSample, _: Option<&Output>| Vec::new();
        let mut status = run.drive_questions(self.answers(), (total, plain), model, watched).await?;
        for round in 1..=self.request.rounds {
            if status != RunStatus::Completed {
                return Ok(status);
            }
            let critiques = self.critiques(&run.steps(), round)?;
            status = run.drive_questions(critiques, (total, plain), model, watched).await?;
            if status != RunStatus::Completed {
                return Ok(status);
            }
            let revisions = self.revisions(&run.steps(), round)?;
            status = run.drive_questions(revisions, (total, plain), model, watched).await?;
        }
        if status != RunStatus::Completed {
            return Ok(status);
        }
        let score =
            |sample: &PlannedSample, output: Option<&Output>| compare_scores(self.judge, sample, output);
        let comparisons = self.comparisons(&run.steps())?;
        run.drive_questions(comparisons, (total, score), &**self.judge.model(), watched).await
    }

    fn key(step: &str, prompt: u64) -> SampleKey {
        SampleKey { task: step.to_owned(), doc: prompt, repeat: 0 }
    }

    fn numbered(&self) -> impl Iterator<Item = (u64, &LoadedPrompt)> {
        (0u64..).zip(&self.prompts)
    }

    fn principle(&self, prompt: u64, round: u32) -> Option<&Principle> {
        self.constitution.drawn(self.request.run.seed, prompt, round - 1)
    }

    fn answers(&self) -> impl Iterator<Item = Result<Asking, RunError>> + Send {
        self.numbered().map(|(number, prompt)| {
            Ok(Asking {
                request: self.critic.answer_request(Self::key(ANSWER, number), &prompt.prompt),
                doc: json!({ "prompt": prompt.text, "source": prompt.source, "reference": prompt.reference }),
                target: String::new(),
            })
        })
    }

    /// The text that a round works on, and the principle it works by.
    fn reviewed(
        &self,
        steps: &Steps,
        round: u32,
    ) -> Result<Vec<(u64, &LoadedPrompt, String, &Principle)>, RunError> {
        let (name, heading) = match round {
            1 => (ANSWER.to_owned(), ""),
            later => (revision_step(later - 1), NEW_ANSWER),
        };
        let mut texts = step(steps, &name, heading)?;
        let found = self.numbered().filter_map(|(number, prompt)| {
            Some((number, prompt, texts.remove(&number)?, self.principle(number, round)?))
        });
        Ok(found.collect())
    }

    fn critiques<'s>(
        &'s self,
        steps: &Steps,
        round: u32,
    ) -> Result<impl Iterator<Item = Result<Asking, RunError>> + Send + use<'s, 'a>, RunError> {
        let step = critique_step(round);
        Ok(self.reviewed(steps, round)?.into_iter().map(move |(number, prompt, answer, principle)| {
            let reviewed = Reviewed { prompt: &prompt.text, answer: &answer, principle };
            let request = self.critic.critique_request(Self::key(&step, number), &reviewed)?;
            let doc = json!({ "prompt": prompt.text, "answer": answer, "principle": principle.id });
            Ok(Asking { request, doc, target: String::new() })
        }))
    }

    fn revisions<'s>(
        &'s self,
        steps: &Steps,
        round: u32,
    ) -> Result<impl Iterator<Item = Result<Asking, RunError>> + Send + use<'s, 'a>, RunError> {
        let mut critiques = critiques(steps, round)?;
        let step = revision_step(round);
        Ok(self.reviewed(steps, round)?.into_iter().filter_map(move |(number, prompt, answer, principle)| {
            let critique = critiques.remove(&number)?;
            let reviewed = Reviewed { prompt: &prompt.text, answer: &answer, principle };
            let request = self.critic.revision_request(Self::key(&step, number), &reviewed, &critique);
            let doc = json!({
                "prompt": prompt.text, "answer": answer, "critique": critique, "principle": principle.id,
            });
            Some(request.map_err(RunError::from).map(|request| Asking {
                request,
                doc,
                target: String::new(),
            }))
        }))
    }

    /// Every revision against what it revises, the principle hidden.
    fn comparisons<'s>(
        &'s self,
        steps: &Steps,
    ) -> Result<impl Iterator<Item = Result<Asking, RunError>> + Send + use<'s, 'a>, RunError> {
        let chains = chains(steps, self.request.rounds)?;
        Ok(chains.into_iter().flat_map(|chain| match self.compared(&chain) {
            Ok(askings) => askings.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        }))
    }

    fn compared(&self, chain: &Chain) -> Result<Vec<Asking>, RunError> {
        let Some(prompt) = self.prompt(chain) else { return Ok(Vec::new()) };
        let material =
            Material { prompt: &prompt.text, reference: prompt.reference.as_deref(), context: None };
        let mut askings = Vec::new();
        for round in chain.rounds.iter().filter(|round| !round.unchanged) {
            let sides = [
                Side { name: round.round, text: &round.after },
                Side { name: round.round - 1, text: &round.before },
            ];
            let place = (VERIFY, chain.prompt, round.round);
            askings.extend(comparison_askings(self.judge, place, material, sides)?);
        }
        Ok(askings)
    }

    fn prompt(&self, chain: &Chain) -> Option<&LoadedPrompt> {
        self.prompts.get(usize::try_from(chain.prompt).ok()?)
    }
}

fn new_run(
    request: &CritiqueRequest,
    (constitution, critic, judge): (&Constitution, &Critic, &Judge),
    prompts: &[LoadedPrompt],
    (model, chat): (&dyn Model, bool),
) -> NewRun {
    let (count, rounds) = (prompts.len() as u64, request.rounds);
    let dataset = digest_of_prompts(prompts);
    // Runs of an earlier rule, by which a critique that met the token limit ended its chain, are other runs.
    let step =
        json!({ "critic": critic.digest(), "constitution": constitution.digest(), "cut_critiques": "used" });
    let verify = json!({ "judge": judge.digest(), "weights": judge.model().identity().weights });
    let params = request.generation();
    let mut tasks = vec![phase_spec(ANSWER, &step, &dataset, (count, 1), Some(&params))];
    for round in 1..=rounds {
        for name in [critique_step(round), revision_step(round)] {
            tasks.push(phase_spec(&name, &step, &dataset, (count, 1), Some(&params)));
        }
    }
    tasks.push(phase_spec(VERIFY, &verify, &dataset, (count, 2 * rounds), None));
    NewRun {
        spec: run_spec(model, request.run.seed, chat, tasks),
        request: json!(request),
        samples_total: count * u64::from(1 + 4 * rounds),
        fork: false,
    }
}
