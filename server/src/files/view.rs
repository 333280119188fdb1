//! One consistent snapshot of a volume, by path: what stands where, and which versions it had.

use dfs_shared::ddl::{Replica, SyncStatus};
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::name::Name;
use dfs_shared::record::{EntryRecord, NodeKind, NodeRecord, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;

use super::{FileInfo, FilePath, FilesError};
use crate::limits::{FILE_REPLICAS_SHOWN_MAX, FILE_VERSIONS_MAX};
use crate::metadata::{HeldVersion, MetadataStore, ReadMetadata, Volume};
use crate::sync::{SyncError, shown_version};

/// The name under which the server itself stands among the replicas.
const SERVER: &str = "server";

/// A volume inside a snapshot.
pub(super) struct View<'a> {
    pub(super) snapshot: &'a dyn ReadMetadata,
    pub(super) volume: &'a Volume,
}

/// Reads a volume in one consistent snapshot. Blocks.
pub(super) fn read<T>(
    metadata: &dyn MetadataStore,
    name: &VolumeName,
    mut work: impl FnMut(&View<'_>) -> Result<T, FilesError>,
) -> Result<T, FilesError> {
    metadata.read(|snapshot| match snapshot.volume(name)? {
        Some(volume) => Ok(work(&View { snapshot, volume: &volume })),
        None => Ok(Err(SyncError::VolumeNotFound { name: name.clone() }.into())),
    })?
}

/// What stands at a path, as far as it exists.
pub(super) struct Place<'p> {
    /// The deepest directory of the path that exists.
    pub(super) directory: Node,
    /// Names of directories below it that do not exist.
    pub(super) missing: &'p [Name],
    /// The path's last entry, if there is one.
    pub(super) entry: Option<Entry>,
}

/// A node's record and the commit that made it.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) revision: Revision,
    pub(super) record: NodeRecord,
}

/// An entry, the commit that made it, and what it leads to.
pub(super) struct Entry {
    pub(super) revision: Revision,
    pub(super) record: EntryRecord,
    pub(super) node: Node,
}

