//! What the tests of this module share: a service on real stores, and short ways to write changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use dfs_shared::event::EventBus;
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::manifest::{ChunkRef, Manifest};
use dfs_shared::name::Name;
use dfs_shared::record::{Change, ChangeGroup, EntryRecord, NodeKind, NodeRecord, Record, RecordKey};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::{
    CommitReply, CommitRequest, CurrentRecord, GroupOutcome, NewContent, RecordsRequest, Refusal,
    RegisterRequest, SmallChunk,
};

use super::{SyncError, SyncService};
use crate::blocking::block_on;
use crate::chunk_store::{ChunkStore, DiskStore};
use crate::metadata::MetadataStore;
use crate::metadata::sqlite::SqliteStore;

/// A service on stores in a temporary directory, with a registered client.
pub(super) struct Kit {
    pub(super) dir: tempfile::TempDir,
    pub(super) metadata: Arc<dyn MetadataStore>,
    pub(super) bus: EventBus,
    pub(super) service: SyncService,
    pub(super) client: ClientId,
    number: std::cell::Cell<u64>,
}

pub(super) fn main_volume() -> VolumeName {
    VolumeName::new("main").unwrap()
}

pub(super) fn open(path: &std::path::Path, bus: &EventBus) -> (Arc<dyn MetadataStore>, SyncService) {
    let metadata: Arc<dyn MetadataStore> = Arc::new(SqliteStore::open(path).unwrap());
    let chunks: Arc<dyn ChunkStore> = Arc::new(DiskStore::open(&path.join("chunks")).unwrap());
    let service = SyncService::new(Arc::clone(&metadata), chunks, bus.clone());
    block_on(service.ensure_volume(&main_volume())).unwrap();
    (metadata, service)
}

impl Kit {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bus = EventBus::new();
        let (metadata, service) = open(dir.path(), &bus);
        let request = RegisterRequest { client_name: "test".to_owned(), client: None, uid: 1, gid: 2 };
        let client = block_on(service.register(&main_volume(), request)).unwrap().client;
        Self { dir, metadata, bus, service, client, number: 0.into() }
    }

    pub(super) fn request(&self, groups: Vec<ChangeGroup>, contents: &[&[u8]]) -> CommitRequest {
        self.number.set(self.number.get() + 1);
        CommitRequest {
            client: self.client.clone(),
            commit: self.number.get(),
            groups,
            contents: contents
                .iter()
                .map(|bytes| NewContent { manifest: manifest(bytes), file_hash: None })
                .collect(),
            small_chunks: contents
                .iter()
                .map(|bytes| SmallChunk { hash: ChunkHash::of(bytes), bytes: bytes.to_vec() })
                .collect(),
        }
    }

    pub(super) fn send(&self, request: CommitRequest) -> Result<CommitReply, SyncError> {
        block_on(self.service.commit(&main_volume(), SyncService::prepare(request)?))
    }

    pub(super) fn commit(&self, groups: Vec<ChangeGroup>) -> CommitReply {
        self.send(self.request(groups, &[])).unwrap()
    }

    /// Commits one group that must be accepted; returns its revision.
    pub(super) fn accept(&self, changes: Vec<Change>) -> Revision {
        self.accept_with(changes, &[])
    }

    pub(super) fn accept_with(&self, changes: Vec<Change>, contents: &[&[u8]]) -> Revision {
        let reply = self.send(self.request(vec![ChangeGroup { changes }], contents)).unwrap();
        assert_eq!(reply.outcomes, [GroupOutcome::Accepted]);
        reply.revision
    }

    /// Commits one group that must be refused and leave everything as it was.
    pub(super) fn refuse(&self, changes: Vec<Change>) -> (Refusal, Vec<CurrentRecord>) {
        self.refuse_with(changes, &[])
    }

    pub(super) fn refuse_with(
        &self,
        changes: Vec<Change>,
        contents: &[&[u8]],
    ) -> (Refusal, Vec<CurrentRecord>) {
        let before = self.service.info(&main_volume()).unwrap();
        let keys: Vec<_> = changes.iter().map(|change| change.key.clone()).collect();
        let records = self.records(keys.clone());
        let reply = self.send(self.request(vec![ChangeGroup { changes }], contents)).unwrap();
        assert_eq!(self.service.info(&main_volume()).unwrap(), before, "a refused group left a trace");
        assert_eq!(self.records(keys), records, "a refused group changed a record");
        assert_eq!((reply.revision, reply.root), (before.volume.revision, before.volume.root));
        match reply.outcomes.into_iter().next() {
            Some(GroupOutcome::Refused { reason, current }) => {
                for record in &records {
                    assert!(current.contains(record), "{record:?} is not reported");
                }
                (reason, current)
            }
            other => panic!("{other:?} instead of a refusal"),
        }
    }

    pub(super) fn records(&self, keys: Vec<RecordKey>) -> Vec<CurrentRecord> {
        self.service.records(&main_volume(), &RecordsRequest { keys }).unwrap().records
    }

    /// Makes a directory with a name in the root; returns it and its revision.
    pub(super) fn directory(&self, name: &str) -> (NodeId, Revision) {
        let id = NodeId::generate();
        (
            id,
            self.accept(vec![
                put(None, node(id, NodeKind::Directory)),
                put(None, entry(NodeId::ROOT, name, id)),
            ]),
        )
    }

    /// Makes an empty file with a name in a directory; returns it and its revision.
    pub(super) fn file(&self, parent: NodeId, name: &str) -> (NodeId, Revision) {
        let id = NodeId::generate();
        (id, self.accept(vec![put(None, node(id, NodeKind::File)), put(None, entry(parent, name, id))]))
    }
}

pub(super) fn node(id: NodeId, kind: NodeKind) -> Record {
    let zero = Timestamp::default();
    Record::Node(NodeRecord {
        id,
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
        crtime: zero,
        size: 0,
        content: None,
        rdev: 0,
        target: Vec::new(),
        xattrs: BTreeMap::new(),
    })
}

/// A node after a change.
pub(super) fn with(id: NodeId, kind: NodeKind, edit: impl FnOnce(&mut NodeRecord)) -> Record {
    let mut record = node(id, kind);
    if let Record::Node(node) = &mut record {
        edit(node);
    }
    record
}

/// A file whose content is one chunk.
pub(super) fn filled(id: NodeId, bytes: &[u8]) -> Record {
    with(id, NodeKind::File, |node| {
        node.size = bytes.len() as u64;
        node.content = Some(content_id(bytes));
    })
}

pub(super) fn manifest(bytes: &[u8]) -> Manifest {
    let chunk = ChunkRef { hash: ChunkHash::of(bytes), len: bytes.len() as u64 };
    Manifest { chunk_log2: 14, chunks: vec![chunk] }
}

pub(super) fn content_id(bytes: &[u8]) -> ContentId {
    manifest(bytes).id()
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

pub(super) fn entry(parent: NodeId, text: &str, node: NodeId) -> Record {
    Record::Entry(EntryRecord { parent, name: name(text), node })
}

pub(super) fn node_key(id: NodeId) -> RecordKey {
    RecordKey::Node(id)
}

pub(super) fn entry_key(parent: NodeId, text: &str) -> RecordKey {
    RecordKey::Entry { parent, name: name(text) }
}

pub(super) fn put(base: Option<Revision>, record: Record) -> Change {
    Change { key: record.key(), base, value: Some(record) }
}

pub(super) fn remove(base: Revision, key: RecordKey) -> Change {
    Change { key, base: Some(base), value: None }
}
