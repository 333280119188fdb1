//! What a commit's records come to for people: files that were added, modified and deleted, whoever made the commit.
//!
//! | record | before | after | change |
//! |---|---|---|---|
//! | entry | nothing | a node | added |
//! | entry | a node | nothing | deleted |
//! | entry | a node | another one | the node that has the name now is modified |
//! | node, no directory | some state | another state | modified |
//! | directory | some state | other owner, mode or attributes | modified; its times alone say nothing new |
//!
//! A rename deletes and adds one node in one revision. A file that is new in the commit is added, not modified. Pure: the same
//! records come to the same changes in the same order, so that a change's place in its commit is the same whenever it is told.

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, NodeRecord, Record, RecordKey, Versioned};
use dfs_shared::wire::messages::CurrentRecord;
use serde::{Deserialize, Serialize};

/// What a record's change comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileChange {
    /// A name that was not there leads to a node now.
    Added {
        /// The node.
        node: NodeId,
        /// The directory.
        parent: NodeId,
        /// The name in it.
        name: Name,
    },
    /// A node has new content or attributes.
    Modified {
        /// The node.
        node: NodeId,
        /// Its length in bytes now.
        size: u64,
    },
    /// A name is gone.
    Deleted {
        /// The node that the name led to.
        node: NodeId,
        /// The directory.
        parent: NodeId,
        /// The name in it.
        name: Name,
    },
}

impl FileChange {
    /// Derives a commit's changes from its records and what each of them was before, in their order.
    pub fn all<'r>(
        records: &'r [CurrentRecord],
        before: &'r [Option<Versioned>],
    ) -> impl Iterator<Item = Self> + 'r {
        records.iter().zip(before).filter_map(|(current, before)| {
            Self::of(records, &current.key, before.as_ref(), current.value.as_ref())
        })
    }

    fn of(
        records: &[CurrentRecord],
        key: &RecordKey,
        before: Option<&Versioned>,
        after: Option<&Versioned>,
    ) -> Option<Self> {
        match (key, before.map(|before| &before.record), after.map(|after| &after.record)) {
            (RecordKey::Entry { parent, name }, None, Some(Record::Entry(entry))) => {
                Some(Self::Added { node: entry.node, parent: *parent, name: name.clone() })
            }
            (RecordKey::Entry { parent, name }, Some(Record::Entry(entry)), None) => {
                Some(Self::Deleted { node: entry.node, parent: *parent, name: name.clone() })
            }
            (RecordKey::Entry { .. }, Some(Record::Entry(old)), Some(Record::Entry(new))) => (old.node
                != new.node)
                .then(|| Self::Modified { node: new.node, size: size_in(records, new.node) }),
            (RecordKey::Node(node), Some(Record::Node(old)), Some(Record::Node(new))) => {
                is_modified(old, new).then_some(Self::Modified { node: *node, size: new.size })
            }
            _ => None,
        }
    }
}

/// The size that a node has in this commit; 0 where the commit does not change the node.
fn size_in(records: &[CurrentRecord], node: NodeId) -> u64 {
    let found = records.iter().find(|record| record.key == RecordKey::Node(node));
    match found.and_then(|record| record.value.as_ref()).map(|value| &value.record) {
        Some(Record::Node(node)) => node.size,
        Some(Record::Entry(_)) | None => 0,
    }
}

fn is_modified(old: &NodeRecord, new: &NodeRecord) -> bool {
    if new.kind != NodeKind::Directory {
        return old != new;
    }
    (old.mode, old.uid, old.gid) != (new.mode, new.uid, new.gid) || old.xattrs != new.xattrs
}
