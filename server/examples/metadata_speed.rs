//! Measures the metadata stores side by side: `cargo run --release -p dfs-server --example metadata_speed [DIR]`.
//!
//! Prints records per second: written in jobs of 1,000, read one by one by every core, and both at once. Every store
//! gets the same work; a read is a snapshot of its own or one of 100 in a snapshot, as the line says.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_server::metadata::memory::MemoryStore;
use dfs_server::metadata::sqlite::SqliteStore;
use dfs_server::metadata::{MetadataError, MetadataStore, VolumeKey};
use dfs_shared::ids::{NodeId, VolumeId, VolumeName};
use dfs_shared::record::{NodeKind, NodeRecord, Record, RecordKey};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RECORDS: u64 = 100_000;
const JOB: u64 = 1_000;
const READS_IN_SNAPSHOT: u64 = 100;
const MEASURED: Duration = Duration::from_secs(2);

fn main() -> anyhow::Result<()> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(base)?;
    let cores = std::thread::available_parallelism()?.get();
    let memory = measure(&MemoryStore::new(), cores)?;
    let sqlite = measure(&SqliteStore::open(dir.path())?, cores)?;
    eprintln!(
        "{:<44} {:>14} {:>14}",
        format!("records per second, {cores} threads read"),
        "memory",
        "sqlite"
    );
    for ((what, memory), (_, sqlite)) in memory.into_iter().zip(sqlite) {
        eprintln!("{what:<44} {memory:>14.0} {sqlite:>14.0}");
    }
    Ok(())
}

type Row = (&'static str, f64);

fn measure(store: &dyn MetadataStore, cores: usize) -> Result<Vec<Row>, MetadataError> {
    let name = VolumeName::new("main").expect("a good name");
    let volume = store.write(1, move |tx| tx.create_volume(&name, VolumeId::generate())).wait()?.key;
    let began = Instant::now();
    write_all(store, volume, 1)?;
    let written = per_second(RECORDS, began);
    let began = Instant::now();
    write_all(store, volume, 2)?;
    let replaced = per_second(RECORDS, began);
    let single = read_for(store, volume, cores, 1, || Ok(0))?.0;
    let many = read_for(store, volume, cores, READS_IN_SNAPSHOT, || Ok(0))?.0;
    let mut revision = 2;
    let (reads, writes) = read_for(store, volume, cores, READS_IN_SNAPSHOT, || {
        revision += 1;
        write_all(store, volume, revision).map(|()| RECORDS)
    })?;
    Ok(vec![
        ("written, 1,000 in a job", written),
        ("replaced, 1,000 in a job", replaced),
        ("read, one in a snapshot", single),
        ("read, 100 in a snapshot", many),
        ("read, 100 in a snapshot, while one writes", reads),
        ("replaced, while they read", writes),
    ])
}

fn per_second(count: u64, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}

/// Reads on every core for a while, and calls `beside` again and again; returns the rates of both.
fn read_for(
    store: &dyn MetadataStore,
    volume: VolumeKey,
    cores: usize,
    in_snapshot: u64,
    mut beside: impl FnMut() -> Result<u64, MetadataError>,
) -> Result<(f64, f64), MetadataError> {
    let (ended, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let work = |core: usize| read_until(store, volume, core as u64, in_snapshot, &ended, &read);
        let readers: Vec<_> = (0..cores).map(|core| scope.spawn(move || work(core))).collect();
        let mut written = 0;
        let mut outcome = Ok(());
        while began.elapsed() < MEASURED && outcome.is_ok() {
            match beside() {
                Ok(0) => std::thread::sleep(MEASURED.saturating_sub(began.elapsed())),
                Ok(count) => written += count,
                Err(error) => outcome = Err(error),
            }
        }
        ended.store(true, Ordering::Relaxed);
        let rate = per_second(written, began);
        for reader in readers {
            reader.join().expect("a reader does not panic")?;
        }
        outcome.map(|()| (per_second(read.load(Ordering::Relaxed), began), rate))
    })
}

fn read_until(
    store: &dyn MetadataStore,
    volume: VolumeKey,
    seed: u64,
    in_snapshot: u64,
    ended: &AtomicBool,
    read: &AtomicU64,
) -> Result<(), MetadataError> {
    let mut at = seed;
    while !ended.load(Ordering::Relaxed) {
        store.read(|snapshot| {
            for _ in 0..in_snapshot {
                // A step that shares no factor with the number of records comes to every one of them, out of order.
                at = (at + 61_803) % RECORDS;
                let found = snapshot.record(volume, &RecordKey::Node(id(at)))?;
                assert!(found.is_some(), "every record was written");
            }
            Ok(())
        })?;
        read.fetch_add(in_snapshot, Ordering::Relaxed);
    }
    Ok(())
}

fn write_all(store: &dyn MetadataStore, volume: VolumeKey, revision: u64) -> Result<(), MetadataError> {
    let job = |first: u64| {
        store.write(JOB as usize, move |tx| {
            (first..first + JOB)
                .try_for_each(|number| tx.put_record(volume, Revision(revision), &node(number, revision)))
        })
    };
    let pending: Vec<_> = (0..RECORDS / JOB).map(|number| job(number * JOB)).collect();
    pending.into_iter().try_for_each(|pending| pending.wait())
}

fn id(number: u64) -> NodeId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn node(number: u64, size: u64) -> Record {
    let time = Timestamp { secs: 1, nanos: 0 };
    Record::Node(NodeRecord {
        id: id(number),
        kind: NodeKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        size,
        content: None,
        rdev: 0,
        target: Vec::new(),
        xattrs: std::collections::BTreeMap::new(),
    })
}
