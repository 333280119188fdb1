-- Version 3 of the metadata database: sync sessions and their staged uploads. docs/SESSIONS.md describes them.
-- Times are microseconds since 1970; paths are bytes without a leading slash.

-- state is the number of sessions::State; heard is when the client asked last.
CREATE TABLE session (
    id           BLOB    NOT NULL PRIMARY KEY,
    volume       TEXT    NOT NULL,
    client       TEXT    NOT NULL,
    state        INTEGER NOT NULL,
    heard        INTEGER NOT NULL,
    -- What is left of the plan: files to move, files in conflict, bytes of both; uploads being published.
    transfers    INTEGER NOT NULL,
    conflicts    INTEGER NOT NULL,
    bytes_left   INTEGER NOT NULL,
    applying     INTEGER NOT NULL,
    -- Bytes of all staged chunks.
    staged       INTEGER NOT NULL,
    files_synced INTEGER NOT NULL,
    bytes_synced INTEGER NOT NULL,
    last_error   TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX session_heard ON session (heard);

-- What the session's plan still wants done; a row is removed when it is.
-- action: 1 upload, 2 download, 3 conflict. base is the server's version that the plan is about.
CREATE TABLE session_file (
    session BLOB    NOT NULL,
    path    BLOB    NOT NULL,
    action  INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    base    INTEGER,
    PRIMARY KEY (session, path)
) STRICT, WITHOUT ROWID;

-- An upload under way. All chunks below prefix have arrived; applying is 1 while it is being published.
CREATE TABLE staged_file (
    session  BLOB    NOT NULL,
    path     BLOB    NOT NULL,
    total    INTEGER NOT NULL,
    prefix   INTEGER NOT NULL,
    applying INTEGER NOT NULL,
    PRIMARY KEY (session, path)
) STRICT, WITHOUT ROWID;

-- Chunks that have arrived; their bytes are in the staging directory.
CREATE TABLE staged_chunk (
    session BLOB    NOT NULL,
    path    BLOB    NOT NULL,
    number  INTEGER NOT NULL,
    hash    BLOB    NOT NULL,
    len     INTEGER NOT NULL,
    PRIMARY KEY (session, path, number)
) STRICT, WITHOUT ROWID;
