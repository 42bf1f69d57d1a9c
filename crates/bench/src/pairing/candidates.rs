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

/// The finished answers among the stored samples of one document; `sampler` says who wrote a sample. Answers that were
/// cut off, withheld or empty are no candidates.
pub(super) fn candidates<'a>(
    records: &'a [SampleRecord],
    sampler: impl Fn(&SampleRecord) -> &'a ModelIdentity,
) -> Vec<Candidate<'a>> {
    let candidate = |record: &'a SampleRecord| {
        let Some(Output::Text { text, finish: FinishReason::Stop, logprobs, .. }) = &record.output else {
            return None;
        };
        if text.trim().is_empty() {
            return None;
        }
        Some(Candidate {
            place: record.key.repeat,
            text: text.trim().to_owned(),
            sampler: sampler(record),
            logprob: logprobs.as_ref().map(|tokens| tokens.iter().map(|token| token.logprob).sum()),
            record,
        })
    };
    records.iter().filter_map(candidate).collect()
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
