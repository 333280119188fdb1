//! Which version of a file the kernel has pages of, so that opening it again keeps them.
//!
//! Invariant: a version stands here only if every page that the kernel has of the inode is of that version; what
//! does not fit is forgotten, which costs reading the pages again.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use super::{Fs, FsError};
use crate::cache::Backing;
use crate::limits::KERNEL_VERSIONS_MAX;
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
    known: HashMap<Ino, Version>,
}

impl Versions {
    pub(super) fn forget(&mut self, ino: Ino) {
        self.known.remove(&ino);
    }

    fn hash(&self, value: impl Hash) -> u64 {
        self.hasher.hash_one(value)
    }
}

impl Fs {
    /// Tells whether the kernel's pages of an inode are of the version that it has now, and remembers that they will be.
    pub(super) fn kernel_has(&self, ino: Ino, backing: &Backing) -> Result<bool, FsError> {
        let Some(node) = self.tree.node(ino)?.filter(|node| backing.node() == Some(node.id)) else {
            self.versions.lock().forget(ino);
            return Ok(false);
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
        }
        let before = versions.known.insert(ino, version);
        Ok(before.is_some_and(|before| before.is_same(&version)))
    }
}