impl View<'_> {
    /// Finds the file at a path.
    pub(super) fn find(&self, path: &FilePath) -> Result<FileInfo, FilesError> {
        let not_found = || FilesError::NotFound { path: path.clone() };
        let place = match self.locate(path) {
            Err(FilesError::NotADirectory { .. }) => return Err(not_found()),
            place => place?,
        };
        let entry = place.entry.ok_or_else(not_found)?;
        if entry.node.record.kind != NodeKind::File {
            return Err(FilesError::NotAFile { path: path.clone() });
        }
        self.current(path.clone(), entry.node)
    }

    /// Goes along a path as far as it exists.
    pub(super) fn locate<'p>(&self, path: &'p FilePath) -> Result<Place<'p>, FilesError> {
        let (directories, name) = path.split_last();
        let root = self.node(NodeId::ROOT)?;
        let mut directory = root.ok_or_else(|| FilesError::NotFound { path: path.clone() })?;
        for (at, name) in directories.iter().enumerate() {
            match self.entry(directory.record.id, name)? {
                None => return Ok(Place { directory, missing: &directories[at..], entry: None }),
                Some(entry) if entry.node.record.kind == NodeKind::Directory => directory = entry.node,
                Some(_) => return Err(FilesError::NotADirectory { path: path.clone() }),
            }
        }
        let entry = self.entry(directory.record.id, name)?;
        Ok(Place { directory, missing: &[], entry })
    }

    /// Finds a directory by its names from the root.
    pub(super) fn directory(&self, names: &[Name]) -> Result<Option<NodeId>, FilesError> {
        let mut at = NodeId::ROOT;
        for name in names {
            match self.entry(at, name)? {
                Some(entry) if entry.node.record.kind == NodeKind::Directory => at = entry.node.record.id,
                Some(_) | None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    pub(super) fn node(&self, id: NodeId) -> Result<Option<Node>, FilesError> {
        match self.snapshot.record(self.volume.key, &RecordKey::Node(id))? {
            Some(Versioned { revision, record: Record::Node(record) }) => Ok(Some(Node { revision, record })),
            Some(Versioned { record: Record::Entry(_), .. }) | None => Ok(None),
        }
    }

    fn entry(&self, parent: NodeId, name: &Name) -> Result<Option<Entry>, FilesError> {
        let key = RecordKey::Entry { parent, name: name.clone() };
        match self.snapshot.record(self.volume.key, &key)? {
            Some(found) => self.follow(found),
            None => Ok(None),
        }
    }

    /// Reads what an entry leads to.
    pub(super) fn follow(&self, found: Versioned) -> Result<Option<Entry>, FilesError> {
        let Versioned { revision, record: Record::Entry(record) } = found else { return Ok(None) };
        let node = self.node(record.node)?;
        Ok(node.map(|node| Entry { revision, record, node }))
    }

    /// Describes the current version of a file.
    pub(super) fn current(&self, path: FilePath, node: Node) -> Result<FileInfo, FilesError> {
        let version = self.snapshot.past_versions(self.volume.key, node.record.id)? + 1;
        let current = (node.record.content, version);
        let mut info = self.describe(path, version, node, SyncStatus::Synced)?;
        info.replicas = server_replica(version);
        info.replicas.extend(self.mounts(info.node, Some(current))?);
        Ok(info)
    }

    /// Reads which version of a file each mount holds, as it said last.
    fn mounts(
        &self,
        node: NodeId,
        current: Option<(Option<ContentId>, u64)>,
    ) -> Result<Vec<Replica>, FilesError> {
        let held = self.snapshot.replicas(self.volume.key, node, FILE_REPLICAS_SHOWN_MAX)?;
        let replica = |(client, held): (ClientId, HeldVersion)| Replica {
            node: client.into(),
            version: shown_version(&held, current),
        };
        Ok(held.into_iter().map(replica).collect())
    }

    /// Shows with each version those who hold that one.
    fn name_holders(
        &self,
        versions: &mut [FileInfo],
        node: NodeId,
        current: Option<(Option<ContentId>, u64)>,
    ) -> Result<(), FilesError> {
        let mounts = self.mounts(node, current)?;
        for info in versions {
            info.replicas.retain(|replica| replica.node == SERVER);
            info.replicas.extend(mounts.iter().filter(|replica| replica.version == info.version).cloned());
        }
        Ok(())
    }

    fn describe(
        &self,
        path: FilePath,
        version: u64,
        Node { revision, record }: Node,
        status: SyncStatus,
    ) -> Result<FileInfo, FilesError> {
        let file_hash = self.known_hash(record.content.as_ref())?;
        Ok(FileInfo {
            path,
            node: record.id,
            version,
            record,
            revision,
            file_hash,
            status,
            replicas: Vec::new(),
        })
    }

    fn known_hash(&self, content: Option<&ContentId>) -> Result<Option<ChunkHash>, FilesError> {
        match content {
            Some(id) => Ok(self.snapshot.file_hash(id)?),
            None => Ok(Some(ChunkHash::of(b""))),
        }
    }

    /// Reads the kept versions of the file that is, or last was, at a path, newest first.
    pub(super) fn history(&self, path: &FilePath) -> Result<Vec<FileInfo>, FilesError> {
        match self.find(path) {
            Ok(current) => {
                let (node, now) = (current.node, Some((current.content(), current.version)));
                let mut versions = self.past(path, current.node, current.version - 1, None)?;
                versions.insert(0, current);
                versions.truncate(FILE_VERSIONS_MAX);
                self.name_holders(&mut versions, node, now)?;
                Ok(versions)
            }
            Err(FilesError::NotFound { .. }) => self.removed(path),
            Err(error) => Err(error),
        }
    }

    /// Reads the versions that the file last removed from a path had there.
    fn removed(&self, path: &FilePath) -> Result<Vec<FileInfo>, FilesError> {
        let not_found = || FilesError::NotFound { path: path.clone() };
        let (directories, name) = path.split_last();
        let mut directory = NodeId::ROOT;
        for name in directories {
            let key = RecordKey::Entry { parent: directory, name: name.clone() };
            directory = match self.snapshot.record(self.volume.key, &key)? {
                Some(Versioned { record: Record::Entry(entry), .. }) => entry.node,
                Some(_) | None => {
                    self.snapshot.removed_entry(self.volume.key, &key)?.ok_or_else(not_found)?.node
                }
            };
        }
        let key = RecordKey::Entry { parent: directory, name: name.clone() };
        let removed = self.snapshot.removed_entry(self.volume.key, &key)?.ok_or_else(not_found)?;
        let count = self.snapshot.past_versions(self.volume.key, removed.node)?;
        let mut versions = self.past(path, removed.node, count, Some(removed.ended))?;
        // It may live on under another name; what it was when this one was taken away is its last version here.
        if let Some(node) = self.node(removed.node)?
            && node.revision < removed.ended
            && node.record.kind == NodeKind::File
        {
            versions.insert(0, self.describe(path.clone(), count + 1, node, SyncStatus::Synced)?);
            versions.truncate(FILE_VERSIONS_MAX);
        }
        let current = self.node(removed.node)?.map(|node| (node.record.content, count + 1));
        self.name_holders(&mut versions, removed.node, current)?;
        let newest = versions.first_mut().ok_or_else(not_found)?;
        newest.status = SyncStatus::Deleted;
        Ok(versions)
    }

    /// Reads past versions of a node, the newest of which is number `newest`; only those that began before a commit.
    fn past(
        &self,
        path: &FilePath,
        node: NodeId,
        newest: u64,
        before: Option<Revision>,
    ) -> Result<Vec<FileInfo>, FilesError> {
        let mut versions = Vec::new();
        let mut number = newest;
        for past in self.snapshot.history(self.volume.key, node, FILE_VERSIONS_MAX)? {
            let Record::Node(record) = past.record else { continue };
            let version = number;
            number = number.saturating_sub(1);
            if record.kind != NodeKind::File || before.is_some_and(|before| past.began >= before) {
                continue;
            }
            let node = Node { revision: past.began, record };
            versions.push(self.describe(path.clone(), version, node, SyncStatus::Synced)?);
        }
        Ok(versions)
    }
}

/// The server's own line among the replicas: it has the current version of everything that was committed.
pub(super) fn server_replica(version: u64) -> Vec<Replica> {
    vec![Replica { node: SERVER.to_owned(), version }]
}
