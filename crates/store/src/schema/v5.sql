-- Version 5: the service. Whatever a client makes belongs to a tenant; what was there belongs to `default`, which
-- is also the command line's.

ALTER TABLE runs ADD COLUMN tenant TEXT NOT NULL DEFAULT 'default';
-- The same specification is another run for another tenant: nobody can tell what others have run.
DROP INDEX runs_by_spec;
CREATE UNIQUE INDEX runs_by_spec ON runs (tenant, spec_digest) WHERE fork = 0;
CREATE INDEX runs_of_tenant ON runs (tenant, seq);

-- Keys of the service. What a client sends is `evk_ID_SECRET`; of the secret only its SHA-256 is here.
CREATE TABLE keys (
    id         TEXT    NOT NULL PRIMARY KEY,
    tenant     TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    scope      TEXT    NOT NULL,                     -- read, run, admin: each includes those before it
    digest     TEXT    NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,                              -- NULL: never
    revoked_ms INTEGER                               -- NULL: good
) STRICT, WITHOUT ROWID;

-- Links to log in with (good once) and sessions of browsers, by the SHA-256 of their secret.
CREATE TABLE web_tokens (
    digest     TEXT    NOT NULL PRIMARY KEY,
    kind       TEXT    NOT NULL,                     -- login, session
    key        TEXT    NOT NULL REFERENCES keys (id) ON DELETE CASCADE,
    csrf       TEXT    NOT NULL,                     -- what forms of the session carry; empty for a link
    expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Work that waits for a worker or is being done. A claim grows `claims`, which fences the worker before.
CREATE TABLE jobs (
    seq            INTEGER PRIMARY KEY,
    tenant         TEXT    NOT NULL,
    run            TEXT    NOT NULL,
    request        TEXT    NOT NULL,                 -- JSON
    state          TEXT    NOT NULL,                 -- queued, running, done, failed, cancelled
    cancel         INTEGER NOT NULL DEFAULT 0,       -- 1: somebody wants it to end
    worker         TEXT,
    claims         INTEGER NOT NULL DEFAULT 0,
    lease_until_ms INTEGER NOT NULL DEFAULT 0,
    error          TEXT,
    created_ms     INTEGER NOT NULL,
    updated_ms     INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX jobs_active ON jobs (run) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_waiting ON jobs (state, seq);
CREATE INDEX jobs_of_run ON jobs (run, seq);

-- What a request with an Idempotency-Key was answered, so that its repetition is answered the same.
CREATE TABLE idempotency (
    tenant     TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    body       TEXT    NOT NULL,                     -- SHA-256 of route and body
    status     INTEGER,                              -- NULL: being worked on
    response   TEXT,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_end ON idempotency (expires_ms);

-- Uploaded files; their bytes lie in the store's directory under the id.
CREATE TABLE files (
    seq        INTEGER PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    tenant     TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    purpose    TEXT    NOT NULL,
    bytes      INTEGER NOT NULL,
    digest     TEXT    NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX files_of_tenant ON files (tenant, seq);

-- Who changed what, and who was refused. Never a secret.
CREATE TABLE audit (
    seq        INTEGER PRIMARY KEY,
    at_ms      INTEGER NOT NULL,
    tenant     TEXT,                                 -- NULL: nobody was recognised
    key        TEXT,
    action     TEXT    NOT NULL,
    target     TEXT    NOT NULL,
    outcome    TEXT    NOT NULL,
    address    TEXT    NOT NULL,
    request_id TEXT    NOT NULL
) STRICT;
