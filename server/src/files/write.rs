//! Changes by path as commits: planned on a snapshot, sent like a mount's, planned anew when others were faster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use dfs_shared::ddl::SyncStatus;
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::manifest::Manifest;
use dfs_shared::name::Name;
use dfs_shared::record::{Change, ChangeGroup, EntryRecord, NodeKind, NodeRecord, Record, RecordKey};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::{self, CommitRequest, GroupOutcome, Refusal, RegisterRequest};

use super::view::{self, Entry, Node, Place, View, server_replica};
use super::{FileInfo, FilePath, FileService, FilesError, MetadataChange, NewContent, OWNER_XATTR, Publish};
use crate::blocking::offload;
use crate::limits::{FILE_OWNER_LEN_MAX, FILE_TRIES_MAX};
use crate::sync::{SyncService, UNNUMBERED};

/// The client in whose name the server commits. Never a mount's, so that every mount is told the records.
pub(super) const COMMITTER: &str = "dfs-server.files";

/// A planned commit.
pub(super) struct Plan {
    /// What must happen.
    changes: Vec<Change>,
    /// The directory's times, a group of their own: files in one directory never wait for one another.
    directory: Option<Change>,
    content: Option<NewContent>,
    /// The file as it will be (or was, if it is removed).
    info: FileInfo,
    is_removal: bool,
}

