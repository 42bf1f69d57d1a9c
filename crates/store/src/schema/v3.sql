-- Version 3: what servers charge for.

ALTER TABLE runs ADD COLUMN cached_tokens    INTEGER NOT NULL DEFAULT 0;  -- of prompt_tokens, in the server's cache
ALTER TABLE runs ADD COLUMN reasoning_tokens INTEGER NOT NULL DEFAULT 0;  -- of generated_tokens
ALTER TABLE runs ADD COLUMN requests         INTEGER NOT NULL DEFAULT 0;  -- to a server for samples, those that failed included
ALTER TABLE runs ADD COLUMN paid_tokens      INTEGER NOT NULL DEFAULT 0;  -- prompt and generated, answers from our cache excluded
ALTER TABLE runs ADD COLUMN cost_usd         REAL    NOT NULL DEFAULT 0;  -- of the samples with a known price
-- The same as the sessions counted them, with requests that became no sample.
ALTER TABLE runs ADD COLUMN noted_requests   INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN noted_tokens     INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN noted_usd        REAL    NOT NULL DEFAULT 0;
