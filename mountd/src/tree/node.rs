//! What the tree stores of a node and of an entry: the local state and what the server has.

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, NodeRecord};
use dfs_shared::revision::Revision;
use serde::{Deserialize, Serialize};

/// A node's inode number on this mount; kept across restarts. The root's is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);
}

/// An entry's stable position in its directory: grows with every entry made, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cookie(pub u64);

/// How a local record stands to the server's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncState<T> {
    /// Equal to the server's, which has this revision.
    Clean(Revision),
    /// The server has no such record.
    New,
    /// The server has `base`, this mount something else (or nothing).
    Changed {
        /// The revision of `base`.
        revision: Revision,
        /// The last state that both sides agreed on.
        base: T,
    },
}

impl<T> SyncState<T> {
    /// Tells whether there is something to send.
    pub fn is_dirty(&self) -> bool {
        !matches!(self, Self::Clean(_))
    }

    /// Returns the revision of the server's record, if it has one.
    pub fn base_revision(&self) -> Option<Revision> {
        match self {
            Self::Clean(revision) | Self::Changed { revision, .. } => Some(*revision),
            Self::New => None,
        }
    }
}

/// A node as this mount has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalNode {
    /// The node.
    pub id: NodeId,
    /// Its inode number here.
    pub ino: Ino,
    /// What this mount shows; `None` once it is deleted here and the server does not know yet.
    pub record: Option<NodeRecord>,
    /// How that stands to the server's record.
    pub sync: SyncState<NodeRecord>,
    /// How many entries lead to it here.
    pub entries: u32,
    /// How many directories are directly in it (directories only).
    pub subdirs: u32,
    /// The directory that holds it (directories only; the root holds itself).
    pub parent: NodeId,
    /// Set while the backing file holds bytes that `record.content` does not name yet: the number of the
    /// change that was noticed last. It differs after every noticed change.
    pub dirty_content: Option<u64>,
}

impl LocalNode {
    /// Returns the record of a node that exists here.
    pub fn live(&self) -> Option<&NodeRecord> {
        self.record.as_ref()
    }

    /// Returns the link count as `stat` shows it.
    pub fn nlink(&self) -> u32 {
        match &self.record {
            Some(record) if record.kind == NodeKind::Directory => 2 + self.subdirs,
            _ => self.entries,
        }
    }
}

/// Where an entry leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryTarget {
    /// The node.
    pub node: NodeId,
    /// Its inode number here.
    pub ino: Ino,
    /// What sort of node it is.
    pub kind: NodeKind,
    /// The entry's position in the directory.
    pub cookie: Cookie,
}

/// An entry as this mount has it; its key is the directory and the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEntry {
    /// Where the name leads here; `None` once it is removed here and the server does not know yet.
    pub target: Option<EntryTarget>,
    /// How that stands to the server's record, whose target is the base.
    pub sync: SyncState<NodeId>,
}

impl LocalEntry {
    /// Returns where the name leads on the server, as far as this mount knows.
    pub fn base_target(&self) -> Option<NodeId> {
        match &self.sync {
            SyncState::Clean(_) => self.target.map(|target| target.node),
            SyncState::Changed { base, .. } => Some(*base),
            SyncState::New => None,
        }
    }
}

/// An entry as `readdir` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: Name,
    /// Where it leads.
    pub target: EntryTarget,
}
