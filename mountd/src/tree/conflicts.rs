//! Conflicts that left two versions side by side, remembered until one of the two is gone or somebody has decided.
//!
//! Owns the table of them. Invariant: a row is written in the batch that makes the conflict copy, so a crash leaves both or
//! neither; what is in memory is what the table holds.

use std::collections::BTreeMap;

use dfs_shared::hash::ContentId;
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::Manifest;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, RecordKey};
use dfs_shared::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::apply::Apply;
use super::content::ContentState;
use super::effect::Effect;
use super::node::LocalNode;
use super::policy::{Policies, Policy};
use super::store::{Space, Store, Write, decode};
use super::txn::Txn;
use super::{Tree, TreeError};
use crate::limits::MERGE_LEN_MAX;

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
    /// What becomes of the copy. Unless it stays, it is not sent.
    fate: Fate,
}

/// What becomes of a conflict copy by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// Nothing: it is an ordinary file.
    Stays,
    /// The two are to be merged, if that is clean.
    Merge,
    /// It was written before the server's version: it becomes a version in the history of the original.
    History,
}

/// Two versions of which one is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undecided {
    /// The node of the local version.
    pub copy: NodeId,
    /// The node that has the server's version.
    pub original: NodeId,
    /// The content that both sides agreed on last.
    pub base: Option<ContentId>,
    /// When the two met.
    pub at: Timestamp,
    /// What becomes of the local version.
    pub fate: Fate,
}

/// A merged text, and what it was made from.
#[derive(Debug, Clone, Copy)]
pub struct Merged<'a> {
    /// The node of the local version.
    pub copy: NodeId,
    /// The node that has the server's version.
    pub original: NodeId,
    /// The change of the local version that was read, if its bytes had no name yet, and its content otherwise.
    pub local: (Option<u64>, Option<ContentId>),
    /// The server's version that was read.
    pub remote: Option<ContentId>,
    /// What the merged text is made of.
    pub manifest: &'a Manifest,
}

/// What taking a merged text did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// For those who cache the tree.
    pub effects: Vec<Effect>,
    /// The row of the original's bytes that the merged text replaced.
    pub replaced: Option<ContentState>,
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
        // Between two reads a rename could hide a name, and its conflict would be forgotten.
        let _writer = self.writer.lock();
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
        for copy in copies {
            conflicts.rows.remove(copy);
        }
        Ok(())
    }

    /// Returns the conflicts of which one version is to go.
    #[must_use]
    pub fn undecided(&self) -> Vec<Undecided> {
        let conflicts = self.conflicts.lock();
        let undecided = conflicts.rows.iter().filter(|(_, row)| row.fate != Fate::Stays);
        let found = undecided.map(|(copy, row)| {
            let ConflictRow { original, base, at, fate, .. } = *row;
            Undecided { copy: *copy, original, base, at, fate }
        });
        found.collect()
    }

    /// Returns a conflict that nobody has decided, by its copy.
    #[must_use]
    pub fn undecided_of(&self, copy: NodeId) -> Option<Undecided> {
        let conflicts = self.conflicts.lock();
        conflicts.rows.get(&copy).map(|row| {
            let ConflictRow { original, base, at, fate, .. } = *row;
            Undecided { copy, original, base, at, fate }
        })
    }

    /// Decides that both versions stay: the copy may be sent.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn keep_both_versions(&self, copy: NodeId) -> Result<(), TreeError> {
        let row = self.conflicts.lock().rows.get(&copy).cloned();
        let Some(row) = row else { return Ok(()) };
        let row = ConflictRow { fate: Fate::Stays, ..row };
        self.store.commit(vec![Write::put(Space::Conflicts, copy.as_bytes(), &row)])?;
        self.conflicts.lock().rows.insert(copy, row);
        Ok(())
    }

    /// Makes a merged text the original's content and removes the copy, in one batch. `None`, and nothing is done, if one of the
    /// two is not what was merged any more. `bytes` is the row of the file that holds the text.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails; nothing is done then.
    pub fn take_merged(
        &self,
        merged: Merged<'_>,
        bytes: &ContentState,
        at: Timestamp,
    ) -> Result<Option<Taken>, TreeError> {
        let _writer = self.writer.lock();
        let mut txn = Txn::new(&self.store);
        let Merged { copy, original, local, remote, manifest } = merged;
        let Some(mine) = txn.live(copy)?.cloned() else { return Ok(None) };
        let Some(theirs) = txn.live(original)?.cloned() else { return Ok(None) };
        let content = |node: &LocalNode| node.live().and_then(|record| record.content);
        if (mine.dirty_content, content(&mine)) != local
            || (theirs.dirty_content, content(&theirs)) != (None, remote)
        {
            return Ok(None);
        }
        remove_copy(&mut txn, copy)?;
        let mtime = mine.live().map(|record| record.mtime);
        txn.change_node(original, |record| {
            (record.content, record.size) = (bytes.content, manifest.size());
            record.mtime = mtime.map_or(record.mtime, |mtime| mtime.max(record.mtime));
            record.ctime = record.ctime.max(at);
        })?;
        txn.journal(vec![RecordKey::Node(original)]);
        let replaced = self.store.read::<ContentState>(Space::Content, original.as_bytes())?;
        txn.extra.push(Write::put(Space::Content, original.as_bytes(), bytes));
        txn.extra.push(Write::put(Space::Manifests, original.as_bytes(), &(manifest.id(), manifest)));
        let effects = txn.effects()?;
        self.finish_carried(txn, at)?;
        self.conflicts.lock().rows.remove(&copy);
        Ok(Some(Taken { effects, replaced }))
    }

    /// Removes a conflict copy whose `content` the server has put into the history of the original. `None`, and nothing is done, if
    /// the copy has another content by now.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails; nothing is done then.
    pub fn drop_filed(
        &self,
        copy: NodeId,
        content: Option<ContentId>,
        at: Timestamp,
    ) -> Result<Option<Vec<Effect>>, TreeError> {
        let _writer = self.writer.lock();
        let mut txn = Txn::new(&self.store);
        let is_same = txn.live(copy)?.is_some_and(|node| {
            node.dirty_content.is_none() && node.live().is_some_and(|record| record.content == content)
        });
        if !is_same {
            return Ok(None);
        }
        remove_copy(&mut txn, copy)?;
        let effects = txn.effects()?;
        self.finish_carried(txn, at)?;
        self.conflicts.lock().rows.remove(&copy);
        Ok(Some(effects))
    }

    /// Takes rows in that a batch has just written.
    pub(super) fn note_conflicts(&self, rows: Vec<(NodeId, ConflictRow)>) {
        self.conflicts.lock().rows.extend(rows);
    }
}

