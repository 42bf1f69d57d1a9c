-- Version 8: where the parts of a text that was put together stand in the document's file.

-- Blocks of places as JSON, each by the first byte of the document's text that it is about.
CREATE TABLE text_places (
    index_name TEXT NOT NULL,
    tenant     TEXT NOT NULL,
    document   TEXT NOT NULL,
    start_byte INTEGER NOT NULL,
    places     TEXT NOT NULL,
    PRIMARY KEY (index_name, tenant, document, start_byte),
    FOREIGN KEY (index_name, tenant, document)
        REFERENCES documents (index_name, tenant, document) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
