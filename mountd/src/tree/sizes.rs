//! How many bytes the volume's files have, here and on the server: what a quota is compared with.
//!
//! Both sums stand in one row, which every batch that changes a length writes along. Invariant: they are the sums over all rows
//! of nodes, modulo 2^64. A store of an earlier program has no such row; then all nodes are counted once, when the tree is opened.

use serde::{Deserialize, Serialize};

use super::node::{LocalNode, SyncState};
use super::store::{Snapshot, Space, Store, Write, decode};
use super::{Tree, TreeError};

/// Bytes of all files, as `NodeRecord::quota_len` counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sizes {
    /// As this mount shows them.
    pub here: u64,
    /// As both sides agreed on them last: what the server counts.
    pub base: u64,
}

/// What is remembered of the volume's quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quota {
    /// Most bytes that the server lets the volume's files have; `None` for any number.
    pub limit: Option<u64>,
}

const SIZES_KEY: &[u8] = b"sizes";
const QUOTA_KEY: &[u8] = b"quota";

impl Sizes {
    /// Returns what one node comes to.
    pub(crate) fn of(node: &LocalNode) -> Self {
        let here = node.record.as_ref();
        let base = match &node.sync {
            SyncState::Clean(_) => here,
            SyncState::New => None,
            SyncState::Changed { base, .. } => Some(base),
        };
        let len =
            |record: Option<&dfs_shared::record::NodeRecord>| record.map_or(0, |record| record.quota_len());
        Self { here: len(here), base: len(base) }
    }

    /// Returns by how many bytes the files grow on the server when what waits here is sent; 0 if they shrink.
    #[must_use]
    pub fn unsent(self) -> u64 {
        self.here.saturating_sub(self.base)
    }

    /// Counts what becomes of a row.
    pub(super) fn change(&mut self, before: Option<&LocalNode>, now: Option<&LocalNode>) {
        let [old, new] = [before, now].map(|node| node.map(Self::of).unwrap_or_default());
        self.here = self.here.wrapping_add(new.here).wrapping_sub(old.here);
        self.base = self.base.wrapping_add(new.base).wrapping_sub(old.base);
    }

    pub(super) fn write(self) -> Write {
        Write::put(Space::Meta, SIZES_KEY, &self)
    }

    /// Takes the sums out of a batch that has been written.
    pub(super) fn written(writes: &[Write]) -> Option<Self> {
        let value = writes.iter().find_map(|write| write.value_of(Space::Meta, SIZES_KEY))?;
        decode("sum of sizes", value).ok()
    }

    /// Reads the sums of a store, or counts them if there are none.
    pub(super) fn load(store: &Store) -> Result<(), TreeError> {
        match store.read(Space::Meta, SIZES_KEY)? {
            Some(sizes) => store.set_sizes(sizes),
            None => store.commit(vec![Self::count(store)?.write()])?,
        }
        Ok(())
    }

    /// Reads the sums at one moment.
    pub(super) fn at(store: &Store, at: &Snapshot) -> Result<Option<Self>, TreeError> {
        let row = store.read_raw_at(at, Space::Meta, SIZES_KEY)?;
        row.map(|row| decode("sum of sizes", &row)).transpose()
    }

    fn count(store: &Store) -> Result<Self, TreeError> {
        let mut sizes = Self::default();
        store.each(Space::Nodes, &[], |_, row| {
            sizes.change(None, Some(&decode("node", row)?));
            Ok(true)
        })?;
        Ok(sizes)
    }
}

impl Tree {
    /// Returns how many bytes the volume's files have. Reads nothing.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.store.sizes()
    }

    /// Returns the quota that the server told last. Reads nothing.
    #[must_use]
    pub fn quota(&self) -> Quota {
        *self.quota.lock()
    }

    /// Remembers the quota; tells whether it is another one than before.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails; the old one stays.
    pub fn set_quota(&self, quota: Quota) -> Result<bool, TreeError> {
        let mut known = self.quota.lock();
        if *known == quota {
            return Ok(false);
        }
        self.store.commit(vec![Write::put(Space::Meta, QUOTA_KEY, &quota)])?;
        *known = quota;
        Ok(true)
    }

    /// Returns how many bytes the quota leaves, with everything that is changed here and not on the server yet; `None` for any
    /// number.
    #[must_use]
    pub fn quota_room(&self) -> Option<u64> {
        self.quota().limit.map(|limit| limit.saturating_sub(self.sizes().here))
    }
}

