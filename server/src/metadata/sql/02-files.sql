-- Version 2: files by path, for the public API.

-- Finds a content by the SHA-256 of its bytes. Contents of one chunk have that chunk's hash and need no row here.
CREATE INDEX content_file_hash ON content (file_hash) WHERE file_hash IS NOT NULL AND length(manifest) > 60;

-- RecordKey::to_bytes of a past entry, so that a removed file is found by its name.
ALTER TABLE history ADD COLUMN key BLOB;
CREATE INDEX history_key ON history (volume, key, ended) WHERE key IS NOT NULL;

-- Files that were announced by their metadata while the server has no content of theirs; no mount sees them.
-- path sorts as FilePath does: NUL stands for each slash. metadata is the binary form of the metadata language.
CREATE TABLE announced (
    volume   INTEGER NOT NULL,
    path     BLOB    NOT NULL,
    metadata BLOB    NOT NULL,
    PRIMARY KEY (volume, path)
) STRICT, WITHOUT ROWID;
