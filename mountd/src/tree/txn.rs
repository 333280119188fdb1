//! One change of the tree in the making: reads through to the store, collects what changes, and becomes one batch.
//!
//! Names, inode numbers, directory positions and link counts are derived here from the entries, so that no
//! caller can leave them out of step: [`Txn::set_link`] keeps the counts, [`Txn::finish`] the tables.

use std::collections::BTreeMap;

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, NodeRecord, RecordKey};
use dfs_shared::revision::Revision;

use super::effect::Effect;
use super::journal::JournalRow;
use super::node::{Cookie, EntryTarget, LocalEntry, LocalNode, SyncState};
use super::store::{Snapshot, Space, Store, Write, decode};
use super::{TreeError, keys};

mod base;
mod position;
mod rows;

use position::Positions;
use rows::{write_entry, write_node};

/// A row as it was in the store and as it will be.
struct Slot<T> {
    before: Option<T>,
    now: Option<T>,
}

/// One change of the tree in the making. The tree's writer lock is held as long as it lives.
pub(super) struct Txn<'a> {
    store: &'a Store,
    /// Where to read from instead of what the store holds now. Only for looking.
    snapshot: Option<&'a Snapshot>,
    nodes: BTreeMap<NodeId, Slot<LocalNode>>,
    entries: BTreeMap<(NodeId, Name), Slot<LocalEntry>>,
    merkle: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    positions: Positions,
    /// Other rows, written as they are.
    pub(super) extra: Vec<Write>,
    /// The groups to append to the journal.
    groups: Vec<Vec<RecordKey>>,
}

