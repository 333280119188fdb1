//! Conflicts that left two versions side by side, remembered until one of the two is gone or somebody has decided.
//!
//! Owns the table of them. Invariant: a row is written in the batch that makes the conflict copy, so a crash leaves both or
//! neither; what is in memory is what the table holds.

use std::collections::BTreeMap;

use dfs_shared::hash::ContentId;
use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::apply::Apply;
use super::policy::{Policies, Policy};
use super::store::{Space, Store, Write, decode};
use super::{Tree, TreeError};

/// A conflict as it is stored; its key is the node of the conflict copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConflictRow {
    /// The node that has the server's version.
    original: NodeId,
    /// The content that both sides agreed on last, where it is known and not empty.
    base: Option<ContentId>,
    /// When the two met.
    at: Timestamp,
    /// Both are marked as in conflict until somebody decides.
    manual: bool,
}

/// A conflict that nobody has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenConflict {
    /// The node of the conflict copy.
    pub copy: NodeId,
    /// Where the server's version is, relative to the root.
    pub path: Vec<u8>,
    /// Where the conflict copy is.
    pub copy_path: Vec<u8>,
    /// When the two met.
    pub at: Timestamp,
    /// Whose version the copy is.
    pub host: String,
    /// Tells whether the path is marked until somebody decides.
    pub manual: bool,
}

/// The rows, in memory.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    rows: BTreeMap<NodeId, ConflictRow>,
}

impl Conflicts {
    pub(super) fn load(store: &Store) -> Result<Self, TreeError> {
        let mut rows = BTreeMap::new();
        store.each(Space::Conflicts, &[], |key, value| {
            let id = <[u8; 16]>::try_from(key).map_err(|_| TreeError::Damaged { what: "conflict key" })?;
            rows.insert(NodeId::from_bytes(id), decode("conflict", value)?);
            Ok(true)
        })?;
        Ok(Self { rows })
    }
}

impl Tree {
    /// Sets what happens with conflicts from now on; without it both versions are kept. Only the first call counts.
    pub fn set_policies(&self, policies: Policies) {
        let _ = self.policies.set(policies);
    }

    /// Returns the conflicts that nobody has decided, by path. Forgets those of which one version is gone.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn conflicts(&self) -> Result<Vec<OpenConflict>, TreeError> {
        let rows = self.conflicts.lock().rows.clone();
        let (mut open, mut over) = (Vec::new(), Vec::new());
        for (copy, row) in rows {
            match (self.path_of(row.original)?, self.path_of(copy)?) {
                (Some(path), Some(copy_path)) => {
                    let ConflictRow { at, manual, .. } = row;
                    open.push(OpenConflict { copy, path, copy_path, at, host: self.host.clone(), manual });
                }
                _ => over.push(copy),
            }
        }
        self.forget_conflicts(&over)?;
        open.sort_by(|one, other| (&one.path, &one.copy_path).cmp(&(&other.path, &other.copy_path)));
        Ok(open)
    }

    /// Tells whether a node is one of the two versions of a conflict that is marked until somebody decides.
    #[must_use]
    pub fn is_marked_conflict(&self, node: NodeId) -> bool {
        let conflicts = self.conflicts.lock();
        let has_names = |node| self.names_of(node).is_ok_and(|names| !names.is_empty());
        conflicts.rows.iter().any(|(copy, row)| {
            row.manual
                && (*copy == node || row.original == node)
                && has_names(if *copy == node { row.original } else { *copy })
        })
    }

    /// Forgets conflicts, by their copies: both versions are ordinary files from now on.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails; none is forgotten then.
    pub fn forget_conflicts(&self, copies: &[NodeId]) -> Result<(), TreeError> {
        let writes = copies.iter().map(|copy| Write::remove(Space::Conflicts, copy.as_bytes())).collect();
        self.store.commit(writes)?;
        let mut conflicts = self.conflicts.lock();
        copies.iter().for_each(|copy| drop(conflicts.rows.remove(copy)));
        Ok(())
    }

    /// Takes rows in that a batch has just written.
    pub(super) fn note_conflicts(&self, rows: Vec<(NodeId, ConflictRow)>) {
        self.conflicts.lock().rows.extend(rows);
    }
}

impl Apply<'_, '_> {
    /// Remembers that `copy` is the local version of what `original` has at a name.
    pub(super) fn remember(
        &mut self,
        copy: NodeId,
        original: NodeId,
        parent: NodeId,
        name: &Name,
        base: Option<ContentId>,
    ) -> Result<(), TreeError> {
        let policy = match self.tree.policies.get() {
            Some(policies) => policies.of(&self.path_to(parent, name)?),
            None => Policy::default(),
        };
        let row = ConflictRow { original, base, at: self.options.at, manual: policy == Policy::Manual };
        self.txn.extra.push(Write::put(Space::Conflicts, copy.as_bytes(), &row));
        self.rows.push((copy, row));
        Ok(())
    }

    /// Returns the path of a name as this change has it. Stops at what has no name, and at a circle.
    fn path_to(&mut self, parent: NodeId, name: &Name) -> Result<Vec<u8>, TreeError> {
        let mut parts = vec![name.as_bytes().to_vec()];
        let mut at = parent;
        while at != NodeId::ROOT && parts.len() <= crate::limits::PATH_DEPTH_MAX {
            let Some((above, name)) = self.txn.live_names_of(at)?.into_iter().next() else { break };
            parts.push(name.as_bytes().to_vec());
            at = above;
        }
        parts.reverse();
        Ok(parts.join(&b'/'))
    }
}
