use evalign_core::{Output, Prompt, RequestKind, SampleRecord, Score};

use super::{Cause, ReferenceItem};

/// How one item came out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Comparison {
    pub(super) divergence: Option<(Cause, String)>,
    pub(super) largest_difference: Option<f64>,
    pub(super) within_margin: bool,
}

impl Comparison {
    fn diverged(cause: Cause, detail: String) -> Self {
        Self { divergence: Some((cause, detail)), ..Self::default() }
    }
}

/// Follows an item through the steps of a run and stops at the first that differs. `records` are the
/// answers to its document in repeat order.
pub(super) fn compare(
    item: &ReferenceItem,
    records: &[SampleRecord],
    scores: &[Score],
    tolerance: f64,
) -> Comparison {
    let [first, ..] = records else { return Comparison::default() };
    if let Some(detail) = inputs_differ(item, first) {
        return Comparison { divergence: Some(detail), ..Comparison::default() };
    }
    match (&first.output, &item.log_likelihoods) {
        (None, _) => {
            let error = first.error.as_deref().unwrap_or("the call failed");
            Comparison::diverged(Cause::Token, format!("no answer: {error}"))
        }
        (Some(Output::LogLikelihood { choices }), Some(expected)) => {
            let sums: Vec<f64> = choices.iter().map(|c| c.sum).collect();
            choices_differ(&sums, expected, item, scores, tolerance)
        }
        (Some(Output::Text { .. }), _) => texts_differ(item, records, scores),
        (Some(_), _) => match metrics_differ(item, scores, 0.0) {
            Some((cause, detail, _)) => Comparison::diverged(cause, detail),
            None => Comparison::default(),
        },
    }
}

fn inputs_differ(item: &ReferenceItem, record: &SampleRecord) -> Option<(Cause, String)> {
    if let Some(hash) = &item.doc_hash
        && *hash != record.doc_hash.as_str()
    {
        return Some((Cause::Document, format!("row hash {}, reference {hash}", record.doc_hash)));
    }
    if let Some(hash) = &item.prompt_hash
        && *hash != record.prompt_hash.as_str()
    {
        let ours = prompt_text(&record.request.kind);
        let where_ = match (&item.prompt, ours) {
            (Some(theirs), Some(ours)) if theirs != ours => format!(": {}", first_difference(ours, theirs)),
            _ => String::new(),
        };
        return Some((
            Cause::Prompt,
            format!("prompt hash {}, reference {hash}{where_}", record.prompt_hash),
        ));
    }
    if let (Some(theirs), RequestKind::LogLikelihood { continuations, .. }) =
        (&item.continuations, &record.request.kind)
        && theirs != continuations
    {
        return Some((Cause::Prompt, format!("continuations {continuations:?}, reference {theirs:?}")));
    }
    None
}

fn prompt_text(kind: &RequestKind) -> Option<&str> {
    match kind {
        RequestKind::LogLikelihood { context: Prompt::Text(text), .. }
        | RequestKind::Generate { prompt: Prompt::Text(text), .. }
        | RequestKind::Perplexity { text } => Some(text),
        RequestKind::LogLikelihood { .. } | RequestKind::Generate { .. } => None,
    }
}

fn choices_differ(
    sums: &[f64],
    expected: &[(f64, Option<bool>)],
    item: &ReferenceItem,
    scores: &[Score],
    tolerance: f64,
) -> Comparison {
    if sums.len() != expected.len() {
        let detail = format!("{} choices, reference {}", sums.len(), expected.len());
        return Comparison::diverged(Cause::Prompt, detail);
    }
    let differences = sums.iter().zip(expected).map(|(ours, (theirs, _))| (ours - theirs).abs());
    let largest = differences.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    let mut found = Comparison { largest_difference: largest.map(|(_, d)| d), ..Comparison::default() };
    if let Some((choice, difference)) = largest
        && (difference.is_nan() || difference > tolerance)
    {
        let detail = format!(
            "choice {choice}: {:.6}, reference {:.6} (difference {difference:.2e})",
            sums[choice], expected[choice].0
        );
        found.divergence = Some((Cause::LogLikelihood, detail));
        return found;
    }
    // Both sides may move by the tolerance, each on another choice.
    match metrics_differ(item, scores, 2.0 * tolerance) {
        Some((_, _, true)) => found.within_margin = true,
        Some((cause, detail, false)) => found.divergence = Some((cause, detail)),
        None => {}
    }
    found
}

fn texts_differ(item: &ReferenceItem, records: &[SampleRecord], scores: &[Score]) -> Comparison {
    for (repeat, (record, theirs)) in records.iter().zip(item.texts.iter().flatten()).enumerate() {
        if let Some(Output::Text { text, .. }) = &record.output
            && text != theirs
        {
            let which = if repeat > 0 { format!("answer {repeat}: ") } else { String::new() };
            return Comparison::diverged(Cause::Token, which + &first_difference(text, theirs));
        }
    }
    for (filter, theirs) in &item.answers {
        let ours = scores.iter().find(|s| s.filter == *filter).and_then(|s| s.answer.as_deref());
        if ours != Some(theirs.as_str()) {
            let ours = ours.map_or("nothing".to_owned(), |a| format!("{a:?}"));
            return Comparison::diverged(
                Cause::Extraction,
                format!("{filter}: {ours}, reference {theirs:?}"),
            );
        }
    }
    match metrics_differ(item, scores, 0.0) {
        Some((cause, detail, _)) => Comparison::diverged(cause, detail),
        None => Comparison::default(),
    }
}

