use std::collections::BTreeMap;

use evalign_core::{FinishReason, ModelIdentity, Output, SampleRecord};
use evalign_judge::NearDuplicates;

/// An answer that can become a side of a pair.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    /// Its place among all answers to the prompt, those that are no candidates included.
    pub(super) place: u32,
    pub(super) text: String,
    pub(super) sampler: &'a ModelIdentity,
    /// Summed over its tokens, in nats.
    pub(super) logprob: Option<f64>,
    pub(super) record: &'a SampleRecord,
}

/// The finished answers of stored samples, by document; `sampler` says who wrote a sample. Answers that were cut off,
/// withheld or empty are no candidates.
pub(super) fn candidates<'a>(
    records: &'a [SampleRecord],
    sampler: impl Fn(&SampleRecord) -> &'a ModelIdentity,
) -> BTreeMap<u64, Vec<Candidate<'a>>> {
    let mut found: BTreeMap<u64, Vec<Candidate<'a>>> = BTreeMap::new();
    for record in records {
        let Some(Output::Text { text, finish: FinishReason::Stop, logprobs, .. }) = &record.output else {
            continue;
        };
        if text.trim().is_empty() {
            continue;
        }
        let logprob = logprobs.as_ref().map(|tokens| tokens.iter().map(|token| token.logprob).sum());
        found.entry(record.key.doc).or_default().push(Candidate {
            place: record.key.repeat,
            text: text.trim().to_owned(),
            sampler: sampler(record),
            logprob,
            record,
        });
    }
    found
}

/// Without answers that say (nearly) what an earlier one says; and how many those were.
pub(super) fn distinct(candidates: Vec<Candidate<'_>>, similarity: f64) -> (Vec<Candidate<'_>>, u64) {
    let before = candidates.len();
    let mut seen = NearDuplicates::new(similarity);
    let kept: Vec<_> =
        candidates.into_iter().filter(|candidate| seen.insert(&candidate.text).is_none()).collect();
    let dropped = (before - kept.len()) as u64;
    (kept, dropped)
}
