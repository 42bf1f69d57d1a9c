use evalign_core::GenerateParams;
use serde::Deserialize;

use crate::error::{ApiError, ApiResult, Code};
use crate::openai::unsupported;

/// Most answers to one prompt.
const MOST_CHOICES: u32 = 16;

/// One stop string, or a few.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub(crate) enum Stop {
    One(String),
    Several(Vec<String>),
}

/// What both kinds of completion say about drawing tokens.
#[derive(Debug, Default)]
pub(crate) struct Sampling {
    pub(crate) max_tokens: Option<u32>,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<Stop>,
    pub(crate) n: Option<u32>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) frequency_penalty: Option<f64>,
    /// Log-probabilities, each with those of so many of the likeliest tokens.
    pub(crate) logprobs: Option<u32>,
}

pub(super) fn out_of_range(field: &str, range: &str) -> ApiError {
    ApiError::new(Code::InvalidRequest, format!("`{field}` has to be {range}")).about(field)
}

impl Sampling {
    /// The parameters of each answer: they differ in their seeds. `default_tokens` where nothing is said.
    pub(crate) fn params(self, default_tokens: u32, most_tokens: u32) -> ApiResult<Vec<GenerateParams>> {
        let max_tokens = self.max_tokens.unwrap_or(default_tokens.min(most_tokens));
        if !(1..=most_tokens).contains(&max_tokens) {
            return Err(out_of_range("max_tokens", &format!("from 1 to {most_tokens} on this server")));
        }
        let within = |value: Option<f64>, field: &str, low: f64, high: f64| match value {
            Some(value) if !(low..=high).contains(&value) => {
                Err(out_of_range(field, &format!("from {low} to {high}")))
            }
            _ => Ok(()),
        };
        within(self.temperature, "temperature", 0.0, 2.0)?;
        within(self.top_p, "top_p", 0.0, 1.0)?;
        for (field, value) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            if value.is_some_and(|value| value != 0.0) {
                return Err(unsupported(field, "only 0"));
            }
        }
        let n = self.n.unwrap_or(1);
        if !(1..=MOST_CHOICES).contains(&n) {
            return Err(out_of_range("n", &format!("from 1 to {MOST_CHOICES}")));
        }
        let stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text],
            Some(Stop::Several(texts)) => texts,
        };
        if stop.len() > 32 || stop.iter().any(|text| text.len() > 1024) {
            return Err(out_of_range("stop", "at most 32 texts of at most 1024 bytes"));
        }
        // Negative seeds are as good as others.
        let seed = match self.seed {
            Some(seed) => seed.cast_unsigned(),
            None => random_seed()?,
        };
        let params = GenerateParams {
            max_tokens,
            temperature: self.temperature.unwrap_or(1.0),
            // 0 would leave no token: the likeliest one is meant.
            top_p: self.top_p.map(|top_p| top_p.max(f64::MIN_POSITIVE)),
            stop: stop.into_iter().filter(|text| !text.is_empty()).collect(),
            logprobs: self.logprobs.is_some(),
            top_logprobs: self.logprobs.unwrap_or(0),
            ..GenerateParams::default()
        };
        let seeded = |choice| GenerateParams { seed: seed.wrapping_add(u64::from(choice)), ..params.clone() };
        Ok((0..n).map(seeded).collect())
    }
}

fn random_seed() -> ApiResult<u64> {
    let mut raw = [0; 8];
    getrandom::fill(&mut raw).map_err(ApiError::internal)?;
    Ok(u64::from_le_bytes(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_one_prompt_differ_in_their_seeds() {
        let sampling = Sampling { n: Some(3), seed: Some(-1), ..Sampling::default() };
        let seeds: Vec<u64> = sampling.params(16, 100).unwrap().iter().map(|params| params.seed).collect();
        assert_eq!(seeds, [u64::MAX, 0, 1]);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let refused = |sampling: Sampling| sampling.params(16, 100).unwrap_err().param.unwrap();
        assert_eq!(refused(Sampling { max_tokens: Some(0), ..Sampling::default() }), "max_tokens");
        assert_eq!(refused(Sampling { max_tokens: Some(101), ..Sampling::default() }), "max_tokens");
        assert_eq!(refused(Sampling { temperature: Some(-0.1), ..Sampling::default() }), "temperature");
        assert_eq!(refused(Sampling { n: Some(0), ..Sampling::default() }), "n");
        assert_eq!(
            refused(Sampling { frequency_penalty: Some(0.5), ..Sampling::default() }),
            "frequency_penalty"
        );
    }
}
