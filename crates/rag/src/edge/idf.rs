//! Inverse document frequencies among the points of a filter.
//!
//! The engine (0.7) knows only one population, everything that its segments hold: other tenants' points,
//! versions that are not shown yet, and what was deleted but not yet cleaned up. So it keeps plain weights,
//! and what a term is worth is counted here, by asking it for the points that have the term.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use qdrant_edge as qe;

use super::collection::Collection;
use super::convert;
use crate::RagError;

/// Terms remembered before everything is forgotten: some 10 MB.
const MAX_REMEMBERED: usize = 100_000;

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
    /// By filter, vector and dimension.
    with_term: BTreeMap<(String, String, u32), u64>,
}

impl Counts {
    pub(super) fn forget(&self) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        *remembered = Remembered { writes: remembered.writes + 1, ..Remembered::default() };
    }

    fn get<T>(&self, read: impl FnOnce(&Remembered) -> T) -> T {
        read(&self.remembered.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, writes: u64, keep: impl FnOnce(&mut Remembered)) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.writes != writes {
            return;
        }
        if remembered.with_term.len() >= MAX_REMEMBERED {
            remembered.with_term.clear();
        }
        keep(&mut remembered);
    }
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
        let key =
            serde_json::to_string(&filter).map_err(|error| super::collection::broken(self.name(), &error))?;
        let points = self.points_of(&key, &filter)?;
        let mut values = Vec::with_capacity(query.values.len());
        for (dimension, weight) in query.indices.iter().zip(&query.values) {
            let with_term = self.points_with(&key, &filter, using, *dimension, points)?;
            // A point written between the two counts must not make it negative.
            let without = points.saturating_sub(with_term) as f64;
            let idf = (1.0 + (without + 0.5) / (with_term as f64 + 0.5)).ln();
            values.push((f64::from(*weight) * idf) as f32);
        }
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

    fn points_with(
        &self,
        key: &str,
        filter: &qe::Filter,
        using: &str,
        dimension: u32,
        points: u64,
    ) -> Result<u64, RagError> {
        let entry = (key.to_owned(), using.to_owned(), dimension);
        let (writes, known) =
            self.counts().get(|counts| (counts.writes, counts.with_term.get(&entry).copied()));
        if let Some(with_term) = known {
            return Ok(with_term);
        }
        let term = qe::SparseVector { indices: vec![dimension], values: vec![1.0] };
        let limit = usize::try_from(points).unwrap_or(usize::MAX);
        let request = convert::nearest(qe::VectorInternal::Sparse(term), using, filter.clone(), limit, false);
        let with_term = if points == 0 { 0 } else { self.hits(request)?.len() as u64 };
        self.counts().put(writes, |counts| {
            counts.with_term.insert(entry, with_term);
        });
        Ok(with_term)
    }
}
