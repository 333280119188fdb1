-- Version 5 of the metadata database: what mounts hold, and what each commit did to files.

-- The number of the client's newest report.
ALTER TABLE client ADD COLUMN reported INTEGER NOT NULL DEFAULT 0;

-- A content of a file that a client holds, as it said last; content is NULL for the empty one, version the number that it had then.
CREATE TABLE replica (
    volume  INTEGER NOT NULL,
    node    BLOB    NOT NULL,
    client  TEXT    NOT NULL,
    content BLOB,
    version INTEGER NOT NULL,
    PRIMARY KEY (volume, node, client)
) STRICT, WITHOUT ROWID;
CREATE INDEX replica_client ON replica (volume, client);

-- What each commit did to files, for listeners that come back: the newest commits only. changes is the plain encoding of
-- shared/src/wire.rs of a list of sync::FileChange; stored counts the bytes of this and all earlier rows of the volume.
CREATE TABLE commit_changes (
    volume   INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    time     INTEGER NOT NULL,
    stored   INTEGER NOT NULL,
    changes  BLOB    NOT NULL,
    PRIMARY KEY (volume, revision)
) STRICT;
