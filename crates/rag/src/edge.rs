//! The embedded store: one shard of Qdrant's engine per collection, in this process.
//!
//! ```text
//! DIR/NAME/lock               held while a process has the collection open
//! DIR/NAME/idf.json           which sparse vectors are weighed by inverse document frequency
//! DIR/NAME/edge_config.json   the engine's own files
//! DIR/NAME/{wal,segments}/
//! ```
//!
//! The engine (qdrant-edge 0.7) writes a log but does not replay it when it opens a shard: what has not
//! been flushed is lost in a crash. So callers flush after every batch, keep the truth about what is
//! indexed elsewhere, and write a lost batch again under the same ids.

mod collection;
mod convert;
mod idf;
mod log;
mod room;
mod summed;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use evalign_data::guarded;
use futures::future::try_join_all;
use qdrant_edge as qe;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::vector_store::{SPARSE, check_dimension, check_name, check_payload};
use crate::{CollectionInfo, CollectionSpec, Leg, Page, Point, RagError, Record, Scope, Scored};
use crate::{SparseVector, VectorStore, With};
pub(crate) use collection::Collection;

/// Vectors in directories on this machine.
pub struct EdgeStore {
    directory: PathBuf,
    open: Arc<Open>,
}

/// The collections that are open in this process.
type Open = Mutex<BTreeMap<String, Arc<Collection>>>;

impl std::fmt::Debug for EdgeStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeStore").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl EdgeStore {
    /// Collections are opened when they are first asked for, and stay open.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, open: Arc::default() }
    }

    /// Loads it where it is not open yet: never called where others wait for the thread.
    ///
    /// # Errors
    /// [`RagError::Index`] where there is no such collection, or another process has it open.
    pub(crate) fn collection(&self, name: &str) -> Result<Arc<Collection>, RagError> {
        opened(&self.directory, &self.open, name)
    }

    /// `idf`: the sparse vectors whose queries are weighed by inverse document frequency.
    pub(crate) fn create(
        &self,
        name: &str,
        config: qe::EdgeConfig,
        idf: BTreeSet<String>,
    ) -> Result<Arc<Collection>, RagError> {
        created(&self.directory, &self.open, name, config, idf)
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        check_name(name).is_ok() && Collection::exists(&self.directory.join(name))
    }

    pub(crate) fn names(&self) -> Result<Vec<String>, RagError> {
        let entries = match fs_err::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RagError::disk(&self.directory, error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| RagError::disk(&self.directory, error))?;
            match entry.file_name().to_str() {
                Some(name) if self.exists(name) => names.push(name.to_owned()),
                // A removal was interrupted here.
                Some(name) if name.starts_with(REMOVED) => remove_directory(&entry.path())?,
                Some(_) | None => {}
            }
        }
        names.sort();
        Ok(names)
    }

    /// Waits for nobody: a search that is under way keeps the files it reads open and ends as it would have. Also
    /// removes what cannot be opened: nothing of it is read.
    pub(crate) fn remove(&self, name: &str) -> Result<(), RagError> {
        check_name(name)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.directory.join(name);
        if !path.is_dir() {
            return Ok(());
        }
        // Its lock says that no other process uses it.
        let _lock = match open.remove(name) {
            Some(collection) => {
                guarded(|| drop(collection));
                None
            }
            None => Some(collection::lock(&path, name)?),
        };
        // At once out of the way: what interrupts the removal leaves no half of a collection.
        let removed = self.directory.join(format!("{REMOVED}{name}"));
        remove_directory(&removed)?;
        fs_err::rename(&path, &removed).map_err(|error| RagError::disk(&path, error))?;
        remove_directory(&removed)
    }

    /// Runs on a thread where blocking is allowed: every call of the engine blocks.
    async fn with<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Collection) -> Result<T, RagError> + Send + 'static,
    ) -> Result<T, RagError> {
        let owned = name.to_owned();
        self.blocking(name, move |directory, open| work(&*opened(directory, open, &owned)?)).await
    }

    /// The same before there is a collection.
    async fn blocking<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Path, &Open) -> Result<T, RagError> + Send + 'static,
    ) -> Result<T, RagError> {
        let (directory, open) = (self.directory.clone(), Arc::clone(&self.open));
        let result = tokio::task::spawn_blocking(move || work(&directory, &open)).await;
        result.unwrap_or_else(|error| Err(collection::broken(name, &error)))
    }
}

fn opened(directory: &Path, open: &Open, name: &str) -> Result<Arc<Collection>, RagError> {
    check_name(name)?;
    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(collection) = open.get(name) {
        return Ok(Arc::clone(collection));
    }
    let collection = Arc::new(Collection::open(&directory.join(name), name)?);
    open.insert(name.to_owned(), Arc::clone(&collection));
    Ok(collection)
}

fn created(
    directory: &Path,
    open: &Open,
    name: &str,
    config: qe::EdgeConfig,
    idf: BTreeSet<String>,
) -> Result<Arc<Collection>, RagError> {
    check_name(name)?;
    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
    let collection = Arc::new(Collection::create(&directory.join(name), name, config, idf)?);
    open.insert(name.to_owned(), Arc::clone(&collection));
    Ok(collection)
}

/// Names of directories that are being removed begin with this; no collection's does.
const REMOVED: &str = ".removed-";

