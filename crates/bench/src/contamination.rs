//! Whether the model may have seen the questions: which items of a run stand in a given corpus, and what
//! every score is with and without them.
//!
//! An item is dirty when thirteen words in a row of its question stand in one text of the corpus, words
//! compared in lower case and without punctuation: the rule of GPT-3 (Brown et al. 2020, arXiv 2005.14165,
//! appendix C). A question of fewer words is looked for as a whole. Below [`FEWEST_WORDS`], which is the
//! shortest n-gram used there, finding it may be chance ("which of the following is true"): such an item
//! is neither clean nor dirty. A short question that is not found is clean.
//!
//! The n-grams of the items are held in memory; the corpus is streamed, and a match is compared word by
//! word, so that no collision of hashes makes an item dirty. Languages that write no spaces between words
//! are not served by this rule.

mod corpus;
mod ngrams;
mod split;

pub use corpus::Corpus;
pub(crate) use ngrams::{Index, Search, words};
pub use split::{Contamination, DirtyItem, SplitResult};

/// Words in a row that make an item dirty.
pub const NGRAM_WORDS: usize = 13;

/// Questions of fewer words say nothing when they are found.
pub const FEWEST_WORDS: usize = 8;
