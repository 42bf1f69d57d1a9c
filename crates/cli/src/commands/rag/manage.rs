use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use evalign_bench::run_of_evaluation;
use evalign_fetch::Secret;
use evalign_rag::{EdgeStore, QdrantServer, Scope, drop_unused_vectors};
use evalign_store::{Store, StoreError};
use serde::Serialize;

use super::open::{variable, vector_store, vectors_directory};
use crate::Verdict;
use crate::args::{RagGcArgs, RagListArgs, ServeQdrantArgs};
use crate::commands::context::{open_store, owner};
use crate::commands::procedure::interrupted;
use crate::output::{Failure, Output, Table};

#[derive(Serialize)]
struct Listed {
    index: String,
    tenant: String,
    documents: u64,
    /// Absent where the vectors are not in this store.
    chunks: Option<u64>,
    embedder: Option<String>,
}

pub(super) async fn list(args: &RagListArgs, output: Output) -> Result<Verdict, Failure> {
    let state = open_store()?;
    let vectors = vector_store(args.store).await?;
    let collections: BTreeSet<String> = vectors.collections().await?.into_iter().collect();
    let mut rows = Vec::new();
    for index in state.indexes()? {
        let settings = state.index_settings(&index)?;
        let embedder = settings.as_ref().and_then(|settings| settings.pointer("/embedder/name")?.as_str());
        for tenant in state.index_tenants(&index)? {
            let documents = state.indexed_documents(&index, &tenant)?.len() as u64;
            let scope = Scope::of(&tenant).visible(evalign_rag::ingest::shown());
            let chunks =
                if collections.contains(&index) { Some(vectors.count(&index, &scope).await?) } else { None };
            let (index, embedder) = (index.clone(), embedder.map(str::to_owned));
            rows.push(Listed { index, tenant, documents, chunks, embedder });
        }
    }
    if args.json {
        output.json(&rows)?;
        return Ok(Verdict::Good);
    }
    if rows.is_empty() {
        output.note("there are no indexes\nhint: `evalign rag index DIR` makes one");
        return Ok(Verdict::Good);
    }
    let mut table = Table::new(&["index", "tenant", "documents", "chunks", "embedder"], &[2, 3]);
    for row in rows {
        table.push(vec![
            row.index,
            row.tenant,
            row.documents.to_string(),
            row.chunks.map_or_else(|| "not in this store".to_owned(), |chunks| chunks.to_string()),
            row.embedder.unwrap_or_default(),
        ]);
    }
    output.result(&table.text())?;
    Ok(Verdict::Good)
}

#[derive(Serialize)]
struct Collected {
    /// Collections of interrupted evaluations, and the indexes that were named.
    dropped: Vec<String>,
    /// Copies of documents' texts that no index holds any more.
    texts: usize,
    /// Kept vectors of texts that no chunk has; absent where that cannot be told here.
    vectors: Option<usize>,
    dry_run: bool,
}

pub(super) async fn gc(args: &RagGcArgs, output: Output) -> Result<Verdict, Failure> {
    let state = open_store()?;
    let vectors = vector_store(args.store).await?;
    let (known, there) = (state.indexes()?, vectors.collections().await?);
    if let Some(unknown) = args.drop.iter().find(|name| !known.contains(name) && !there.contains(name)) {
        return Err(Failure::new(
            format!("there is no index `{unknown}`"),
            "`evalign rag list` shows what there is",
        ));
    }
    let mut dropped = BTreeSet::new();
    for name in &there {
        if is_left_over(&state, name)? {
            dropped.insert(name.clone());
        }
    }
    dropped.extend(args.drop.iter().cloned());
    let (mut texts, mut kept, mut failed) = (0, Ok(None), Vec::new());
    if !args.dry_run {
        for name in &dropped {
            // The record goes first: without it the index is not there, whatever is left of its vectors.
            texts += state.drop_index(name)?;
            failed.extend(vectors.drop_collection(name).await.err().map(|error| (name.clone(), error)));
        }
        texts += state.drop_unused_texts()?;
        for index in
            state.indexes()?.iter().filter(|index| there.contains(*index) && !dropped.contains(*index))
        {
            failed.extend(vectors.optimise(index).await.err().map(|error| (index.clone(), error)));
        }
        kept = drop_unused_vectors(&state, vectors.as_ref()).await;
        match &kept {
            Ok(Some(_)) => {}
            Ok(None) => output.note(
                "note: some indexes lie in another store: vectors that are kept of their texts cannot be told from unused ones, and all stay",
            ),
            Err(error) => output.note(&format!("failed: {error}")),
        }
    }
    for (name, error) in &failed {
        output.note(&format!("failed: {error}"));
        dropped.remove(name);
    }
    let verdict = if failed.is_empty() && kept.is_ok() { Verdict::Good } else { Verdict::Failed };
    let (dropped, vectors) = (dropped.into_iter().collect(), kept.unwrap_or_default());
    let collected = Collected { dropped, texts, vectors, dry_run: args.dry_run };
    if args.json {
        output.json(&collected)?;
    } else {
        let names = names(&collected.dropped);
        let said = if args.dry_run {
            format!("would drop {names}, and then the texts and vectors that nothing uses")
        } else {
            let vectors = vectors.map_or_else(String::new, |vectors| format!(" and {vectors} vectors"));
            format!("dropped {names}; {texts} unused texts{vectors} removed")
        };
        output.result(&said)?;
    }
    Ok(verdict)
}

/// Whether a collection was written by an evaluation of this machine that was killed. One that goes on holds its
/// run's lease; one that is not known here is somebody else's.
fn is_left_over(state: &Store, collection: &str) -> Result<bool, Failure> {
    let Some(id) = run_of_evaluation(collection) else { return Ok(false) };
    let found = match state.find_run(id) {
        Ok(found) if found.as_str() == id => found,
        Ok(_) | Err(StoreError::NoSuchRun { .. } | StoreError::AmbiguousRun { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    match state.lease(&found, &owner("rag gc"), Duration::from_secs(1)) {
        Ok(lease) => {
            state.release(lease)?;
            Ok(true)
        }
        Err(StoreError::LeaseHeld { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn names(names: &[String]) -> String {
    if names.is_empty() { "no collection".to_owned() } else { names.join(", ") }
}

pub(super) async fn serve(args: &ServeQdrantArgs, output: Output) -> Result<Verdict, Failure> {
    let key = variable("QDRANT_API_KEY").as_deref().and_then(Secret::new);
    let store = Arc::new(EdgeStore::new(vectors_directory()?));
    let bound = |address| output.note(&format!("listening at http://{address} (gRPC); Ctrl-C ends it"));
    let stop = async {
        // Without a handler for the signal the process ends at it anyway.
        let _ = interrupted().await;
    };
    QdrantServer::new(store).serve(args.listen, key, bound, stop).await?;
    Ok(Verdict::Good)
}
