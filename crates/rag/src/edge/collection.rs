use std::collections::{BTreeSet, HashSet};
use std::fs::TryLockError;
use std::path::{Path, PathBuf};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evalign_data::guarded;
use qdrant_edge as qe;
use uuid::Uuid;

use super::idf::Counts;
use super::summed::HitVectors;
use super::{convert, log, room};
use crate::vector_store::{DENSE, SPARSE};
use crate::{CollectionInfo, Leg, Page, RagError, Record, Scored, StoreFault, With};

/// An open shard with the lock of its directory.
pub(crate) struct Collection {
    name: String,
    shard: Arc<qe::EdgeShard>,
    /// Sparse vectors whose queries are weighed by inverse document frequency.
    idf: BTreeSet<String>,
    counts: Counts,
    hit_vectors: HitVectors,
    /// One write or flush at a time: the engine panics where a flush meets a write.
    writing: Mutex<()>,
    optimising: AtomicBool,
    // Released after the shard is closed: fields are dropped in the order of their declaration.
    _lock: std::fs::File,
}

/// The file that the engine writes when it makes a shard.
const CONFIG: &str = "edge_config.json";

/// Ours, beside it: names of the sparse vectors in [`Collection::idf`].
const IDF: &str = "idf.json";

/// While the engine swaps what it has optimised, a flush fails; how often it is tried again, and after what.
const FLUSH_ATTEMPTS: u32 = 200;
const FLUSH_PAUSE: Duration = Duration::from_millis(50);

impl Collection {
    pub(super) fn exists(path: &Path) -> bool {
        path.join(CONFIG).is_file()
    }

    pub(super) fn open(path: &Path, name: &str) -> Result<Self, RagError> {
        if !Self::exists(path) {
            return Err(RagError::index(
                name,
                "there is no such index",
                "make it with `evalign rag index`; `evalign rag list` shows what there is",
            ));
        }
        let lock = lock(path, name)?;
        let idf = fs_err::read(path.join(IDF)).map_err(|error| RagError::disk(path, error))?;
        let idf = serde_json::from_slice(&idf).map_err(|error| broken(name, &error))?;
        room::to_open(path)?;
        let shard = qe::EdgeShard::load(path, None).map_err(|error| fault(name, &error))?;
        Ok(Self::of(name, shard, idf, lock))
    }