fn remove_directory(path: &Path) -> Result<(), RagError> {
    match fs_err::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(RagError::disk(path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Drop for EdgeStore {
    /// Closing a shard flushes it, and panics where it cannot.
    fn drop(&mut self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        if guarded(|| drop(open)).is_none() {
            tracing::error!(directory = %self.directory.display(), "closing could not bring everything to disk");
        }
    }
}

#[async_trait]
impl VectorStore for EdgeStore {
    fn place(&self) -> String {
        format!("in {}", self.directory.display())
    }

    async fn ensure(&self, collection: &str, spec: &CollectionSpec) -> Result<(), RagError> {
        let (name, spec) = (collection.to_owned(), spec.clone());
        if !self.exists(collection) {
            let (name, config) = (name.clone(), convert::config(&spec));
            let made = move |directory: &Path, open: &Open| {
                created(directory, open, &name, config, BTreeSet::from([SPARSE.to_owned()])).map(drop)
            };
            self.blocking(collection, made).await?;
        }
        self.with(collection, move |collection| {
            check_dimension(&name, collection.dimension(), spec.dimension)?;
            for (field, kind) in &spec.indexed_fields {
                collection.index_field(field, convert::field_schema(*kind))?;
            }
            collection.index_field(crate::TENANT_FIELD, convert::tenant_schema())
        })
        .await
    }

    async fn collections(&self) -> Result<Vec<String>, RagError> {
        self.names()
    }

    async fn drop_collection(&self, collection: &str) -> Result<(), RagError> {
        self.remove(collection)
    }

    async fn upsert(&self, collection: &str, points: Vec<Point>) -> Result<(), RagError> {
        let name = collection.to_owned();
        self.with(collection, move |collection| {
            let dimension = collection.dimension();
            for point in &points {
                check_dimension(&name, dimension, point.dense.as_ref().map(Vec::len))?;
                check_payload(&point.payload)?;
            }
            let points = points.into_iter().map(convert::point).collect::<Result<_, _>>()?;
            collection.update(qe::UpdateOperation::PointOperation(qe::PointOperations::UpsertPoints(
                qe::PointInsertOperations::PointsList(points),
            )))
        })
        .await
    }

    async fn update_sparse(
        &self,
        collection: &str,
        scope: &Scope,
        vectors: Vec<(Uuid, SparseVector)>,
    ) -> Result<(), RagError> {
        let filter = convert::filter(&scope.all())?;
        self.with(collection, move |collection| {
            // The engine refuses to update a point that is not there; which ones are, it says.
            let ids: Vec<Uuid> = vectors.iter().map(|(id, _)| *id).collect();
            let there = collection.present(&filter, &ids)?;
            let points = vectors
                .into_iter()
                .filter(|(id, _)| there.contains(id))
                .map(|(id, vector)| convert::sparse_update(id, vector))
                .collect::<Result<_, _>>()?;
            collection.update(qe::UpdateOperation::VectorOperation(qe::VectorOperations::UpdateVectors(
                qe::UpdateVectorsOp { points, update_filter: None },
            )))
        })
        .await
    }

    async fn set_payload(
        &self,
        collection: &str,
        scope: &Scope,
        payload: Map<String, Value>,
    ) -> Result<(), RagError> {
        check_payload(&payload)?;
        let filter = convert::filter(&scope.all())?;
        self.with(collection, move |collection| {
            collection.update(qe::UpdateOperation::PayloadOperation(qe::PayloadOps::SetPayload(
                qe::SetPayloadOp {
                    payload: qe::Payload(payload),
                    points: None,
                    filter: Some(filter),
                    key: None,
                },
            )))
        })
        .await
    }

    async fn delete(&self, collection: &str, scope: &Scope) -> Result<(), RagError> {
        let filter = convert::filter(&scope.all())?;
        self.with(collection, move |collection| {
            collection.update(qe::UpdateOperation::PointOperation(qe::PointOperations::DeletePointsByFilter(
                filter,
            )))
        })
        .await
    }

    async fn legs(
        &self,
        collection: &str,
        scope: &Scope,
        legs: Vec<Leg>,
    ) -> Result<Vec<Vec<Scored>>, RagError> {
        let filter = convert::filter(&scope.all())?;
        let corpus = convert::filter(&scope.corpus())?;
        // Beside each other: each keeps one core busy.
        try_join_all(legs.into_iter().map(|leg| {
            let (filter, corpus) = (filter.clone(), corpus.clone());
            self.with(collection, move |collection| collection.leg(leg, filter, &corpus))
        }))
        .await
    }

    async fn retrieve(
        &self,
        collection: &str,
        scope: &Scope,
        ids: &[Uuid],
        with: With,
    ) -> Result<Vec<Record>, RagError> {
        let filter = convert::filter(&scope.all())?;
        let ids = ids.to_vec();
        self.with(collection, move |collection| collection.retrieve(&filter, &ids, with)).await
    }

    async fn scroll(
        &self,
        collection: &str,
        scope: &Scope,
        from: Option<Uuid>,
        limit: usize,
        with: With,
    ) -> Result<Page, RagError> {
        let filter = convert::filter(&scope.all())?;
        self.with(collection, move |collection| collection.scroll(filter, from, limit, with)).await
    }

    async fn count(&self, collection: &str, scope: &Scope) -> Result<u64, RagError> {
        let filter = convert::filter(&scope.all())?;
        self.with(collection, move |collection| collection.count(filter)).await
    }

    async fn facet(
        &self,
        collection: &str,
        scope: &Scope,
        field: &str,
        limit: usize,
    ) -> Result<Vec<(String, u64)>, RagError> {
        let filter = convert::filter(&scope.all())?;
        let field = convert::path(field)?;
        self.with(collection, move |collection| collection.facet(filter, field, limit)).await
    }

    async fn flush(&self, collection: &str) -> Result<(), RagError> {
        self.with(collection, Collection::flush).await
    }

    async fn optimise(&self, collection: &str) -> Result<(), RagError> {
        self.with(collection, Collection::optimise).await
    }

    async fn info(&self, collection: &str) -> Result<CollectionInfo, RagError> {
        self.with(collection, Collection::info).await
    }
}

#[cfg(test)]
mod tests;
