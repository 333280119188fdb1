//! What is special to SQLite: schema versions, restarts, group commit, a full or locked database.

use std::sync::Mutex;

use dfs_shared::ids::VolumeId;
use dfs_shared::wire::encode_plain;

use super::*;
use crate::metadata::WriteMetadata;
use crate::metadata::conformance::{hold, name, names, node};

mod sessions;

fn store() -> (tempfile::TempDir, SqliteStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    (dir, store)
}

/// Makes a volume and notes how many commits another connection has seen when it was finished.
struct Probe {
    name: &'static str,
    watcher: Arc<Mutex<Connection>>,
    versions: Arc<Mutex<Vec<i64>>>,
}

impl WriteJob for Probe {
    fn weight(&self) -> usize {
        1
    }

    fn run(&mut self, tx: &mut dyn WriteMetadata) -> Result<(), MetadataError> {
        tx.create_volume(&name(self.name), VolumeId::generate()).map(|_| ())
    }

    fn finish(self: Box<Self>, outcome: Result<(), MetadataError>) {
        outcome.unwrap();
        let watcher = self.watcher.lock().unwrap();
        // Changes whenever another connection has committed.
        let version = watcher.pragma_query_value(None, "data_version", |row| row.get(0)).unwrap();
        self.versions.lock().unwrap().push(version);
    }
}

#[test]
fn jobs_that_wait_together_share_one_commit() {
    let (dir, store) = store();
    let store: &dyn MetadataStore = &store;
    let watcher = Arc::new(Mutex::new(connect(&dir.path().join(DATABASE_FILE)).unwrap()));
    let versions = Arc::<Mutex<Vec<i64>>>::default();
    let open = hold(store);
    for name in ["a", "b", "c", "d", "e"] {
        store.submit(Box::new(Probe {
            name,
            watcher: Arc::clone(&watcher),
            versions: Arc::clone(&versions),
        }));
    }
    open.send(()).unwrap();
    store.write(1, |_| Ok(())).wait().unwrap();
    let versions = versions.lock().unwrap();
    assert_eq!(versions.len(), 5);
    assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
}

#[test]
fn a_newer_schema_is_refused_by_its_version() {
    let (dir, store) = store();
    drop(store);
    connect(&dir.path().join(DATABASE_FILE)).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = SqliteStore::open(dir.path()).expect_err("newer");
    assert!(error.to_string().contains("99"), "{error}");
}

#[test]
fn what_was_queued_is_written_before_the_store_closes() {
    let (dir, store) = store();
    let dynamic: &dyn MetadataStore = &store;
    let pending: Vec<_> = ["a", "b", "c"]
        .map(|text| dynamic.write(1, move |tx| tx.create_volume(&name(text), VolumeId::generate())))
        .into();
    drop(store);
    assert!(pending.into_iter().all(|pending| pending.wait().is_ok()));
    assert_eq!(names(&SqliteStore::open(dir.path()).unwrap()), ["a", "b", "c"]);
}

#[test]
fn a_full_disk_is_survived() {
    let (dir, store) = store();
    drop(store);
    let mut connection = connect(&dir.path().join(DATABASE_FILE)).unwrap();
    migrate(&mut connection).unwrap();
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    connection.pragma_update(None, "max_page_count", pages + 2).unwrap();
    let checkpointer = Checkpointer::start(connect(&dir.path().join(DATABASE_FILE)).unwrap());
    let writer = Writer::start(Batches::new(connection, checkpointer.trigger()));
    let store = SqliteStore {
        path: dir.path().join(DATABASE_FILE),
        readers: parking_lot::Mutex::default(),
        writer,
        _checkpointer: checkpointer,
    };
    let store: &dyn MetadataStore = &store;
    let hash = dfs_shared::hash::ChunkHash::of(b"x");
    let full = store.write(1, move |tx| tx.put_small_chunk(&hash, &vec![1; 1 << 20])).wait();
    assert!(matches!(full, Err(MetadataError::DiskFull)), "{full:?}");
    store.write(1, |tx| tx.create_volume(&name("after"), VolumeId::generate())).wait().unwrap();
    assert_eq!(names(store), ["after"]);
}

#[test]
fn a_lock_of_another_process_is_survived() {
    let (dir, store) = store();
    let store: &dyn MetadataStore = &store;
    let other = connect(&dir.path().join(DATABASE_FILE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let blocked = store.write(1, |tx| tx.create_volume(&name("a"), VolumeId::generate())).wait();
    assert!(matches!(blocked, Err(MetadataError::Locked { .. })), "{blocked:?}");
    other.execute_batch("ROLLBACK").unwrap();
    store.write(1, |tx| tx.create_volume(&name("b"), VolumeId::generate())).wait().unwrap();
    assert_eq!(names(store), ["b"]);
}

#[test]
fn a_database_of_the_first_schema_is_brought_up_to_date_with_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let old = connect(&dir.path().join(DATABASE_FILE)).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    old.execute_batch(
        "INSERT INTO volume (name, uuid, revision, root) VALUES ('old', zeroblob(16), 7, zeroblob(32))",
    )
    .unwrap();
    for (number, size) in [(1, 5), (2, 7)] {
        let record = node(number, size);
        let row = (record.key().to_bytes(), encode_plain(&record));
        old.execute("INSERT INTO record (volume, key, revision, value) VALUES (1, ?1, 7, ?2)", row).unwrap();
    }
    old.pragma_update(None, "user_version", 1).unwrap();
    drop(old);
    let store = SqliteStore::open(dir.path()).unwrap();
    let store: &dyn MetadataStore = &store;
    assert_eq!(names(store), ["old"]);
    let volume = store.read(|snapshot| snapshot.volume(&name("old"))).unwrap().unwrap();
    assert_eq!((volume.used, volume.quota), (12, None));
    let key = volume.key;
    store.write(1, move |tx| tx.put_announced(key, b"a\0b", Some(b"x"))).wait().unwrap();
    let kept = store.read(|snapshot| snapshot.announced_from(key, b"a", 9)).unwrap();
    assert_eq!(kept, [(b"a\0b".to_vec(), b"x".to_vec())]);
}