    /// Whatever an earlier attempt left without a configuration is removed.
    pub(super) fn create(
        path: &Path,
        name: &str,
        mut config: qe::EdgeConfig,
        idf: BTreeSet<String>,
    ) -> Result<Self, RagError> {
        fs_err::create_dir_all(path).map_err(|error| RagError::disk(path, error))?;
        let lock = lock(path, name)?;
        for left in ["wal", "segments"] {
            match fs_err::remove_dir_all(path.join(left)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(RagError::disk(path, error));
                }
                _ => {}
            }
        }
        room::to_create(path)?;
        fs_err::write(path.join(IDF), serde_json::json!(idf).to_string())
            .map_err(|error| RagError::disk(path, error))?;
        let parts = qe::WalOptions { segment_capacity: log::PART_BYTES, ..qe::WalOptions::default() };
        config.wal_options = Some(parts);
        // Writes its configuration first, and with that the collection exists.
        let shard = qe::EdgeShard::new(path, config).map_err(|error| fault(name, &error))?;
        Ok(Self::of(name, shard, idf, lock))
    }

    fn of(name: &str, shard: qe::EdgeShard, idf: BTreeSet<String>, lock: std::fs::File) -> Self {
        Self {
            name: name.to_owned(),
            shard: Arc::new(shard),
            idf,
            counts: Counts::default(),
            hit_vectors: HitVectors::default(),
            writing: Mutex::new(()),
            optimising: AtomicBool::new(false),
            _lock: lock,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn hit_vectors(&self) -> &HitVectors {
        &self.hit_vectors
    }

    pub(crate) fn idf(&self) -> &BTreeSet<String> {
        &self.idf
    }

    pub(crate) fn shard(&self) -> &qe::EdgeShard {
        &self.shard
    }

    /// Length of the dense vectors.
    pub(super) fn dimension(&self) -> Option<usize> {
        self.shard.config().vectors.get(DENSE).map(|vectors| vectors.size)
    }

    pub(super) fn index_field(&self, field: &str, schema: qe::PayloadFieldSchema) -> Result<(), RagError> {
        let field_name = convert::path(field)?;
        let info = self.shard.info();
        if info.payload_schema.contains_key(&field_name) {
            return Ok(());
        }
        self.update(qe::UpdateOperation::FieldIndexOperation(qe::FieldIndexOperations::CreateIndex(
            qe::CreateIndex { field_name, field_schema: Some(schema) },
        )))
    }

    pub(crate) fn update(&self, operation: qe::UpdateOperation) -> Result<(), RagError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        room::to_write(self.shard.path())?;
        // Also before: a search that meets the write must not add up with what was.
        self.forget();
        let updated = self.shard.update(operation).map_err(|error| fault(&self.name, &error));
        self.forget();
        updated
    }

    fn forget(&self) {
        self.counts.forget();
        self.hit_vectors.forget();
    }

    pub(super) fn leg(
        &self,
        leg: Leg,
        filter: qe::Filter,
        corpus: &qe::Filter,
    ) -> Result<Vec<Scored>, RagError> {
        let request = match leg {
            Leg::Dense { vector, limit, exact } => {
                convert::nearest(qe::VectorInternal::Dense(vector), DENSE, filter, limit, exact)
            }
            Leg::Sparse { vector, limit } => {
                let weighed = self.weigh(SPARSE, convert::weights(vector)?, Some(corpus))?;
                convert::nearest(qe::VectorInternal::Sparse(weighed), SPARSE, filter, limit, true)
            }
        };
        let hits = self.query(request).map_err(|error| fault(&self.name, &error))?;
        let hits = hits.iter().map(convert::scored);
        let mut hits = hits.collect::<Result<Vec<_>, _>>()?;
        Scored::sort(&mut hits);
        Ok(hits)
    }

    pub(super) fn hits(&self, request: qe::QueryRequest) -> Result<Vec<qe::ScoredPoint>, RagError> {
        self.shard.query(request).map_err(|error| fault(&self.name, &error))
    }

    /// Which of these ids are there and match.
    pub(super) fn present(&self, filter: &qe::Filter, ids: &[Uuid]) -> Result<HashSet<Uuid>, RagError> {
        let records = self.retrieve(filter, ids, With::default())?;
        Ok(records.into_iter().map(|record| record.id).collect())
    }

    pub(super) fn retrieve(
        &self,
        filter: &qe::Filter,
        ids: &[Uuid],
        with: With,
    ) -> Result<Vec<Record>, RagError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.scroll(convert::with_ids(filter.clone(), ids), None, ids.len(), with)?;
        Ok(Record::in_order(found.records, ids))
    }

    pub(super) fn scroll(
        &self,
        filter: qe::Filter,
        from: Option<Uuid>,
        limit: usize,
        with: With,
    ) -> Result<Page, RagError> {
        let request = qe::ScrollRequest {
            offset: from.map(qe::PointId::Uuid),
            limit: Some(limit),
            filter: Some(filter),
            with_payload: Some(with.payload.into()),
            with_vector: qe::WithVector::Bool(with.vectors),
            order_by: None,
        };
        let (records, next) = self.shard.scroll(request).map_err(|error| fault(&self.name, &error))?;
        Ok(Page {
            records: records.into_iter().map(convert::record).collect::<Result<_, _>>()?,
            next: next.map(convert::uuid).transpose()?,
        })
    }

    pub(super) fn count(&self, filter: qe::Filter) -> Result<u64, RagError> {
        let request = qe::CountRequest { filter: Some(filter), exact: true };
        Ok(self.shard.count(request).map_err(|error| fault(&self.name, &error))? as u64)
    }

    pub(super) fn facet(
        &self,
        filter: qe::Filter,
        key: qe::JsonPath,
        limit: usize,
    ) -> Result<Vec<(String, u64)>, RagError> {
        let request = qe::FacetRequest { key, limit, filter: Some(filter), exact: true };
        let response = self.shard.facet(request).map_err(|error| fault(&self.name, &error))?;
        let mut counts = Vec::with_capacity(response.hits.len());
        for hit in response.hits {
            match hit.value {
                qe::FacetValue::Keyword(value) => counts.push((value, hit.count as u64)),
                qe::FacetValue::Int(_) | qe::FacetValue::Uuid(_) | qe::FacetValue::Bool(_) => {}
            }
        }
        counts.sort_by(|(a, count_a), (b, count_b)| count_b.cmp(count_a).then_with(|| a.cmp(b)));
        Ok(counts)
    }

    /// The engine panics where it cannot flush.
    pub(crate) fn flush(&self) -> Result<(), RagError> {
        for _ in 0..FLUSH_ATTEMPTS {
            let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            if guarded(|| self.shard.flush()).is_some() {
                self.trim_log();
                return Ok(());
            }
            drop(writing);
            if !self.optimising.load(Ordering::Acquire) {
                break;
            }
            std::thread::sleep(FLUSH_PAUSE);
        }
        Err(RagError::disk(self.shard.path(), "what was written could not be brought to disk"))
    }

    fn trim_log(&self) {
        if let Err(error) = log::trim(&self.shard.path().join("wal")) {
            tracing::warn!(index = self.name, %error, "the engine's log keeps parts that nobody needs");
        }
    }

    pub(crate) fn optimise(&self) -> Result<(), RagError> {
        if let Err(error) = room::to_optimise(self.shard.path()) {
            tracing::warn!(index = self.name, %error, "segments are not made anew: searching may take longer");
            return self.flush();
        }
        self.optimising.store(true, Ordering::Release);
        let optimised = self.shard.optimize();
        self.optimising.store(false, Ordering::Release);
        optimised.map_err(|error| fault(&self.name, &error))?;
        self.flush()
    }

    pub(super) fn info(&self) -> Result<CollectionInfo, RagError> {
        let info = self.shard.info();
        let indexed_fields: BTreeSet<String> = info.payload_schema.keys().map(ToString::to_string).collect();
        Ok(CollectionInfo {
            points: info.points_count as u64,
            indexed: info.indexed_vectors_count as u64,
            dimension: self.dimension(),
            indexed_fields: indexed_fields.into_iter().collect(),
        })
    }
}