pub(super) fn load_quota(store: &Store) -> Result<Quota, TreeError> {
    Ok(store.read(Space::Meta, QUOTA_KEY)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dfs_shared::ids::NodeId;
    use dfs_shared::name::Name;
    use dfs_shared::record::{Change, NodeKind, Record, RecordKey};
    use dfs_shared::revision::Revision;
    use dfs_shared::time::Timestamp;

    use super::*;
    use crate::tree::namespace::{ContentChange, NewNode};
    use crate::tree::node::Ino;
    use crate::tree::store::MemoryDisk;

    fn open(disk: &MemoryDisk) -> Tree {
        let store = Arc::new(Store::in_memory(disk).expect("a store"));
        Tree::open(store, "host".to_owned(), Box::new(|| {})).expect("a tree")
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp { secs, nanos: 0 }
    }

    fn make(tree: &Tree, name: &str, kind: NodeKind, size: u64) -> NodeId {
        let name = Name::new(name.as_bytes()).expect("a name");
        let node = tree.create(Ino::ROOT, &name, NewNode::plain(kind, 0o755, (1, 1), at(1))).expect("made");
        if kind == NodeKind::File {
            resize(tree, node.id, size);
        }
        node.id
    }

    fn resize(tree: &Tree, node: NodeId, size: u64) {
        let change = ContentChange { size, mtime: at(2), ctime: at(2), stamp: None };
        tree.content_changed(node, change).expect("changed");
    }

    fn acknowledge(tree: &Tree, node: NodeId, revision: u64) {
        let value = tree.node_by_id(node).expect("a store").and_then(|node| node.record).map(Record::Node);
        let change = Change { key: RecordKey::Node(node), base: None, value };
        tree.acknowledge(&[change], &[], Revision(revision)).expect("acknowledged");
    }

    fn sizes(tree: &Tree) -> (u64, u64) {
        assert!(!tree.audit().expect("a store").iter().any(|found| found.contains("sums")));
        (tree.sizes().here, tree.sizes().base)
    }

    #[test]
    fn lengths_here_and_those_that_both_sides_agreed_on_are_summed_up_and_kept() {
        let disk = MemoryDisk::default();
        let tree = open(&disk);
        assert_eq!(sizes(&tree), (0, 0));
        let a = make(&tree, "a", NodeKind::File, 10);
        make(&tree, "dir", NodeKind::Directory, 0);
        make(&tree, "b", NodeKind::File, 5);
        assert_eq!(sizes(&tree), (15, 0));
        acknowledge(&tree, a, 1);
        assert_eq!(sizes(&tree), (15, 10));
        resize(&tree, a, 3);
        assert_eq!(
            (sizes(&tree), tree.view().and_then(|view| view.growth(a)).expect("a store")),
            ((8, 10), -7)
        );
        drop(tree);
        let tree = open(&disk);
        assert_eq!(sizes(&tree), (8, 10));
        tree.unlink(Ino::ROOT, &Name::new(b"a").expect("a name"), at(3)).expect("removed");
        assert_eq!(sizes(&tree), (5, 10), "the server has it still");
        acknowledge(&tree, a, 2);
        assert_eq!(sizes(&tree), (5, 0));
    }

    #[test]
    fn a_store_without_sums_is_counted_once() {
        let disk = MemoryDisk::default();
        let tree = open(&disk);
        acknowledge(&tree, make(&tree, "a", NodeKind::File, 10), 1);
        make(&tree, "b", NodeKind::File, 5);
        tree.store.commit(vec![Write::remove(Space::Meta, SIZES_KEY)]).expect("written");
        drop(tree);
        assert_eq!(sizes(&open(&disk)), (15, 10));
    }

    #[test]
    fn a_quota_is_remembered_and_leaves_what_this_mount_does_not_show() {
        let disk = MemoryDisk::default();
        let tree = open(&disk);
        assert_eq!((tree.quota(), tree.quota_room()), (Quota::default(), None));
        make(&tree, "a", NodeKind::File, 10);
        assert!(tree.set_quota(Quota { limit: Some(12) }).expect("a store"));
        assert!(!tree.set_quota(Quota { limit: Some(12) }).expect("a store"));
        drop(tree);
        let tree = open(&disk);
        assert_eq!(tree.quota_room(), Some(2));
        tree.set_quota(Quota { limit: Some(1) }).expect("a store");
        assert_eq!(tree.quota_room(), Some(0));
    }
}
