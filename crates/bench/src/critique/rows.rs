//! The rows that come of a run of critiques.

use evalign_core::{Digest, Prompt};
use evalign_data::Example;
use evalign_judge::{Strategy, as_text, is_held_out};

use super::chain::{Chain, CutTexts, Round, chains};
use super::report::{CritiqueReport, is_gain, report};
use super::run::{CritiqueBound, CritiqueRequest};
use crate::pairing::{
    Decontamination, DecontaminationCounts, Filters, Origin, PairsReport, messages_of, prompt_of,
};
use crate::runner::Steps;
use crate::{BenchError, BuiltPair, RunError};

/// The rows that come of a run.
#[derive(Clone, Debug, Default)]
pub struct CritiqueFiles {
    /// Verified revision and what it revised.
    pub pairs: Vec<BuiltPair>,
    /// Revisions that the judge decided not to prefer, as bad answers: they look like improvements.
    pub hard_negatives: Vec<BuiltPair>,
    /// The last of each prompt's revisions that are all verified gains, to be imitated.
    pub imitated: Vec<BuiltPair>,
}

impl CritiqueFiles {
    /// What is left when the pairs have passed the filters: these, divided; and of the other rows those whose prompts are
    /// not held out and that hold no question of a task.
    #[must_use]
    pub fn filtered(
        mut self,
        filters: &Filters,
        decontamination: Option<&Decontamination>,
    ) -> (Vec<(bool, BuiltPair)>, Self, PairsReport) {
        let mut report = PairsReport::default();
        let pairs = filters.apply(std::mem::take(&mut self.pairs), decontamination, &mut report);
        for rows in [&mut self.hard_negatives, &mut self.imitated] {
            rows.retain(|row| !is_held_out(&row.prompt_text(), filters.held_out));
            if let Some(index) = decontamination {
                rows.retain(|row| !index.finds(row, &mut DecontaminationCounts::default()));
            }
        }
        (pairs, self, report)
    }
}

/// What came of a run so far, and its rows: from what is stored, without a model.
///
/// # Errors
/// A failure of the store, or a request that never got as far as a run.
pub fn critique_results(
    steps: &Steps,
    request: &CritiqueRequest,
) -> Result<(CritiqueReport, CritiqueFiles), RunError> {
    let Some(bound) = &request.bound else {
        return Err(BenchError::request("the run was never started", "run `evalign critique` again").into());
    };
    let chains = chains(steps, request.rounds)?;
    let mut files = CritiqueFiles::default();
    for chain in &chains {
        let Some(prompt) = prompt_of(&chain.record) else { continue };
        // What is imitated is preferred to the first answer only where no step in between went another way.
        let (mut best, mut unbroken) = (None, true);
        for round in &chain.rounds {
            let origin = origin((request, bound), steps, (chain, prompt), round);
            if is_gain(round) {
                files.pairs.push(BuiltPair::new(prompt, &round.after, &round.before, &origin));
                if unbroken {
                    best = Some((round, origin));
                }
                continue;
            }
            unbroken &= round.unchanged;
            // Without a verdict nobody knows whether it is a bad answer.
            if !round.unchanged && round.verdicts.is_decided() {
                let completion = messages_of(prompt, &round.after);
                let example = Example::Unpaired { prompt: prompt.clone(), completion, label: false };
                files.hard_negatives.push(BuiltPair { example, origin: origin.row() });
            }
        }
        if let Some((round, origin)) = best {
            let completion = messages_of(prompt, &round.after);
            let example = Example::PromptCompletion { prompt: prompt.clone(), completion };
            files.imitated.push(BuiltPair { example, origin: origin.row() });
        }
    }
    let asked = (bound.prompts, CutTexts::of(steps, request.rounds)?);
    Ok((report(&chains, asked, &bound.constitution, request.run.seed), files))
}

fn origin(
    (request, bound): (&CritiqueRequest, &CritiqueBound),
    steps: &Steps,
    (chain, prompt): (&Chain, &Prompt),
    round: &Round,
) -> Origin {
    let doc = &chain.record.doc;
    let [first, second] = round.verdicts.probabilities;
    let principle = bound.constitution.drawn(request.run.seed, chain.prompt, round.round - 1);
    let origin = Origin {
        probability_first: first,
        probability_second: second,
        margin: round.verdicts.probability_a().map(|p| 2.0 * p - 1.0),
        strategy: Some(Strategy::RevisionVsOriginal.name().to_owned()),
        principle: principle.map(|principle| principle.id.clone()),
        constitution_digest: Some(bound.constitution.digest()),
        round: Some(round.round),
        judge: Some(request.judge.to_string()),
        judge_digest: Some(bound.judge_digest.clone()),
        rubric_digest: Some(bound.rubric_digest.clone()),
        template_digest: Some(bound.template_digest.clone()),
        source: doc["source"].as_str().map(str::to_owned),
        source_digest: Some(chain.record.doc_hash.clone()),
        prompt_digest: Some(Digest::of(as_text(prompt))),
        reference: doc["reference"].as_str().map(str::to_owned),
        seed: Some(request.run.seed),
        run: Some(steps.run.to_string()),
        ..Origin::default()
    };
    origin.by(&bound.sampler, &bound.sampler)
}
