//! Looks at everything that the tree holds and names what contradicts itself.
//!
//! Reads one moment of the store, so that it may run beside everything else; costs memory and time in the order of
//! the whole tree. Every rule here is one that each batch of the tree keeps.

use std::collections::{BTreeMap, BTreeSet};

use dfs_shared::ids::NodeId;
use dfs_shared::merkle::{self, MemoryNodes};
use dfs_shared::name::Name;
use dfs_shared::record::{EntryRecord, NodeKind, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;

use super::journal::JournalRow;
use super::node::{EntryTarget, LocalEntry, LocalNode, SyncState};
use super::sizes::Sizes;
use super::store::{Snapshot, Space, decode};
use super::{Tree, TreeError, keys};

type Entries = BTreeMap<(NodeId, Name), LocalEntry>;

/// The tables in memory.
struct Audit {
    nodes: BTreeMap<NodeId, LocalNode>,
    entries: Entries,
    index: BTreeSet<Vec<u8>>,
    names: BTreeSet<Vec<u8>>,
    journal: BTreeSet<RecordKey>,
    found: Vec<String>,
}

impl Tree {
    /// Returns what contradicts itself in the tree, in words; nothing while all is well.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails or a row cannot be read.
    pub fn audit(&self) -> Result<Vec<String>, TreeError> {
        let at = self.store.snapshot()?;
        let mut audit = Audit {
            nodes: BTreeMap::new(),
            entries: BTreeMap::new(),
            index: self.keys_of(&at, Space::Index)?,
            names: self.keys_of(&at, Space::Names)?,
            journal: BTreeSet::new(),
            found: Vec::new(),
        };
        self.store.each_at(&at, Space::Nodes, &[], &[], |_, row| {
            let node: LocalNode = decode("node", row)?;
            audit.nodes.insert(node.id, node);
            Ok(true)
        })?;
        self.store.each_at(&at, Space::Entries, &[], &[], |key, row| {
            let damaged = || TreeError::Damaged { what: "entry key" };
            let (parent, name) = key.split_first_chunk::<16>().ok_or_else(damaged)?;
            let name = Name::new(name).map_err(|_| damaged())?;
            audit.entries.insert((NodeId::from_bytes(*parent), name), decode("entry", row)?);
            Ok(true)
        })?;
        self.store.each_at(&at, Space::Journal, &[], &[], |_, row| {
            let row: JournalRow = decode("journal group", row)?;
            audit.journal.extend(row.keys);
            Ok(true)
        })?;
        audit.check_entries();
        audit.check_nodes();
        audit.check_journal();
        let root = self.store.read_raw_at(&at, Space::Merkle, &keys::merkle(&[]))?;
        audit.check_merkle(root.as_deref());
        let mut sizes = Sizes::default();
        audit.nodes.values().for_each(|node| sizes.change(None, Some(node)));
        if Sizes::at(&self.store, &at)? != Some(sizes) {
            audit.found.push(format!("the sums of sizes are not {sizes:?}, as the nodes have it"));
        }
        Ok(audit.found)
    }

    fn keys_of(&self, at: &Snapshot, space: Space) -> Result<BTreeSet<Vec<u8>>, TreeError> {
        let mut found = BTreeSet::new();
        self.store.each_at(at, space, &[], &[], |key, _| {
            found.insert(key.to_vec());
            Ok(true)
        })?;
        Ok(found)
    }
}

impl Audit {
    fn live(&self, id: NodeId) -> Option<&LocalNode> {
        self.nodes.get(&id).filter(|node| node.record.is_some())
    }

    /// Every name leads from a directory to a node, and the tables that follow from the entries are those that do.
    fn check_entries(&mut self) {
        let (mut index, mut names, mut found) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for ((parent, name), entry) in &self.entries {
            names.extend(
                super::txn::entry_nodes(entry)
                    .into_iter()
                    .flatten()
                    .map(|node| keys::name(node, *parent, name)),
            );
            let Some(EntryTarget { node, ino, kind, cookie }) = entry.target else { continue };
            index.insert(keys::index(*parent, cookie));
            let dir = self.live(*parent).and_then(|dir| dir.live());
            if dir.is_none_or(|dir| dir.kind != NodeKind::Directory) {
                found.push(format!("the name {name} is in {parent}, which is no directory here"));
            }
            match self.live(node) {
                None => found.push(format!("the name {name} in {parent} leads to {node}, which is not here")),
                Some(target)
                    if (target.ino, target.live().map(|record| record.kind)) != (ino, Some(kind)) =>
                {
                    found.push(format!("the name {name} in {parent} has another inode or kind than {node}"));
                }
                Some(_) => {}
            }
        }
        if index != self.index {
            found.push("the positions in directories are not those of the entries".to_owned());
        }
        if names != self.names {
            found.push("the names of nodes are not those of the entries".to_owned());
        }
        self.found.append(&mut found);
    }

    /// Counts follow from the entries; a directory has one place, below the root.
    fn check_nodes(&mut self) {
        let (mut entries, mut subdirs) = (BTreeMap::<NodeId, u32>::new(), BTreeMap::<NodeId, u32>::new());
        let mut parents = BTreeMap::<NodeId, Vec<NodeId>>::new();
        for ((parent, _), entry) in &self.entries {
            let Some(target) = entry.target else { continue };
            *entries.entry(target.node).or_default() += 1;
            if target.kind == NodeKind::Directory {
                *subdirs.entry(*parent).or_default() += 1;
                parents.entry(target.node).or_default().push(*parent);
            }
        }
        let mut found = Vec::new();
        for node in self.nodes.values() {
            let id = node.id;
            let (have, dirs) = (entries.remove(&id).unwrap_or(0), subdirs.remove(&id).unwrap_or(0));
            if (node.entries, node.subdirs) != (have, dirs) {
                let counted = (node.entries, node.subdirs);
                found.push(format!(
                    "{id} counts {counted:?} names and directories and has {:?}",
                    (have, dirs)
                ));
            }
            let Some(record) = node.live() else { continue };
            if have == 0 && id != NodeId::ROOT {
                found.push(format!("{id} ({:?}) is here without a name", record.kind));
            }
            if record.kind == NodeKind::Directory && id != NodeId::ROOT {
                let above = parents.get(&id).map_or(&[][..], Vec::as_slice);
                if above != [node.parent] {
                    found.push(format!("the directory {id} is in {above:?} and says {}", node.parent));
                }
                if self.depth(id).is_none() {
                    found.push(format!("the directory {id} is not below the root"));
                }
            }
        }
        self.found.append(&mut found);
    }

    fn depth(&self, id: NodeId) -> Option<usize> {
        let mut at = id;
        for depth in 0..=self.nodes.len() {
            if at == NodeId::ROOT {
                return Some(depth);
            }
            at = self.live(at)?.parent;
        }
        None
    }

    /// What has to be sent stands in the journal, and what has not is equal to the base.
    fn check_journal(&mut self) {
        let mut found = Vec::new();
        for node in self.nodes.values() {
            // A root that the server does not know is made there when the mount registers.
            let is_first_root = node.id == NodeId::ROOT && node.sync == SyncState::New;
            if node.sync.is_dirty() && !is_first_root && !self.journal.contains(&RecordKey::Node(node.id)) {
                found.push(format!("{} has to be sent and is not in the journal", node.id));
            }
            if !node.sync.is_dirty() && (node.record.is_none() || node.dirty_content.is_some()) {
                found.push(format!("{} is changed here and says that it is not", node.id));
            }
        }
        for ((parent, name), entry) in &self.entries {
            let key = RecordKey::Entry { parent: *parent, name: name.clone() };
            if entry.sync.is_dirty() && !self.journal.contains(&key) {
                found.push(format!("the name {name} in {parent} has to be sent and is not in the journal"));
            }
            if !entry.sync.is_dirty() && entry.target.is_none() {
                found.push(format!("the name {name} in {parent} is removed here and says that it is not"));
            }
        }
        self.found.append(&mut found);
    }

    /// The Merkle tree is the one of the base's records.
    fn check_merkle(&mut self, stored: Option<&[u8]>) {
        let nodes = self.nodes.values().filter_map(|node| {
            let (revision, record) = base(&node.sync, node.record.as_ref())?;
            Some((RecordKey::Node(node.id), revision, Record::Node(record)))
        });
        let entries = self.entries.iter().filter_map(|((parent, name), entry)| {
            let (parent, name) = (*parent, name.clone());
            let (revision, node) = base(&entry.sync, entry.target.map(|target| target.node).as_ref())?;
            let key = RecordKey::Entry { parent, name: name.clone() };
            Some((key, revision, Record::Entry(EntryRecord { parent, name, node })))
        });
        let leaves = nodes.chain(entries).map(|(key, revision, record)| {
            let hash = merkle::record_hash(&key, &Versioned { revision, record });
            (key, Some(hash))
        });
        let mut fresh = MemoryNodes::default();
        let applied = merkle::apply(&mut fresh, leaves.collect::<Vec<_>>());
        let root = merkle::NodeStore::get(&fresh, &[]).ok().flatten();
        if applied.is_err() || root.as_deref() != stored {
            self.found.push("the Merkle tree is not the one of the base's records".to_owned());
        }
    }
}

fn base<T: Clone>(sync: &SyncState<T>, here: Option<&T>) -> Option<(Revision, T)> {
    match sync {
        SyncState::Clean(revision) => Some((*revision, here?.clone())),
        SyncState::Changed { revision, base } => Some((*revision, base.clone())),
        SyncState::New => None,
    }
}

#[cfg(test)]
mod tests;
