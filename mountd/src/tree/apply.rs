//! Remote records become part of the tree: one atomic batch for each set of records.
//!
//! ```text
//! records ─► 1 nodes: base := remote, verdict of resolve.rs
//!         ─► 2 entries: base := remote, verdict of resolve.rs
//!         ─► 3 collisions: directories merge, same files unify, otherwise a conflict copy   (apply/collide.rs)
//!         ─► 4 structure: nothing without a directory, no circle, one name per directory     (apply/structure.rs)
//!         ─► 5 Merkle tree of the base, journal of what has to be sent (again), effects
//! ```
//!
//! Invariant: after every call the local tree is a tree, every byte that was here or there is in a node that exists,
//! and the base is what the server has.

mod collide;
mod conflict_name;
mod fitting;
mod structure;

use std::collections::{BTreeMap, BTreeSet};

use dfs_shared::hash::{ContentId, RecordHash};
use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeRecord, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::CurrentRecord;

use super::conflicts::ConflictRow;
use super::effect::Effect;
use super::journal::group_by_node;
use super::node::{Ino, LocalEntry, LocalNode, SyncState};
use super::resolve::{self, EntryVerdict, LocalView, NodeVerdict, Rules};
use super::store::{Space, Write};
use super::txn::Txn;
use super::{Tree, TreeError};

/// How remote records are to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyOptions {
    /// The time that conflict copies show.
    pub at: Timestamp,
    /// Takes contents that are not hashed yet for different ones, instead of asking for their hash.
    pub force_conflicts: bool,
    /// The server went back: it lacks what was committed after this revision, and the records are all of what differs now.
    pub lost_after: Option<Revision>,
}

/// A conflict that left two versions side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The directory.
    pub parent: NodeId,
    /// The name that the server's version has.
    pub name: Name,
    /// The name that the local version has now.
    pub copy: Name,
}

/// What applying did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// For those who cache the tree.
    pub effects: Vec<Effect>,
    /// Conflicts that left two versions.
    pub conflicts: Vec<Conflict>,
    /// How many of the records were news.
    pub news: usize,
}

/// One application in the making.
pub(super) struct Apply<'a, 't> {
    pub(super) tree: &'t Tree,
    pub(super) txn: Txn<'a>,
    pub(super) options: ApplyOptions,
    /// Records that the server removed: as they were here.
    removed_nodes: BTreeMap<NodeId, NodeRecord>,
    /// Nodes whose deletion the server made and that have no reason of their own to stay.
    to_remove: BTreeSet<NodeId>,
    /// Nodes that stay though the server deleted them, and those whose deletion here is undone.
    to_keep: BTreeSet<NodeId>,
    /// The names that the server took away or gave to another node, by the node they led to.
    removed_names: BTreeMap<NodeId, Vec<(NodeId, Name)>>,
    /// Nodes that both sides took a name from: both may have moved them.
    moved_by_both: BTreeSet<NodeId>,
    /// Names that lead to one node here and another there.
    collisions: Vec<(NodeId, Name, NodeId)>,
    /// Entries that the server set in this application.
    set_entries: Vec<(NodeId, Name, NodeId)>,
    forks: Vec<(NodeId, NodeId, Name)>,
    conflicts: Vec<Conflict>,
    /// Names that these records set: no conflict copy may take one.
    arriving: BTreeSet<(NodeId, Name)>,
    /// The same for the table of them: the copy's node and its row.
    pub(super) rows: Vec<(NodeId, ConflictRow)>,
    /// What the contents of nodes were that both sides agreed on last.
    base_contents: BTreeMap<NodeId, Option<ContentId>>,
    /// Where names led that both sides agreed on last.
    base_targets: BTreeMap<(NodeId, Name), NodeId>,
    hash_first: Vec<NodeId>,
}

