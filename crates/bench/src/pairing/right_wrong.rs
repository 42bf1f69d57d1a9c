//! Right and wrong answers of a task's training rows.

use evalign_core::{Message, ModelIdentity, Outcome, Prompt, RequestKind, Role, SampleRecord};
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
        let asked = answers.first().and_then(|answer| prompt_of(answer.record));
        let Some(prompt) = asked.map(without_examples) else { continue };
        if !evaluated.tasks_asked(&as_text(&prompt)).is_empty() {
            graded.rows_in_evaluation += 1;
            continue;
        }
        for (chosen, rejected) in select(Strategy::RightVsWrong, &scores, doc) {
            let (good, bad) = (&answers[chosen], &answers[rejected]);
            let scores = (scores[chosen], scores[rejected]);
            let origin = origin((good, bad), scores, sampler, place);
            built.push(BuiltPair::new(&prompt, &good.text, &bad.text, &origin));
        }
    }
    report.graded = Some(graded);
    Ok(built)
}

/// The question without the worked examples before it: in a chat these are turns between the system's message and the
/// last question.
fn without_examples(asked: &Prompt) -> Prompt {
    let Prompt::Chat(messages) = asked else { return asked.clone() };
    let question = messages.iter().rposition(|message| message.role == Role::User).unwrap_or(0);
    let kept = |(place, message): &(usize, &Message)| message.role == Role::System || *place >= question;
    Prompt::Chat(messages.iter().enumerate().filter(kept).map(|(_, message)| message.clone()).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_asks_the_question_without_its_worked_examples() {
        let message =
            |(role, content): &(Role, &str)| Message { role: *role, content: (*content).to_owned() };
        let chat = |turns: &[(Role, &str)]| Prompt::Chat(turns.iter().map(message).collect());
        let (system, question, begun) =
            ((Role::System, "Count."), (Role::User, "2 + 3?"), (Role::Assistant, "It is"));
        let example = [(Role::User, "1 + 1?"), (Role::Assistant, "2")];
        let asked = chat(&[&[system], &example[..], &example[..], &[question, begun]].concat());
        assert_eq!(without_examples(&asked), chat(&[system, question, begun]));
        assert_eq!(without_examples(&chat(&[question])), chat(&[question]));
    }
}
