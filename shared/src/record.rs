//! Records: what is versioned, committed and reconciled.
//!
//! A volume is a set of records: one [`NodeRecord`] for each node and one [`EntryRecord`] for each
//! name in a directory. Invariant: a record's key is derived from the record and never changes; a
//! changed key is another record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hash::ContentId;
use crate::ids::NodeId;
use crate::name::Name;
use crate::revision::Revision;
use crate::time::Timestamp;

/// What sort of node it is; fixed for the node's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Everything about a node but its names. Link counts are derived from the entries.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node.
    pub id: NodeId,
    /// What sort of node it is.
    pub kind: NodeKind,
    /// Permission, set-id and sticky bits: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access, as far as a program set it or the node was made; reading does not advance it.
    pub atime: Timestamp,
    /// Last change of the content (of the names in it, for a directory).
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
    /// When the node was made.
    pub crtime: Timestamp,
    /// Length in bytes of a file's content; the target's length for a symlink; otherwise 0.
    pub size: u64,
    /// A file's content; `None` when it is empty or the node is no file.
    pub content: Option<ContentId>,
    /// Device number of a device node, as `makedev(3)` makes it; otherwise 0.
    pub rdev: u32,
    /// Target of a symlink; otherwise empty.
    #[serde(with = "crate::byte_string")]
    pub target: Vec<u8>,
    /// Extended attributes: full name with its namespace → value.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EntryRecord {
    /// The directory.
    pub parent: NodeId,
    /// The name in it.
    pub name: Name,
    /// What the name leads to.
    pub node: NodeId,
}

/// Either sort of record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Record {
    /// A node's record.
    Node(NodeRecord),
    /// An entry's record.
    Entry(EntryRecord),
}

/// Identifies a record. Sorts nodes before entries, entries by directory and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecordKey {
    /// The record of a node.
    Node(NodeId),
    /// The record of an entry.
    Entry {
        /// The directory.
        parent: NodeId,
        /// The name in it.
        name: Name,
    },
}

/// A record as the server has it, with the revision that last changed it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Versioned {
    /// The commit that last changed the record.
    pub revision: Revision,
    /// The record.
    pub record: Record,
}

/// One record's wanted state in a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which record.
    pub key: RecordKey,
    /// The revision that the change was based on; `None` where the record must not exist yet.
    pub base: Option<Revision>,
    /// The new state; `None` removes the record.
    pub value: Option<Record>,
}

/// Changes that must happen together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChangeGroup {
    /// The changes; no two have the same key.
    pub changes: Vec<Change>,
}

impl Record {
    /// Returns the record's key.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Node(node) => RecordKey::Node(node.id),
            Self::Entry(entry) => entry.key(),
        }
    }
}

impl Record {
    /// Returns the bytes that count against a volume's quota.
    #[must_use]
    pub fn quota_len(&self) -> u64 {
        match self {
            Self::Node(node) => node.quota_len(),
            Self::Entry(_) => 0,
        }
    }
}

impl NodeRecord {
    /// Returns the bytes that count against a volume's quota: a file's length, holes included, once for all its names.
    #[must_use]
    pub fn quota_len(&self) -> u64 {
        if self.kind == NodeKind::File { self.size } else { 0 }
    }
}

impl EntryRecord {
    /// Returns the record's key.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        RecordKey::Entry { parent: self.parent, name: self.name.clone() }
    }
}

impl RecordKey {
    /// Returns the key as bytes that sort as keys do: `1` and the node id, or `2`, the directory's id
    /// and the name.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Node(id) => [&[1][..], id.as_bytes()].concat(),
            Self::Entry { parent, name } => [&[2][..], parent.as_bytes(), name.as_bytes()].concat(),
        }
    }

    /// Reads a key back from its bytes; `None` when they are not one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let (id, name) = rest.split_first_chunk::<16>()?;
        match tag {
            1 if name.is_empty() => Some(Self::Node(NodeId::from_bytes(*id))),
            2 => Some(Self::Entry { parent: NodeId::from_bytes(*id), name: Name::new(name).ok()? }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_bytes_and_sort_alike() {
        let parent = NodeId::generate();
        let names = [&b"a"[..], b"ab", b"b", &[0xff; 255]];
        let mut keys = vec![RecordKey::Node(NodeId::ROOT), RecordKey::Node(parent)];
        keys.extend(names.map(|name| RecordKey::Entry { parent, name: Name::new(name).expect("a name") }));
        for key in &keys {
            assert_eq!(RecordKey::from_bytes(&key.to_bytes()).as_ref(), Some(key));
        }
        assert!(keys.is_sorted());
        assert!(keys.is_sorted_by_key(RecordKey::to_bytes));
        for bad in [&b""[..], b"\x01short", b"\x03aaaaaaaaaaaaaaaa", b"\x02aaaaaaaaaaaaaaaa"] {
            assert_eq!(RecordKey::from_bytes(bad), None);
        }
    }
}
