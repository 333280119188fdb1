//! Which numbers backing files had before, also in lives of the state directory that its tree does not know of.
//!
//! The tree counts the numbers. It may be lost, or come back from an older copy, while files with greater numbers are still in
//! one of the two directories. So each of them has a file `numbers` that tells what all numbers used in it are below: never
//! more than the tree had durably given away, unless the tree went back.
//!
//! Invariant: no number is given to a second backing file while one of the directories still knows of the first.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::files::Dirs;
use super::{Cache, CacheError};
use crate::tree::Tree;
use crate::tree::content::{FileId, Place};

/// Beside `files` in both directories.
const NUMBERS_FILE: &str = "numbers";
/// Beside `files`: what no tree knows and may be the only copy.
const LOST_DIR: &str = "lost";

/// How the tree stands to the backing files that it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// It made them all.
    Known,
    /// There was no tree, but files of one.
    Lost,
    /// It is older than some of them.
    Older,
}

/// Files that no tree knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strays {
    /// Where they are.
    pub dir: PathBuf,
    /// How many.
    pub files: u64,
    /// Their lengths together.
    pub bytes: u64,
}

/// The bounds of the numbers in both directories.
#[derive(Debug)]
pub(super) struct Numbers {
    paths: [PathBuf; 2],
    /// What the files say.
    noted: AtomicU64,
    writing: Mutex<()>,
    past: Past,
    /// Files of earlier runs have smaller numbers.
    first: u64,
}

impl Numbers {
    /// Compares the tree with what is in the directories. What the tree does not know and may be the only copy is set aside
    /// before the tree goes on with numbers that nothing had. Blocks on the disk, for long only if the tree went back.
    pub(super) fn open(tree: &Tree, dirs: &Dirs, is_on_one_disk: bool) -> Result<Self, CacheError> {
        let paths = [Place::State, Place::Cache].map(|place| dirs.beside(place, NUMBERS_FILE));
        let mut noted = 0;
        for path in &paths {
            noted = noted.max(read(path)?);
        }
        let given = tree.numbers_given();
        let past = match given {
            Some(given) if noted <= given => Past::Known,
            Some(_) => Past::Older,
            None => {
                let mut found = 0;
                each(dirs, |_, file| found = found.max(file.0 + 1))?;
                noted = noted.max(found);
                if noted == 0 { Past::Known } else { Past::Lost }
            }
        };
        if past != Past::Known {
            tracing::warn!(
                ?past,
                given,
                noted,
                "the state directory went back: files that it does not know are set aside"
            );
            move_strays(tree, dirs, is_on_one_disk)?;
            tree.skip_numbers(noted);
        }
        let first = tree.next_number()?;
        Ok(Self { paths, noted: noted.into(), writing: Mutex::default(), past, first })
    }

    /// Returns the number that this run began with.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Has the files tell of a number that is about to be used. Where they cannot, as on a full disk, work goes on: the tree knows.
    fn note(&self, number: u64, tree: &Tree) {
        if number < self.noted.load(Ordering::Acquire) {
            return;
        }
        let _writing = self.writing.lock();
        if number < self.noted.load(Ordering::Acquire) {
            return;
        }
        let below = tree.numbers_given().unwrap_or(0).max(number + 1);
        match self.paths.iter().try_for_each(|path| write(path, below)) {
            Ok(()) => self.noted.store(below, Ordering::Release),
            Err(error) => tracing::debug!(%error, "the numbers that are used cannot be noted yet"),
        }
    }
}

impl Cache {
    /// Returns a name for a backing file that none ever had.
    pub(super) fn next_file(&self) -> Result<FileId, CacheError> {
        let number = self.tree.next_number()?;
        self.numbers.note(number, &self.tree);
        Ok(FileId(number))
    }

    /// Tells how the tree stood to the backing files that this start found.
    #[must_use]
    pub fn past(&self) -> Past {
        self.numbers.past
    }

    /// Tells what was set aside, at this start or an earlier one, and has not been removed by anybody since.
    pub fn strays(&self) -> Vec<Strays> {
        let dirs = [Place::State, Place::Cache].map(|place| self.dirs.beside(place, LOST_DIR));
        dirs.into_iter().filter_map(look_at).collect()
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { action, path, source }
}

/// Reads a bound; 0 without one. A damaged one, which a power loss may leave, counts as none.
fn read(path: &Path) -> Result<u64, CacheError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end().parse().unwrap_or(0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(0),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn write(path: &Path, below: u64) -> Result<(), CacheError> {
    let new = path.with_extension("new");
    std::fs::write(&new, format!("{below}\n")).map_err(failed("write", &new))?;
    std::fs::rename(&new, path).map_err(failed("write", path))
}

fn each(dirs: &Dirs, each: impl FnMut(Place, FileId)) -> Result<(), CacheError> {
    dirs.each(each).map_err(failed("list", &dirs.beside(Place::State, "files")))
}

/// Moves files that the tree does not know out of the way: those that were written here, and fetched ones where a file that is written
/// may stay among them for want of a way to move it.
fn move_strays(tree: &Tree, dirs: &Dirs, is_on_one_disk: bool) -> Result<(), CacheError> {
    let mut known = HashSet::new();
    tree.content_states(|_, row| {
        known.insert(row.file);
    })?;
    let mut unknown = Vec::new();
    each(dirs, |place, file| {
        if !known.contains(&file) && (place == Place::State || !is_on_one_disk) {
            unknown.push((place, file));
        }
    })?;
    for (place, file) in unknown {
        let from = dirs.path(place, file);
        let is_empty = std::fs::metadata(&from).map_err(failed("look at", &from))?.len() == 0;
        if !is_empty {
            let lost = dirs.beside(place, LOST_DIR);
            std::fs::create_dir_all(&lost).map_err(failed("make", &lost))?;
            // Whoever lost everything twice may have had the number twice.
            let names = (0_u64..).map(|again| lost.join(format!("{:016x}.{again}", file.0)));
            let Some(to) = names.into_iter().find(|name| !name.exists()) else { continue };
            std::fs::rename(&from, to).map_err(failed("move", &from))?;
        }
    }
    Ok(())
}

/// Counts what was set aside in a directory; `None` if there is nothing.
fn look_at(dir: PathBuf) -> Option<Strays> {
    let (mut files, mut bytes) = (0, 0);
    for entry in std::fs::read_dir(&dir).ok()?.flatten() {
        files += 1;
        bytes += entry.metadata().map_or(0, |found| found.len());
    }
    (files > 0).then_some(Strays { dir, files, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_bound_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NUMBERS_FILE);
        assert_eq!(read(&path).unwrap(), 0);
        write(&path, 1 << 40).unwrap();
        assert_eq!(read(&path).unwrap(), 1 << 40);
        for damaged in [&b""[..], b"12x\n", b"\xff\xff", b"-1"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read(&path).unwrap(), 0, "{damaged:?}");
        }
        assert!(read(dir.path()).is_err(), "a directory");
    }
}
