-- Access tokens. Of the secret only the SHA-256 is kept; access is 1 (read), 2 (write) or 3 (admin).
-- A revoked token keeps its row, so that it can be named in the log and access stays closed after the last one.

CREATE TABLE access_token (
    id      BLOB    NOT NULL PRIMARY KEY,
    digest  BLOB    NOT NULL,
    volume  TEXT    NOT NULL,
    access  INTEGER NOT NULL,
    name    TEXT    NOT NULL,
    created INTEGER NOT NULL,
    revoked INTEGER
) STRICT, WITHOUT ROWID;