impl FileService {
    /// Plans and commits until nobody was faster.
    pub(super) async fn change<F>(
        &self,
        volume: &VolumeName,
        path: &FilePath,
        plan: F,
    ) -> Result<FileInfo, FilesError>
    where
        F: Fn(&View<'_>) -> Result<Plan, FilesError> + Send + Sync + 'static,
    {
        let committer = self.join(volume).await?;
        let plan = Arc::new(plan);
        for _ in 0..FILE_TRIES_MAX {
            let (metadata, name, plan) = (Arc::clone(&self.metadata), volume.clone(), Arc::clone(&plan));
            let committer = committer.clone();
            let prepared = offload(move || {
                let plan = view::read(&*metadata, &name, |view| plan(view))?;
                let (request, info) = request(plan, committer);
                Ok::<_, FilesError>((SyncService::prepare(request)?, info))
            });
            let (request, mut planned) = prepared.await?;
            let reply = self.sync.commit(volume, request).await?;
            match reply.outcomes.into_iter().next() {
                Some(GroupOutcome::Accepted) => {
                    if !planned.is_removal {
                        planned.info.revision = reply.revision;
                    }
                    return Ok(planned.info);
                }
                Some(GroupOutcome::Refused { reason, .. }) => retry_or_refuse(reason)?,
                None => unreachable!("a commit has an outcome for each group"),
            }
        }
        Err(FilesError::Contended { path: path.clone(), tries: FILE_TRIES_MAX })
    }

    /// Registers the server itself with a volume, once: the first client also makes the root directory.
    async fn join(&self, volume: &VolumeName) -> Result<ClientId, FilesError> {
        let committer = ClientId::new(COMMITTER).expect("a client id");
        if !self.joined.lock().contains(volume) {
            let request = RegisterRequest {
                client_name: COMMITTER.to_owned(),
                client: Some(committer.clone()),
                uid: rustix::process::getuid().as_raw(),
                gid: rustix::process::getgid().as_raw(),
            };
            self.sync.register(volume, request).await?;
            self.joined.lock().insert(volume.clone());
        }
        Ok(committer)
    }
}

/// What is left of a plan once its request was made.
struct Planned {
    info: FileInfo,
    is_removal: bool,
}

fn request(plan: Plan, client: ClientId) -> (CommitRequest, Planned) {
    let mut groups = vec![ChangeGroup { changes: plan.changes }];
    groups.extend(plan.directory.map(|change| ChangeGroup { changes: vec![change] }));
    let (mut contents, mut small_chunks) = (Vec::new(), Vec::new());
    if let Some(content) = plan.content.filter(|content| !content.manifest.chunks.is_empty()) {
        contents.push(messages::NewContent { manifest: content.manifest, file_hash: content.file_hash });
        small_chunks = content.small_chunks;
    }
    let request = CommitRequest { client, commit: UNNUMBERED, groups, contents, small_chunks };
    (request, Planned { info: plan.info, is_removal: plan.is_removal })
}

/// Tells refusals that a new plan gets around from those that it does not.
fn retry_or_refuse(reason: Refusal) -> Result<(), FilesError> {
    match reason {
        Refusal::BaseChanged { .. } | Refusal::ParentMissing { .. } | Refusal::TargetMissing { .. } => Ok(()),
        Refusal::WrongLinkCount { .. } | Refusal::NotEmpty { .. } | Refusal::Cycle { .. } => Ok(()),
        Refusal::ChunksMissing { hashes } => Err(FilesError::ChunksMissing { count: hashes.len() }),
        Refusal::ContentMissing { .. } => {
            Err(FilesError::Refused { why: "the content is not here: upload it first".to_owned() })
        }
        Refusal::Invalid { why, .. } => Err(FilesError::Refused { why }),
        Refusal::OverQuota { limit, used, growth } => Err(FilesError::OverQuota { limit, used, growth }),
    }
}

/// Plans a file with a new content.
pub(super) fn publish(view: &View<'_>, wanted: &Publish) -> Result<Plan, FilesError> {
    let now = Timestamp::from(SystemTime::now());
    let path = &wanted.path;
    let place = view.locate(path)?;
    let owner = wanted.owner.as_deref().unwrap_or(wanted.author.as_str());
    let edit = |record: &mut NodeRecord| -> Result<(), FilesError> {
        set_content(record, &wanted.content.manifest);
        record.mtime = wanted.mtime.unwrap_or(now);
        record.ctime = now;
        set_owner(record, owner)
    };
    let found = match &place.entry {
        Some(entry) => Some(current_file(view, path, entry)?),
        None => None,
    };
    check_version(path, wanted.expected_version, found.as_ref().map_or(0, |found| found.version))?;
    let mut plan = match (found, &place.entry) {
        (Some(found), Some(entry)) => edited(found, entry.node.revision, edit)?,
        _ => created(path, &place, now, edit)?,
    };
    let (content, info) = (&wanted.content, &mut plan.info);
    info.file_hash = content.file_hash.or_else(|| evident_hash(&content.manifest));
    plan.content = Some(content.clone());
    Ok(plan)
}

/// Plans other metadata of a file that is there; `content` is what `change` names, if the file has another one.
pub(super) fn set_metadata(
    view: &View<'_>,
    path: &FilePath,
    change: &MetadataChange,
    content: Option<&NewContent>,
) -> Result<Plan, FilesError> {
    let now = Timestamp::from(SystemTime::now());
    let place = view.locate(path).map_err(|error| match error {
        FilesError::NotADirectory { path } => FilesError::NotFound { path },
        error => error,
    })?;
    let entry = place.entry.ok_or_else(|| FilesError::NotFound { path: path.clone() })?;
    let found = current_file(view, path, &entry)?;
    check_version(path, change.expected_version, found.version)?;
    let mut plan = edited(found, entry.node.revision, |record| {
        if let Some(content) = content {
            set_content(record, &content.manifest);
            record.mtime = now;
        }
        if let Some(mtime) = change.mtime {
            record.mtime = mtime;
        }
        record.ctime = now;
        change.owner.as_deref().map_or(Ok(()), |owner| set_owner(record, owner))
    })?;
    if let Some(content) = content {
        plan.info.file_hash = content.file_hash;
        plan.content = Some(content.clone());
    }
    Ok(plan)
}

/// Plans the end of a name, and of the file with its last one.
pub(super) fn remove(view: &View<'_>, path: &FilePath) -> Result<Plan, FilesError> {
    let now = Timestamp::from(SystemTime::now());
    let mut info = view.find(path)?;
    let place = view.locate(path)?;
    let entry = place.entry.ok_or_else(|| FilesError::NotFound { path: path.clone() })?;
    let key = entry.record.key();
    let mut changes = vec![Change { key, base: Some(entry.revision), value: None }];
    if view.snapshot.entries_to(view.volume.key, info.node, 2)?.len() == 1 {
        let key = RecordKey::Node(info.node);
        changes.push(Change { key, base: Some(entry.node.revision), value: None });
    }
    info.status = SyncStatus::Deleted;
    info.replicas = Vec::new();
    let directory = Some(touched(&place.directory, now));
    Ok(Plan { changes, directory, content: None, info, is_removal: true })
}

fn current_file(view: &View<'_>, path: &FilePath, entry: &Entry) -> Result<FileInfo, FilesError> {
    if entry.node.record.kind != NodeKind::File {
        return Err(FilesError::NotAFile { path: path.clone() });
    }
    view.current(path.clone(), entry.node.clone())
}

fn check_version(path: &FilePath, expected: Option<u64>, found: u64) -> Result<(), FilesError> {
    match expected {
        Some(expected) if expected != found => {
            Err(FilesError::VersionConflict { path: path.clone(), expected, found })
        }
        Some(_) | None => Ok(()),
    }
}

/// A change of the file that is there.
fn edited(
    mut info: FileInfo,
    base: Revision,
    edit: impl FnOnce(&mut NodeRecord) -> Result<(), FilesError>,
) -> Result<Plan, FilesError> {
    let before = info.record.content;
    edit(&mut info.record)?;
    if info.record.content != before {
        info.version += 1;
        // The first line is the server's own; what mounts hold is as old as it was.
        info.replicas.splice(..1, server_replica(info.version));
    }
    let value = Some(Record::Node(info.record.clone()));
    let change = Change { key: RecordKey::Node(info.node), base: Some(base), value };
    Ok(Plan { changes: vec![change], directory: None, content: None, info, is_removal: false })
}

/// A new file with the directories that are missing above it.
fn created(
    path: &FilePath,
    place: &Place<'_>,
    now: Timestamp,
    edit: impl FnOnce(&mut NodeRecord) -> Result<(), FilesError>,
) -> Result<Plan, FilesError> {
    let above = &place.directory.record;
    let (mut parent, mut changes) = (above.id, Vec::new());
    for name in place.missing {
        let record = new_node(NodeKind::Directory, 0o755, above, now);
        let id = record.id;
        changes.extend(added(parent, name, record));
        parent = id;
    }
    let mut record = new_node(NodeKind::File, 0o644, above, now);
    edit(&mut record)?;
    let (_, name) = path.split_last();
    changes.extend(added(parent, name, record.clone()));
    let info = FileInfo {
        path: path.clone(),
        node: record.id,
        version: 1,
        record,
        revision: Revision::ZERO,
        file_hash: None,
        status: SyncStatus::Synced,
        replicas: server_replica(1),
    };
    let directory = Some(touched(&place.directory, now));
    Ok(Plan { changes, directory, content: None, info, is_removal: false })
}

/// A node and its name.
fn added(parent: NodeId, name: &Name, record: NodeRecord) -> [Change; 2] {
    let entry = EntryRecord { parent, name: name.clone(), node: record.id };
    let new = |record: Record| Change { key: record.key(), base: None, value: Some(record) };
    [new(Record::Node(record)), new(Record::Entry(entry))]
}

/// A fresh node that belongs to whom the directory above it belongs to.
fn new_node(kind: NodeKind, mode: u32, above: &NodeRecord, now: Timestamp) -> NodeRecord {
    NodeRecord {
        id: NodeId::generate(),
        kind,
        mode,
        uid: above.uid,
        gid: above.gid,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        size: 0,
        content: None,
        rdev: 0,
        target: Vec::new(),
        xattrs: BTreeMap::new(),
    }
}

/// A directory in which a name came or went.
fn touched(directory: &Node, now: Timestamp) -> Change {
    let record = NodeRecord { mtime: now, ctime: now, ..directory.record.clone() };
    Change {
        key: RecordKey::Node(record.id),
        base: Some(directory.revision),
        value: Some(Record::Node(record)),
    }
}

fn set_content(record: &mut NodeRecord, manifest: &Manifest) {
    record.size = manifest.size();
    record.content = (!manifest.chunks.is_empty()).then(|| manifest.id());
}

fn set_owner(record: &mut NodeRecord, owner: &str) -> Result<(), FilesError> {
    if owner.len() > FILE_OWNER_LEN_MAX {
        return Err(FilesError::Refused { why: format!("an owner has at most {FILE_OWNER_LEN_MAX} bytes") });
    }
    record.xattrs.insert(OWNER_XATTR.to_vec(), owner.as_bytes().to_vec());
    Ok(())
}

/// The hash that shows without reading: of no bytes, and of a single chunk.
fn evident_hash(manifest: &Manifest) -> Option<ChunkHash> {
    match manifest.chunks[..] {
        [] => Some(ChunkHash::of(b"")),
        [chunk] if !chunk.hash.is_hole() => Some(chunk.hash),
        _ => None,
    }
}
