//! Inverse document frequencies among the points of a filter.
//!
//! The engine (0.7) knows only one population, everything that its segments hold: other tenants' points,
//! versions that are not shown yet, and what was deleted but not yet cleaned up. So it keeps plain weights,
//! and what a term is worth is counted here: by asking for the points that have the term, and where that was done for
//! many terms, by going through all points once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use qdrant_edge as qe;

use super::collection::{Collection, broken, fault};
use super::convert;
use crate::RagError;

/// Terms remembered before a population is forgotten: some 10 MB. One population alone may have more.
const MAX_REMEMBERED: usize = 100_000;
/// Points that are gone through while a question waits, at most: some tenths of a second.
const MOST_GONE_THROUGH: u64 = 20_000;
/// Points that are gone through in the time in which one term is counted. All are gone through when counting one by
/// one has taken as long: whatever is asked, that costs at most twice what the better of both ways would have.
const POINTS_PER_TERM: u64 = 32;
/// Points read together.
const POINTS_TOGETHER: usize = 1024;

/// Counts since the last write.
#[derive(Debug, Default)]
pub(super) struct Counts {
    remembered: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    /// Writes so far. What was counted before a write is not remembered after it.
    writes: u64,
    /// By filter.
    points: BTreeMap<String, u64>,
    /// By filter and vector.
    terms: BTreeMap<(String, String), Terms>,
    /// Questions for terms so far.
    asked: u64,
}

impl Remembered {
    fn terms_of(&mut self, population: &(String, String)) -> Option<&Terms> {
        self.asked += 1;
        let terms = self.terms.get_mut(population)?;
        terms.asked = self.asked;
        Some(terms)
    }

    fn keep(&mut self, population: &(String, String), points: BTreeMap<u32, u64>, complete: bool) {
        let terms = self.terms.entry(population.clone()).or_default();
        terms.points.extend(points);
        terms.complete |= complete;
        terms.asked = self.asked;
        while self.terms.len() > 1 && self.size() > MAX_REMEMBERED {
            let others = self.terms.iter().filter(|(key, _)| *key != population);
            let longest_ago = others.min_by_key(|(_, terms)| terms.asked).map(|(key, _)| key.clone());
            longest_ago.and_then(|key| self.terms.remove(&key));
        }
    }

    fn size(&self) -> usize {
        self.terms.values().map(|terms| terms.points.len()).sum()
    }
}

/// How many points of a population have a term, by its dimension.
#[derive(Debug, Default)]
struct Terms {
    points: BTreeMap<u32, u64>,
    /// All points were gone through: what is not in `points` is in none.
    complete: bool,
    /// The last question for them.
    asked: u64,
}

impl Terms {
    fn of(&self, dimension: u32) -> Option<u64> {
        self.points.get(&dimension).copied().or(self.complete.then_some(0))
    }
}

impl Counts {
    pub(super) fn forget(&self) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        *remembered = Remembered { writes: remembered.writes + 1, ..Remembered::default() };
    }

    fn get<T>(&self, read: impl FnOnce(&mut Remembered) -> T) -> T {
        read(&mut self.remembered.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, writes: u64, keep: impl FnOnce(&mut Remembered)) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.writes == writes {
            keep(&mut remembered);
        }
    }
}

/// Where terms are counted: the points of a filter, in one of their vectors.
struct Population<'a> {
    /// The filter, and the vector's name.
    key: (String, String),
    filter: &'a qe::Filter,
    points: u64,
}

impl Collection {
    /// The query's weights times the inverse document frequency (Robertson & Zaragoza 2009, eq. 3.15, in
    /// Lucene's form that is never negative) among the points of `corpus`, all points where there is none.
    pub(crate) fn weigh(
        &self,
        using: &str,
        query: qe::SparseVector,
        corpus: Option<&qe::Filter>,
    ) -> Result<qe::SparseVector, RagError> {
        let filter = corpus.cloned().unwrap_or_default();
        let key = serde_json::to_string(&filter).map_err(|error| broken(self.name(), &error))?;
        let points = self.points_of(&key, &filter)?;
        let population = Population { key: (key, using.to_owned()), filter: &filter, points };
        let with_term = self.points_with(&population, &query.indices)?;
        let idf = |with_term: u64| {
            // A point written between the two counts must not make it negative.
            let without = points.saturating_sub(with_term) as f64;
            (1.0 + (without + 0.5) / (with_term as f64 + 0.5)).ln()
        };
        let weighed = query.values.iter().zip(with_term);
        let values =
            weighed.map(|(weight, with_term)| (f64::from(*weight) * idf(with_term)) as f32).collect();
        Ok(qe::SparseVector { indices: query.indices, values })
    }

