//! How good one answer is: a level for each criterion.

use evalign_core::{Request, Response, SampleKey};
use evalign_model::ModelError;
use serde::{Deserialize, Serialize};

use crate::error::JudgeError;
use crate::judge::{Judge, Material, read};
use crate::pairwise::entropy_nats;
use crate::rubric::{ABSTAIN, Rubric};
use crate::verdict::{Choice, Unscored, Verdict};

/// What a judge says about one criterion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CriterionScore {
    pub criterion: String,
    /// The level that was written.
    pub level: u8,
    /// Mean level under the probabilities of all levels, where the model gives them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expected: Option<f64>,
    /// Entropy over the labels, in nats.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub entropy: Option<f64>,
}

impl CriterionScore {
    /// The expected level where it is known, else the one that was written.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.expected.unwrap_or(f64::from(self.level))
    }
}

/// A judged answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Mean over the criteria by weight, on the rubric's scale.
    pub score: f64,
    pub criteria: Vec<CriterionScore>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub explanation: Option<String>,
}

impl Judge {
    /// The request for the verdict on one answer.
    ///
    /// # Errors
    /// Material that the rubric cannot be used with, or a template that fails.
    pub fn pointwise_request(
        &self,
        key: SampleKey,
        material: &Material<'_>,
        answer: &str,
    ) -> Result<Request, JudgeError> {
        self.request(key, material, &[("answer", answer)])
    }

    /// What an answer to such a request says.
    ///
    /// # Errors
    /// Why nothing was decided. One criterion without a level leaves the whole answer undecided.
    pub fn read_pointwise(&self, answer: &Result<Response, ModelError>) -> Result<Judged, Unscored> {
        judged(self.rubric(), read(&self.pointwise_format(), answer)?)
    }
}

/// Scores answers, asked for together, in their order.
///
/// # Errors
/// Material the rubric cannot be used with, or a judge that cannot be asked at all.
pub async fn score_all(
    judge: &Judge,
    answers: &[(Material<'_>, &str)],
) -> Result<Vec<Result<Judged, Unscored>>, JudgeError> {
    let requests = (0u64..).zip(answers).map(|(doc, (material, answer))| {
        let key = SampleKey { task: "score".to_owned(), doc, repeat: 0 };
        judge.pointwise_request(key, material, answer)
    });
    let answers = judge.ask_all(requests.collect::<Result<_, _>>()?).await?;
    Ok(answers.iter().map(|answer| judge.read_pointwise(answer)).collect())
}

pub(crate) fn judged(rubric: &Rubric, verdict: Verdict) -> Result<Judged, Unscored> {
    let mut criteria = Vec::with_capacity(rubric.criteria.len());
    for (criterion, choice) in rubric.criteria.iter().zip(&verdict.choices) {
        criteria.push(criterion_score(rubric, &criterion.name, choice)?);
    }
    if criteria.len() != rubric.criteria.len() {
        return Err(Unscored::Malformed);
    }
    let weights = || rubric.criteria.iter().map(|criterion| criterion.weight);
    let sum: f64 = criteria.iter().zip(weights()).map(|(score, weight)| score.value() * weight).sum();
    Ok(Judged { score: sum / weights().sum::<f64>(), criteria, explanation: verdict.explanation })
}

fn criterion_score(rubric: &Rubric, name: &str, choice: &Choice) -> Result<CriterionScore, Unscored> {
    if choice.label == ABSTAIN {
        return Err(Unscored::Abstained);
    }
    let level: u8 = choice.label.parse().map_err(|_| Unscored::Malformed)?;
    // In the order of the form: the levels, and perhaps N, which says nothing about the level.
    let expected = choice.probabilities.as_deref().and_then(|probabilities| {
        let levels = || rubric.scale.levels().zip(probabilities);
        let total: f64 = levels().map(|(_, p)| p).sum();
        (total > 0.0).then(|| levels().map(|(level, p)| f64::from(level) * p).sum::<f64>() / total)
    });
    let entropy = choice.probabilities.as_deref().map(entropy_nats);
    Ok(CriterionScore { criterion: name.to_owned(), level, expected, entropy })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUBRIC: &str = "{rubric: r, version: '1', summary: s, abstain: true, explanation_tokens: 0,
        scale: {lowest: 1, highest: 3}, criteria: [
        {name: a, weight: 3, question: q, levels: {1: x, 2: y, 3: z}},
        {name: b, question: q, levels: {1: x, 2: y, 3: z}}]}";

    fn read(choices: &[(&str, Option<Vec<f64>>)]) -> Result<Judged, Unscored> {
        let choice = |(label, probabilities): &(&str, Option<Vec<f64>>)| Choice {
            label: (*label).to_owned(),
            probabilities: probabilities.clone(),
        };
        let verdict = Verdict { explanation: None, choices: choices.iter().map(choice).collect() };
        judged(&Rubric::parse("r.yaml", RUBRIC).unwrap(), verdict)
    }

    #[test]
    fn the_score_is_the_weighted_mean_of_expected_levels() {
        let judged = read(&[("3", None), ("1", None)]).unwrap();
        assert!((judged.score - 2.5).abs() < 1e-12);
        // 0.2 of the probability abstains: (0.4 * 2 + 0.4 * 3) / 0.8.
        let judged = read(&[("3", Some(vec![0.0, 0.4, 0.4, 0.2])), ("1", None)]).unwrap();
        assert_eq!(judged.criteria[0].expected, Some(2.5));
        assert!((judged.score - 2.125).abs() < 1e-12);
    }

    #[test]
    fn one_undecided_criterion_leaves_the_answer_undecided() {
        assert_eq!(read(&[("3", None), ("N", None)]), Err(Unscored::Abstained));
        assert_eq!(read(&[("3", None)]), Err(Unscored::Malformed));
    }
}
