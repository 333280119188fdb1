-- Version 8 of the metadata database: which sessions have something under way at a path.

CREATE INDEX staged_file_path ON staged_file (path);
-- 3 is a conflict: of a plan only these are looked for by their path.
CREATE INDEX session_conflict_path ON session_file (path) WHERE action = 3;
