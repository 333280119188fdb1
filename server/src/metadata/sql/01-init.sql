-- Version 1 of the metadata database. docs/STORAGE.md describes every table.
-- Integers are 64-bit; hashes are 32 bytes, node ids 16; records are the plain encoding of shared/src/wire.rs.

CREATE TABLE volume (
    id       INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE,
    uuid     BLOB    NOT NULL,
    revision INTEGER NOT NULL,
    root     BLOB    NOT NULL
) STRICT;

-- One row for each record; key is RecordKey::to_bytes, target the node that an entry leads to.
CREATE TABLE record (
    volume   INTEGER NOT NULL,
    key      BLOB    NOT NULL,
    revision INTEGER NOT NULL,
    target   BLOB,
    value    BLOB    NOT NULL,
    PRIMARY KEY (volume, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX record_target ON record (volume, target) WHERE target IS NOT NULL;

-- The Merkle tree: prefix is one byte for each nibble.
CREATE TABLE merkle (
    volume INTEGER NOT NULL,
    prefix BLOB    NOT NULL,
    node   BLOB    NOT NULL,
    PRIMARY KEY (volume, prefix)
) STRICT, WITHOUT ROWID;

-- Manifests, named by their hash.
CREATE TABLE content (
    hash      BLOB NOT NULL PRIMARY KEY,
    manifest  BLOB NOT NULL,
    file_hash BLOB
) STRICT, WITHOUT ROWID;

-- Chunks that live in the database. A rowid table, so that bytes are appended in the order of arrival.
CREATE TABLE small_chunk (
    hash  BLOB NOT NULL PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;

-- Chunks that are durable in the chunk store.
CREATE TABLE chunk (
    hash BLOB    NOT NULL PRIMARY KEY,
    len  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Records that were replaced or removed: began is the revision that made them, ended the one that ended them.
CREATE TABLE history (
    id     INTEGER PRIMARY KEY,
    volume INTEGER NOT NULL,
    node   BLOB    NOT NULL,
    began  INTEGER NOT NULL,
    ended  INTEGER NOT NULL,
    time   INTEGER NOT NULL,
    record BLOB    NOT NULL
) STRICT;
CREATE INDEX history_node ON history (volume, node, ended);

CREATE TABLE client (
    volume    INTEGER NOT NULL,
    id        TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    platform  TEXT    NOT NULL DEFAULT '',
    last_seen INTEGER NOT NULL,
    PRIMARY KEY (volume, id)
) STRICT, WITHOUT ROWID;

-- Replies to the newest commits of each client, so that a repeated request gets the same answer.
CREATE TABLE client_commit (
    volume INTEGER NOT NULL,
    client TEXT    NOT NULL,
    number INTEGER NOT NULL,
    reply  BLOB    NOT NULL,
    PRIMARY KEY (volume, client, number)
) STRICT, WITHOUT ROWID;
