//! What one node and one entry come to in the tables.

use std::collections::BTreeMap;

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;

use super::super::keys;
use super::super::node::{EntryTarget, LocalEntry, LocalNode, SyncState};
use super::super::store::{Space, Write};
use super::{Slot, entry_nodes};

/// Adds the rows of one node.
pub(super) fn write_node(writes: &mut Vec<Write>, id: NodeId, mut slot: Slot<LocalNode>) {
    if let Some(node) = &mut slot.now {
        if let SyncState::Changed { revision, base } = &node.sync
            && node.dirty_content.is_none()
            && node.record.as_ref() == Some(base)
        {
            node.sync = SyncState::Clean(*revision);
        }
        if node.record.is_none() && node.sync == SyncState::New {
            slot.now = None;
        }
    }
    if slot.now == slot.before {
        return;
    }
    writes.push(Write::maybe(Space::Nodes, id.as_bytes(), slot.now.as_ref()));
    let ino = |node: &Option<LocalNode>| node.as_ref().map(|node| node.ino);
    if ino(&slot.before) != ino(&slot.now) {
        if let Some(ino) = ino(&slot.before) {
            writes.push(Write::remove(Space::Inodes, &keys::inode(ino)));
        }
        if let Some(ino) = ino(&slot.now) {
            writes.push(Write::raw(Space::Inodes, &keys::inode(ino), Some(id.as_bytes().to_vec())));
        }
    }
    if slot.now.as_ref().is_none_or(|node| node.record.is_none()) {
        writes.push(Write::remove(Space::Opens, id.as_bytes()));
        writes.push(Write::remove(Space::Manifests, id.as_bytes()));
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
