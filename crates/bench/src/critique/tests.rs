use evalign_core::{Digest, GenerateParams, Prompt, Request, RequestKind, SampleKey, SampleRecord, Usage};
use evalign_judge::Constitution;

use super::chain::{Chain, CutTexts, Round};
use super::report::report;
use crate::pairing::Verdicts;

fn round(number: u32, before: &str, after: &str, points: [Option<f64>; 2]) -> Round {
    Round {
        round: number,
        before: before.to_owned(),
        after: after.to_owned(),
        unchanged: before == after,
        verdicts: Verdicts { probabilities: points, points, ..Verdicts::default() },
    }
}

fn record() -> SampleRecord {
    let key = SampleKey { task: "critique/answer".to_owned(), doc: 5, repeat: 0 };
    let prompt = Prompt::Text("q".to_owned());
    let kind = RequestKind::Generate { prompt, params: GenerateParams::default() };
    SampleRecord {
        key: key.clone(),
        doc: serde_json::Value::Null,
        doc_hash: Digest::of(""),
        request: Request { key, kind },
        prompt_hash: Digest::of(""),
        target: String::new(),
        target_hash: Digest::of(""),
        output: None,
        error: None,
        scores: Vec::new(),
        usage: Usage::default(),
        truncated_tokens: 0,
        latency: None,
        requests: 0,
        cost_usd: None,
    }
}

#[test]
fn gains_losses_and_what_undoes_them_are_counted_by_principle() {
    let everyday = Constitution::find("everyday", &[]).unwrap();
    let refusal = "I'm sorry, but I can't help with that.";
    let chain = Chain {
        prompt: 5,
        record: record(),
        answer: "a".to_owned(),
        rounds: vec![
            round(1, "a", "b", [Some(1.0), Some(1.0)]),
            round(2, "b", "b", [None, None]),
            round(3, "b", refusal, [Some(0.0), Some(0.0)]),
            round(4, refusal, "c", [Some(1.0), Some(0.0)]),
            round(5, "c", "d", [Some(1.0), None]),
        ],
    };
    let empty = Chain { prompt: 6, record: record(), answer: "x".to_owned(), rounds: Vec::new() };
    let found = report(&[chain, empty], (3, CutTexts::default()), &everyday, 1234);
    assert_eq!((found.prompts, found.answered, found.revisions, found.verified), (3, 2, 5, 1));
    assert_eq!((found.prompts_with_gain, found.refusals_first, found.refusals_last), (1, 0, 0));
    assert_eq!(found.yield_share, Some(0.2));
    let of_round = |round: u32| &found.by_round[&round];
    assert_eq!((of_round(1).verified, of_round(2).unchanged, of_round(3).lost), (1, 1, 1));
    assert_eq!((of_round(4).even, of_round(5).undecided), (1, 1));
    assert_eq!((of_round(3).refusals_before, of_round(3).refusals_after), (0, 1));
    let id = |round: u32| everyday.drawn(1234, 5, round - 1).unwrap().id.clone();
    // Round 2 changed nothing, so that round 3 lost against the gain of round 1.
    assert_eq!(found.by_principle[&id(3)].undid_gains_of[&id(1)], 1);
    assert_eq!(of_round(4).undid_gains, 0);
    let bias = found.bias.as_ref().unwrap();
    assert_eq!((bias.pairs, bias.unscored), (4, 1));
    assert!((bias.flip_rate.as_ref().unwrap().value - 1.0 / 3.0).abs() < 1e-12, "{bias:?}");
    assert_eq!(found.by_principle.len(), 16);
    assert_eq!(found.by_principle.values().map(|counts| counts.used).sum::<u64>(), 5);
    assert_eq!(report(&[], (0, CutTexts::default()), &everyday, 1).yield_share, None);
}