    fn points_of(&self, key: &str, filter: &qe::Filter) -> Result<u64, RagError> {
        let (writes, known) = self.counts().get(|counts| (counts.writes, counts.points.get(key).copied()));
        if let Some(points) = known {
            return Ok(points);
        }
        let points = self.count(filter.clone())?;
        self.counts().put(writes, |counts| {
            counts.points.insert(key.to_owned(), points);
        });
        Ok(points)
    }

    /// One count for each dimension.
    fn points_with(&self, population: &Population<'_>, dimensions: &[u32]) -> Result<Vec<u64>, RagError> {
        let (writes, known, counted) = self.counts().get(|counts| {
            let writes = counts.writes;
            let terms = counts.terms_of(&population.key);
            let known: Vec<_> = dimensions.iter().map(|dimension| terms?.of(*dimension)).collect();
            (writes, known, terms.map_or(0, |terms| terms.points.len()))
        });
        let missing = || dimensions.iter().zip(&known).filter(|(_, known)| known.is_none());
        let wanted: BTreeSet<u32> = missing().map(|(dimension, _)| *dimension).collect();
        if wanted.is_empty() || population.points == 0 {
            return Ok(known.into_iter().map(Option::unwrap_or_default).collect());
        }
        let one_by_one = (counted + wanted.len()) as u64 * POINTS_PER_TERM;
        let complete = population.points <= MOST_GONE_THROUGH.min(one_by_one);
        let found = match complete {
            true => self.all_terms(population)?,
            false => {
                let count = |dimension| Ok((dimension, self.points_with_one(population, dimension)?));
                wanted.into_iter().map(count).collect::<Result<_, RagError>>()?
            }
        };
        let count = |(dimension, known): (&u32, Option<u64>)| known.or_else(|| found.get(dimension).copied());
        let counts = dimensions.iter().zip(known).map(|pair| count(pair).unwrap_or_default()).collect();
        self.counts().put(writes, |counts| counts.keep(&population.key, found, complete));
        Ok(counts)
    }

    fn points_with_one(&self, population: &Population<'_>, dimension: u32) -> Result<u64, RagError> {
        let Population { key: (_, using), filter, points } = population;
        let term = qe::SparseVector { indices: vec![dimension], values: vec![1.0] };
        let limit = usize::try_from(*points).unwrap_or(usize::MAX);
        let request =
            convert::nearest(qe::VectorInternal::Sparse(term), using, (*filter).clone(), limit, false);
        Ok(self.hits(request)?.len() as u64)
    }

    /// The terms of all points of a population.
    fn all_terms(&self, population: &Population<'_>) -> Result<BTreeMap<u32, u64>, RagError> {
        let (_, using) = &population.key;
        let (mut counts, mut offset) = (BTreeMap::new(), None);
        loop {
            let request = qe::ScrollRequest {
                offset,
                limit: Some(POINTS_TOGETHER),
                filter: Some(population.filter.clone()),
                with_payload: Some(false.into()),
                with_vector: qe::WithVector::Selector(vec![using.clone()]),
                order_by: None,
            };
            let (records, next) = self.shard().scroll(request).map_err(|error| fault(self.name(), &error))?;
            for record in &records {
                let Some(qe::VectorStructInternal::Named(vectors)) = &record.vector else { continue };
                let Some(qe::VectorInternal::Sparse(vector)) = vectors.get(using) else { continue };
                for dimension in &vector.indices {
                    *counts.entry(*dimension).or_default() += 1;
                }
            }
            if next.is_none() {
                return Ok(counts);
            }
            offset = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_is_forgotten_first() {
        let key = |name: &str| (name.to_owned(), "bm25".to_owned());
        let part = || (0..MAX_REMEMBERED as u32 * 2 / 5).map(|term| (term, 1)).collect();
        let mut remembered = Remembered::default();
        for name in ["a", "b"] {
            assert!(remembered.terms_of(&key(name)).is_none());
            remembered.keep(&key(name), part(), true);
        }
        assert!(remembered.terms_of(&key("a")).is_some());
        assert!(remembered.terms_of(&key("c")).is_none());
        remembered.keep(&key("c"), part(), true);
        let is_known = ["a", "b", "c"].map(|name| remembered.terms_of(&key(name)).is_some());
        assert_eq!(is_known, [true, false, true]);
        // One that is too large alone is kept until another is asked for.
        remembered.keep(&key("d"), (0..=MAX_REMEMBERED as u32).map(|term| (term, 1)).collect(), true);
        assert_eq!(remembered.terms.keys().collect::<Vec<_>>(), [&key("d")]);
    }
}
