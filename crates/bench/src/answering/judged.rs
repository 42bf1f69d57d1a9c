//! What judges say of an answer, claim by claim.

use evalign_core::{Digest, ModelRef, Outcome, Score};
use evalign_judge::{Judge, Judged, Material, Unscored, score_all};
use evalign_rag::Chunk;
use evalign_rag::answer::{Answer, Claim};
use evalign_rag::quality::GoldQuestion;
use serde_json::json;

use super::score;
use crate::pairing::outcome_of;
use crate::{Cast, RunError, RunRequest};

/// Most bytes of passages that a judge is shown: some 2,000 tokens.
const CONTEXT_BYTES: usize = 8000;
/// A claim at least this supported rests on the passages.
const SUPPORTED: f64 = 0.75;
/// A claim less right than this is wrong.
const RIGHT: f64 = 0.5;

/// What is judged, 0 to 1 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JudgedMetric {
    /// Mean support of the claims by the passages that were found (Es and others 2024, RAGAS, arXiv 2309.15217,
    /// section 3).
    Faithfulness,
    /// Whether the answer says what a right answer says.
    AnswerCorrectness,
    AnswerRelevance,
    /// Share of the claims that rest on the passages and are wrong: what noise among the passages does to the answer
    /// (RAGAS 0.2, `noise_sensitivity`).
    NoiseSensitivity,
}

impl JudgedMetric {
    pub const ALL: [Self; 4] =
        [Self::Faithfulness, Self::AnswerCorrectness, Self::AnswerRelevance, Self::NoiseSensitivity];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Faithfulness => "faithfulness",
            Self::AnswerCorrectness => "answer_correctness",
            Self::AnswerRelevance => "answer_relevance",
            Self::NoiseSensitivity => "noise_sensitivity",
        }
    }
}

/// The judges of answers, each by its rubric.
#[derive(Debug)]
pub struct AnswerJudges {
    /// By `claim_support`.
    pub support: Judge,
    /// By `factual_correctness`.
    pub correctness: Judge,
    /// By `answer_relevance`.
    pub relevance: Judge,
}

impl AnswerJudges {
    /// The rubrics, which a model that judges has parts for.
    pub const RUBRICS: [&'static str; 3] = ["claim_support", "factual_correctness", "answer_relevance"];

    /// One model, by each of them.
    ///
    /// # Errors
    /// As [`Cast::judge`].
    pub fn of(cast: &Cast, judge: &ModelRef, request: &RunRequest) -> Result<Self, RunError> {
        let [support, correctness, relevance] =
            Self::RUBRICS.map(|rubric| cast.judge(judge, rubric, request));
        Ok(Self { support: support?, correctness: correctness?, relevance: relevance? })
    }
}

/// A verdict as a number from 0 to 1, or why there is none.
type Verdict = Result<f64, Unscored>;

impl AnswerJudges {
    /// Of all that verdicts depend on.
    #[must_use]
    pub(super) fn digest(&self) -> Digest {
        let judges = [&self.support, &self.correctness, &self.relevance];
        Digest::of_json(&json!(judges.map(|judge| json!([judge.digest(), judge.model().identity()]))))
    }

