-- Version 2: a run that was scored again says by what.

ALTER TABLE runs ADD COLUMN scored_by TEXT;          -- ScoredBy as JSON; NULL: by what the spec says
