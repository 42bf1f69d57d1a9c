use evalign_core::Digest;
use serde_json::Map;
use uuid::Uuid;

use super::*;
use crate::DocumentId;
use crate::answer::Claim;

fn chunk(document: &str, bytes: [u64; 2]) -> Chunk {
    Chunk {
        id: Uuid::nil(),
        tenant: "t".to_owned(),
        document: DocumentId(document.to_owned()),
        revision: Digest::of(document),
        start_byte: bytes[0],
        end_byte: bytes[1],
        record: None,
        page: None,
        section: Vec::new(),
        text: "x".repeat((bytes[1] - bytes[0]) as usize),
        prefix: None,
        metadata: Map::new(),
    }
}

fn claim(chunk: Option<&Chunk>) -> Claim {
    let citations = chunk.map(|chunk| crate::evidence::cite(chunk, 0..chunk.text.len()));
    Claim { text: "c".to_owned(), supported: chunk.is_some(), citations: citations.into_iter().collect() }
}

fn answer(text: Option<&str>, claims: Vec<Claim>) -> Answer {
    Answer {
        question: "q".to_owned(),
        text: text.map(str::to_owned),
        abstained: None,
        claims,
        confidence: 0.6,
        threshold: 0.5,
        warnings: Vec::new(),
        notes: Vec::new(),
        hits: Vec::new(),
    }
}

fn gold(answers: &[&str], places: &[(&str, [u64; 2])]) -> GoldQuestion {
    let place = |(document, bytes): &(&str, [u64; 2])| GoldPlace {
        document: (*document).to_owned(),
        bytes: Some(*bytes),
        page: None,
    };
    GoldQuestion {
        id: "1".to_owned(),
        question: "q".to_owned(),
        answers: answers.iter().map(|text| (*text).to_owned()).collect(),
        evidence: places.iter().map(place).collect(),
    }
}

#[test]
fn citations_and_contexts_are_held_against_the_right_places() {
    let gold = gold(&["at 18:30"], &[("a.md", [10, 20]), ("b.md", [0, 5])]);
    let found = [chunk("docs/c.md", [0, 9]), chunk("docs/a.md", [15, 30]), chunk("aa.md", [10, 20])];
    let said = answer(Some("At 18:30."), vec![claim(Some(&found[1])), claim(Some(&found[2])), claim(None)]);
    let metrics = RuleMetrics::of(&gold, &said, &found).0;
    let expected = [
        ("abstention", 1.0),
        ("answer_exact", 1.0),
        ("answer_f1", 1.0),
        ("citation_precision", 0.5),
        ("citation_recall", 0.5),
        ("context_precision", 0.5),
        ("context_recall", 0.5),
        ("supported", 2.0 / 3.0),
    ];
    assert_eq!(metrics, expected.map(|(name, value)| (name.to_owned(), value)).into());
}

#[test]
fn what_is_cited_in_a_copy_of_the_right_place_is_right() {
    let gold = gold(&["at 18:30"], &[("a.md", [10, 20])]);
    let (cited, copy) = (chunk("b.md", [10, 20]), chunk("a.md", [10, 20]));
    let mut claim = claim(Some(&cited));
    claim.citations[0].copies = vec![crate::evidence::cite(&copy, 0..copy.text.len())];
    let said = answer(Some("At 18:30."), vec![claim]);
    let metrics = RuleMetrics::of(&gold, &said, &[cited]).0;
    let cited = ["citation_precision", "citation_recall", "context_recall"].map(|name| metrics[name]);
    assert_eq!(cited, [1.0, 1.0, 0.0]);
}

#[test]
fn what_cannot_be_told_is_absent() {
    let silent = RuleMetrics::of(&gold(&[], &[]), &answer(None, Vec::new()), &[]).0;
    assert_eq!(silent, [("abstention".to_owned(), 1.0)].into());
    let wrong = RuleMetrics::of(&gold(&[], &[]), &answer(Some("x"), vec![claim(None)]), &[]).0;
    assert_eq!(wrong, [("abstention".to_owned(), 0.0), ("supported".to_owned(), 0.0)].into());
}

#[test]
fn words_in_common_count_as_often_as_they_occur() {
    let f1 = |a: &str, b: &str| word_f1(&words(a), &words(b));
    assert_eq!(f1("the gate closes", "Gate, closes!"), 1.0);
    assert_eq!(f1("no no no", "no"), 0.5);
    assert_eq!(f1("", "no"), 0.0);
}

#[test]
fn abstaining_is_judged_by_whom_it_leaves_out() {
    let told = |is_answerable, is_answered, confidence, is_right| Told {
        is_answerable,
        is_answered,
        confidence,
        is_right,
    };
    let quality = AbstentionQuality::of(&[
        told(true, true, 0.9, true),
        told(false, true, 0.6, false),
        told(true, false, 0.4, false),
        told(false, false, 0.2, false),
    ]);
    assert_eq!((quality.precision, quality.recall), (Some(0.5), Some(0.5)));
    let area = 0.5 * 0.0 + 0.5 * 0.5;
    assert!((quality.risk_area.unwrap() - area).abs() < 1e-12, "{quality:?}");
    assert_eq!(AbstentionQuality::of(&[]), AbstentionQuality::default());
}

#[test]
fn questions_are_read_with_the_line_that_is_wrong() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("q.jsonl");
    let read = |text: &str| {
        fs_err::write(&path, text).unwrap();
        GoldQuestion::read_all(&path)
    };
    let good =
        r#"{"id": "1", "question": "q", "answers": ["a"], "evidence": [{"document": "a.md", "page": 2}]}"#;
    assert_eq!(read(good).unwrap()[0].evidence[0].page, Some(2));
    assert!(!read(r#"{"id": "1", "question": "q"}"#).unwrap()[0].is_answerable());
    for (text, told) in [
        (format!("{good}\n\n{good}"), "line 3, field `id`: `1` is also in line 1"),
        (format!("{good}\n{{}}"), "line 2: missing field"),
        (String::new(), "holds no questions"),
    ] {
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}
