//! The bytes of staged chunks, as files.
//!
//! | path in the staging directory | content |
//! |---|---|
//! | `SESSION/FILE/NUMBER` | a chunk; FILE is the first half of the SHA-256 of the file's path in hexadecimal digits |
//! | `SESSION/FILE/NUMBER.tmp-N` | a chunk that is being written |
//!
//! A chunk is synced before it is renamed to its name. Which chunks count as arrived, and their hashes, is in the metadata store: a
//! file that does not fit its row is found when it is read and counts as missing. Invariant: names are made of numbers
//! and hashes only, never of what a client wrote.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use dfs_shared::hash::ChunkHash;

use super::SessionError;
use crate::chunk_store::room;
use crate::metadata::sessions::{SessionId, StagedChunk};

/// The staging directory.
#[derive(Debug)]
pub(super) struct Staging {
    root: PathBuf,
    next: AtomicU64,
}

impl Staging {
    /// Opens the directory, makes it if it is missing.
    pub(super) fn open(root: &Path) -> Result<Self, SessionError> {
        fs::create_dir_all(root).map_err(failed("make the directory", root))?;
        Ok(Self { root: root.to_owned(), next: AtomicU64::new(0) })
    }

    /// Writes a chunk in place of one that may be there. Blocks until it is durable.
    pub(super) fn put(
        &self,
        session: &SessionId,
        path: &[u8],
        number: u64,
        bytes: &[u8],
    ) -> Result<(), SessionError> {
        room::check(&self.root, bytes.len() as u64).map_err(failed("write below", &self.root))?;
        let directory = self.file(session, path);
        fs::create_dir_all(&directory).map_err(failed("make the directory", &directory))?;
        let unique = self.next.fetch_add(1, Ordering::Relaxed);
        let (temporary, target) =
            (directory.join(format!("{number}.tmp-{unique}")), directory.join(number.to_string()));
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&temporary, &target)
        };
        write().map_err(|error| {
            // What is left of it goes with the session at the latest.
            let _ = fs::remove_file(&temporary);
            failed("write", &target)(error)
        })
    }

    /// Reads a chunk; `None` when its file is not there or does not hold its bytes. Blocks.
    pub(super) fn get(
        &self,
        session: &SessionId,
        path: &[u8],
        chunk: &StagedChunk,
    ) -> Result<Option<Vec<u8>>, SessionError> {
        let name = self.file(session, path).join(chunk.number.to_string());
        match fs::metadata(&name).and_then(|found| match found.len() == chunk.len {
            true => fs::read(&name).map(Some),
            false => Ok(None),
        }) {
            Ok(bytes) => Ok(bytes.filter(|bytes| ChunkHash::of(bytes) == chunk.hash)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &name)(error)),
        }
    }

    /// Removes the chunks of a file. Blocks.
    pub(super) fn remove_file(&self, session: &SessionId, path: &[u8]) -> Result<(), SessionError> {
        remove(&self.file(session, path))
    }

    /// Removes everything of a session. Blocks.
    pub(super) fn remove_session(&self, session: &SessionId) -> Result<(), SessionError> {
        remove(&self.root.join(session.to_string()))
    }

    /// Lists the sessions that have a directory. Blocks.
    pub(super) fn sessions(&self) -> Result<Vec<SessionId>, SessionError> {
        let entries = fs::read_dir(&self.root).map_err(failed("list", &self.root))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.root))?;
            found.extend(entry.file_name().to_str().and_then(SessionId::from_hex));
        }
        Ok(found)
    }

    fn file(&self, session: &SessionId, path: &[u8]) -> PathBuf {
        let hash = ChunkHash::of(path).to_string();
        self.root.join(session.to_string()).join(&hash[..32])
    }
}

fn remove(directory: &Path) -> Result<(), SessionError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", directory)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn failed(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SessionError {
    let path = path.to_owned();
    move |source| SessionError::Staging { attempted, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bytes_that_were_announced_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(dir.path()).unwrap();
        let session = SessionId::generate();
        let chunk = StagedChunk { number: 3, hash: ChunkHash::of(b"right"), len: 5 };
        assert_eq!(staging.get(&session, b"a/b", &chunk).unwrap(), None, "nothing is there");
        for (stored, expected) in [(&b"right"[..], Some(b"right".to_vec())), (b"wrong", None), (b"r", None)] {
            staging.put(&session, b"a/b", 3, stored).unwrap();
            assert_eq!(staging.get(&session, b"a/b", &chunk).unwrap(), expected);
        }
    }

    #[test]
    fn a_session_leaves_nothing_behind_and_no_path_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(&dir.path().join("staging")).unwrap();
        let (one, two) = (SessionId::generate(), SessionId::generate());
        for session in [&one, &two] {
            staging.put(session, b"../../outside", 0, b"x").unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        staging.remove_session(&one).unwrap();
        assert_eq!(staging.sessions().unwrap(), [two]);
        staging.remove_session(&one).unwrap();
    }
}