impl Tree {
    /// Makes remote records part of the tree. Records that are not newer than the base are skipped, so that
    /// repeating a call changes nothing.
    ///
    /// # Errors
    /// [`TreeError::HashFirst`] names files whose content has to be known first; nothing is done then.
    /// Otherwise [`TreeError`] when the store fails.
    pub fn apply(&self, records: &[CurrentRecord], options: ApplyOptions) -> Result<Applied, TreeError> {
        let _writer = self.writer.lock();
        let mut apply = Apply {
            tree: self,
            txn: Txn::new(&self.store),
            options,
            removed_nodes: BTreeMap::new(),
            to_remove: BTreeSet::new(),
            to_keep: BTreeSet::new(),
            removed_names: BTreeMap::new(),
            moved_by_both: BTreeSet::new(),
            collisions: Vec::new(),
            set_entries: Vec::new(),
            forks: Vec::new(),
            conflicts: Vec::new(),
            arriving: BTreeSet::new(),
            rows: Vec::new(),
            base_contents: BTreeMap::new(),
            base_targets: BTreeMap::new(),
            hash_first: Vec::new(),
        };
        let news = apply.take(records)?;
        if !apply.hash_first.is_empty() {
            return Err(TreeError::HashFirst { nodes: apply.hash_first });
        }
        apply.resolve_collisions()?;
        apply.mend_structure()?;
        if !apply.hash_first.is_empty() {
            return Err(TreeError::HashFirst { nodes: apply.hash_first });
        }
        apply.finish(news)
    }
}

fn leaf(current: &CurrentRecord) -> (RecordKey, Option<RecordHash>) {
    let hash = current.value.as_ref().map(|value| dfs_shared::merkle::record_hash(&current.key, value));
    (current.key.clone(), hash)
}

impl Apply<'_, '_> {
    /// Steps 1 and 2. Returns how many records were news.
    fn take(&mut self, records: &[CurrentRecord]) -> Result<usize, TreeError> {
        let mut leaves = Vec::with_capacity(records.len());
        let mut entries = Vec::new();
        let together: BTreeSet<&RecordKey> = records.iter().map(|current| &current.key).collect();
        self.arriving.extend(records.iter().filter_map(|current| match &current.key {
            RecordKey::Entry { parent, name } if current.value.is_some() => Some((*parent, name.clone())),
            RecordKey::Entry { .. } | RecordKey::Node(_) => None,
        }));
        for current in records {
            if !self.is_news(current)? {
                continue;
            }
            match &current.key {
                RecordKey::Node(id) => {
                    if current.value.is_none()
                        && fitting::has_other_names(&mut self.txn, *id, |key| together.contains(key))?
                    {
                        // Records that were read one after another while the server went on may not fit together.
                        continue;
                    }
                    leaves.push(leaf(current));
                    self.take_node(*id, current.value.as_ref())?;
                }
                RecordKey::Entry { parent, name } => entries.push((*parent, name, current)),
            }
        }
        // What the server removes comes first, so that a name that moved is free where it went.
        entries.sort_by_key(|(_, _, current)| current.value.is_some());
        for (parent, name, current) in entries {
            if let Some(Versioned { record: Record::Entry(entry), .. }) = &current.value
                && (self.txn.node(entry.node)?.is_none() || self.txn.node(entry.parent)?.is_none())
            {
                tracing::debug!(node = %entry.node, %name, "an entry came before its node or directory: left for later");
                continue;
            }
            leaves.push(leaf(current));
            self.take_entry(parent, name, current.value.as_ref())?;
        }
        let news = leaves.len();
        dfs_shared::merkle::apply(&mut self.txn, leaves)?;
        Ok(news)
    }

    fn is_news(&mut self, current: &CurrentRecord) -> Result<bool, TreeError> {
        if self.options.lost_after.is_some() {
            // Revisions of a server that went back say nothing about which state is newer.
            return Ok(true);
        }
        let known = self.txn.base_revision(&current.key)?;
        Ok(match (&current.value, known) {
            (Some(value), Some(known)) => known < value.revision,
            (Some(_), None) | (None, Some(_)) => true,
            (None, None) => false,
        })
    }

    fn take_node(&mut self, id: NodeId, value: Option<&Versioned>) -> Result<(), TreeError> {
        let remote = match value {
            Some(Versioned { record: Record::Node(record), revision }) => Some((record, *revision)),
            _ => None,
        };
        let Some(node) = self.txn.node(id)?.cloned() else {
            return match remote {
                Some((record, revision)) => self.add_node(record, revision),
                None => Ok(()),
            };
        };
        let base = match &node.sync {
            SyncState::Clean(_) => node.record.as_ref(),
            SyncState::New => None,
            SyncState::Changed { base, .. } => Some(base),
        };
        self.base_contents.insert(id, base.and_then(|base| base.content));
        let local = LocalView { record: node.record.as_ref(), dirty_content: node.dirty_content.is_some() };
        let there = remote.map(|(record, _)| record);
        let verdict = if let Some(replaced) = self.lost(&node.sync, remote.map(|(_, revision)| revision)) {
            resolve::lost_node(local, there, replaced)
        } else if node.sync.is_dirty() {
            let rules =
                Rules { force: self.options.force_conflicts, last_write_wins: self.last_write_wins_of(id)? };
            resolve::node(base, local, there, rules)
        } else {
            NodeVerdict::TakeRemote
        };
        self.carry_out(&node, remote, verdict)
    }

