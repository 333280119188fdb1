//! Names that lead to one node here and to another on the server.

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, NodeRecord};

use super::{Apply, Conflict};
use crate::tree::TreeError;
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
        let copy = self.free_conflict_name(parent, name)?;
        self.link_remote(parent, name, theirs)?;
        self.txn.change_link(parent, &copy, Some(ours))?;
        let base = self.base_targets.get(&(parent, name.clone()));
        let base = base.and_then(|base| self.base_contents.get(base).copied().flatten());
        self.remember(ours, theirs, parent, name, base)?;
        self.conflicts.push(Conflict { parent, name: name.clone(), copy });
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
