use std::collections::HashMap;

use super::NGRAM_WORDS;

/// Splits text into words as they are compared: letters and digits in lower case; white space parts
/// words, everything else vanishes (`state-of-the-art` is one word).
#[derive(Debug, Default)]
pub(crate) struct Words {
    open: String,
}

impl Words {
    /// Calls `found` for every word that is complete. A word may go on in the next part.
    pub(super) fn part(&mut self, part: &str, found: &mut dyn FnMut(&str)) {
        for c in part.chars() {
            if c.is_alphanumeric() {
                self.open.extend(c.to_lowercase());
            } else if c.is_whitespace() {
                self.end(found);
            }
        }
    }

    /// The text is over, and with it the last word.
    pub(super) fn end(&mut self, found: &mut dyn FnMut(&str)) {
        if !self.open.is_empty() {
            found(&self.open);
            self.open.clear();
        }
    }
}

/// All words of a text.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut words = Words::default();
    words.part(text, &mut |word| found.push(word.to_owned()));
    words.end(&mut |word| found.push(word.to_owned()));
    found
}

/// What is looked for: the n-grams of all items.
#[derive(Debug, Default)]
pub(crate) struct Index {
    items: Vec<Vec<String>>,
    /// By hash: item and the position of its n-gram's first word.
    ngrams: HashMap<u64, Vec<(u32, u32)>>,
    /// Whether any item is looked for by n-grams of so many words (as index).
    lengths: [bool; NGRAM_WORDS + 1],
}

impl Index {
    /// Adds an item by its words and returns its number. Without words it is never found.
    pub(crate) fn add(&mut self, words: Vec<String>) -> usize {
        let number = self.items.len();
        let length = words.len().min(NGRAM_WORDS);
        if length > 0 {
            self.lengths[length] = true;
            let hashes: Vec<u64> = words.iter().map(|word| word_hash(word)).collect();
            for (position, ngram) in hashes.windows(length).enumerate() {
                let hash = ngram.iter().rev().fold(0, |hash, word| prepend(hash, *word));
                self.ngrams.entry(hash).or_default().push((number as u32, position as u32));
            }
        }
        self.items.push(words);
        number
    }

    /// How many words item `number` has.
    pub(super) fn word_count(&self, number: usize) -> usize {
        self.items.get(number).map_or(0, Vec::len)
    }

    /// The words of an n-gram.
    pub(super) fn ngram(&self, number: usize, position: usize) -> String {
        let words = self.items.get(number).map_or(&[][..], |words| &words[position..]);
        words[..words.len().min(NGRAM_WORDS)].join(" ")
    }
}

/// Reads the words of a corpus and says which items they contain.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    index: &'a Index,
    /// The last words of the text and their hashes; the newest is at `newest`.
    last: [(String, u64); NGRAM_WORDS],
    newest: usize,
    filled: usize,
}

impl<'a> Search<'a> {
    pub(crate) fn new(index: &'a Index) -> Self {
        Self { index, last: Default::default(), newest: 0, filled: 0 }
    }

    /// N-grams do not go from one text into the next.
    pub(crate) fn end_of_text(&mut self) {
        self.filled = 0;
    }

    /// The next word. `found` is called with every item that has an n-gram which ends here, and the
    /// n-gram's position in the item.
    pub(crate) fn word(&mut self, word: &str, found: &mut dyn FnMut(usize, usize)) {
        self.newest = (self.newest + 1) % NGRAM_WORDS;
        self.filled = (self.filled + 1).min(NGRAM_WORDS);
        let slot = &mut self.last[self.newest];
        slot.0.clear();
        slot.0.push_str(word);
        slot.1 = word_hash(word);
        let mut hash = 0;
        for length in 1..=self.filled {
            hash = prepend(hash, self.back(length - 1).1);
            if !self.index.lengths[length] {
                continue;
            }
            for (item, position) in self.index.ngrams.get(&hash).into_iter().flatten() {
                let (item, position) = (*item as usize, *position as usize);
                if self.is_ngram(item, position, length) {
                    found(item, position);
                }
            }
        }
    }