    /// Tells whether the later content takes a file.
    fn last_write_wins_of(&mut self, id: NodeId) -> Result<bool, TreeError> {
        match self.txn.live_names_of(id)?.into_iter().next() {
            Some((parent, name)) => self.last_write_wins_at(parent, &name),
            None => Ok(false),
        }
    }

    /// Tells whether the server lost what it had of a record, and if so whether it has something newer in its place.
    fn lost<B>(&self, sync: &SyncState<B>, there: Option<Revision>) -> Option<bool> {
        let after = self.options.lost_after?;
        let known = sync.base_revision()?;
        (known > after).then(|| there.is_some_and(|revision| revision > after))
    }

    /// Tells whether a name that a server which went back has again led to a node that only has other names here: its removal was
    /// lost, and stands, since nothing but the name goes.
    fn has_moved(&mut self, there: Option<(NodeId, Revision)>) -> Result<bool, TreeError> {
        let (Some((node, revision)), Some(after)) = (there, self.options.lost_after) else {
            return Ok(false);
        };
        Ok(revision <= after && !self.txn.live_names_of(node)?.is_empty())
    }

    fn add_node(&mut self, record: &NodeRecord, revision: Revision) -> Result<(), TreeError> {
        let ino = if record.id == NodeId::ROOT { Ino::ROOT } else { Ino(self.tree.store.next_number()?) };
        self.txn.put_node(LocalNode {
            id: record.id,
            ino,
            record: Some(record.clone()),
            sync: SyncState::Clean(revision),
            entries: 0,
            subdirs: 0,
            parent: NodeId::ROOT,
            dirty_content: None,
        })
    }

    fn carry_out(
        &mut self,
        node: &LocalNode,
        remote: Option<(&NodeRecord, Revision)>,
        verdict: NodeVerdict,
    ) -> Result<(), TreeError> {
        let id = node.id;
        if verdict == NodeVerdict::HashFirst {
            self.hash_first.push(id);
            return Ok(());
        }
        if let (NodeVerdict::Fork(_), Some(_)) = (&verdict, remote) {
            self.fork(node)?;
        }
        let Some((record, revision)) = remote else {
            if let Some(here) = &node.record {
                self.removed_nodes.insert(id, here.clone());
            }
            self.txn.edit_node(id, |node| node.sync = SyncState::New)?;
            match verdict {
                NodeVerdict::Resurrect => self.to_keep.insert(id),
                _ => self.to_remove.insert(id),
            };
            return Ok(());
        };
        let undelete = verdict == NodeVerdict::Undelete;
        self.txn.edit_node(id, |node| {
            node.sync = SyncState::Changed { revision, base: record.clone() };
            match verdict {
                NodeVerdict::TakeRemote => {
                    node.record = Some(record.clone());
                    node.sync = SyncState::Clean(revision);
                }
                NodeVerdict::Undelete => node.record = Some(record.clone()),
                NodeVerdict::Merge(merged) => node.record = Some(merged),
                NodeVerdict::Fork(merged) => {
                    node.record = Some(merged);
                    node.dirty_content = None;
                }
                NodeVerdict::KeepLocal | NodeVerdict::Resurrect | NodeVerdict::HashFirst => {}
            }
        })?;
        if undelete {
            self.to_keep.insert(id);
        }
        Ok(())
    }

    /// The local bytes of `node` become a new node; its name follows in [`Self::resolve_collisions`].
    fn fork(&mut self, node: &LocalNode) -> Result<(), TreeError> {
        let Some(record) = &node.record else { return Ok(()) };
        let Some((parent, name)) = self.txn.live_names_of(node.id)?.into_iter().next() else { return Ok(()) };
        let (id, ino) = ((self.tree.ids)(), Ino(self.tree.store.next_number()?));
        self.txn.put_node(LocalNode {
            id,
            ino,
            record: Some(NodeRecord { id, ..record.clone() }),
            sync: SyncState::New,
            entries: 0,
            subdirs: 0,
            parent,
            dirty_content: node.dirty_content,
        })?;
        for space in [Space::Content, Space::Manifests, Space::Opens] {
            if let Some(row) = self.tree.store.read_raw(space, node.id.as_bytes())? {
                self.txn.extra.push(Write::raw(space, id.as_bytes(), Some(row.to_vec())));
                self.txn.extra.push(Write::remove(space, node.id.as_bytes()));
            }
        }
        let copy = self.free_conflict_name(parent, &name)?;
        self.txn.change_link(parent, &copy, Some(id))?;
        let base = self.base_contents.get(&node.id).copied().flatten();
        let loses = self.last_write_wins_at(parent, &name)?;
        self.remember(id, node.id, parent, &name, base, loses)?;
        self.conflicts.push(Conflict { parent, name, copy: copy.clone() });
        self.forks.push((node.id, id, copy));
        Ok(())
    }

