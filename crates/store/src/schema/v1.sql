-- Version 1. Never edited once released: a change is a new file in `schema.rs::MIGRATIONS`.

CREATE TABLE runs (
    seq              INTEGER PRIMARY KEY,            -- order of creation; what the other tables refer to
    id               TEXT    NOT NULL UNIQUE,
    spec_digest      TEXT    NOT NULL,
    fork             INTEGER NOT NULL DEFAULT 0,     -- 1: a deliberate second run of the same spec
    spec             TEXT    NOT NULL,
    request          TEXT    NOT NULL,
    status           TEXT    NOT NULL,
    results          TEXT,
    samples_total    INTEGER NOT NULL,
    samples_done     INTEGER NOT NULL DEFAULT 0,
    prompt_tokens    INTEGER NOT NULL DEFAULT 0,
    computed_tokens  INTEGER NOT NULL DEFAULT 0,
    generated_tokens INTEGER NOT NULL DEFAULT 0,
    load_seconds     REAL    NOT NULL DEFAULT 0,
    prefill_seconds  REAL    NOT NULL DEFAULT 0,
    decode_seconds   REAL    NOT NULL DEFAULT 0,
    total_seconds    REAL    NOT NULL DEFAULT 0,
    created_ms       INTEGER NOT NULL,               -- Unix time in milliseconds, as all times here
    updated_ms       INTEGER NOT NULL,
    last_event       INTEGER NOT NULL DEFAULT 0,
    lease_token      INTEGER NOT NULL DEFAULT 0,     -- only ever grows
    lease_owner      TEXT,                           -- NULL: free
    lease_locked     INTEGER NOT NULL DEFAULT 0,     -- 1: the owner also holds the run's lock file
    lease_until_ms   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX runs_by_spec ON runs (spec_digest) WHERE fork = 0;

CREATE TABLE samples (
    run      INTEGER NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
    task     TEXT    NOT NULL,
    doc      INTEGER NOT NULL,
    "repeat" INTEGER NOT NULL,
    outcomes INTEGER NOT NULL,                       -- bit set of the outcomes among its scores
    record   TEXT    NOT NULL,                       -- SampleRecord as JSON
    PRIMARY KEY (run, task, doc, "repeat")
) STRICT;

CREATE TABLE events (
    run        INTEGER NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
    id         INTEGER NOT NULL,                     -- 1, 2, 3, ... without gaps within a run
    kind       TEXT    NOT NULL,
    body       TEXT    NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (run, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE cache (
    key        TEXT    PRIMARY KEY,
    response   TEXT    NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
