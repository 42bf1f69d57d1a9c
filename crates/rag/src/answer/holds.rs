//! What a statement must hold for a claim to rest on it, beside being similar: vectors hardly tell 18:30 from 19:30,
//! Alice from Bob, or closed from not closed. English, as the analyzer; of other languages numbers and names count.

use std::collections::BTreeSet;

use crate::Analyzer;

/// Words that begin a sentence and name nothing; the analyzer's stop words are others.
const OPENERS: [&str; 22] = [
    "according",
    "additionally",
    "after",
    "also",
    "answer",
    "because",
    "before",
    "both",
    "during",
    "each",
    "every",
    "from",
    "he",
    "however",
    "its",
    "she",
    "therefore",
    "thus",
    "under",
    "we",
    "yes",
    "you",
];

/// The first words of what is denied stand behind these.
const DENIALS: [&str; 10] =
    ["no", "not", "never", "none", "neither", "nor", "without", "cannot", "nobody", "nothing"];

/// Where a clause ends, and what is denied with it.
const CLAUSE_ENDS: [&str; 7] = ["and", "but", "or", "because", "while", "although", "whereas"];

/// Whether a statement, with the headings it stands under, holds the claim's numbers and names and denies what the
/// claim denies, no less and no more.
pub(super) fn holds(statement: &str, headings: &[String], claim: &str) -> bool {
    let analyzer = Analyzer::english();
    let around: BTreeSet<String> =
        analyzer.terms(&format!("{statement} {}", headings.join(" "))).into_iter().collect();
    numbers(claim).is_subset(&numbers(statement))
        && names(claim, &analyzer).is_subset(&around)
        && deny_alike(claim, statement, &analyzer)
}

/// Numbers as they are written, without what separates thousands.
fn numbers(text: &str) -> BTreeSet<String> {
    text.split(|char: char| !(char.is_ascii_digit() || matches!(char, '.' | ',')))
        .map(|number| number.trim_matches(['.', ',']).replace(',', ""))
        .filter(|number| !number.is_empty())
        .collect()
}

/// Terms of the words that begin with a capital letter.
fn names(claim: &str, analyzer: &Analyzer) -> BTreeSet<String> {
    let words = claim.split_whitespace().map(plain).filter(|word| word.starts_with(char::is_uppercase));
    let named = words.filter(|word| !OPENERS.contains(&word.to_lowercase().as_str()));
    named.flat_map(|word| analyzer.terms(word)).collect()
}

fn plain(word: &str) -> &str {
    word.trim_matches(|char: char| !char.is_alphanumeric())
}

/// What a text denies: right behind the denial, and all that the clause says behind it.
#[derive(Default)]
struct Denied {
    first: BTreeSet<String>,
    all: BTreeSet<String>,
}

/// What one denies first, the other denies somewhere, as far as it speaks of it.
fn deny_alike(claim: &str, statement: &str, analyzer: &Analyzer) -> bool {
    let said: BTreeSet<String> = analyzer.terms(claim).into_iter().collect();
    let (claimed, stated) = (Denied::of(claim, analyzer), Denied::of(statement, analyzer));
    claimed.first.is_subset(&stated.all)
        && stated.first.intersection(&said).all(|term| claimed.all.contains(term))
}

impl Denied {
    fn of(text: &str, analyzer: &Analyzer) -> Self {
        let (mut denied, mut open, mut found) = (Self::default(), false, false);
        let text = text.replace('’', "'");
        for word in text.split_whitespace() {
            let lower = plain(word).to_lowercase();
            let ends = |marks: &[char]| word.ends_with(marks);
            if DENIALS.contains(&lower.as_str()) || lower.ends_with("n't") {
                (open, found) = (true, false);
            } else if CLAUSE_ENDS.contains(&lower.as_str()) {
                open = false;
            } else if open {
                for term in analyzer.terms(&lower) {
                    if !found {
                        denied.first.insert(term.clone());
                    }
                    found = true;
                    denied.all.insert(term);
                }
            }
            if ends(&[',', '.', ';', ':', '!', '?']) {
                open = false;
            }
        }
        denied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_written() {
        let found: Vec<String> = numbers("14,250 crowns, 4.83 m, in 2031.").into_iter().collect();
        assert_eq!(found, ["14250", "2031", "4.83"]);
    }

    #[test]
    fn a_claim_rests_on_what_says_the_same_of_the_same() {
        let gate = "The gate closes at 18:30 and is not locked.";
        let headings = ["Harbour of Kessel".to_owned()];
        for claim in [
            "The gate closes at 18:30.",
            "According to the handbook, it closes at 18:30.",
            "The Kessel gate closes at 18:30",
            "It is not locked.",
            "The gate isn’t locked.",
        ] {
            assert!(holds(gate, &headings, claim), "{claim}");
        }
        for claim in [
            "The gate does not close at 18:30.",
            "The gate doesn’t close at 18:30.",
            "No gate closes at 18:30.",
            "The gate never closes.",
            "The gate closes at 18:30 and is locked.",
            "The gate closes at 19:30.",
            "Alice closes the gate at 18:30.",
            "The gate of Marrow closes at 18:30.",
        ] {
            assert!(!holds(gate, &headings, claim), "{claim}");
        }
        let rule = "By staff of the port, do not open before 9.";
        assert!(holds(rule, &[], "It must not be opened by staff before 9."));
        assert!(!holds(rule, &[], "It must be opened before 9."));
        assert!(!holds("Diese Tür schließt um 9.", &[], "Jene Luke schließt um 9."));
    }
}