    fn take_entry(
        &mut self,
        parent: NodeId,
        name: &Name,
        value: Option<&Versioned>,
    ) -> Result<(), TreeError> {
        let remote = match value {
            Some(Versioned { record: Record::Entry(entry), revision }) => Some((entry.node, *revision)),
            _ => None,
        };
        let entry = self.txn.entry(parent, name)?.cloned();
        let here = entry.as_ref().and_then(|entry| entry.target).map(|target| target.node);
        let base = entry.as_ref().and_then(LocalEntry::base_target);
        let there = remote.map(|(node, _)| node);
        let lost = match &entry {
            Some(entry) => self.lost(&entry.sync, remote.map(|(_, revision)| revision)),
            None => self.has_moved(remote)?.then_some(false),
        };
        if let Some(base) = base.filter(|base| there != Some(*base) && lost.is_none()) {
            self.removed_names.entry(base).or_default().push((parent, name.clone()));
        }
        if let (Some(base), None, None) = (base, there, lost)
            && here != Some(base)
        {
            self.moved_by_both.insert(base);
        }
        let sync = match remote {
            Some((base, revision)) => SyncState::Changed { revision, base },
            None => SyncState::New,
        };
        let verdict = match lost {
            Some(replaced) => resolve::lost_entry(here, there, replaced),
            None => resolve::entry(base, here, there),
        };
        self.txn.set_entry_sync(parent, name, sync)?;
        if let Some(node) = there {
            self.set_entries.push((parent, name.clone(), node));
        }
        match (verdict, there) {
            (EntryVerdict::TakeRemote, Some(node)) => self.link_remote(parent, name, node),
            (EntryVerdict::TakeRemote, None) => self.txn.set_link(parent, name, None),
            (EntryVerdict::KeepLocal, _) | (EntryVerdict::Collide, None) => Ok(()),
            (EntryVerdict::Collide, Some(node)) => {
                self.base_targets.extend(base.map(|base| ((parent, name.clone()), base)));
                self.collisions.push((parent, name.clone(), node));
                Ok(())
            }
        }
    }

    /// Lets a name lead where the server has it, bringing the node back if it was deleted here.
    fn link_remote(&mut self, parent: NodeId, name: &Name, node: NodeId) -> Result<(), TreeError> {
        self.undelete(node)?;
        if self.txn.live(node)?.is_none() {
            tracing::warn!(%node, %parent, %name, "an entry of the server leads to a node that is not known here");
            return Ok(());
        }
        self.txn.set_link(parent, name, Some(node))
    }

    /// Undoes the deletion of a node that the server has.
    fn undelete(&mut self, id: NodeId) -> Result<(), TreeError> {
        self.txn.edit_node(id, |node| {
            if let (None, SyncState::Changed { base, .. }) = (&node.record, &node.sync) {
                node.record = Some(base.clone());
            }
        })
    }

    /// Step 5.
    fn finish(mut self, news: usize) -> Result<Applied, TreeError> {
        let dirty = self.txn.dirty_keys();
        for group in group_by_node(&mut self.txn, &dirty)? {
            self.txn.journal(group);
        }
        let mut effects = self.txn.effects()?;
        for (from, to, name) in &self.forks {
            if let (Some(from), Some(to_ino)) =
                (self.txn.node(*from)?.map(|node| node.ino), self.txn.node(*to)?.map(|node| node.ino))
            {
                effects.insert(0, Effect::Forked { from, to: to_ino, to_node: *to, name: name.clone() });
            }
        }
        let (conflicts, rows) = (std::mem::take(&mut self.conflicts), std::mem::take(&mut self.rows));
        self.tree.finish_carried(self.txn, self.options.at)?;
        self.tree.note_conflicts(rows);
        Ok(Applied { effects, conflicts, news })
    }
}
