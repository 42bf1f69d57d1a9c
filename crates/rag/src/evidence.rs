//! Statements of the chunks that were found, weighed against the question.
//!
//! ```text
//! score = cos(question, statement) / 2 + coverage / 2
//! coverage = sum of idf over the question's terms that the statement holds, or 3/4 of it where only what stands
//!            around it does, over the sum of idf of all of the question's terms but the words that ask
//! ```
//! The idf is taken over the chunks that were found, ln(1 + chunks / (holding + 1/2)), so a term that none of them
//! holds weighs most: a question about something else is covered badly however similar its wording is. Where the
//! question asks for a number ("what is the telephone number of ..."), a statement without one scores half.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::sentences::sentences;
use crate::{Analyzer, Chunk, Citation, Embedder, RagError, Standing, TextRole};

/// Share of a term's weight that counts where not the statement itself but what stands around it holds the term.
const AROUND: f64 = 0.75;

/// What asks and does not say about what.
const ASKING: [&str; 23] = [
    "about", "can", "could", "did", "do", "does", "from", "had", "has", "have", "how", "many", "much",
    "than", "were", "what", "when", "where", "which", "who", "whom", "whose", "why",
];

/// What is left of the score of a statement that is not of the kind that is asked for.
const OTHER_KIND: f64 = 0.5;
/// What may stand between what asks and what is asked for.
const BEFORE_THE_NOUN: [&str; 9] = ["is", "are", "was", "were", "the", "its", "his", "her", "their"];
const SPELLED_NUMBERS: [&str; 19] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "dozen", "hundred", "thousand", "million", "billion", "none",
];

/// A statement that may answer the question.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    pub citation: Citation,
    /// 0 to 1; see the module.
    pub score: f64,
    /// Cosine of question and statement.
    pub similarity: f64,
    /// Share of the question's terms, by weight.
    pub coverage: f64,
    /// Which of the chunks it is from.
    pub chunk: usize,
    pub(crate) terms: BTreeSet<String>,
}

/// All statements of the chunks, the best first; equal ones in the order of the chunks.
///
/// # Errors
/// What the embedder reports.
pub(crate) async fn weigh(
    question: &str,
    chunks: &[Chunk],
    embedder: &dyn Embedder,
) -> Result<Vec<Evidence>, RagError> {
    let analyzer = Analyzer::english();
    let asks = |word: &&str| {
        let plain = word.trim_matches(|char: char| !char.is_alphanumeric()).to_lowercase();
        ASKING.contains(&plain.as_str())
    };
    let about: Vec<&str> = question.split_whitespace().filter(|word| !asks(word)).collect();
    let asked: BTreeSet<String> = analyzer.terms(&about.join(" ")).into_iter().collect();
    let around: Vec<BTreeSet<String>> =
        chunks.iter().map(|chunk| analyzer.terms(&surroundings(chunk)).into_iter().collect()).collect();
    let weights = idf(&asked, &around);
    let (mut evidence, mut texts) = (Vec::new(), Vec::new());
    for (index, chunk) in chunks.iter().enumerate() {
        for range in sentences(&chunk.text, is_code(chunk)) {
            let said = said(chunk, &range);
            let terms: BTreeSet<String> = analyzer.terms(&said).into_iter().collect();
            texts.push(match chunk.section.last() {
                Some(heading) => format!("{heading}: {said}"),
                None => said,
            });
            evidence.push(Evidence {
                citation: cite(chunk, range),
                score: 0.0,
                similarity: 0.0,
                coverage: coverage(&weights, &terms, &around[index]),
                chunk: index,
                terms,
            });
        }
    }
    let wants_number = asks_for_number(question);
    let asked = embedder.embed(&[question.to_owned()], TextRole::Query).await?;
    let vectors = embedder.embed(&texts, TextRole::Passage).await?;
    for (evidence, vector) in evidence.iter_mut().zip(vectors) {
        let similarity: f64 =
            asked.iter().flatten().zip(&vector).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        evidence.similarity = similarity.clamp(0.0, 1.0);
        evidence.score = f64::midpoint(evidence.similarity, evidence.coverage);
        if wants_number && !holds_number(&evidence.citation.quote) {
            evidence.score *= OTHER_KIND;
        }
    }
    evidence.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.chunk.cmp(&b.chunk)));
    Ok(evidence)
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|char: char| !char.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// Whether "number" is what the question's "what" or "which" asks for, with at most two words before it. "How many"
/// says nothing of the kind: its answers are spelled in many ways.
fn asks_for_number(question: &str) -> bool {
    let words: Vec<String> = words(question).collect();
    let nouns_after = |at: usize| {
        let after = words[at + 1..].iter().skip_while(|word| BEFORE_THE_NOUN.contains(&word.as_str()));
        after.take(3).any(|word| matches!(word.as_str(), "number" | "numbers"))
    };
    (0..words.len()).any(|at| matches!(words[at].as_str(), "what" | "which") && nouns_after(at))
}

fn holds_number(statement: &str) -> bool {
    statement.contains(|char: char| char.is_numeric())
        || words(statement).any(|word| SPELLED_NUMBERS.contains(&word.as_str()))
}

/// What a statement says: a row of a table together with the table's first row, which names its columns.
fn said(chunk: &Chunk, range: &Range<usize>) -> String {
    let statement = readable(chunk, &chunk.text[range.clone()]);
    let rows_above =
        chunk.text[..range.start].lines().rev().take_while(|line| line.trim_start().starts_with('|'));
    match rows_above.last().filter(|_| statement.starts_with('|')) {
        Some(header) => format!("{} {statement}", header.trim()),
        None => statement,
    }
}

