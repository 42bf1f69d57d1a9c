-- Version 4: what is indexed of documents. The vectors themselves lie in the vector store; this is the truth
-- about which of them should be there.

-- One row for each index: how it was made (embedder, chunking), as JSON.
CREATE TABLE indexes (
    name       TEXT NOT NULL PRIMARY KEY,
    settings   TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What is known of a tenant's part of an index as a whole, as JSON.
CREATE TABLE index_tenants (
    index_name TEXT NOT NULL REFERENCES indexes (name) ON DELETE CASCADE,
    tenant     TEXT NOT NULL,
    statistics TEXT NOT NULL,
    PRIMARY KEY (index_name, tenant)
) STRICT, WITHOUT ROWID;

-- A document is here when all of its chunks of this version can be found, and none of another.
CREATE TABLE documents (
    index_name TEXT NOT NULL REFERENCES indexes (name) ON DELETE CASCADE,
    tenant     TEXT NOT NULL,
    document   TEXT NOT NULL,
    record     TEXT NOT NULL,
    PRIMARY KEY (index_name, tenant, document)
) STRICT, WITHOUT ROWID;

-- Texts that citations are verified against, by the digest of their bytes.
CREATE TABLE texts (
    digest TEXT NOT NULL PRIMARY KEY,
    text   TEXT NOT NULL
) STRICT;

-- Vectors of texts, so that no text is embedded twice: little-endian f32.
CREATE TABLE vectors (
    key    TEXT NOT NULL PRIMARY KEY,
    vector BLOB NOT NULL
) STRICT;
