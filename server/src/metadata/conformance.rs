//! What every metadata store promises, tested on each of them by the same code.
//!
//! Owns what these tests share; the tests are in the modules below. Invariant: a test knows nothing of the store but
//! the traits.

use std::sync::{Arc, Mutex, mpsc};

use dfs_shared::ids::{NodeId, VolumeId, VolumeName};
use dfs_shared::name::Name;
use dfs_shared::record::{EntryRecord, NodeKind, NodeRecord, Record};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;

use super::memory::MemoryStore;
use super::sqlite::SqliteStore;
use super::{MetadataError, MetadataStore, VolumeKey, WriteJob, WriteMetadata};

mod files;
mod jobs;
mod model;
mod records;
mod replicas;
pub(super) mod sessions;
mod upkeep;

/// A store and what has to be removed after it.
struct Opened {
    store: Option<Box<dyn MetadataStore>>,
    _dir: Option<tempfile::TempDir>,
}

impl Opened {
    fn memory() -> Self {
        Self { store: Some(Box::new(MemoryStore::new())), _dir: None }
    }

    fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: Some(Box::new(SqliteStore::open(dir.path()).unwrap())), _dir: Some(dir) }
    }

    fn store(&self) -> &dyn MetadataStore {
        self.store.as_deref().unwrap()
    }

    fn close(&mut self) {
        self.store = None;
    }
}

/// Runs each of these tests on every store.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $test() { super::$test(crate::metadata::conformance::Opened::memory()) })*
        }
        mod sqlite {
            $(#[test] fn $test() { super::$test(crate::metadata::conformance::Opened::sqlite()) })*
        }
    };
}
use on_every_store;

pub(super) fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

pub(super) fn names(store: &dyn MetadataStore) -> Vec<String> {
    let volumes = store.read(|snapshot| snapshot.volumes()).unwrap();
    volumes.into_iter().map(|volume| volume.name.to_string()).collect()
}

fn write<T: Send + 'static>(
    store: &dyn MetadataStore,
    work: impl FnMut(&mut dyn WriteMetadata) -> Result<T, MetadataError> + Send + 'static,
) -> T {
    store.write(1, work).wait().unwrap()
}

fn volume(store: &dyn MetadataStore, text: &'static str) -> VolumeKey {
    write(store, move |tx| tx.create_volume(&name(text), VolumeId::from_bytes([7; 16]))).key
}

fn node_id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn at(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 123_456_000 }
}

pub(super) fn node(number: u8, size: u64) -> Record {
    Record::Node(NodeRecord {
        id: node_id(number),
        kind: NodeKind::File,
        mode: 0o644,
        uid: 1,
        gid: 2,
        atime: at(1),
        mtime: at(2),
        ctime: at(3),
        crtime: at(4),
        size,
        content: None,
        rdev: 0,
        target: Vec::new(),
        xattrs: [(b"user.a".to_vec(), b"b".to_vec())].into(),
    })
}

fn entry(parent: u8, text: &[u8], target: u8) -> Record {
    let name = Name::new(text).unwrap();
    Record::Entry(EntryRecord { parent: node_id(parent), name, node: node_id(target) })
}

/// Holds the writer inside a transaction of one job until the returned sender is used.
pub(super) fn hold(store: &dyn MetadataStore) -> mpsc::Sender<()> {
    let (open, gate) = mpsc::channel::<()>();
    let (running, began) = mpsc::channel();
    drop(store.write(1, move |_| {
        running.send(()).unwrap();
        gate.recv().unwrap();
        Ok(())
    }));
    began.recv().unwrap();
    open
}