/// The words inside the names of source code.
fn readable(chunk: &Chunk, text: &str) -> String {
    if is_code(chunk) { text.replace('_', " ") } else { text.to_owned() }
}

fn is_code(chunk: &Chunk) -> bool {
    let kind = chunk.metadata.get("kind").and_then(|kind| kind.as_str());
    matches!(kind, Some("rust" | "python" | "javascript" | "go"))
}

/// The words of its document's name.
fn name(chunk: &Chunk) -> String {
    chunk.document.0.replace(['/', '_', '-', '.'], " ")
}

/// The terms of its document's name.
pub(crate) fn name_terms(chunk: &Chunk, analyzer: &Analyzer) -> Vec<String> {
    analyzer.terms(&name(chunk))
}

/// The chunk with what stands above it and the name of its document.
fn surroundings(chunk: &Chunk) -> String {
    let name = name(chunk);
    let text = readable(chunk, &chunk.searched_text());
    format!("{name} {} {text}", chunk.section.join(" "))
}

fn idf(asked: &BTreeSet<String>, around: &[BTreeSet<String>]) -> BTreeMap<String, f64> {
    let weight = |term: &String| {
        let holding = around.iter().filter(|terms| terms.contains(term)).count();
        (1.0 + around.len() as f64 / (holding as f64 + 0.5)).ln()
    };
    asked.iter().map(|term| (term.clone(), weight(term))).collect()
}

fn coverage(weights: &BTreeMap<String, f64>, statement: &BTreeSet<String>, around: &BTreeSet<String>) -> f64 {
    let all: f64 = weights.values().sum();
    let held = weights.iter().map(|(term, weight)| {
        let share = if statement.contains(term) {
            1.0
        } else if around.contains(term) {
            AROUND
        } else {
            0.0
        };
        weight * share
    });
    // A question without a term of its own ("who is it?") is covered by nothing.
    if all > 0.0 { held.sum::<f64>() / all } else { 0.0 }
}

/// A part of a chunk as a citation that is still to be verified.
pub(crate) fn cite(chunk: &Chunk, range: Range<usize>) -> Citation {
    Citation {
        document: chunk.document.clone(),
        revision: chunk.revision.clone(),
        start_byte: chunk.start_byte + range.start as u64,
        end_byte: chunk.start_byte + range.end as u64,
        stands_in: Standing::Text,
        file_start_byte: None,
        record: None,
        page: chunk.page,
        section: chunk.section.clone(),
        quote: chunk.text[range].to_owned(),
        copies: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use evalign_core::Digest;
    use serde_json::Map;
    use uuid::Uuid;

    use super::*;
    use crate::DocumentId;

    fn chunk(text: &str) -> Chunk {
        Chunk {
            id: Uuid::nil(),
            tenant: "t".to_owned(),
            document: DocumentId("a.md".to_owned()),
            revision: Digest::of(text),
            start_byte: 100,
            end_byte: 100 + text.len() as u64,
            record: None,
            page: None,
            section: Vec::new(),
            text: text.to_owned(),
            prefix: None,
            metadata: Map::new(),
        }
    }

    #[test]
    fn a_row_of_a_table_is_read_with_its_columns() {
        let chunk = chunk("| Sensor | Checked |\n|---|---|\n| Radar | 3 months |\n\nProse | not.");
        let read: Vec<String> =
            sentences(&chunk.text, false).iter().map(|range| said(&chunk, range)).collect();
        assert_eq!(read[2], "| Sensor | Checked | | Radar | 3 months |");
        assert_eq!(read[3], "Prose | not.");
        let range = sentences(&chunk.text, false)[2].clone();
        let citation = cite(&chunk, range);
        assert_eq!((citation.quote.as_str(), citation.start_byte), ("| Radar | 3 months |", 131));
    }

    #[test]
    fn a_question_for_a_number_is_told_by_its_noun() {
        for question in ["What is the telephone number of Tolman & Sons?", "It exceeds what number?"] {
            assert!(asks_for_number(question), "{question}");
        }
        for question in [
            "What is the name of the property that designates a number as prime?",
            "What theorem defines the main role of primes in number theory?",
            "Any number above 1 is a product of what?",
        ] {
            assert!(!asks_for_number(question), "{question}");
        }
        assert!(holds_number("Call 112.") && holds_number("It has seven seats."));
        assert!(!holds_number("The replacement was ordered from Tolman & Sons."));
    }

    #[test]
    fn terms_that_nothing_holds_weigh_most() {
        let terms = |text: &str| -> BTreeSet<String> { text.split(' ').map(str::to_owned).collect() };
        let around = [terms("lamp pier"), terms("pier gate")];
        let weights = idf(&terms("lamp pier moon"), &around);
        assert!(weights["moon"] > weights["lamp"] && weights["lamp"] > weights["pier"]);
        let all: f64 = weights.values().sum();
        let found = coverage(&weights, &terms("lamp"), &around[0]);
        assert!((found - (weights["lamp"] + AROUND * weights["pier"]) / all).abs() < 1e-12);
        assert_eq!(coverage(&BTreeMap::new(), &terms("lamp"), &around[0]), 0.0);
    }
}
