//! One mount per state directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another mount uses it.
    #[error("{} is in use by {owner}: give another --state-dir, or unmount that first", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The other mount.
        owner: String,
    },
    /// It cannot be made or written.
    #[error("cannot use {} as state directory: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Holds a state directory until it is dropped, or the process ends.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Makes the directory if it is missing and takes it. `owner` is what a second mount is told.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(dir: &Path, owner: &str) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { dir: dir.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(dir.join("lock")).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                let owner = match owner.trim() {
                    "" => "another mount".to_owned(),
                    owner => owner.to_owned(),
                };
                return Err(LockError::InUse { dir: dir.to_owned(), owner });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{owner}")
        };
        write(&mut file).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_with_the_name_of_the_first_until_it_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = StateLock::take(dir.path(), "the mount on /first").expect("free");
        let error = StateLock::take(dir.path(), "second").expect_err("in use");
        assert!(error.to_string().contains("the mount on /first"), "{error}");
        drop(first);
        StateLock::take(dir.path(), "second").expect("free again");
    }
}
