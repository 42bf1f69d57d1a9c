//! What is indexed: indexes, their documents, the texts that citations are verified against, and vectors that
//! were computed once.

use std::collections::BTreeSet;
use std::ops::Range;

use evalign_core::Digest;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Failure, StoreError};
use crate::runs::{json, parse, unsigned};
use crate::store::Store;

/// Texts that are removed in one transaction.
const DROPPED_AT_ONCE: usize = 256;

/// Of a row of `texts`: no document has it. The `+` takes the column's affinity from it, which what is in the index has
/// none of: with it, the whole index were read for each text.
const UNUSED: &str = "NOT EXISTS (SELECT 1 FROM documents INDEXED BY documents_by_text
                      WHERE record ->> 'text' = +texts.digest)";

/// A document of which all chunks can be found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexedDocument {
    /// Its name within index and tenant.
    pub document: String,
    /// What was asked to be indexed when it was found (a directory, a file, a pattern, an address).
    pub root: String,
    /// Digest of its bytes.
    pub revision: Digest,
    /// Digest of its bytes and of everything that decides what chunks become of them.
    pub version: Digest,
    /// Digest of its text, which [`Store::text`] gives; absent where there is none.
    pub text: Option<Digest>,
    pub chunks: u64,
    /// The first document by name that had the same bytes when this one was indexed.
    pub duplicate_of: Option<String>,
    /// Whatever else the indexer wants to know later.
    pub details: Value,
}

/// Documents to be recorded together, with what is known of the tenant's part afterwards.
#[derive(Clone, Debug, Default)]
pub struct IndexCommit {
    pub indexed: Vec<IndexedDocument>,
    /// Names of documents that are no longer there.
    pub deleted: Vec<String>,
    pub texts: Vec<(Digest, String)>,
    /// Of documents that are indexed with this.
    pub places: Vec<TextPlaces>,
    pub statistics: Value,
}

/// Where a part of a document's text stands in its file, as the indexer writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPlaces {
    pub document: String,
    /// First byte of the text that this is about; what it is about ends where the next one begins.
    pub start_byte: u64,
    pub places: String,
}

/// How much a tenant has in an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexSize {
    pub documents: u64,
    pub chunks: u64,
    /// Of the documents' texts.
    pub text_bytes: u64,
}

impl Store {
    /// How an index was made; `None` where there is none of that name.
    ///
    /// # Errors
    /// A database failure, or an entry that cannot be read.
    pub fn index_settings(&self, index: &str) -> Result<Option<Value>, StoreError> {
        self.read(|db| {
            let found = text_of(db, "SELECT settings FROM indexes WHERE name = ?1", [index])?;
            found.map(|text| parse(&text, || format!("settings of index {index}"))).transpose()
        })
    }

