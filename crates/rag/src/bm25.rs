//! BM25 as sparse vectors: what a document and a query weigh, so that a store's dot product is the score.
//!
//! ```text
//! score(q, d) = sum over terms t of   qf(t)    *  idf(t)   *  tf / (tf + k1 (1 - b + b |d| / mean length))
//!                                  query weight    the store's      document weight
//! ```
//!
//! Robertson & Zaragoza 2009 (doi 10.1561/1500000019, eq. 3.15) in the form of Lucene 8 and later, which
//! leaves out the constant factor k1 + 1, with idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5)). A term that a
//! query repeats counts each time, and lengths are exact, not rounded to one byte as Lucene stores them.

mod analyzer;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use analyzer::Analyzer;

use crate::SparseVector;

/// What turns term counts into document weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bm25 {
    /// How soon repetitions of a term stop adding.
    pub k1: f64,
    /// How much a document's length counts: 0 not at all, 1 fully.
    pub b: f64,
    /// Mean number of terms per document of the collection and tenant.
    pub mean_length: f64,
}

impl Bm25 {
    /// Lucene's defaults.
    #[must_use]
    pub fn new(mean_length: f64) -> Self {
        Self { k1: 1.2, b: 0.75, mean_length }
    }

    /// Weights of a document's terms.
    #[must_use]
    pub fn document(&self, terms: &[String]) -> SparseVector {
        // A collection of empty documents has mean length 0 and no term to weigh.
        let length = terms.len() as f64 / self.mean_length.max(f64::MIN_POSITIVE);
        let norm = self.k1 * (1.0 - self.b + self.b * length);
        weigh(terms, |count| count / (count + norm))
    }

    /// Weights of a query's terms: how often each occurs.
    #[must_use]
    pub fn query(terms: &[String]) -> SparseVector {
        weigh(terms, |count| count)
    }
}

fn weigh(terms: &[String], weight: impl Fn(f64) -> f64) -> SparseVector {
    let mut counts: BTreeMap<u32, f64> = BTreeMap::new();
    for term in terms {
        *counts.entry(dimension(term)).or_default() += 1.0;
    }
    let (indices, values) = counts.into_iter().map(|(index, count)| (index, weight(count) as f32)).unzip();
    SparseVector { indices, values }
}

/// The dimension of a term: FNV-1a over its bytes (64 bits, draft-eastlake-fnv), finished like
/// MurmurHash3's `fmix64` and cut to 32 bits. Without a dictionary two terms may share a dimension: of
/// 100,000 terms about one pair does.
#[must_use]
pub(crate) fn dimension(term: &str) -> u32 {
    let mut hash = term.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((hash ^ (hash >> 33)) >> 32) as u32
}

/// Lengths of the documents of one tenant in one collection, from which the mean follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthStatistics {
    /// Empty ones included.
    pub documents: u64,
    pub terms: u64,
}

impl LengthStatistics {
    pub fn add(&mut self, terms: u64) {
        self.documents += 1;
        self.terms += terms;
    }

    /// Takes back what [`Self::add`] counted.
    pub fn remove(&mut self, terms: u64) {
        self.documents = self.documents.saturating_sub(1);
        self.terms = self.terms.saturating_sub(terms);
    }

    /// `None` where there is no document.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.documents > 0).then(|| self.terms as f64 / self.documents as f64)
    }

    /// Whether weights made for the mean length `used` are to be made again: further than 1 % off, which
    /// moves a weight by less than 0.3 %.
    #[must_use]
    pub fn drifted(&self, used: f64) -> bool {
        self.mean().is_some_and(|mean| (mean - used).abs() > 0.01 * used)
    }
}

#[cfg(test)]
mod tests;
