//! Questions that sound like those of the documents and that these cannot answer: each asks about something whose name
//! stands in none of them.

use std::ops::Range;

use evalign_core::Digest;
use evalign_store::Store;
use serde_json::json;

use crate::RagError;
use crate::quality::GoldQuestion;

/// Capitalised words that name no thing.
const TIMES: [&str; 19] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const SHORTEST_NAME: usize = 3;
const SYLLABLES: usize = 4;

/// At most `count` of these, made of questions that the documents answer.
///
/// # Errors
/// What the store reports.
pub(super) fn unanswerable(
    questions: &[GoldQuestion],
    count: usize,
    (state, index, tenant): (&Store, &str, &str),
) -> Result<Vec<GoldQuestion>, RagError> {
    let mut made: Vec<(GoldQuestion, String)> = questions.iter().filter_map(about_nothing).collect();
    for document in state.indexed_documents(index, tenant)? {
        if let Some(text) = document.text.map(|digest| state.text(&digest)).transpose()?.flatten() {
            let text = text.to_lowercase();
            made.retain(|(_, name)| !text.contains(name));
        }
    }
    made.truncate(count);
    Ok(made.into_iter().map(|(question, _)| question).collect())
}

/// The question with another name for what it asks about, and that name in lower case. `None` where it names nothing.
fn about_nothing(question: &GoldQuestion) -> Option<(GoldQuestion, String)> {
    let name = named(&question.question)?;
    let other = invented(&Digest::of_json(&json!([question.id, name])));
    let text = question.question.replace(name, &other);
    let id = Digest::of(&text).short().to_owned();
    let made = GoldQuestion { id, question: text, answers: Vec::new(), evidence: Vec::new() };
    Some((made, other.to_lowercase()))
}

/// The one thing that a question names. Of a name of several words no word may stay: "Chancellor Bodafiku Merkel" is
/// still answered by who reads past the first two. `None` for a question that names nothing, or more than one thing:
/// it may be answered by what it says of the others.
fn named(question: &str) -> Option<&str> {
    let names: Vec<&str> = runs_of_capitals(question)
        .into_iter()
        .map(|run| &question[run])
        .filter(|name| !TIMES.contains(&name.to_lowercase().as_str()))
        .collect();
    let first = *names.first()?;
    (first.chars().count() >= SHORTEST_NAME && names.iter().all(|name| *name == first)).then_some(first)
}

/// Where capitalised words stand, those beside each other together. The first word of a question always is one.
fn runs_of_capitals(question: &str) -> Vec<Range<usize>> {
    let (mut runs, mut at) = (Vec::<Range<usize>>::new(), 0);
    for piece in question.split_inclusive(|char: char| !char.is_alphanumeric()) {
        let word = piece.trim_end_matches(|char: char| !char.is_alphanumeric());
        let (start, is_first) = (at, question[..at].chars().all(|char| !char.is_alphanumeric()));
        at += piece.len();
        if is_first || !word.starts_with(char::is_uppercase) {
            continue;
        }
        let end = start + word.len();
        match runs.last_mut() {
            Some(run) if question[run.end..start].chars().all(joins_names) => run.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

/// `St. Mary`, `O'Brien`, `Baden-Baden`.
fn joins_names(char: char) -> bool {
    char.is_whitespace() || matches!(char, '.' | '\'' | '’' | '-')
}

/// A word that can be said and means nothing.
fn invented(seed: &Digest) -> String {
    const CONSONANTS: &[u8] = b"bdfgklmnprstvz";
    const VOWELS: &[u8] = b"aeiou";
    let pick = |letters: &[u8], byte: u8| char::from(letters[usize::from(byte) % letters.len()]);
    let bytes = seed.as_str().as_bytes().chunks_exact(4).take(SYLLABLES);
    let syllable = |at: &[u8]| {
        let sum = |a: u8, b: u8| a.wrapping_mul(31).wrapping_add(b);
        [pick(CONSONANTS, sum(at[0], at[1])), pick(VOWELS, sum(at[2], at[3]))]
    };
    let word: String = bytes.flat_map(syllable).collect();
    word[..1].to_uppercase() + &word[1..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(question: &str) -> GoldQuestion {
        let (id, question) = (Digest::of(question).short().to_owned(), question.to_owned());
        GoldQuestion { id, question, answers: vec!["18:30".to_owned()], evidence: Vec::new() }
    }

    /// A title or a first name that is replaced alone leaves a question that the documents still answer.
    #[test]
    fn nothing_of_a_name_stays() {
        let made = |question: &str| about_nothing(&asked(question)).map(|(made, _)| made.question);
        let whole = made("When was President Abraham Lincoln born?").unwrap();
        assert!(whole.starts_with("When was ") && whole.ends_with(" born?"), "{whole}");
        assert_eq!(whole.split(' ').count(), 4, "{whole}");
        let joined = made("Where is St. Mary's Sint-Jans O'Brien on Friday?");
        assert_eq!(joined, None, "two names");
        assert_eq!(named("Where is St. Mary-O'Brien of the gate, in May?"), Some("St. Mary-O'Brien"));
        for question in ["When did Merkel meet Chancellor Scholz?", "When is the gate open?", "Lincoln?", ""]
        {
            assert_eq!(named(question), None, "{question}");
        }
    }

    #[test]
    fn what_a_question_names_is_replaced_by_what_no_document_names() {
        let directory = tempfile::tempdir().unwrap();
        let state = Store::open(directory.path()).unwrap();
        let place = (&state, "i", "t");
        let questions = [
            asked("When does the gate of Tiergarten close on Sunday?"),
            asked("When does the gate close on Sunday?"),
            asked("Who built Tiergarten's lamp, and what was Tiergarten before?"),
        ];
        let made = unanswerable(&questions, 9, place).unwrap();
        assert_eq!(made.len(), 2, "{made:?}");
        assert!(made.iter().all(|made| !made.is_answerable() && !made.question.contains("Tiergarten")));
        assert!(
            made[0].question.starts_with("When does the gate of ")
                && made[0].question.ends_with(" close on Sunday?")
        );
        // The same seed makes the same, and a name that some document has is none.
        assert_eq!(unanswerable(&questions, 1, place).unwrap(), made[..1]);
        let name = named(&made[0].question).unwrap().to_uppercase();
        let text = format!("the {name} is open");
        let document = evalign_store::IndexedDocument {
            document: "a.md".to_owned(),
            root: "a.md".to_owned(),
            revision: Digest::of("a"),
            version: Digest::of("a"),
            text: Some(Digest::of(&text)),
            chunks: 1,
            duplicate_of: None,
            details: json!({}),
        };
        state.put_index("i", &json!({})).unwrap();
        let commit = evalign_store::IndexCommit {
            indexed: vec![document],
            texts: vec![(Digest::of(&text), text)],
            ..Default::default()
        };
        state.commit_documents("i", "t", commit).unwrap();
        assert_eq!(unanswerable(&questions, 9, place).unwrap(), made[1..]);
    }
}