    /// Names of all indexes, sorted.
    ///
    /// # Errors
    /// A database failure.
    pub fn indexes(&self) -> Result<Vec<String>, StoreError> {
        self.read(|db| {
            let mut query = db.prepare_cached("SELECT name FROM indexes ORDER BY name")?;
            let names = query.query_map([], |row| row.get(0))?;
            Ok(names.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Records how an index is made, instead of what was recorded before.
    ///
    /// # Errors
    /// A database failure.
    pub fn put_index(&self, index: &str, settings: &Value) -> Result<(), StoreError> {
        let (index, settings, now) = (index.to_owned(), settings.to_string(), self.now_ms());
        self.writer().write(move |db| {
            db.prepare_cached(
                "INSERT INTO indexes (name, settings, created_ms) VALUES (?1, ?2, ?3)
                 ON CONFLICT (name) DO UPDATE SET settings = excluded.settings",
            )?
            .execute(params![index, settings, now])?;
            Ok(())
        })
    }

    /// Forgets an index with all tenants' documents, then their texts that no other document has; says how many texts went.
    /// Those that are left where the process ends in between go with [`Store::drop_unused_texts`], kept vectors with
    /// [`Store::drop_vectors_but`].
    ///
    /// # Errors
    /// A database failure.
    pub fn drop_index(&self, index: &str) -> Result<usize, StoreError> {
        let index = index.to_owned();
        let texts = self.writer().write(move |db| {
            let mut query =
                db.prepare_cached("SELECT DISTINCT record ->> 'text' FROM documents WHERE index_name = ?1")?;
            let texts = query.query_map([&index], |row| row.get::<_, Option<String>>(0))?;
            let texts = texts.collect::<rusqlite::Result<Vec<_>>>()?;
            db.prepare_cached("DELETE FROM indexes WHERE name = ?1")?.execute([&index])?;
            Ok(texts.into_iter().flatten().collect::<Vec<_>>())
        })?;
        self.drop_some(&texts)
    }

    /// What was recorded of a tenant's part of an index with its documents.
    ///
    /// # Errors
    /// A database failure, or an entry that cannot be read.
    pub fn index_statistics(&self, index: &str, tenant: &str) -> Result<Option<Value>, StoreError> {
        self.read(|db| {
            let sql = "SELECT statistics FROM index_tenants WHERE index_name = ?1 AND tenant = ?2";
            let found = text_of(db, sql, [index, tenant])?;
            found.map(|text| parse(&text, || format!("statistics of index {index}"))).transpose()
        })
    }

    /// Tenants that have something in an index, sorted.
    ///
    /// # Errors
    /// A database failure.
    pub fn index_tenants(&self, index: &str) -> Result<Vec<String>, StoreError> {
        self.read(|db| {
            let mut query =
                db.prepare_cached("SELECT tenant FROM index_tenants WHERE index_name = ?1 ORDER BY tenant")?;
            let names = query.query_map([index], |row| row.get(0))?;
            Ok(names.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// A tenant's documents, sorted by name.
    ///
    /// # Errors
    /// A database failure, or an entry that cannot be read.
    pub fn indexed_documents(&self, index: &str, tenant: &str) -> Result<Vec<IndexedDocument>, StoreError> {
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT record FROM documents WHERE index_name = ?1 AND tenant = ?2 ORDER BY document",
            )?;
            let records = query.query_map([index, tenant], |row| row.get::<_, String>(0))?;
            records.map(|record| parse(&record?, || format!("document of index {index}"))).collect()
        })
    }

    /// A page of a tenant's documents, by name: those after the name `after`.
    ///
    /// # Errors
    /// As [`Store::indexed_documents`].
    pub fn indexed_documents_after(
        &self,
        index: &str,
        tenant: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<IndexedDocument>, StoreError> {
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT record FROM documents WHERE index_name = ?1 AND tenant = ?2 AND document > ?3
                 ORDER BY document LIMIT ?4",
            )?;
            let found =
                query.query_map(params![index, tenant, after, limit], |row| row.get::<_, String>(0))?;
            found.map(|record| parse(&record?, || format!("document of index {index}"))).collect()
        })
    }

    /// How much a tenant has in an index.
    ///
    /// # Errors
    /// A database failure.
    pub fn index_size(&self, index: &str, tenant: &str) -> Result<IndexSize, StoreError> {
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT count(*), coalesce(sum(d.record ->> 'chunks'), 0), coalesce(sum(octet_length(t.text)), 0)
                 FROM documents d LEFT JOIN texts t ON t.digest = d.record ->> 'text'
                 WHERE d.index_name = ?1 AND d.tenant = ?2",
            )?;
            Ok(query.query_row([index, tenant], |row| {
                Ok(IndexSize {
                    documents: unsigned(row.get(0)?),
                    chunks: unsigned(row.get(1)?),
                    text_bytes: unsigned(row.get(2)?),
                })
            })?)
        })
    }

    /// One document of a tenant.
    ///
    /// # Errors
    /// As [`Store::indexed_documents`].
    pub fn indexed_document(
        &self,
        index: &str,
        tenant: &str,
        document: &str,
    ) -> Result<Option<IndexedDocument>, StoreError> {
        self.read(|db| {
            let sql = "SELECT record FROM documents WHERE index_name = ?1 AND tenant = ?2 AND document = ?3";
            let found = text_of(db, sql, [index, tenant, document])?;
            found.map(|text| parse(&text, || format!("document {document}"))).transpose()
        })
    }