/// Removes a conflict copy and what is remembered of its conflict.
fn remove_copy(txn: &mut Txn<'_>, copy: NodeId) -> Result<(), TreeError> {
    let mut keys = vec![RecordKey::Node(copy)];
    for (parent, name) in txn.live_names_of(copy)? {
        txn.change_link(parent, &name, None)?;
        keys.push(RecordKey::Entry { parent, name });
    }
    txn.delete_node(copy)?;
    txn.journal(keys);
    txn.extra.push(Write::remove(Space::Conflicts, copy.as_bytes()));
    Ok(())
}

impl Apply<'_, '_> {
    /// Remembers that `copy` is the local version of what `original` has at a name; `loses` tells that it was written before the
    /// server's and that the last write wins.
    pub(super) fn remember(
        &mut self,
        copy: NodeId,
        original: NodeId,
        parent: NodeId,
        name: &Name,
        base: Option<ContentId>,
        loses: bool,
    ) -> Result<(), TreeError> {
        let policy = self.policy_at(parent, name)?;
        let fate = match policy {
            Policy::Merge if base.is_some() && self.are_files(copy, original)? => Fate::Merge,
            Policy::LastWriteWins if loses => Fate::History,
            Policy::KeepBoth | Policy::Manual | Policy::Merge | Policy::LastWriteWins => Fate::Stays,
        };
        let manual = policy == Policy::Manual;
        let row = ConflictRow { original, base, at: self.options.at, manual, fate };
        self.txn.extra.push(Write::put(Space::Conflicts, copy.as_bytes(), &row));
        self.rows.push((copy, row));
        Ok(())
    }

    /// Returns what happens with conflicts over a name.
    fn policy_at(&mut self, parent: NodeId, name: &Name) -> Result<Policy, TreeError> {
        Ok(match self.tree.policies.get() {
            Some(policies) => policies.of(&self.path_to(parent, name)?),
            None => Policy::default(),
        })
    }

    /// Tells whether the later content takes a name. Never after a server went back: its times say nothing about what it lost.
    pub(super) fn last_write_wins_at(&mut self, parent: NodeId, name: &Name) -> Result<bool, TreeError> {
        Ok(self.options.lost_after.is_none() && self.policy_at(parent, name)? == Policy::LastWriteWins)
    }

    /// Tells whether both are files of one name, short enough to be merged.
    fn are_files(&mut self, copy: NodeId, original: NodeId) -> Result<bool, TreeError> {
        for id in [copy, original] {
            let node = self.txn.live(id)?.and_then(LocalNode::live);
            if node.is_none_or(|node| node.kind != NodeKind::File || node.size > MERGE_LEN_MAX) {
                return Ok(false);
            }
        }
        // With more names the local version is somewhere else, too, and stays there.
        Ok(self.txn.live_names_of(copy)?.len() <= 1)
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
