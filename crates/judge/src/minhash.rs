//! Near-duplicates by MinHash (Broder 1997, "On the resemblance and containment of documents"): the share of equal
//! minima of many hash functions over two sets estimates the sets' Jaccard similarity.

use std::collections::HashMap;

/// Words in a row that are one element of a text's set. Texts of fewer words are one element.
const SHINGLE_WORDS: usize = 3;
/// Hash functions: the estimate's standard error is at most 1 / (2 sqrt(128)) = 0.044.
const HASHES: usize = 128;
/// Hash functions whose minima must all agree for two texts to be compared at all. With 32 bands of 4, a pair of
/// similarity 0.8 is missed with probability (1 - 0.8^4)^32 = 5e-8, one of 0.5 compared with probability 0.87.
const BAND: usize = 4;

/// Texts seen so far, and which of them a new one resembles.
#[derive(Debug)]
pub struct NearDuplicates {
    threshold: f64,
    signatures: Vec<[u64; HASHES]>,
    /// Texts by band and the hash of its minima. Looked up, never walked.
    bands: HashMap<(usize, u64), Vec<usize>>,
}

impl NearDuplicates {
    /// Texts are near-duplicates from this estimated Jaccard similarity on (0 to 1).
    #[must_use]
    pub fn new(threshold: f64) -> Self {
        Self { threshold, signatures: Vec::new(), bands: HashMap::new() }
    }

    /// The first kept text that this one nearly repeats, by its number, and the similarity; or, where there is none,
    /// keeps it (its number is how many were kept before).
    pub fn insert(&mut self, text: &str) -> Option<(usize, f64)> {
        let signature = signature(text);
        let keys: Vec<(usize, u64)> =
            signature.chunks_exact(BAND).enumerate().map(|(band, minima)| (band, fold(minima))).collect();
        let mut candidates: Vec<usize> =
            keys.iter().filter_map(|key| self.bands.get(key)).flatten().copied().collect();
        candidates.sort_unstable();
        candidates.dedup();
        for candidate in candidates {
            let similarity = similarity(&signature, &self.signatures[candidate]);
            if similarity >= self.threshold {
                return Some((candidate, similarity));
            }
        }
        for key in keys {
            self.bands.entry(key).or_default().push(self.signatures.len());
        }
        self.signatures.push(signature);
        None
    }
}

fn similarity(a: &[u64; HASHES], b: &[u64; HASHES]) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / HASHES as f64
}

/// Minima over the text's shingles. Case and punctuation do not count.
fn signature(text: &str) -> [u64; HASHES] {
    let words: Vec<u64> = words(text).map(|word| word_hash(&word)).collect();
    let mut minima = [u64::MAX; HASHES];
    for shingle in words.windows(SHINGLE_WORDS.min(words.len()).max(1)) {
        let shingle = fold(shingle);
        for (index, minimum) in (1u64..).zip(&mut minima) {
            *minimum = (*minimum).min(mix(shingle ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        }
    }
    minima
}

/// Letters and digits of white-space separated words, in lower case.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_whitespace()
        .map(|word| word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect())
        .filter(|word: &String| !word.is_empty())
}

/// FNV-1a, 64 bits.
fn word_hash(word: &str) -> u64 {
    word.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

fn fold(values: &[u64]) -> u64 {
    values.iter().fold(0, |hash, value| mix(hash.rotate_left(7) ^ value))
}

/// The finaliser of SplitMix64 (Steele et al. 2014): a bijection that spreads every bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn jaccard(a: &str, b: &str) -> f64 {
        let set = |text: &str| -> BTreeSet<Vec<String>> {
            let words: Vec<String> = words(text).collect();
            words.windows(SHINGLE_WORDS.min(words.len()).max(1)).map(<[String]>::to_vec).collect()
        };
        let (a, b) = (set(a), set(b));
        a.intersection(&b).count() as f64 / a.union(&b).count().max(1) as f64
    }

    #[test]
    fn one_word_changed_in_a_long_text_is_a_near_duplicate_and_other_numbers_in_a_short_one_are_not() {
        let long: Vec<String> = (0..80).map(|i| format!("word{i}")).collect();
        let mut changed = long.clone();
        changed[40] = "other".to_owned();
        let mut seen = NearDuplicates::new(0.8);
        assert_eq!(seen.insert(&long.join(" ")), None);
        assert_eq!(seen.insert(&long.join(", ").to_uppercase()).map(|(first, _)| first), Some(0));
        assert_eq!(seen.insert(&changed.join(" ")).map(|(first, _)| first), Some(0));
        assert_eq!(seen.insert("Tom has 7 apples and buys 5 more. How many apples does Tom have now?"), None);
        assert_eq!(seen.insert("Tom has 9 apples and buys 3 more. How many apples does Tom have now?"), None);
        assert_eq!(
            seen.insert("tom has 9 apples and buys 3 more; how many apples does Tom have now"),
            Some((2, 1.0))
        );
    }

    #[test]
    fn texts_of_a_word_or_none_are_texts_too() {
        let mut seen = NearDuplicates::new(0.8);
        assert_eq!(seen.insert("Yes."), None);
        assert_eq!(seen.insert("No"), None);
        assert_eq!(seen.insert("yes"), Some((0, 1.0)));
        assert_eq!(seen.insert("..."), None);
        assert_eq!(seen.insert(""), Some((2, 1.0)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Against the sets themselves: five standard errors, over vocabularies small enough to overlap.
        #[test]
        fn the_estimate_is_near_the_jaccard_similarity(a in "[ab]( [abc]){5,60}", b in "[ab]( [abc]){5,60}") {
            let estimate = similarity(&signature(&a), &signature(&b));
            prop_assert!((estimate - jaccard(&a, &b)).abs() < 0.23, "{} {}", estimate, jaccard(&a, &b));
        }
    }
}
