//! Right and wrong answers of a task's training rows.

use evalign_core::{ModelIdentity, Outcome, Prompt, RequestKind, SampleRecord};
use evalign_judge::{Strategy, as_text, select};

use super::candidates::{Candidate, candidates};
use super::decontaminate::Decontamination;
use super::filters::{Graded, PairsReport};
use super::origin::{BuiltPair, Origin};
use crate::RunError;
use crate::runner::Documents;

/// One pair for every document with a right and a wrong answer. `evaluated` holds the questions of the rows that the
/// tasks are evaluated on: a training row that contains one makes no pair.
pub(super) fn pairs(
    documents: Documents,
    sampler: &ModelIdentity,
    place: (u64, &str),
    evaluated: &Decontamination,
    report: &mut PairsReport,
) -> Result<Vec<BuiltPair>, RunError> {
    let mut graded = report.graded.unwrap_or_default();
    let mut built = Vec::new();
    for document in documents {
        let (doc, records) = document?;
        let answers = candidates(&records, |_| sampler);
        report.prompts += 1;
        report.answers += records.len() as u64;
        report.finished_answers += answers.len() as u64;
        let scores: Vec<Option<f64>> =
            answers.iter().map(|answer| grade(answer.record, &mut graded)).collect();
        let Some(prompt) = answers.first().and_then(|answer| prompt_of(answer.record)) else { continue };
        if !evaluated.tasks_asked(&as_text(prompt)).is_empty() {
            graded.rows_in_evaluation += 1;
            continue;
        }
        for (chosen, rejected) in select(Strategy::RightVsWrong, &scores, doc) {
            let (good, bad) = (&answers[chosen], &answers[rejected]);
            let scores = (scores[chosen], scores[rejected]);
            let origin = origin((good, bad), scores, sampler, place);
            built.push(BuiltPair::new(prompt, &good.text, &bad.text, &origin));
        }
    }
    report.graded = Some(graded);
    Ok(built)
}

fn origin(
    (good, bad): (&Candidate<'_>, &Candidate<'_>),
    (score_chosen, score_rejected): (Option<f64>, Option<f64>),
    sampler: &ModelIdentity,
    (seed, run): (u64, &str),
) -> Origin {
    let origin = Origin {
        score_chosen,
        score_rejected,
        margin: score_chosen.zip(score_rejected).map(|(good, bad)| good - bad),
        strategy: Some(Strategy::RightVsWrong.name().to_owned()),
        logprob_chosen: good.logprob,
        logprob_rejected: bad.logprob,
        source: Some(good.record.key.to_string()),
        source_digest: Some(good.record.doc_hash.clone()),
        prompt_digest: Some(good.record.prompt_hash.clone()),
        template_digest: sampler.chat_template.clone(),
        reference: Some(good.record.target.clone()),
        seed: Some(seed),
        run: Some(run.to_owned()),
        ..Origin::default()
    };
    origin.by(good.sampler, bad.sampler)
}

/// 1 for a right answer, 0 for a wrong one.
fn grade(record: &SampleRecord, graded: &mut Graded) -> Option<f64> {
    let outcomes: Vec<Outcome> = record.scores.iter().map(|score| score.outcome).collect();
    // A task may read answers in several ways: right or wrong is what they agree on.
    let all = |wanted: Outcome| !outcomes.is_empty() && outcomes.iter().all(|outcome| *outcome == wanted);
    if all(Outcome::Correct) {
        graded.right += 1;
        Some(1.0)
    } else if all(Outcome::Wrong) {
        graded.wrong += 1;
        Some(0.0)
    } else {
        graded.undecided += 1;
        None
    }
}

pub(crate) fn prompt_of(record: &SampleRecord) -> Option<&Prompt> {
    match &record.request.kind {
        RequestKind::Generate { prompt, .. } => Some(prompt),
        RequestKind::LogLikelihood { .. } | RequestKind::Perplexity { .. } => None,
    }
}
