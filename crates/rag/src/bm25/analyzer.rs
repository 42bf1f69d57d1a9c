use std::sync::LazyLock;

use regex::Regex;
use rust_stemmers::{Algorithm, Stemmer};

use crate::{Bm25, SparseVector};

/// Lucene's English stop words (`EnglishAnalyzer.ENGLISH_STOP_WORDS_SET`), sorted.
const STOP_WORDS: [&str; 33] = [
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no",
    "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to",
    "was", "will", "with",
];

/// Two or more word characters in the sense of Python's `\w`, which scikit-learn and bm25s split by:
/// letters, numbers of all kinds and the underscore. (The `\w` of the regex crate also takes marks, and of
/// numbers only decimal digits.)
#[expect(clippy::unwrap_used, reason = "a constant pattern, compiled by every test that analyses a text")]
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]{2,}").unwrap());

/// From text to terms: lower-cased words without stop words, stemmed by Snowball's English rules as of
/// version 2 (Porter2).
pub struct Analyzer {
    stemmer: Stemmer,
}

impl std::fmt::Debug for Analyzer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Analyzer(english)")
    }
}

impl Analyzer {
    #[must_use]
    pub fn english() -> Self {
        Self { stemmer: Stemmer::create(Algorithm::English) }
    }

    /// The terms of a text in their order, repetitions included.
    #[must_use]
    pub fn terms(&self, text: &str) -> Vec<String> {
        let lower = text.to_lowercase();
        WORD.find_iter(&lower)
            .map(|word| word.as_str())
            .filter(|word| STOP_WORDS.binary_search(word).is_err())
            .map(|word| self.stemmer.stem(word).into_owned())
            .collect()
    }

    /// The weights of a query.
    #[must_use]
    pub fn query(&self, text: &str) -> SparseVector {
        Bm25::query(&self.terms(text))
    }
}
