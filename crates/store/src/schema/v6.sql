-- Version 6: what a key may use of the service and has used, and what work leaves on the disk.

ALTER TABLE keys ADD COLUMN requests_per_day INTEGER;      -- NULL in these three: any number
ALTER TABLE keys ADD COLUMN tokens_per_day   INTEGER;
ALTER TABLE keys ADD COLUMN max_active_runs  INTEGER;

CREATE TABLE key_use (
    key      TEXT    NOT NULL,
    day      INTEGER NOT NULL,                       -- days since 1970-01-01, UTC
    requests INTEGER NOT NULL,
    tokens   INTEGER NOT NULL,                       -- that models have read and written for it
    PRIMARY KEY (key, day)
) STRICT, WITHOUT ROWID;

ALTER TABLE jobs ADD COLUMN key TEXT;                      -- who queued it; NULL: nobody with a key
CREATE INDEX jobs_of_key ON jobs (key) WHERE state IN ('queued', 'running');

-- The run that a request has made which is not answered yet: its repetition goes on with that run.
ALTER TABLE idempotency ADD COLUMN run TEXT;

-- Bytes beside uploaded files: what a training or an index of a tenant takes.
CREATE TABLE kept_bytes (
    tenant TEXT    NOT NULL,
    what   TEXT    NOT NULL,                         -- id of the run, `index NAME`
    bytes  INTEGER NOT NULL,
    PRIMARY KEY (tenant, what)
) STRICT, WITHOUT ROWID;

-- What leaderboards are made of, and how much has happened to it: asked whenever anything was committed.
CREATE INDEX runs_completed ON runs (tenant, seq, last_event) WHERE status = 'completed';