    /// The word `steps` before the newest.
    fn back(&self, steps: usize) -> &(String, u64) {
        &self.last[(self.newest + NGRAM_WORDS - steps) % NGRAM_WORDS]
    }

    fn is_ngram(&self, item: usize, position: usize, length: usize) -> bool {
        let words = &self.index.items[item];
        words.len().min(NGRAM_WORDS) == length
            && (0..length).all(|i| words[position + i] == self.back(length - 1 - i).0)
    }
}

/// FNV-1a over the bytes (Fowler, Noll, Vo), 64 bits.
fn word_hash(word: &str) -> u64 {
    word.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The hash of an n-gram from that of its words but the first.
fn prepend(rest: u64, word: u64) -> u64 {
    (rest.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn found(items: &[&str], texts: &[&str]) -> BTreeSet<usize> {
        let mut index = Index::default();
        for item in items {
            index.add(words(item));
        }
        let mut search = Search::new(&index);
        let mut hits = BTreeSet::new();
        for text in texts {
            for word in words(text) {
                search.word(&word, &mut |item, _| {
                    hits.insert(item);
                });
            }
            search.end_of_text();
        }
        hits
    }

    const QUESTION: &str = "A train leaves the station at 9:00 and travels 60 miles per hour toward the north; when does it arrive?";

    #[test]
    fn words_are_compared_without_case_and_punctuation() {
        assert_eq!(
            words("The state-of-the-art  isn't\n\"it\", 3.5 ÄÖ!"),
            ["the", "stateoftheart", "isnt", "it", "35", "äö"]
        );
        let mut parted = Vec::new();
        let mut reader = Words::default();
        for part in ["un", "der s", "tand"] {
            reader.part(part, &mut |word| parted.push(word.to_owned()));
        }
        reader.end(&mut |word| parted.push(word.to_owned()));
        assert_eq!(parted, ["under", "stand"]);
    }

    #[test]
    fn thirteen_words_in_a_row_are_enough_and_twelve_are_not() {
        let all = words(QUESTION);
        assert_eq!(all.len(), 20);
        for start in 0..=7 {
            let text = format!("before {} after", all[start..start + 13].join(" "));
            assert_eq!(found(&[QUESTION], &[&text]), BTreeSet::from([0]), "{start}");
        }
        for start in 0..=8 {
            let text = format!("before {} after", all[start..start + 12].join(" "));
            assert!(found(&[QUESTION], &[&text]).is_empty(), "{start}");
        }
        let shouted = QUESTION.to_uppercase().replace(' ', " -- ").replace(';', "");
        assert_eq!(found(&[QUESTION], &[&shouted]), BTreeSet::from([0]));
    }

    #[test]
    fn short_items_are_looked_for_whole() {
        let items = ["What is the capital of France?", "", "capital of France and Spain"];
        assert_eq!(found(&items, &["He asked: what is THE capital of France"]), BTreeSet::from([0]));
        assert!(found(&items, &["what is the capital of", "France and Spain"]).is_empty());
        // Texts end: an item does not stand half in one and half in the next.
        assert!(found(&["one two three"], &["one two", "three"]).is_empty());
    }

    proptest! {
        /// Against the definition, word by word.
        #[test]
        fn agrees_with_looking_everywhere(
            items in prop::collection::vec("[ab]( [ab]){0,17}", 1..6),
            text in "[ab]( [ab]){0,80}",
        ) {
            let corpus = words(&text);
            let expected: BTreeSet<usize> = items.iter().enumerate().filter(|(_, item)| {
                let item = words(item);
                let length = item.len().min(NGRAM_WORDS);
                item.windows(length).any(|ngram| corpus.windows(length).any(|window| window == ngram))
            }).map(|(number, _)| number).collect();
            let items: Vec<&str> = items.iter().map(String::as_str).collect();
            prop_assert_eq!(found(&items, &[&text]), expected);
        }
    }
}
