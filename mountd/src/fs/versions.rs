//! Which version of a file the kernel has pages of, so that opening it again keeps them.
//!
//! Invariant: a version stands here only if every page that the kernel has of the inode is of that version, and nothing
//! stands here only if it has none; what does not fit costs reading the pages again.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use super::{Fs, FsError};
use crate::cache::Backing;
use crate::limits::{GIVEN_LEN_MAX, KERNEL_VERSIONS_MAX};
use crate::tree::Ino;

/// A version, as hashes: the content where it is known, and the backing file with its stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    content: Option<u64>,
    bytes: Option<u64>,
}

impl Version {
    fn is_same(&self, other: &Self) -> bool {
        let same = |one: Option<u64>, two: Option<u64>| one.is_some() && one == two;
        same(self.content, other.content) || same(self.bytes, other.bytes)
    }
}

/// The versions that the kernel has pages of.
#[derive(Debug, Default)]
pub(super) struct Versions {
    hasher: RandomState,
    /// `None`: pages of some version.
    known: HashMap<Ino, Option<Version>>,
    /// Some were dropped to bound the memory: what is not known may have pages.
    incomplete: bool,
}

/// Which pages the kernel has of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pages {
    /// None at all.
    None,
    /// Those of the version that the inode has now.
    Current,
    /// Perhaps those of another version.
    Other,
}

impl Versions {
    /// What the kernel has is not of the newest version any more.
    pub(super) fn outdate(&mut self, ino: Ino) {
        if let Some(version) = self.known.get_mut(&ino) {
            *version = None;
        }
    }

    /// The kernel dropped the inode with its pages.
    pub(super) fn drop_inode(&mut self, ino: Ino) {
        self.known.remove(&ino);
    }

    fn hash(&self, value: impl Hash) -> u64 {
        self.hasher.hash_one(value)
    }
}

impl Fs {
    /// Tells which pages the kernel has of an inode, and remembers that they will be of the version that it has now.
    pub(super) fn kernel_pages(&self, ino: Ino, backing: &Backing) -> Result<Pages, FsError> {
        let Some(node) = self.tree.node(ino)?.filter(|node| backing.node() == Some(node.id)) else {
            self.versions.lock().known.insert(ino, None);
            return Ok(Pages::Other);
        };
        let row = self.cache.row_of(&node)?;
        let mut versions = self.versions.lock();
        let content =
            node.live().filter(|_| node.dirty_content.is_none()).map(|record| (record.content, record.size));
        let stamp = row.map(|row| (row.file, row.stamp.size, row.stamp.mtime, row.stamp.ctime));
        let version = Version {
            content: content.map(|content| versions.hash(content)),
            bytes: stamp.map(|stamp| versions.hash(stamp)),
        };
        if versions.known.len() >= KERNEL_VERSIONS_MAX && !versions.known.contains_key(&ino) {
            versions.known.clear();
            versions.incomplete = true;
        }
        Ok(match versions.known.insert(ino, Some(version)) {
            None if versions.incomplete => Pages::Other,
            None => Pages::None,
            Some(before) if before.is_some_and(|before| before.is_same(&version)) => Pages::Current,
            Some(_) => Pages::Other,
        })
    }

    /// Gives the kernel the pages of a small file that is being opened for the first time: it would ask for them at once.
    /// Returns whether it has them. Nobody else has the inode open, so no page of it is locked.
    pub(super) fn give_pages(&self, ino: Ino, backing: &Backing) -> bool {
        let Some(len) = backing.size().ok().filter(|len| (1..=GIVEN_LEN_MAX).contains(len)) else {
            return false;
        };
        if !backing.is_whole() {
            return false;
        }
        let mut content = vec![0; usize::try_from(len).unwrap_or(0)];
        if !backing.read_at(&mut content, 0).is_ok_and(|read| read == content.len()) {
            return false;
        }
        self.kernel.read().as_ref().is_some_and(|kernel| kernel.give_pages(ino, &content))
    }
}