    /// Records documents in one transaction; returns when it is on disk. Texts go with the last document that has them.
    ///
    /// # Errors
    /// A database failure, or an index that is not there.
    pub fn commit_documents(&self, index: &str, tenant: &str, commit: IndexCommit) -> Result<(), StoreError> {
        let (index, tenant) = (index.to_owned(), tenant.to_owned());
        let records = commit
            .indexed
            .iter()
            .map(|document| Ok((document.document.clone(), json(document, || document.document.clone())?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        self.writer().write(move |db| {
            for (digest, text) in &commit.texts {
                db.prepare_cached("INSERT INTO texts (digest, text) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
                    .execute(params![digest.as_str(), text])?;
            }
            let mut texts_before = Vec::new();
            for document in records.iter().map(|(document, _)| document).chain(&commit.deleted) {
                let sql = "DELETE FROM documents WHERE index_name = ?1 AND tenant = ?2 AND document = ?3
                           RETURNING record ->> 'text'";
                let before: Option<Option<String>> = db
                    .prepare_cached(sql)?
                    .query_row(params![index, tenant, document], |row| row.get(0))
                    .optional()?;
                texts_before.extend(before.flatten());
            }
            for (document, record) in &records {
                db.prepare_cached("INSERT OR REPLACE INTO documents VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![index, tenant, document, record])?;
            }
            for block in &commit.places {
                db.prepare_cached("INSERT INTO text_places VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
                    params![index, tenant, block.document, offset(block.start_byte), block.places],
                )?;
            }
            drop_if_unused(db, &texts_before)?;
            db.prepare_cached("INSERT OR REPLACE INTO index_tenants VALUES (?1, ?2, ?3)")?
                .execute(params![index, tenant, commit.statistics.to_string()])?;
            Ok(())
        })
    }

    /// The text with this digest.
    ///
    /// # Errors
    /// A database failure.
    pub fn text(&self, digest: &Digest) -> Result<Option<String>, StoreError> {
        self.read(|db| text_of(db, "SELECT text FROM texts WHERE digest = ?1", [digest.as_str()]))
    }

    /// What [`IndexCommit::places`] said of these bytes of a document's text, in order.
    ///
    /// # Errors
    /// A database failure.
    pub fn text_places(
        &self,
        index: &str,
        tenant: &str,
        document: &str,
        bytes: Range<u64>,
    ) -> Result<Vec<String>, StoreError> {
        let (start, end) = (offset(bytes.start), offset(bytes.end));
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT places FROM text_places
                 WHERE index_name = ?1 AND tenant = ?2 AND document = ?3 AND start_byte < ?5 AND start_byte >=
                     (SELECT coalesce(max(start_byte), 0) FROM text_places
                      WHERE index_name = ?1 AND tenant = ?2 AND document = ?3 AND start_byte <= ?4)
                 ORDER BY start_byte",
            )?;
            let found = query.query_map(params![index, tenant, document, start, end], |row| row.get(0))?;
            Ok(found.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Removes texts that no document of any index has, and says how many.
    ///
    /// # Errors
    /// A database failure.
    pub fn drop_unused_texts(&self) -> Result<usize, StoreError> {
        let unused = self.read(|db| {
            let mut query = db.prepare(&format!("SELECT digest FROM texts WHERE {UNUSED}"))?;
            let digests = query.query_map([], |row| row.get(0))?;
            Ok(digests.collect::<rusqlite::Result<Vec<String>>>()?)
        })?;
        self.drop_some(&unused)
    }

    /// Removes those of these texts that no document has, a few at a time: nothing else is committed meanwhile.
    fn drop_some(&self, digests: &[String]) -> Result<usize, StoreError> {
        let mut removed = 0;
        for some in digests.chunks(DROPPED_AT_ONCE) {
            let some = some.to_vec();
            removed += self.writer().write(move |db| Ok(drop_if_unused(db, &some)?))?;
        }
        Ok(removed)
    }

    /// The vectors kept under these keys, in their order.
    ///
    /// # Errors
    /// A database failure, or an entry that cannot be read.
    pub fn vectors(&self, keys: &[Digest]) -> Result<Vec<Option<Vec<f32>>>, StoreError> {
        self.read(|db| {
            let view = db.unchecked_transaction()?;
            let mut query = view.prepare_cached("SELECT vector FROM vectors WHERE key = ?1")?;
            let mut found = Vec::with_capacity(keys.len());
            for key in keys {
                let bytes: Option<Vec<u8>> = query.query_row([key.as_str()], |row| row.get(0)).optional()?;
                found.push(bytes.map(|bytes| numbers(key, &bytes)).transpose()?);
            }
            Ok(found)
        })
    }

    /// Removes vectors that are kept under other keys than these, and says how many.
    ///
    /// # Errors
    /// A database failure.
    pub fn drop_vectors_but(&self, used: BTreeSet<Digest>) -> Result<usize, StoreError> {
        self.writer().write(move |db| {
            let mut query = db.prepare_cached("SELECT key FROM vectors")?;
            let keys = query.query_map([], |row| row.get::<_, String>(0))?;
            let keys = keys.collect::<rusqlite::Result<Vec<String>>>()?;
            let used: BTreeSet<&str> = used.iter().map(Digest::as_str).collect();
            let unused: Vec<String> = keys.into_iter().filter(|key| !used.contains(key.as_str())).collect();
            let mut delete = db.prepare_cached("DELETE FROM vectors WHERE key = ?1")?;
            for key in &unused {
                delete.execute([key])?;
            }
            Ok(unused.len())
        })
    }

    /// Keeps vectors; returns when they are on disk.
    ///
    /// # Errors
    /// A database failure.
    pub fn put_vectors(&self, vectors: Vec<(Digest, Vec<f32>)>) -> Result<(), StoreError> {
        self.writer().write(move |db| {
            let mut insert = db
                .prepare_cached("INSERT INTO vectors (key, vector) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
            for (key, vector) in &vectors {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                insert.execute(params![key.as_str(), bytes])?;
            }
            Ok(())
        })
    }
}

/// Removes those of these texts that no document of any index has, and says how many.
fn drop_if_unused(db: &Connection, digests: &[String]) -> rusqlite::Result<usize> {
    let mut delete = db.prepare_cached(&format!("DELETE FROM texts WHERE digest = ?1 AND {UNUSED}"))?;
    digests.iter().map(|digest| delete.execute([digest])).sum()
}

fn text_of<const N: usize>(db: &Connection, sql: &str, keys: [&str; N]) -> Result<Option<String>, Failure> {
    let mut query = db.prepare_cached(sql)?;
    Ok(query.query_row(rusqlite::params_from_iter(keys), |row| row.get(0)).optional()?)
}

/// No text is longer than SQLite counts.
fn offset(byte: u64) -> i64 {
    i64::try_from(byte).unwrap_or(i64::MAX)
}

fn numbers(key: &Digest, bytes: &[u8]) -> Result<Vec<f32>, StoreError> {
    let (values, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        let detail = format!("{} bytes are no whole numbers", bytes.len());
        return Err(StoreError::Record { what: format!("vector {key}"), detail });
    }
    Ok(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without its index, each text that goes costs a look at all documents of all tenants, while nothing else is
    /// committed.
    #[test]
    fn whether_a_text_is_used_is_looked_up() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let db = Connection::open(dir.path().join("evalign.db")).unwrap();
        for sql in ["DELETE FROM texts WHERE digest = 'a' AND", "SELECT digest FROM texts WHERE"] {
            let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {sql} {UNUSED}")).unwrap();
            let steps = plan.query_map([], |row| row.get::<_, String>("detail")).unwrap();
            let steps = steps.collect::<rusqlite::Result<Vec<_>>>().unwrap();
            let of_documents = steps.iter().find(|step| step.contains("documents_by_text")).unwrap();
            assert!(of_documents.starts_with("SEARCH documents USING"), "{steps:?}");
        }
    }
}