    /// Scores of an answer. Nothing is said of one that was not given, and nothing of right and wrong where no right
    /// answer is known.
    pub(super) async fn scores(
        &self,
        question: &GoldQuestion,
        answer: &Answer,
        found: &[Chunk],
    ) -> Result<Vec<Score>, RunError> {
        let Some(text) = answer.text.as_deref() else { return Ok(Vec::new()) };
        let prompt = question.question.as_str();
        let context = context(found);
        let claims: Vec<&Claim> = answer.claims.iter().collect();
        let supported = claims.iter().map(|claim| {
            (Material { prompt, context: Some(&context), reference: None }, claim.text.as_str())
        });
        let supported = verdicts(&self.support, &supported.collect::<Vec<_>>()).await?;
        let relevant =
            verdicts(&self.relevance, &[(Material { prompt, ..Material::default() }, text)]).await?;
        let mut scores = vec![
            mean(JudgedMetric::Faithfulness, &supported),
            mean(JudgedMetric::AnswerRelevance, &relevant),
        ];
        if let Some(reference) = question.answers.first() {
            let material = Material { prompt, reference: Some(reference), context: None };
            let mut asked = vec![(material, text)];
            asked.extend(claims.iter().map(|claim| (material, claim.text.as_str())));
            let right = verdicts(&self.correctness, &asked).await?;
            let (whole, of_claims) = right.split_at(1);
            scores.push(mean(JudgedMetric::AnswerCorrectness, whole));
            scores.push(mean(JudgedMetric::NoiseSensitivity, &noise(&supported, of_claims)));
        }
        Ok(scores)
    }
}

/// 1 for each claim that rests on the passages and is wrong; undecided where one of the two verdicts is.
fn noise(supported: &[Verdict], right: &[Verdict]) -> Vec<Verdict> {
    let noisy = |(supported, right): (&Verdict, &Verdict)| {
        let (supported, right) = (supported.clone()?, right.clone()?);
        Ok(f64::from(u8::from(supported >= SUPPORTED && right < RIGHT)))
    };
    supported.iter().zip(right).map(noisy).collect()
}

async fn verdicts(judge: &Judge, asked: &[(Material<'_>, &str)]) -> Result<Vec<Verdict>, RunError> {
    let scale = &judge.rubric().scale;
    let (lowest, highest) = (f64::from(scale.lowest), f64::from(scale.highest));
    let unit = |judged: Judged| (judged.score - lowest) / (highest - lowest);
    Ok(score_all(judge, asked).await?.into_iter().map(|judged| judged.map(unit)).collect())
}

/// The mean over what was decided. Nothing decided is no score: the first reason stands for it. How many of how many
/// were decided is kept with the score.
fn mean(metric: JudgedMetric, verdicts: &[Verdict]) -> Score {
    let decided: Vec<f64> = verdicts.iter().filter_map(|verdict| verdict.as_ref().ok().copied()).collect();
    let value = evalign_stats::mean(&decided);
    let reason = verdicts.iter().find_map(|verdict| verdict.as_ref().err());
    let outcome = match (value, reason) {
        (None, Some(reason)) => outcome_of(reason),
        (Some(_), _) | (None, None) => Outcome::Unscored,
    };
    let answer = Some(format!("{} of {} decided", decided.len(), verdicts.len()));
    Score { answer, ..score(metric.name(), outcome, value) }
}

/// The passages as a judge reads them, the best first, as many as fit.
fn context(found: &[Chunk]) -> String {
    let mut text = String::new();
    for chunk in found {
        if !text.is_empty() && text.len() + chunk.text.len() > CONTEXT_BYTES {
            break;
        }
        text += &format!("[{}]\n{}\n\n", chunk.document.0, chunk.text.trim());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undecided_claims_are_left_out_and_counted() {
        let verdicts = [Ok(1.0), Err(Unscored::Truncated), Ok(0.5)];
        let score = mean(JudgedMetric::Faithfulness, &verdicts);
        assert_eq!((score.value, score.answer.as_deref()), (Some(0.75), Some("2 of 3 decided")));
        let none = mean(JudgedMetric::Faithfulness, &verdicts[1..2]);
        assert_eq!((none.value, none.outcome), (None, Outcome::Truncated));
    }

    #[test]
    fn noise_is_what_rests_on_the_passages_and_is_wrong() {
        let supported = [Ok(1.0), Ok(1.0), Ok(0.0), Err(Unscored::Abstained)];
        let right = [Ok(0.0), Ok(1.0), Ok(0.0), Ok(0.0)];
        assert_eq!(noise(&supported, &right), [Ok(1.0), Ok(0.0), Ok(0.0), Err(Unscored::Abstained)]);
    }
}
