//! What has to hold of files' contents: nothing that was finished is lost, and no mount goes back.
//!
//! A version is what a file held when its writer closed it; every one has bytes of its own. Whoever then overwrites,
//! replaces or removes a file that shows a version has *dismissed* it: it needs not be in the tree any more. Every other
//! version has to be there at rest, under some name.

use std::collections::{BTreeMap, BTreeSet};

use dfs_mountd::tree::Ino;
use dfs_shared::hash::{ChunkHash, ContentId};

/// A finished version.
#[derive(Debug, Clone)]
struct Version {
    /// For people: which step made it where.
    made: String,
    len: u64,
    dismissed: bool,
}

/// What is known of all contents.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    versions: BTreeMap<ChunkHash, Version>,
    /// Which bytes a content has.
    bytes: BTreeMap<ContentId, ChunkHash>,
    /// Bytes that were dismissed before their writer closed the file: an open file's are sent, too.
    dismissed_open: BTreeSet<ChunkHash>,
    /// Versions that no power loss may take.
    synced: BTreeSet<ChunkHash>,
    /// Contents that were dismissed by somebody who did not have their bytes.
    pub(crate) dismissed: BTreeSet<ContentId>,
    /// What each mount showed of each inode, without repetitions.
    shown: BTreeMap<(usize, Ino), Vec<ChunkHash>>,
}

/// What a mount shows of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// These bytes.
    Bytes(ChunkHash),
    /// The bytes of this content, which are not here.
    Content(ContentId),
    /// Nothing.
    Nothing,
}

impl Oracle {
    /// A program has closed a file with these bytes.
    pub(crate) fn finished(&mut self, bytes: &[u8], made: String) {
        if bytes.is_empty() {
            return;
        }
        let digest = ChunkHash::of(bytes);
        let dismissed = self.dismissed_open.remove(&digest);
        // Who closes a file that others wrote meanwhile finishes nothing anew: no two writes are of the same bytes.
        self.versions.entry(digest).or_insert(Version { made, len: bytes.len() as u64, dismissed });
    }

    /// Returns the next length from this one on that no version has: who cuts a file to it makes no version's bytes again.
    #[must_use]
    pub(crate) fn new_length(&self, mut len: u64) -> u64 {
        while self.versions.values().any(|version| version.len == len) {
            len += 1;
        }
        len
    }

    /// A program was told that these bytes are on the disk.
    pub(crate) fn synced(&mut self, bytes: &[u8]) {
        self.synced.insert(ChunkHash::of(bytes));
    }

    /// A program has overwritten or removed what it could see.
    pub(crate) fn dismiss(&mut self, shown: Shown) {
        match shown {
            Shown::Bytes(digest) => self.dismiss_bytes(digest),
            Shown::Content(content) => match self.bytes.get(&content).copied() {
                Some(digest) => self.dismiss_bytes(digest),
                None => {
                    self.dismissed.insert(content);
                }
            },
            Shown::Nothing => {}
        }
    }

    /// These bytes need not be there any more.
    pub(crate) fn dismiss_bytes(&mut self, digest: ChunkHash) {
        match self.versions.get_mut(&digest) {
            Some(version) => version.dismissed = true,
            None => drop(self.dismissed_open.insert(digest)),
        }
    }

    /// Learns which bytes a content has.
    pub(crate) fn learn(&mut self, content: ContentId, digest: impl FnOnce() -> Option<ChunkHash>) {
        if !self.bytes.contains_key(&content)
            && let Some(digest) = digest()
        {
            self.bytes.insert(content, digest);
        }
    }

    /// Returns the bytes of a content, where they are known.
    #[must_use]
    pub(crate) fn bytes_of(&self, content: ContentId) -> Option<ChunkHash> {
        self.bytes.get(&content).copied()
    }

    /// A mount shows these bytes of a file now. Returns what is wrong with that: it showed them before, and others since.
    pub(crate) fn show(&mut self, mount: usize, ino: Ino, digest: ChunkHash) -> Option<String> {
        if !self.versions.contains_key(&digest) {
            // Half-written bytes come and go.
            return None;
        }
        let shown = self.shown.entry((mount, ino)).or_default();
        if shown.last() == Some(&digest) {
            return None;
        }
        let went_back = shown.contains(&digest);
        shown.push(digest);
        went_back.then(|| {
            let made = &self.versions[&digest].made;
            format!(
                "mount {mount} shows inode {} as {made} left it, after it had shown a newer version",
                ino.0
            )
        })
    }

    /// The programs of a mount wrote these bytes (again).
    pub(crate) fn wrote(&mut self, mount: usize, ino: Ino) {
        self.shown.remove(&(mount, ino));
    }

    /// A mount lost its power: what its disk has counts, so older versions may be shown there, and sent to others.
    pub(crate) fn forget(&mut self) {
        self.shown.clear();
    }

    /// Returns the versions that nobody dismissed and that are not among `there`.
    #[must_use]
    pub(crate) fn missing(&self, there: &BTreeSet<ChunkHash>) -> Vec<String> {
        let missing =
            self.versions.iter().filter(|(digest, version)| !version.dismissed && !there.contains(digest));
        missing.map(|(_, version)| version.made.clone()).collect()
    }

    /// Forgets a version that a power loss may have taken.
    pub(crate) fn excuse(&mut self, lost: &BTreeSet<ChunkHash>) {
        let lost: Vec<_> = lost.difference(&self.synced).copied().collect();
        lost.into_iter().for_each(|digest| self.dismiss_bytes(digest));
    }
}
