-- The Merkle roots of a volume's newest revisions: a mount finds out by them whether the volume went back to an older backup.
CREATE TABLE past_root (
    volume   INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    root     BLOB    NOT NULL,
    PRIMARY KEY (volume, revision)
) STRICT, WITHOUT ROWID;
