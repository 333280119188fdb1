//! Tells of files that were added, modified and deleted: what a commit's records come to ([`FileChange`] has the table), whoever
//! made it.

use dfs_shared::event::kinds::server::{FileAdded, FileDeleted, FileModified};
use dfs_shared::event::{EventBus, SubscribeError, SubscribeOptions, Subscription};
use dfs_shared::ids::VolumeName;
use dfs_shared::revision::Revision;

use crate::sync::{FileChange, FilesChanged};

/// Turns commits into events about files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes;

/// A change as an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
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
        bus.subscribe(SubscribeOptions::new("changes"), move |event: &FilesChanged| {
            for change in event.changes.iter().cloned() {
                match Change::new(change, event.volume.clone(), event.revision) {
                    Change::Added(event) => out.publish(event),
                    Change::Modified(event) => out.publish(event),
                    Change::Deleted(event) => out.publish(event),
                }
            }
        })
    }
}

impl Change {
    /// Makes the event that tells of a commit's change.
    pub(super) fn new(change: FileChange, volume: VolumeName, revision: Revision) -> Self {
        match change {
            FileChange::Added { node, parent, name } => {
                Self::Added(FileAdded { volume, revision, node, parent, name })
            }
            FileChange::Modified { node, size } => {
                Self::Modified(FileModified { volume, revision, node, size })
            }
            FileChange::Deleted { node, parent, name } => {
                Self::Deleted(FileDeleted { volume, revision, node, parent, name })
            }
        }
    }
}

#[cfg(test)]
mod tests;
