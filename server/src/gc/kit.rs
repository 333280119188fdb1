//! What the tests of upkeep share: files by path over real stores.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_shared::event::EventBus;
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{ClientId, VolumeName};
use dfs_shared::manifest::{ChunkRef, Manifest};

use super::{Collected, Collector, Retention};
use crate::blocking::block_on;
use crate::chunk_store::DiskStore;
use crate::files::{FileInfo, FilePath, FileService, FilesError, NewContent, Publish};
use crate::metadata::MetadataStore;
use crate::metadata::sqlite::SqliteStore;
use crate::sync::{FoundChunk, SyncService};

/// Forgets everything that is not current at once.
pub(crate) const NOTHING: Retention = Retention { keep: Some(Duration::ZERO), versions: None };
/// Keeps everything.
pub(crate) const ALL: Retention = Retention { keep: None, versions: None };

/// Services on a data directory.
pub(crate) struct Kit {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) metadata: Arc<dyn MetadataStore>,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) chunks: Arc<DiskStore>,
    pub(crate) sync: Arc<SyncService>,
    pub(crate) files: Arc<FileService>,
}

pub(crate) fn main_volume() -> VolumeName {
    VolumeName::new("main").unwrap()
}

pub(crate) fn path(text: &str) -> FilePath {
    FilePath::from_bytes(text.as_bytes()).unwrap()
}

/// Bytes that no other seed has, more than are kept in the database.
pub(crate) fn large(seed: u64) -> Vec<u8> {
    format!("{seed:016x}").repeat(2000).into_bytes()
}

pub(crate) fn manifest(bytes: &[u8]) -> Manifest {
    let chunk = ChunkRef { hash: ChunkHash::of(bytes), len: bytes.len() as u64 };
    Manifest { chunk_log2: 14, chunks: vec![chunk] }
}

impl Kit {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::open(dir)
    }

    pub(crate) fn open(dir: tempfile::TempDir) -> Self {
        let store = Arc::new(SqliteStore::open(dir.path()).unwrap());
        let metadata: Arc<dyn MetadataStore> = Arc::clone(&store) as _;
        let chunks = Arc::new(DiskStore::open(&dir.path().join("chunks")).unwrap());
        let sync = SyncService::new(Arc::clone(&metadata), Arc::clone(&chunks) as _, EventBus::new());
        let sync = Arc::new(sync);
        block_on(sync.ensure_volume(&main_volume())).unwrap();
        let files = Arc::new(FileService::new(Arc::clone(&sync), Arc::clone(&metadata)));
        Self { dir, metadata, store, chunks, sync, files }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn collector(&self, retention: Retention) -> Collector {
        let (metadata, chunks) = (Arc::clone(&self.metadata), Arc::clone(&self.chunks) as _);
        let mut collector =
            Collector::new(metadata, chunks, Arc::clone(self.sync.claims()), self.data_dir(), retention);
        // Several parts also for a few chunks.
        collector.references_max = 2;
        collector
    }

    pub(crate) fn collect(&self, retention: Retention) -> Collected {
        self.collector(retention).run(Duration::ZERO, &mut |_, _| {}).unwrap()
    }

    /// Brings a chunk as a mount does.
    pub(crate) fn upload(&self, bytes: &[u8]) {
        let mut batch = self.sync.upload();
        block_on(batch.put(ChunkHash::of(bytes), Bytes::copy_from_slice(bytes))).unwrap();
        block_on(batch.finish()).unwrap();
    }

    /// Makes a file or replaces its content; the chunk must be here.
    pub(crate) fn publish(&self, name: &str, bytes: &[u8]) -> Result<FileInfo, FilesError> {
        let content = NewContent { manifest: manifest(bytes), file_hash: None, small_chunks: Vec::new() };
        self.publish_content(name, content)
    }

    pub(crate) fn publish_content(&self, name: &str, content: NewContent) -> Result<FileInfo, FilesError> {
        block_on(self.files.publish(
            &main_volume(),
            Publish {
                path: path(name),
                content,
                mtime: None,
                owner: None,
                author: ClientId::new("author").unwrap(),
                expected_version: None,
            },
        ))
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> FileInfo {
        loop {
            self.upload(bytes);
            match self.publish(name, bytes) {
                // Collected before the commit: a mount sends it again.
                Err(FilesError::ChunksMissing { .. }) => {}
                published => return published.unwrap(),
            }
        }
    }

    pub(crate) fn remove(&self, name: &str) {
        block_on(self.files.remove(&main_volume(), &path(name))).unwrap();
    }

    pub(crate) fn has(&self, bytes: &[u8]) -> bool {
        matches!(self.sync.chunk(ChunkHash::of(bytes)).unwrap(), FoundChunk::Bytes(found) if found == bytes)
    }

    pub(crate) fn chunk_file(&self, bytes: &[u8]) -> std::path::PathBuf {
        self.chunks.path(ChunkHash::of(bytes))
    }
}
