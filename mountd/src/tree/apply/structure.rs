//! Step 4: what a set of remote records does to the shape of the tree is put right.
//!
//! - A directory that still holds something stays, with the directories above it, whoever deleted it.
//! - A node that is kept has a name; so has one whose names both sides took away together.
//! - A directory has one name: the server's, where both sides moved it.
//! - No directory is inside itself: the local move is undone.

use std::collections::BTreeSet;

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::record::NodeKind;

use super::{Apply, Conflict};
use crate::tree::TreeError;
use crate::tree::node::SyncState;
use crate::tree::resolve::Later;

impl Apply<'_, '_> {
    pub(super) fn mend_structure(&mut self) -> Result<(), TreeError> {
        self.drop_second_names()?;
        self.break_circles()?;
        for (parent, name, _) in std::mem::take(&mut self.set_entries) {
            if self.txn.target(parent, &name)?.is_some() {
                self.keep_directory(parent)?;
            }
        }
        for id in std::mem::take(&mut self.to_keep) {
            self.keep_node(id)?;
        }
        self.settle_nameless()?;
        self.remove_nodes()
    }

    /// A node of which the server took one name and this mount the others, each because it has another, keeps one that is free: nobody
    /// deleted it.
    fn settle_nameless(&mut self) -> Result<(), TreeError> {
        if !self.hash_first.is_empty() {
            // Some have no name yet because nothing of this counts.
            return Ok(());
        }
        for id in self.removed_names.keys().copied().collect::<Vec<_>>() {
            let is_settled = self.to_remove.contains(&id) || self.txn.live(id)?.is_none();
            if !is_settled && self.txn.live_names_of(id)?.is_empty() && !self.give_back(id)? {
                self.give_name(id)?;
            }
        }
        Ok(())
    }

