//! Tells of files that were added, modified and deleted: what a commit's records come to, whoever made it.
//!
//! | record | before | after | event |
//! |---|---|---|---|
//! | entry | nothing | a node | `FileAdded` |
//! | entry | a node | nothing | `FileDeleted` |
//! | entry | a node | another one | `FileModified` of the node that has the name now |
//! | node, no directory | some state | another state | `FileModified` |
//! | directory | some state | other owner, mode or attributes | `FileModified`; its times alone say nothing new |
//!
//! A rename is a `FileDeleted` and a `FileAdded` of one node in one revision. A file that is new in the commit is added, not modified.

use dfs_shared::event::kinds::server::{Committed, FileAdded, FileDeleted, FileModified};
use dfs_shared::event::{EventBus, SubscribeError, SubscribeOptions, Subscription};
use dfs_shared::record::{NodeKind, NodeRecord, Record, RecordKey, Versioned};

/// Turns commits into events about files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes;

/// What a record's change comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Added(FileAdded),
    Modified(FileModified),
    Deleted(FileDeleted),
}

impl Changes {
    /// Joins the bus until the returned subscription is dropped. Runs on the publisher's thread, after the notifier, so that the
    /// events come in the order of the commits.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn join(self, bus: &EventBus) -> Result<Subscription, SubscribeError> {
        let out = bus.clone();
        bus.subscribe(SubscribeOptions::new("changes"), move |event: &Committed| {
            for change in changes(event) {
                match change {
                    Change::Added(event) => out.publish(event),
                    Change::Modified(event) => out.publish(event),
                    Change::Deleted(event) => out.publish(event),
                }
            }
        })
    }
}

fn changes(event: &Committed) -> impl Iterator<Item = Change> + '_ {
    let records = event.commit.records.iter().zip(event.before.iter());
    records.filter_map(move |(current, before)| {
        change(event, &current.key, before.as_ref(), current.value.as_ref())
    })
}

fn change(
    event: &Committed,
    key: &RecordKey,
    before: Option<&Versioned>,
    after: Option<&Versioned>,
) -> Option<Change> {
    let (volume, revision) = (event.volume.clone(), event.commit.revision);
    match (key, before.map(|before| &before.record), after.map(|after| &after.record)) {
        (RecordKey::Entry { parent, name }, None, Some(Record::Entry(entry))) => {
            let (node, parent, name) = (entry.node, *parent, name.clone());
            Some(Change::Added(FileAdded { volume, revision, node, parent, name }))
        }
        (RecordKey::Entry { parent, name }, Some(Record::Entry(entry)), None) => {
            let (node, parent, name) = (entry.node, *parent, name.clone());
            Some(Change::Deleted(FileDeleted { volume, revision, node, parent, name }))
        }
        (RecordKey::Entry { .. }, Some(Record::Entry(old)), Some(Record::Entry(new))) => {
            let size = size_in(event, new.node);
            (old.node != new.node).then_some(Change::Modified(FileModified {
                volume,
                revision,
                node: new.node,
                size,
            }))
        }
        (RecordKey::Node(node), Some(Record::Node(old)), Some(Record::Node(new))) => {
            let (node, size) = (*node, new.size);
            is_modified(old, new).then_some(Change::Modified(FileModified { volume, revision, node, size }))
        }
        _ => None,
    }
}

/// The size that a node has in this commit; 0 where the commit does not change the node.
fn size_in(event: &Committed, node: dfs_shared::ids::NodeId) -> u64 {
    let found = event.commit.records.iter().find(|record| record.key == RecordKey::Node(node));
    match found.and_then(|record| record.value.as_ref()).map(|value| &value.record) {
        Some(Record::Node(node)) => node.size,
        Some(Record::Entry(_)) | None => 0,
    }
}

fn is_modified(old: &NodeRecord, new: &NodeRecord) -> bool {
    if new.kind != NodeKind::Directory {
        return old != new;
    }
    (old.mode, old.uid, old.gid) != (new.mode, new.uid, new.gid) || old.xattrs != new.xattrs
}

#[cfg(test)]
mod tests;
