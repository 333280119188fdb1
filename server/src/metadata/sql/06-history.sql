-- Version 6: who made a version, what a history no longer has, and what is about to be collected.
-- Times are microseconds since 1970.

-- Who made a past record, if that was known when it ended.
ALTER TABLE history ADD COLUMN author TEXT;

-- Who made the newest revisions; rows older than the history is kept are dropped.
CREATE TABLE commit_author (
    volume   INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    client   TEXT    NOT NULL,
    time     INTEGER NOT NULL,
    PRIMARY KEY (volume, revision)
) STRICT, WITHOUT ROWID;

-- Past records of a node itself that were dropped: versions keep their numbers.
CREATE TABLE history_dropped (
    volume INTEGER NOT NULL,
    node   BLOB    NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (volume, node)
) STRICT, WITHOUT ROWID;

-- What nothing referred to when it was looked at: kind 0 is a content, 1 a chunk. A new reference removes the row.
CREATE TABLE condemned (
    kind INTEGER NOT NULL,
    hash BLOB    NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY (kind, hash)
) STRICT, WITHOUT ROWID;