    /// Gives a node back a name that the server or this mount took from it, if one leads nowhere now.
    fn give_back(&mut self, id: NodeId) -> Result<bool, TreeError> {
        let mut names = self.removed_names.get(&id).cloned().unwrap_or_default();
        names.extend(self.txn.base_names_of(id)?);
        for (parent, name) in names {
            if self.txn.target(parent, &name)?.is_none() {
                self.keep_directory(parent)?;
                if self.txn.is_live_dir(parent)? {
                    self.txn.change_link(parent, &name, Some(id))?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Removes what the server removed, except what still holds or is held by something.
    fn remove_nodes(&mut self) -> Result<(), TreeError> {
        for id in std::mem::take(&mut self.to_remove) {
            let is_dir = self.txn.is_live_dir(id)?;
            if is_dir && !self.txn.is_empty(id)? {
                self.keep_directory(id)?;
                continue;
            }
            let named = !self.txn.live_names_of(id)?.is_empty();
            if named && self.txn.live(id)?.is_some() {
                // A name made here that the server does not know: a second link, or the place it was moved to.
                for (parent, _) in self.txn.live_names_of(id)? {
                    self.keep_directory(parent)?;
                }
                continue;
            }
            self.txn.edit_node(id, |node| {
                node.record = None;
                node.dirty_content = None;
            })?;
        }
        Ok(())
    }

    /// Gives a node that has to stay a name, if it lost its last one.
    fn keep_node(&mut self, id: NodeId) -> Result<(), TreeError> {
        if id == NodeId::ROOT || self.txn.live(id)?.is_none() {
            return Ok(());
        }
        let names = self.txn.live_names_of(id)?;
        if !names.is_empty() {
            for (parent, _) in names {
                self.keep_directory(parent)?;
            }
            return Ok(());
        }
        // A name that only this mount removed or gave away, and the server still has, comes back as it was.
        for (parent, name) in self.txn.entry_keys_of(id)? {
            let on_server = self
                .txn
                .entry(parent, &name)?
                .is_some_and(|entry| matches!(entry.sync, SyncState::Changed { base, .. } if base == id));
            if on_server {
                return self.take_name_back(parent, &name, id);
            }
        }
        self.give_name(id)
    }

    /// Gives a node the name that the server took from it, or one beside what has it now.
    fn give_name(&mut self, id: NodeId) -> Result<(), TreeError> {
        let old = self.removed_names.get(&id).and_then(|names| names.first()).cloned();
        let (parent, name) = match old {
            Some(old) => old,
            None => self.place_of_last_resort(id)?,
        };
        let name = match self.txn.target(parent, &name)? {
            None => name,
            Some(holder) => {
                let last = self.last_write(parent, &name, id, holder.node)?;
                match last {
                    Some(Later::Local) => return self.supersede(parent, &name, id, holder.node),
                    Some(Later::HashFirst) => {
                        self.hash_first.push(id);
                        return Ok(());
                    }
                    Some(Later::Remote) | None => {}
                }
                let copy = self.free_conflict_name(parent, &name)?;
                let base = self.base_contents.get(&id).copied().flatten();
                self.remember(id, holder.node, parent, &name, base, last == Some(Later::Remote))?;
                self.conflicts.push(Conflict { parent, name, copy: copy.clone() });
                copy
            }
        };
        self.keep_directory(parent)?;
        let parent = if self.txn.is_live_dir(parent)? { parent } else { NodeId::ROOT };
        self.txn.change_link(parent, &name, Some(id))
    }

    /// The server's node gets the name; what has it here is kept beside it.
    fn take_name_back(&mut self, parent: NodeId, name: &Name, id: NodeId) -> Result<(), TreeError> {
        if let Some(ours) = self.txn.target(parent, name)?.map(|target| target.node) {
            self.base_targets.insert((parent, name.clone()), id);
            self.keep_both(parent, name, ours, id)?;
        } else {
            self.txn.set_link(parent, name, Some(id))?;
        }
        self.keep_directory(parent)
    }

    /// A node whose old names are all unknown is kept in the root directory.
    fn place_of_last_resort(&mut self, id: NodeId) -> Result<(NodeId, Name), TreeError> {
        let text = format!("recovered-{id}");
        let name = Name::new(text.as_bytes()).map_err(|_| TreeError::Damaged { what: "name" })?;
        Ok((NodeId::ROOT, name))
    }

    /// Makes sure that a directory exists here and hangs in the tree.
    fn keep_directory(&mut self, id: NodeId) -> Result<(), TreeError> {
        if id == NodeId::ROOT {
            return Ok(());
        }
        self.undelete(id)?;
        if let (None, Some(record)) = (self.txn.live(id)?, self.removed_nodes.get(&id).cloned()) {
            self.txn.edit_node(id, |node| node.record = Some(record))?;
        }
        self.to_remove.remove(&id);
        if self.txn.live(id)?.is_none() {
            return Ok(());
        }
        self.keep_node(id)
    }

    /// A directory that both sides moved has two names now: the server's stays. So for a file that both moved.
    fn drop_second_names(&mut self) -> Result<(), TreeError> {
        for (parent, name, node) in self.set_entries.clone() {
            if self.txn.target(parent, &name)?.is_none_or(|target| target.node != node) {
                continue;
            }
            let is_dir = self.txn.kind(node)? == Some(NodeKind::Directory);
            if !is_dir && !self.moved_by_both.contains(&node) {
                continue;
            }
            for (other_parent, other_name) in self.txn.live_names_of(node)? {
                if (other_parent, &other_name) == (parent, &name) {
                    continue;
                }
                let sync = self.txn.entry(other_parent, &other_name)?.map(|entry| &entry.sync);
                let local = match sync {
                    Some(SyncState::New) => true,
                    Some(SyncState::Changed { base, .. }) => *base != node,
                    Some(SyncState::Clean(_)) | None => false,
                };
                if local {
                    self.txn.change_link(other_parent, &other_name, None)?;
                }
            }
            self.txn.edit_node(node, |node| node.parent = parent)?;
        }
        Ok(())
    }

    /// Undoes local moves of directories that close a circle with the server's.
    fn break_circles(&mut self) -> Result<(), TreeError> {
        for (_, _, node) in self.set_entries.clone() {
            if self.txn.kind(node)? != Some(NodeKind::Directory) {
                continue;
            }
            while let Some(circle) = self.circle_through(node)? {
                if !self.undo_one_move(&circle)? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn circle_through(&mut self, start: NodeId) -> Result<Option<Vec<NodeId>>, TreeError> {
        let mut seen = BTreeSet::new();
        let mut path = Vec::new();
        let mut at = start;
        while at != NodeId::ROOT {
            if !seen.insert(at) {
                return Ok(Some(path));
            }
            path.push(at);
            match self.txn.node(at)? {
                Some(node) => at = node.parent,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Takes one directory of a circle back to where the server has it.
    fn undo_one_move(&mut self, circle: &[NodeId]) -> Result<bool, TreeError> {
        for id in circle {
            let names = self.txn.entry_keys_of(*id)?;
            let mut server = None;
            let mut local = None;
            for (parent, name) in names {
                let Some(entry) = self.txn.entry(parent, &name)?.cloned() else { continue };
                let here = entry.target.is_some_and(|target| target.node == *id);
                let there = matches!(&entry.sync, SyncState::Changed { base, .. } if base == id);
                match (here, there) {
                    (true, false) if entry.sync.is_dirty() => local = Some((parent, name)),
                    (false, true) => server = Some((parent, name)),
                    _ => {}
                }
            }
            let (Some((parent, name)), Some((old_parent, old_name))) = (local, server) else { continue };
            self.txn.change_link(parent, &name, None)?;
            let free = match self.txn.target(old_parent, &old_name)? {
                None => old_name,
                Some(_) => self.free_conflict_name(old_parent, &old_name)?,
            };
            self.txn.change_link(old_parent, &free, Some(*id))?;
            self.set_entries.push((old_parent, free, *id));
            return Ok(true);
        }
        Ok(false)
    }
}
