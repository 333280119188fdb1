//! Where names stand in their directories.
//!
//! A position is what `readdir` goes on from. Whoever reads a directory while it changes finds each name that is there all along
//! once, and once each file that only gets another name there: a name whose file is replaced keeps its position, and a
//! new name of a file takes the one that the file leaves.
//!
//! Invariant: two names of a directory never have the same position.

use std::collections::{BTreeMap, BTreeSet};

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;

use super::super::keys;
use super::super::node::{Cookie, EntryTarget, LocalEntry, SyncState};
use super::super::store::{Space, Write};
use super::{Slot, entry_nodes};

/// The positions that change hands in one change of the tree.
#[derive(Debug, Default)]
pub(super) struct Positions {
    /// What nodes have left in a directory, for another name of theirs there.
    left: BTreeMap<(NodeId, NodeId), Cookie>,
    /// What another name took over.
    passed_on: BTreeSet<(NodeId, Cookie)>,
}

impl Positions {
    /// A stored name leads nowhere any more.
    pub(super) fn leave(&mut self, parent: NodeId, stored: &EntryTarget) {
        if !self.passed_on.contains(&(parent, stored.cookie)) {
            self.left.insert((parent, stored.node), stored.cookie);
        }
    }

    /// Returns the position of a name that leads to `id` now and stood where `stored` says; `None`: a new one.
    pub(super) fn take(
        &mut self,
        parent: NodeId,
        id: NodeId,
        stored: Option<&EntryTarget>,
    ) -> Option<Cookie> {
        if let Some(stored) = stored.filter(|stored| !self.passed_on.contains(&(parent, stored.cookie))) {
            self.left.remove(&(parent, stored.node));
            return Some(stored.cookie);
        }
        let left = self.left.remove(&(parent, id))?;
        self.passed_on.insert((parent, left));
        Some(left)
    }
}

/// Adds the rows of one entry, but for those of the directory's index, which all entries of the change decide on: `None`, it goes.
pub(super) fn write_entry(
    writes: &mut Vec<Write>,
    index: &mut BTreeMap<Vec<u8>, Option<(Name, EntryTarget)>>,
    parent: NodeId,
    name: &Name,
    mut slot: Slot<LocalEntry>,
) {
    if let Some(entry) = &mut slot.now {
        if let SyncState::Changed { revision, base } = &entry.sync
            && entry.target.is_some_and(|target| target.node == *base)
        {
            entry.sync = SyncState::Clean(*revision);
        }
        if entry.target.is_none() && !matches!(entry.sync, SyncState::Changed { .. }) {
            slot.now = None;
        }
    }
    if slot.now == slot.before {
        return;
    }
    writes.push(Write::maybe(Space::Entries, &keys::entry(parent, name), slot.now.as_ref()));
    let target = |entry: &Option<LocalEntry>| entry.as_ref().and_then(|entry| entry.target);
    let (old, new) = (target(&slot.before), target(&slot.now));
    if old != new {
        if let Some(old) = old {
            // Unless another name has that position now.
            index.entry(keys::index(parent, old.cookie)).or_insert(None);
        }
        if let Some(new) = new {
            index.insert(keys::index(parent, new.cookie), Some((name.clone(), new)));
        }
    }
    let names = |entry: &Option<LocalEntry>| {
        entry
            .as_ref()
            .map(entry_nodes)
            .into_iter()
            .flatten()
            .flatten()
            .collect::<std::collections::BTreeSet<_>>()
    };
    let (old, new) = (names(&slot.before), names(&slot.now));
    for gone in old.difference(&new) {
        writes.push(Write::remove(Space::Names, &keys::name(*gone, parent, name)));
    }
    for come in new.difference(&old) {
        writes.push(Write::raw(Space::Names, &keys::name(*come, parent, name), Some(Vec::new())));
    }
}

#[cfg(test)]
mod tests {
    use dfs_shared::record::NodeKind;

    use super::super::super::node::Ino;
    use super::*;

    #[test]
    fn a_position_that_was_passed_on_is_nobody_elses() {
        let (dir, file, other) = (NodeId::ROOT, NodeId::generate(), NodeId::generate());
        let stored = EntryTarget { node: file, ino: Ino(9), kind: NodeKind::File, cookie: Cookie(20) };
        let mut positions = Positions::default();
        positions.leave(dir, &stored);
        assert_eq!(positions.take(dir, file, None), Some(Cookie(20)), "its new name");
        assert_eq!(positions.take(dir, other, Some(&stored)), None, "what has its old name now");
        positions.leave(dir, &stored);
        assert_eq!(positions.take(dir, file, None), None);
        let mut positions = Positions::default();
        positions.leave(dir, &stored);
        assert_eq!(
            positions.take(dir, other, Some(&stored)),
            Some(Cookie(20)),
            "the name was there all along"
        );
        assert_eq!(positions.take(dir, file, None), None, "the file went elsewhere");
    }
}