/// The first metric with another value, and whether the item's margin explains it.
fn metrics_differ(item: &ReferenceItem, scores: &[Score], margin: f64) -> Option<(Cause, String, bool)> {
    let mut excused = None;
    for (filter, metric, theirs) in &item.metrics {
        let score = scores.iter().find(|s| s.metric == *metric && (filter.is_empty() || s.filter == *filter));
        let Some(score) = score else { continue };
        if score.value == Some(*theirs) {
            continue;
        }
        let ours = score.value.map_or("no value".to_owned(), |v| v.to_string());
        let detail = format!("{metric}: {ours}, reference {theirs}");
        if score.margin.is_some_and(|m| m <= margin) {
            excused = Some((Cause::Score, detail, true));
        } else {
            return Some((Cause::Score, detail, false));
        }
    }
    excused
}

/// Where two texts part, with a little of both.
fn first_difference(ours: &str, theirs: &str) -> String {
    let at = ours.chars().zip(theirs.chars()).take_while(|(a, b)| a == b).count();
    let from = at.saturating_sub(12);
    let piece = |text: &str| text.chars().skip(from).take(40).collect::<String>();
    format!("from character {at}: {:?}, reference {:?}", piece(ours), piece(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use evalign_core::{
        ChoiceLogLikelihood, Digest, FinishReason, GenerateParams, Outcome, Request, SampleKey, Usage,
    };
    use serde_json::Value;

    fn record(kind: RequestKind, output: Output) -> SampleRecord {
        let key = SampleKey { task: "t".to_owned(), doc: 0, repeat: 0 };
        SampleRecord {
            key: key.clone(),
            doc: Value::Null,
            doc_hash: Digest::of("doc"),
            prompt_hash: Digest::of(prompt_text(&kind).unwrap_or_default()),
            request: Request { key, kind },
            target: "0".to_owned(),
            target_hash: Digest::of("0"),
            output: Some(output),
            error: None,
            scores: Vec::new(),
            usage: Usage::default(),
            truncated_tokens: 0,
            latency: None,
            requests: 0,
            cost_usd: None,
        }
    }

    fn score(metric: &str, filter: &str, value: f64, margin: Option<f64>, answer: Option<&str>) -> Score {
        Score {
            metric: metric.to_owned(),
            filter: filter.to_owned(),
            outcome: Outcome::Correct,
            value: Some(value),
            answer: answer.map(str::to_owned),
            weight: None,
            margin,
        }
    }

    fn choices(sums: &[f64]) -> SampleRecord {
        let kind = RequestKind::LogLikelihood {
            context: Prompt::Text("Q".to_owned()),
            continuations: vec![" A".to_owned(), " B".to_owned()],
        };
        let choices = sums.iter().map(|sum| ChoiceLogLikelihood { sum: *sum, tokens: 1, greedy: false });
        record(kind, Output::LogLikelihood { choices: choices.collect() })
    }

    fn item() -> ReferenceItem {
        ReferenceItem {
            prompt_hash: Some(Digest::of("Q").to_string()),
            prompt: Some("Q".to_owned()),
            log_likelihoods: Some(vec![(-1.0, None), (-2.0, None)]),
            metrics: vec![(String::new(), "acc".to_owned(), 1.0)],
            ..ReferenceItem::default()
        }
    }

    fn cause(item: &ReferenceItem, record: SampleRecord, scores: &[Score]) -> Option<Cause> {
        compare(item, &[record], scores, 5e-3).divergence.map(|(cause, _)| cause)
    }

    #[test]
    fn the_first_step_that_differs_is_named() {
        let right = [score("acc", "none", 1.0, Some(1.0), None)];
        assert_eq!(cause(&item(), choices(&[-1.001, -2.0]), &right), None);
        assert_eq!(cause(&item(), choices(&[-1.01, -2.0]), &right), Some(Cause::LogLikelihood));
        assert_eq!(cause(&item(), choices(&[f64::NAN, -2.0]), &right), Some(Cause::LogLikelihood));
        let other = ReferenceItem {
            prompt_hash: Some(Digest::of("R").to_string()),
            prompt: Some("R".to_owned()),
            ..item()
        };
        assert_eq!(cause(&other, choices(&[-5.0, -6.0]), &right), Some(Cause::Prompt));
        let wrong = [score("acc", "none", 0.0, Some(1.0), None)];
        assert_eq!(cause(&item(), choices(&[-1.0, -2.0]), &wrong), Some(Cause::Score));
    }

    #[test]
    fn a_flip_within_the_margin_is_excused_and_counted() {
        let wrong = [score("acc", "none", 0.0, Some(0.004), None)];
        let found = compare(&item(), &[choices(&[-1.0, -2.0])], &wrong, 5e-3);
        assert!(found.within_margin && found.divergence.is_none());
    }

    #[test]
    fn texts_and_what_is_read_from_them() {
        let kind =
            RequestKind::Generate { prompt: Prompt::Text("Q".to_owned()), params: GenerateParams::default() };
        let text = |text: &str| {
            let output = Output::Text {
                text: text.to_owned(),
                finish: FinishReason::Stop,
                logprobs: None,
                reasoning: None,
            };
            record(kind.clone(), output)
        };
        let item = ReferenceItem {
            texts: Some(vec!["so 7".to_owned()]),
            answers: vec![("strict".to_owned(), "7".to_owned())],
            log_likelihoods: None,
            metrics: Vec::new(),
            ..item()
        };
        let seven = [score("exact_match", "strict", 1.0, None, Some("7"))];
        assert_eq!(cause(&item, text("so 7"), &seven), None);
        assert_eq!(cause(&item, text("so 8"), &seven), Some(Cause::Token));
        let eight = [score("exact_match", "strict", 1.0, None, Some("8"))];
        assert_eq!(cause(&item, text("so 7"), &eight), Some(Cause::Extraction));
    }
}
