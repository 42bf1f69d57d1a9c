-- Version 7: what is asked often, or in the middle of other writes, is found without reading everything.

-- Whether a text is still some document's.
CREATE INDEX documents_by_text ON documents (record ->> 'text');

-- Runs that are no evaluations, by what they do.
CREATE INDEX runs_by_procedure ON runs (tenant, request ->> 'procedure', seq)
    WHERE request ->> 'procedure' IS NOT NULL;
