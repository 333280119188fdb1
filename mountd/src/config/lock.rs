//! One mount per state directory and cache directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another mount uses it.
    #[error("{} is in use by {owner}: give another {option}, or unmount that first", dir.display())]
    InUse {
        /// The argument that names another one.
        option: &'static str,
        /// The directory.
        dir: PathBuf,
        /// The other mount.
        owner: String,
    },
    /// It cannot be made or written.
    #[error("cannot use {}, the directory of {option}: {source}", dir.display())]
    Io {
        /// The argument that names another one.
        option: &'static str,
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Holds the directories of a mount until it is dropped, or the process ends.
#[derive(Debug)]
pub struct DirLocks {
    _state: DirLock,
    /// None if it is the state directory.
    _cache: Option<DirLock>,
}

impl DirLocks {
    /// Makes the directories if they are missing and takes them. `owner` is what a second mount is told.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(state_dir: &Path, cache_dir: &Path, owner: &str) -> Result<Self, LockError> {
        let state = DirLock::take(state_dir, "--state-dir", owner)?;
        let real = |dir: &Path| std::fs::canonicalize(dir).ok();
        let is_one = real(cache_dir).is_some_and(|cache| Some(cache) == real(state_dir));
        let cache = if is_one { None } else { Some(DirLock::take(cache_dir, "--cache-dir", owner)?) };
        Ok(Self { _state: state, _cache: cache })
    }
}

#[derive(Debug)]
struct DirLock {
    _file: File,
}

impl DirLock {
    /// Makes the directory if it is missing and takes it. `option` is the argument that names another directory.
    fn take(dir: &Path, option: &'static str, owner: &str) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { option, dir: dir.to_owned(), source };
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
                return Err(LockError::InUse { option, dir: dir.to_owned(), owner });
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
        let [state, cache, other] = ["state", "cache", "other"].map(|name| dir.path().join(name));
        let first = DirLocks::take(&state, &cache, "the mount on /first").expect("free");
        for (option, (state, cache)) in [("--state-dir", (&state, &other)), ("--cache-dir", (&other, &cache))]
        {
            let error = DirLocks::take(state, cache, "second").expect_err("in use").to_string();
            assert!(error.contains("the mount on /first") && error.contains(option), "{error}");
        }
        drop(first);
        DirLocks::take(&state, &cache, "second").expect("free again");
    }

    #[test]
    fn both_may_be_one_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let first =
            DirLocks::take(dir.path(), &dir.path().join("../").join(dir.path()), "first").expect("free");
        assert!(DirLocks::take(dir.path(), dir.path(), "second").is_err());
        drop(first);
    }
}
