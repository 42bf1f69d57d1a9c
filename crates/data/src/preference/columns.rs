use crate::ColumnKind;

/// What a row says about where it comes from, beside TRL's own columns. All may be null, none has the name of a
/// column that a TRL trainer reads, but for `margin`, which its reward trainer takes for what it is here.
///
/// Scores and the margin are in the units of the judge's scale; probabilities are those of the judge for the
/// chosen side when it is shown first and when it is shown second; log-probabilities are natural logarithms,
/// summed over the tokens of the answer, under the model that wrote it; digests are SHA-256 in hexadecimal.
pub const ORIGIN_COLUMNS: [(&str, ColumnKind); 25] = [
    ("score_chosen", ColumnKind::Number),
    ("score_rejected", ColumnKind::Number),
    ("margin", ColumnKind::Number),
    ("probability_first", ColumnKind::Number),
    ("probability_second", ColumnKind::Number),
    ("strategy", ColumnKind::Text),
    ("principle", ColumnKind::Text),
    ("constitution_digest", ColumnKind::Text),
    ("round", ColumnKind::Integer),
    ("judge", ColumnKind::Text),
    ("judge_digest", ColumnKind::Text),
    ("rubric_digest", ColumnKind::Text),
    ("sampler_chosen", ColumnKind::Text),
    ("sampler_chosen_digest", ColumnKind::Text),
    ("sampler_rejected", ColumnKind::Text),
    ("sampler_rejected_digest", ColumnKind::Text),
    ("logprob_chosen", ColumnKind::Number),
    ("logprob_rejected", ColumnKind::Number),
    ("template_digest", ColumnKind::Text),
    ("source", ColumnKind::Text),
    ("source_digest", ColumnKind::Text),
    ("prompt_digest", ColumnKind::Text),
    ("reference", ColumnKind::Text),
    ("seed", ColumnKind::Integer),
    ("run", ColumnKind::Text),
];