impl Drop for Collection {
    /// Dropping a shard flushes it. Where it cannot (a full disk; its files were removed under a search), it
    /// panics, its parts panic once more on the way out, and that ends the process: such a shard stays in memory.
    fn drop(&mut self) {
        if guarded(|| self.shard.flush()).is_none() {
            tracing::error!(index = self.name, "closing could not bring everything to disk");
            std::mem::forget(Arc::clone(&self.shard));
        }
    }
}

/// The engine itself locks its log only while it is open; ours also covers making and removing a shard.
pub(super) fn lock(path: &Path, name: &str) -> Result<std::fs::File, RagError> {
    let file: PathBuf = path.join("lock");
    let opened = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(&file);
    let opened = opened.map_err(|error| RagError::disk(path, error))?.into_file();
    match opened.try_lock() {
        Ok(()) => Ok(opened),
        Err(TryLockError::WouldBlock) => Err(RagError::index(
            name,
            "another process has it open",
            "wait until it has finished, or let both use one server: `evalign rag serve-qdrant` and `QDRANT_URL`",
        )),
        Err(TryLockError::Error(error)) => Err(RagError::disk(path, error)),
    }
}

pub(super) fn broken(name: &str, error: &dyn std::fmt::Display) -> RagError {
    RagError::broken(format!("in this process (index `{name}`)"), error)
}

pub(super) fn fault(name: &str, error: &qe::OperationError) -> RagError {
    let kind = match error {
        qe::OperationError::WrongVectorDimension { .. }
        | qe::OperationError::VectorNameNotExists { .. }
        | qe::OperationError::PointIdError { .. }
        | qe::OperationError::TypeError { .. }
        | qe::OperationError::ValidationError { .. }
        | qe::OperationError::WrongSparse
        | qe::OperationError::MissingMapIndexForFacet { .. } => StoreFault::Refused,
        _ => StoreFault::Broken,
    };
    RagError::Store { place: format!("in this process (index `{name}`)"), message: error.to_string(), kind }
}
