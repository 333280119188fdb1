//! Finds the path of a node for an event: names from the root, as the store has them now, or had them when they were removed.

use std::collections::HashMap;

use dfs_shared::ids::{NodeId, VolumeName};
use dfs_shared::record::{NodeKind, Record, RecordKey};
use dfs_shared::revision::Revision;

use crate::metadata::{MetadataError, MetadataStore, ReadMetadata, VolumeKey};

/// Deepest directory whose path is told: a path is no longer than Linux's `PATH_MAX`.
const DEPTH_MAX: usize = 2048;

/// Past records of a removed node among which its last name is looked for: the newest, and the node's own.
const PAST_MAX: usize = 8;

/// Stands for what happened in no commit: what was found for one such event does not count for the next.
pub(super) const NO_REVISION: Revision = Revision(u64::MAX);

/// Directories whose paths were found for events of one revision: a commit's files often are in few of them.
#[derive(Debug, Default)]
pub(super) struct Places {
    revision: Option<(VolumeName, Revision)>,
    directories: HashMap<NodeId, Option<Vec<u8>>>,
}

impl Places {
    /// Finds the path of a name in a directory; `None` if the directory is gone.
    pub(super) fn name_in(
        &mut self,
        store: &dyn MetadataStore,
        at: (&VolumeName, Revision),
        parent: NodeId,
        name: &[u8],
    ) -> Result<Option<Vec<u8>>, MetadataError> {
        let is_same = self.revision.as_ref().is_some_and(|(volume, revision)| (volume, *revision) == at);
        if !is_same || at.1 == NO_REVISION {
            self.directories.clear();
            self.revision = Some((at.0.clone(), at.1));
        }
        let directory = match self.directories.get(&parent) {
            Some(found) => found.clone(),
            None => {
                let found = read(store, at.0, |snapshot, volume| directory(snapshot, volume, parent))?;
                self.directories.insert(parent, found.clone());
                found
            }
        };
        Ok(directory.map(|path| join(path, name)))
    }

    /// Finds the first path that a node has at this moment; `None` if it has none.
    pub(super) fn node_now(
        &mut self,
        store: &dyn MetadataStore,
        volume: &VolumeName,
        node: NodeId,
    ) -> Result<Option<Vec<u8>>, MetadataError> {
        self.node(store, (volume, NO_REVISION), node)
    }

    /// Finds the first path of a node; `None` if it has none.
    pub(super) fn node(
        &mut self,
        store: &dyn MetadataStore,
        at: (&VolumeName, Revision),
        node: NodeId,
    ) -> Result<Option<Vec<u8>>, MetadataError> {
        let entry = read(store, at.0, |snapshot, volume| entry_to(snapshot, volume, node))?;
        match entry {
            Some((parent, name)) => self.name_in(store, at, parent, &name),
            None => Ok(None),
        }
    }
}

/// Tells what kind of node it is, in the words of the API; `None` if it is gone.
pub(super) fn kind(
    store: &dyn MetadataStore,
    volume: &VolumeName,
    node: NodeId,
) -> Result<Option<&'static str>, MetadataError> {
    read(store, volume, |snapshot, volume| {
        let found = snapshot.record(volume, &RecordKey::Node(node))?;
        Ok(match found.map(|found| found.record) {
            Some(Record::Node(node)) => Some(match node.kind {
                NodeKind::File => "file",
                NodeKind::Directory => "directory",
                NodeKind::Symlink => "symlink",
                NodeKind::Fifo => "fifo",
                NodeKind::Socket => "socket",
                NodeKind::CharDevice => "char_device",
                NodeKind::BlockDevice => "block_device",
            }),
            Some(Record::Entry(_)) | None => None,
        })
    })
}

fn read<T>(
    store: &dyn MetadataStore,
    volume: &VolumeName,
    work: impl Fn(&dyn ReadMetadata, VolumeKey) -> Result<Option<T>, MetadataError>,
) -> Result<Option<T>, MetadataError> {
    store.read(|snapshot| match snapshot.volume(volume)? {
        Some(volume) => work(snapshot, volume.key),
        None => Ok(None),
    })
}

fn directory(
    snapshot: &dyn ReadMetadata,
    volume: VolumeKey,
    mut node: NodeId,
) -> Result<Option<Vec<u8>>, MetadataError> {
    let mut names = Vec::new();
    while node != NodeId::ROOT {
        let Some((parent, name)) = entry_to(snapshot, volume, node)? else { return Ok(None) };
        if names.len() == DEPTH_MAX {
            return Ok(None);
        }
        names.push(name);
        node = parent;
    }
    names.reverse();
    Ok(Some(names.join(&b'/')))
}

fn entry_to(
    snapshot: &dyn ReadMetadata,
    volume: VolumeKey,
    node: NodeId,
) -> Result<Option<(NodeId, Vec<u8>)>, MetadataError> {
    let place = |record: &Record| match record {
        Record::Entry(entry) => Some((entry.parent, entry.name.as_bytes().to_vec())),
        Record::Node(_) => None,
    };
    if let Some(found) = snapshot.entries_to(volume, node, 1)?.pop() {
        return Ok(place(&found.record));
    }
    // It is gone: where it was last.
    let past = snapshot.history(volume, node, PAST_MAX)?;
    Ok(past.iter().find_map(|past| place(&past.record)))
}

fn join(mut directory: Vec<u8>, name: &[u8]) -> Vec<u8> {
    if !directory.is_empty() {
        directory.push(b'/');
    }
    directory.extend_from_slice(name);
    directory
}