impl<'a> Txn<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self {
            store,
            snapshot: None,
            nodes: BTreeMap::new(),
            entries: BTreeMap::new(),
            merkle: BTreeMap::new(),
            positions: Positions::default(),
            extra: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// Looks at a snapshot; nothing of this must be written.
    pub(super) fn at(store: &'a Store, snapshot: &'a Snapshot) -> Self {
        Self { snapshot: Some(snapshot), ..Self::new(store) }
    }

    pub(super) fn store(&self) -> &'a Store {
        self.store
    }

    fn node_slot(&mut self, id: NodeId) -> Result<&mut Slot<LocalNode>, TreeError> {
        use std::collections::btree_map::Entry;
        match self.nodes.entry(id) {
            Entry::Occupied(slot) => Ok(slot.into_mut()),
            Entry::Vacant(slot) => {
                let before: Option<LocalNode> =
                    read(self.store, self.snapshot, Space::Nodes, id.as_bytes(), "node")?;
                Ok(slot.insert(Slot { now: before.clone(), before }))
            }
        }
    }

    fn entry_slot(&mut self, parent: NodeId, name: &Name) -> Result<&mut Slot<LocalEntry>, TreeError> {
        use std::collections::btree_map::Entry;
        match self.entries.entry((parent, name.clone())) {
            Entry::Occupied(slot) => Ok(slot.into_mut()),
            Entry::Vacant(slot) => {
                let key = keys::entry(parent, name);
                let before: Option<LocalEntry> =
                    read(self.store, self.snapshot, Space::Entries, &key, "entry")?;
                Ok(slot.insert(Slot { now: before.clone(), before }))
            }
        }
    }

    /// Returns a node's row, deleted or not.
    pub(super) fn node(&mut self, id: NodeId) -> Result<Option<&LocalNode>, TreeError> {
        Ok(self.node_slot(id)?.now.as_ref())
    }

    /// Returns the record of a node that exists here.
    pub(super) fn live(&mut self, id: NodeId) -> Result<Option<&LocalNode>, TreeError> {
        Ok(self.node(id)?.filter(|node| node.record.is_some()))
    }

    /// Tells whether the node exists here and is a directory.
    pub(super) fn is_live_dir(&mut self, id: NodeId) -> Result<bool, TreeError> {
        Ok(self.kind(id)? == Some(NodeKind::Directory))
    }

    /// Returns what sort of node it is, if it exists here.
    pub(super) fn kind(&mut self, id: NodeId) -> Result<Option<NodeKind>, TreeError> {
        Ok(self.live(id)?.and_then(|node| node.record.as_ref()).map(|record| record.kind))
    }

    /// Puts a node's row as it is.
    pub(super) fn put_node(&mut self, node: LocalNode) -> Result<(), TreeError> {
        let id = node.id;
        self.node_slot(id)?.now = Some(node);
        Ok(())
    }

    /// Changes a node's row, if there is one, without marking it as changed here.
    pub(super) fn edit_node(
        &mut self,
        id: NodeId,
        edit: impl FnOnce(&mut LocalNode),
    ) -> Result<(), TreeError> {
        if let Some(node) = self.node_slot(id)?.now.as_mut() {
            edit(node);
        }
        Ok(())
    }

    /// Changes the record of a node that exists here, and marks it as changed here.
    pub(super) fn change_node(
        &mut self,
        id: NodeId,
        change: impl FnOnce(&mut NodeRecord),
    ) -> Result<(), TreeError> {
        self.edit_node(id, |node| {
            if let Some(record) = node.record.as_mut() {
                if let SyncState::Clean(revision) = node.sync {
                    node.sync = SyncState::Changed { revision, base: record.clone() };
                }
                change(record);
            }
        })
    }

    /// Removes a node that exists here, and marks it as changed here.
    pub(super) fn delete_node(&mut self, id: NodeId) -> Result<(), TreeError> {
        self.edit_node(id, |node| {
            if let Some(record) = node.record.take() {
                if let SyncState::Clean(revision) = node.sync {
                    node.sync = SyncState::Changed { revision, base: record };
                }
                node.dirty_content = None;
            }
        })
    }

    /// Returns an entry's row, removed or not.
    pub(super) fn entry(&mut self, parent: NodeId, name: &Name) -> Result<Option<&LocalEntry>, TreeError> {
        Ok(self.entry_slot(parent, name)?.now.as_ref())
    }

    /// Returns where a name leads here.
    pub(super) fn target(&mut self, parent: NodeId, name: &Name) -> Result<Option<EntryTarget>, TreeError> {
        Ok(self.entry(parent, name)?.and_then(|entry| entry.target))
    }

    /// Sets how an entry stands to the server's record; makes the row if it is missing.
    pub(super) fn set_entry_sync(
        &mut self,
        parent: NodeId,
        name: &Name,
        sync: SyncState<NodeId>,
    ) -> Result<(), TreeError> {
        let slot = self.entry_slot(parent, name)?;
        match slot.now.as_mut() {
            Some(entry) => entry.sync = sync,
            None => slot.now = Some(LocalEntry { target: None, sync }),
        }
        Ok(())
    }

    /// Lets a name lead to `node` (or nowhere) and marks the entry as changed here.
    pub(super) fn change_link(
        &mut self,
        parent: NodeId,
        name: &Name,
        node: Option<NodeId>,
    ) -> Result<(), TreeError> {
        let sync = match self.entry(parent, name)? {
            None => SyncState::New,
            Some(LocalEntry { sync: SyncState::Clean(revision), target: Some(target) }) => {
                SyncState::Changed { revision: *revision, base: target.node }
            }
            Some(entry) => entry.sync.clone(),
        };
        self.set_entry_sync(parent, name, sync)?;
        self.set_link(parent, name, node)
    }

    /// Lets a name lead to `node` (or nowhere) and keeps the link counts, without marking the entry.
    pub(super) fn set_link(
        &mut self,
        parent: NodeId,
        name: &Name,
        node: Option<NodeId>,
    ) -> Result<(), TreeError> {
        let old = self.target(parent, name)?;
        if old.map(|target| target.node) == node {
            return Ok(());
        }
        if let Some(old) = old {
            self.edit_node(old.node, |node| node.entries = node.entries.saturating_sub(1))?;
            if old.kind == NodeKind::Directory {
                self.edit_node(parent, |dir| dir.subdirs = dir.subdirs.saturating_sub(1))?;
            }
        }
        let stored = self.entry_slot(parent, name)?.before.as_ref().and_then(|entry| entry.target);
        let target = match node {
            None => {
                if let Some(stored) = stored.filter(|stored| Some(*stored) == old) {
                    self.positions.leave(parent, &stored);
                }
                None
            }
            Some(id) => {
                let cookie = match self.positions.take(parent, id, stored.as_ref()) {
                    Some(cookie) => cookie,
                    None => Cookie(self.store.next_number()?),
                };
                Some(self.new_target(parent, id, cookie)?)
            }
        };
        let slot = self.entry_slot(parent, name)?;
        match slot.now.as_mut() {
            Some(entry) => entry.target = target,
            None => slot.now = Some(LocalEntry { target, sync: SyncState::New }),
        }
        Ok(())
    }

    fn new_target(&mut self, parent: NodeId, id: NodeId, cookie: Cookie) -> Result<EntryTarget, TreeError> {
        let node = self.live(id)?.ok_or(TreeError::NotFound)?;
        let kind = node.record.as_ref().map_or(NodeKind::File, |record| record.kind);
        let target = EntryTarget { node: id, ino: node.ino, kind, cookie };
        let is_dir = kind == NodeKind::Directory;
        self.edit_node(id, |node| {
            node.entries += 1;
            if is_dir {
                node.parent = parent;
            }
        })?;
        if is_dir {
            self.edit_node(parent, |dir| dir.subdirs += 1)?;
        }
        Ok(target)
    }

    /// Returns all names of a node, also removed ones that the server still has.
    pub(super) fn entry_keys_of(&mut self, node: NodeId) -> Result<Vec<(NodeId, Name)>, TreeError> {
        let mut found = std::collections::BTreeSet::new();
        self.store.each(Space::Names, node.as_bytes(), |key, _| {
            found.extend(keys::parse_name(key));
            Ok(true)
        })?;
        for ((parent, name), slot) in &self.entries {
            if slot.now.as_ref().is_some_and(|entry| entry_nodes(entry).contains(&Some(node))) {
                found.insert((*parent, name.clone()));
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Returns the revision of the server's record, as far as this mount knows.
    pub(super) fn base_revision(&mut self, key: &RecordKey) -> Result<Option<Revision>, TreeError> {
        Ok(match key {
            RecordKey::Node(id) => self.node(*id)?.and_then(|node| node.sync.base_revision()),
            RecordKey::Entry { parent, name } => {
                self.entry(*parent, name)?.and_then(|entry| entry.sync.base_revision())
            }
        })
    }

    /// Returns the names that a node has on the server, as far as this mount knows.
    pub(super) fn base_names_of(&mut self, node: NodeId) -> Result<Vec<(NodeId, Name)>, TreeError> {
        let mut names = Vec::new();
        for (parent, name) in self.entry_keys_of(node)? {
            if self.entry(parent, &name)?.and_then(LocalEntry::base_target) == Some(node) {
                names.push((parent, name));
            }
        }
        Ok(names)
    }

    /// Returns the names of a node that exist here.
    pub(super) fn live_names_of(&mut self, node: NodeId) -> Result<Vec<(NodeId, Name)>, TreeError> {
        let mut live = Vec::new();
        for (parent, name) in self.entry_keys_of(node)? {
            if self.target(parent, &name)?.is_some_and(|target| target.node == node) {
                live.push((parent, name));
            }
        }
        Ok(live)
    }

    /// Returns the names in a directory that exist here: those stored and those of this change.
    pub(super) fn children(&mut self, dir: NodeId) -> Result<Vec<Name>, TreeError> {
        let mut names = std::collections::BTreeSet::new();
        self.store.each(Space::Index, dir.as_bytes(), |_, value| {
            let (name, _): (Name, EntryTarget) = decode("directory index", value)?;
            names.insert(name);
            Ok(true)
        })?;
        names.extend(self.entries.keys().filter(|(parent, _)| *parent == dir).map(|(_, name)| name.clone()));
        let mut live = Vec::new();
        for name in names {
            if self.target(dir, &name)?.is_some() {
                live.push(name);
            }
        }
        Ok(live)
    }

    /// Tells whether a directory has no entries here. Reads at most as many rows as this change touches, plus one.
    pub(super) fn is_empty(&mut self, dir: NodeId) -> Result<bool, TreeError> {
        let touched = |name: &Name| self.entries.contains_key(&(dir, name.clone()));
        let mut other = false;
        self.store.each(Space::Index, dir.as_bytes(), |_, value| {
            let (name, _): (Name, EntryTarget) = decode("directory index", value)?;
            other = !touched(&name);
            Ok(!other)
        })?;
        let own = self.entries.iter().any(|((parent, _), slot)| {
            *parent == dir && slot.now.as_ref().is_some_and(|e| e.target.is_some())
        });
        Ok(!other && !own)
    }

    /// Tells whether `dir` is `ancestor` or below it. Stops at the root, and at a circle.
    pub(super) fn is_within(&mut self, dir: NodeId, ancestor: NodeId) -> Result<bool, TreeError> {
        let mut at = dir;
        let mut seen = std::collections::BTreeSet::new();
        loop {
            if at == ancestor {
                return Ok(true);
            }
            if at == NodeId::ROOT || !seen.insert(at) {
                return Ok(false);
            }
            match self.node(at)? {
                Some(node) => at = node.parent,
                None => return Ok(false),
            }
        }
    }

    /// Appends a change group to the journal. A group of one record that is being sent anyway is left out.
    pub(super) fn journal(&mut self, keys: Vec<RecordKey>) {
        self.groups.push(keys);
    }

    fn was_dirty(&self, key: &RecordKey) -> bool {
        match key {
            RecordKey::Node(id) => self.nodes.get(id).is_some_and(|slot| {
                // A root that the server does not know is in no group: it is first sent when it has met the server's.
                let met = *id == NodeId::ROOT && is_new(&slot.before) && !is_new(&slot.now);
                !met && slot.before.as_ref().is_some_and(|node| node.sync.is_dirty())
            }),
            RecordKey::Entry { parent, name } => self
                .entries
                .get(&(*parent, name.clone()))
                .and_then(|slot| slot.before.as_ref())
                .is_some_and(|entry| entry.sync.is_dirty()),
        }
    }

    /// Returns what the change does to those who cache the tree.
    pub(super) fn effects(&mut self) -> Result<Vec<Effect>, TreeError> {
        let mut effects = Vec::new();
        let mut entries = Vec::new();
        for ((parent, name), slot) in &self.entries {
            let node = |entry: &Option<LocalEntry>| entry.as_ref().and_then(|e| e.target).map(|t| t.node);
            if node(&slot.before) != node(&slot.now) {
                entries.push((*parent, name.clone()));
            }
        }
        for (parent, name) in entries {
            if let Some(parent) = self.node(parent)?.map(|dir| dir.ino) {
                effects.push(Effect::Entry { parent, name });
            }
        }
        for slot in self.nodes.values() {
            effects.extend(node_effect(slot));
        }
        Ok(effects)
    }

    /// Returns the nodes of which a name is new and that are not made by this change, and the files with another content.
    pub(super) fn arrivals(&self) -> Vec<NodeId> {
        let content = |node: &Option<LocalNode>| node.as_ref()?.live()?.content;
        let is_made = |slot: &Slot<LocalNode>| slot.before.is_none() && is_new(&slot.now);
        let is_ours = |id: &NodeId| self.nodes.get(id).is_some_and(is_made);
        let named = self.entries.values().filter_map(|slot| {
            let target = |entry: &Option<LocalEntry>| entry.as_ref()?.target.map(|target| target.node);
            target(&slot.now).filter(|id| target(&slot.before) != Some(*id) && !is_ours(id))
        });
        let filled = self.nodes.iter().filter(|(_, slot)| content(&slot.now) != content(&slot.before));
        named.chain(filled.map(|(id, _)| *id)).collect()
    }

    /// Returns the keys of all records that this change touches and that have something to send.
    pub(super) fn dirty_keys(&self) -> Vec<RecordKey> {
        let nodes = self
            .nodes
            .iter()
            .filter(|(_, slot)| slot.now != slot.before && slot.now.as_ref().is_some_and(is_node_dirty));
        let entries = self
            .entries
            .iter()
            .filter(|(_, slot)| slot.now != slot.before && slot.now.as_ref().is_some_and(is_entry_dirty));
        let nodes = nodes.map(|(id, _)| RecordKey::Node(*id));
        nodes
            .chain(
                entries.map(|((parent, name), _)| RecordKey::Entry { parent: *parent, name: name.clone() }),
            )
            .collect()
    }

    /// Turns the change into rows. `seq` gives the next sequence number of the journal.
    pub(super) fn finish(
        mut self,
        at: dfs_shared::time::Timestamp,
        mut seq: impl FnMut() -> u64,
    ) -> Vec<Write> {
        let mut writes = std::mem::take(&mut self.extra);
        for keys in std::mem::take(&mut self.groups) {
            if keys.len() == 1 && self.was_dirty(&keys[0]) {
                continue;
            }
            writes.push(Write::put(Space::Journal, &seq().to_be_bytes(), &JournalRow { keys, at }));
        }
        let mut sizes = self.store.sizes();
        self.nodes.values().for_each(|slot| sizes.change(slot.before.as_ref(), slot.now.as_ref()));
        if sizes != self.store.sizes() {
            writes.push(sizes.write());
        }
        for (id, slot) in self.nodes {
            write_node(&mut writes, id, slot);
        }
        let mut index = BTreeMap::new();
        for ((parent, name), slot) in self.entries {
            write_entry(&mut writes, &mut index, parent, &name, slot);
        }
        writes.extend(index.iter().map(|(key, row)| Write::maybe(Space::Index, key, row.as_ref())));
        for (prefix, node) in self.merkle {
            writes.push(Write::raw(Space::Merkle, &keys::merkle(&prefix), node));
        }
        writes
    }
}

fn is_new(node: &Option<LocalNode>) -> bool {
    node.as_ref().is_some_and(|node| node.sync == SyncState::New)
}

fn read<T: serde::de::DeserializeOwned>(
    store: &Store,
    snapshot: Option<&Snapshot>,
    space: Space,
    key: &[u8],
    what: &'static str,
) -> Result<Option<T>, TreeError> {
    let bytes = match snapshot {
        Some(snapshot) => store.read_raw_at(snapshot, space, key)?,
        None => store.read_raw(space, key)?,
    };
    bytes.map(|bytes| decode(what, &bytes)).transpose()
}

/// Tells whether a node's row has something to send, once [`Txn::finish`] has put it in order.
fn is_node_dirty(node: &LocalNode) -> bool {
    match &node.sync {
        SyncState::Clean(_) => false,
        SyncState::New => node.record.is_some(),
        SyncState::Changed { base, .. } => node.record.as_ref() != Some(base) || node.dirty_content.is_some(),
    }
}

/// Tells whether an entry's row has something to send, once [`Txn::finish`] has put it in order.
fn is_entry_dirty(entry: &LocalEntry) -> bool {
    match &entry.sync {
        SyncState::Clean(_) => false,
        SyncState::New => entry.target.is_some(),
        SyncState::Changed { base, .. } => entry.target.is_none_or(|target| target.node != *base),
    }
}

fn node_effect(slot: &Slot<LocalNode>) -> Option<Effect> {
    let before = slot.before.as_ref().filter(|node| node.record.is_some())?;
    let Some((now, record)) = slot.now.as_ref().and_then(|now| Some((now, now.record.as_ref()?))) else {
        return Some(Effect::Removed { node: Box::new(before.clone()) });
    };
    let old = before.record.as_ref()?;
    if (old.content, old.size) != (record.content, record.size) {
        return Some(Effect::Content { node: now.id, ino: now.ino });
    }
    let changed = old != record || before.nlink() != now.nlink();
    changed.then_some(Effect::Attributes { ino: now.ino })
}

/// The nodes that an entry leads to: here, and on the server.
pub(super) fn entry_nodes(entry: &LocalEntry) -> [Option<NodeId>; 2] {
    let base = match &entry.sync {
        SyncState::Changed { base, .. } => Some(*base),
        SyncState::Clean(_) | SyncState::New => None,
    };
    [entry.target.map(|target| target.node), base]
}
