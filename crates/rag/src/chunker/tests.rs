use std::path::Path;

use proptest::prelude::*;

use super::{ChunkPlace, ChunkSettings, DocumentKind, LoadedText, Strategy, chunks};
use crate::load::{PdfReader, load};

/// Words, and every character of a long one: like a tokeniser that knows short words only.
fn count(text: &str) -> usize {
    text.split_whitespace().map(|word| word.chars().count().div_ceil(8)).sum()
}

fn settings(strategy: Strategy, max_tokens: usize, overlap_tokens: usize) -> ChunkSettings {
    ChunkSettings { strategy, max_tokens, overlap_tokens, prefix: false }
}

fn of(text: &str, kind: DocumentKind, max_tokens: usize) -> (LoadedText, Vec<ChunkPlace>) {
    let loaded = load(Path::new("test"), text.as_bytes(), kind, &PdfReader::Here).unwrap();
    let places = chunks(&loaded, settings(Strategy::Auto, max_tokens, 0), &count);
    (loaded, places)
}

fn texts<'t>(loaded: &'t LoadedText, places: &[ChunkPlace]) -> Vec<&'t str> {
    places.iter().map(|place| &loaded.text[place.range.clone()]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunks_are_ranges_that_fit_and_together_are_the_text(
        text in "(?s)([a-zü漢. \n#|]{1,30}|[a-z]{40,90}|\n\n|```\n|🦀e\u{301}){0,30}",
        max in 8usize..40, overlap in 0usize..4, kind in 0usize..4, strategy in 0usize..3,
    ) {
        let kind = [DocumentKind::Text, DocumentKind::Markdown, DocumentKind::Rust, DocumentKind::Python][kind];
        let strategy = [Strategy::Auto, Strategy::Recursive, Strategy::Sentence][strategy];
        let loaded = load(Path::new("test"), text.as_bytes(), kind, &PdfReader::Here).unwrap();
        let mut end = 0;
        for place in chunks(&loaded, settings(strategy, max, overlap), &count) {
            let chunk = &loaded.text[place.range.clone()];
            prop_assert_eq!(chunk.trim(), chunk);
            prop_assert!(!chunk.is_empty() && count(chunk) <= max, "{} tokens: {chunk}", count(chunk));
            // Nothing between two chunks but white space; they overlap only where that was asked for.
            prop_assert!(place.range.start <= end || loaded.text[end..place.range.start].trim().is_empty());
            prop_assert!(overlap > 0 || place.range.start >= end);
            end = place.range.end;
        }
        prop_assert!(loaded.text[end..].trim().is_empty());
    }
}

#[test]
fn sections_are_named_and_code_in_markdown_holds_no_headings() {
    let text = "---\ntitle: x\n---\n# A\none\n## B\ntwo\n```\n# no heading\n```\n# C\nthree";
    let (loaded, places) = of(text, DocumentKind::Markdown, 50);
    let sections: Vec<Vec<String>> = places.iter().map(|place| place.section.clone()).collect();
    assert_eq!(sections, [vec![], vec!["A".to_owned()], vec!["A".into(), "B".into()], vec!["C".into()]]);
    assert!(texts(&loaded, &places)[2].contains("# no heading"));
}

#[test]
fn items_of_source_code_stay_whole() {
    let Some(shared) = evalign_testkit::shared("items_of_source_code_stay_whole") else { return };
    let folder = shared.join("data/documents");
    let rust = fs_err::read_to_string(folder.join("ring_buffer.rs")).unwrap();
    let (loaded, places) = of(&rust, DocumentKind::Rust, 90);
    assert!(places.len() > 2);
    let push = rust.find("pub fn push").unwrap();
    let body_end = push + rust[push..].find("\n    }").unwrap();
    let whole = places.iter().any(|place| place.range.start <= push && place.range.end > body_end);
    assert!(whole, "{:#?}", texts(&loaded, &places));
    let python = fs_err::read_to_string(folder.join("radio_backoff.py")).unwrap();
    let (loaded, places) = of(&python, DocumentKind::Python, 70);
    let texts = texts(&loaded, &places);
    let class = texts.iter().find(|text| text.contains("class Backoff")).unwrap();
    assert!(class.contains("@dataclasses.dataclass"), "{class}");
    let send = texts.iter().find(|text| text.contains("def send")).unwrap();
    assert!(send.contains("True as soon as"), "{send}");
}

#[test]
fn three_megabytes_without_a_line_end_are_cut_in_bounded_time() {
    let text = "the keeper wrote nothing down ".repeat(100_000);
    let started = std::time::Instant::now();
    let (loaded, places) = of(&text, DocumentKind::Text, 200);
    assert!(
        places.len() > 1000 && places.iter().all(|place| count(&loaded.text[place.range.clone()]) <= 200)
    );
    let one_word = "x".repeat(1_000_000);
    assert!(!of(&one_word, DocumentKind::Text, 200).1.is_empty());
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn budgets_that_would_lose_text_are_refused() {
    assert!(settings(Strategy::Auto, 7, 0).check(256).is_err());
    assert!(settings(Strategy::Auto, 256, 0).check(256).is_err());
    assert!(settings(Strategy::Auto, 100, 51).check(256).is_err());
    assert!(settings(Strategy::Auto, 250, 50).check(256).is_ok());
}
