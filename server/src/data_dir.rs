//! The data directory: one server at a time.
//!
//! | path | content |
//! |---|---|
//! | `lock` | locked (`flock`) by the running server; holds its process id, for people |
//! | `metadata.sqlite`, `-wal`, `-shm` | the metadata database |
//! | `access-changed` | rewritten when access tokens have changed |
//! | `chunks/` | the chunk store |
//! | `staging/` | chunks of uploads that are not published |
//! | `volatile/` | with metadata in memory: what goes with the process |
//!
//! The kernel drops the lock with the process, so what a killed server leaves never blocks the next.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A data directory that this process has for itself.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another server uses it.
    #[error(
        "the data directory {} is in use by another dfs-server (process {pid}): stop that one, or give this one its own --data-dir",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other's process id, as far as it is known.
        pid: String,
    },
    /// The system refused something.
    #[error("cannot {attempted} {}", path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl DataDir {
    /// Makes the directory if it is missing and takes its lock.
    ///
    /// # Errors
    /// [`DataDirError`] when it is in use, or the system refuses.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let io = |attempted, on: &Path| {
            let path = on.to_owned();
            move |source| DataDirError::Io { attempted, path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io("make the data directory", path))?;
        let path = fs::canonicalize(path).map_err(io("find the data directory", path))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(io("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Only for the message.
                let _ = lock.read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
                return Err(DataDirError::InUse { path, pid });
            }
            Err(TryLockError::Error(source)) => return Err(io("lock", &lock_path)(source)),
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(io("write", &lock_path))?;
        Ok(Self { path, _lock: lock })
    }

    /// Returns the directory's absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_user_is_refused_by_name_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).expect_err("in use");
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        assert!(error.to_string().contains("a/b"), "{error}");
        drop(first);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = DataDir::open(&file.join("below")).expect_err("not a directory");
        assert!(error.to_string().contains("file/below"), "{error}");
    }
}
