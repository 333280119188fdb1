//! Names that lead to one node here and to another on the server.

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, NodeRecord};

use super::{Apply, Conflict};
use crate::tree::TreeError;
use crate::tree::node::SyncState;
use crate::tree::resolve::{Later, later};
use crate::tree::store::{Space, Write};

/// How two nodes of one name can live together.
enum Union {
    /// Two directories: one takes the other's entries.
    Merge,
    /// The same file or symlink twice: one is enough.
    Unify,
    /// The local one gets another name.
    KeepBoth,
    /// The local one has to be hashed before it can be told.
    HashFirst,
}

impl Apply<'_, '_> {
    /// Step 3: gives every colliding name to the server's node and finds a place for the local one.
    pub(super) fn resolve_collisions(&mut self) -> Result<(), TreeError> {
        let mut open = std::mem::take(&mut self.collisions);
        while let Some((parent, name, theirs)) = open.pop() {
            let Some(ours) = self.txn.target(parent, &name)?.map(|target| target.node) else {
                self.link_remote(parent, &name, theirs)?;
                continue;
            };
            if ours == theirs {
                continue;
            }
            match self.union(ours, theirs)? {
                Union::HashFirst => self.hash_first.push(ours),
                Union::Unify => {
                    if let Some(row) = self.tree.store.read_raw(Space::Content, ours.as_bytes())? {
                        self.txn.extra.push(Write::raw(
                            Space::Content,
                            theirs.as_bytes(),
                            Some(row.to_vec()),
                        ));
                        self.txn.extra.push(Write::remove(Space::Content, ours.as_bytes()));
                    }
                    self.link_remote(parent, &name, theirs)?;
                    self.txn.delete_node(ours)?;
                }
                Union::Merge => {
                    self.link_remote(parent, &name, theirs)?;
                    open.extend(self.move_children(ours, theirs)?);
                    self.txn.delete_node(ours)?;
                }
                Union::KeepBoth => self.keep_both(parent, &name, ours, theirs)?,
            }
        }
        if self.hash_first.is_empty() { Ok(()) } else { Err(self.hash_first_error()) }
    }

    fn hash_first_error(&mut self) -> TreeError {
        TreeError::HashFirst { nodes: std::mem::take(&mut self.hash_first) }
    }

    pub(super) fn keep_both(
        &mut self,
        parent: NodeId,
        name: &Name,
        ours: NodeId,
        theirs: NodeId,
    ) -> Result<(), TreeError> {
        let last = self.last_write(parent, name, ours, theirs)?;
        match last {
            Some(Later::Local) => return self.supersede(parent, name, ours, theirs),
            Some(Later::HashFirst) => {
                self.hash_first.push(ours);
                return Ok(());
            }
            Some(Later::Remote) | None => {}
        }
        let copy = self.free_conflict_name(parent, name)?;
        self.link_remote(parent, name, theirs)?;
        self.txn.change_link(parent, &copy, Some(ours))?;
        let base = self.base_targets.get(&(parent, name.clone()));
        let base = base.and_then(|base| self.base_contents.get(base).copied().flatten());
        self.remember(ours, theirs, parent, name, base, last == Some(Later::Remote))?;
        self.conflicts.push(Conflict { parent, name: name.clone(), copy });
        Ok(())
    }

    /// Tells which of two files under one name was written last, if that decides. `None`: both stay.
    pub(super) fn last_write(
        &mut self,
        parent: NodeId,
        name: &Name,
        ours: NodeId,
        theirs: NodeId,
    ) -> Result<Option<Later>, TreeError> {
        // With more names the local file is somewhere else, too, and stays there.
        if !self.last_write_wins_at(parent, name)? || self.txn.live_names_of(ours)?.len() > 1 {
            return Ok(None);
        }
        let (Some(ours), Some(theirs)) = (self.txn.live(ours)?.cloned(), self.txn.live(theirs)?) else {
            return Ok(None);
        };
        let (Some(our), Some(their)) = (&ours.record, &theirs.record) else { return Ok(None) };
        // What was written here over the server's file has to reach the server first.
        let is_servers = theirs.dirty_content.is_none()
            && match &theirs.sync {
                SyncState::Clean(_) => true,
                SyncState::Changed { base, .. } => (base.content, base.size) == (their.content, their.size),
                SyncState::New => false,
            };
        if !is_servers || our.kind != NodeKind::File || their.kind != NodeKind::File {
            return Ok(None);
        }
        Ok(Some(later(our, ours.dirty_content.is_some(), their, self.options.force_conflicts)))
    }

    /// Gives a name to the local file, which was written last. The server's goes unless it has other names: what it held becomes
    /// history when that is sent.
    pub(super) fn supersede(
        &mut self,
        parent: NodeId,
        name: &Name,
        ours: NodeId,
        theirs: NodeId,
    ) -> Result<(), TreeError> {
        tracing::info!(%parent, %name, "conflict: the local version was written last and replaces the server's");
        self.txn.change_link(parent, name, Some(ours))?;
        if self.txn.live_names_of(theirs)?.is_empty() {
            self.txn.delete_node(theirs)?;
        }
        Ok(())
    }

    fn union(&mut self, ours: NodeId, theirs: NodeId) -> Result<Union, TreeError> {
        let Some(their) = self.txn.live(theirs)?.and_then(|node| node.record.clone()) else {
            return Ok(Union::KeepBoth);
        };
        let Some(our) = self.txn.live(ours)?.cloned() else { return Ok(Union::KeepBoth) };
        let Some(record) = &our.record else { return Ok(Union::KeepBoth) };
        if record.kind == NodeKind::Directory && their.kind == NodeKind::Directory {
            let nested = self.txn.is_within(theirs, ours)? || self.txn.is_within(ours, theirs)?;
            // A directory that the server knows was moved here: it keeps its identity.
            let known = our.sync.base_revision().is_some();
            return Ok(if nested || known { Union::KeepBoth } else { Union::Merge });
        }
        if our.entries != 1 || our.sync.base_revision().is_some() {
            return Ok(Union::KeepBoth);
        }
        let dirty = our.dirty_content.is_some();
        if dirty && !self.options.force_conflicts && record.size == their.size && same_kind(record, &their) {
            return Ok(Union::HashFirst);
        }
        let same = !dirty
            && same_kind(record, &their)
            && (record.content, record.size, &record.target, record.rdev)
                == (their.content, their.size, &their.target, their.rdev);
        Ok(if same { Union::Unify } else { Union::KeepBoth })
    }

    /// Moves the entries of one directory into another. Returns those that collide there.
    fn move_children(&mut self, from: NodeId, to: NodeId) -> Result<Vec<(NodeId, Name, NodeId)>, TreeError> {
        let mut collisions = Vec::new();
        for name in self.txn.children(from)? {
            let Some(child) = self.txn.target(from, &name)?.map(|target| target.node) else { continue };
            self.txn.change_link(from, &name, None)?;
            match self.txn.target(to, &name)?.map(|target| target.node) {
                None => self.txn.change_link(to, &name, Some(child))?,
                Some(theirs) => {
                    // The local one takes the name for a moment, so that the collision is resolved as any other.
                    self.txn.set_link(to, &name, Some(child))?;
                    collisions.push((to, name, theirs));
                }
            }
        }
        Ok(collisions)
    }
}

fn same_kind(one: &NodeRecord, other: &NodeRecord) -> bool {
    one.kind == other.kind
}
