//! Measures what the store layers cost without HTTP: `cargo run --release -p dfs-server --example commit_speed [DIR]`.
//!
//! Prints the time of 10,000 one-file commits in requests of 1,000, the latency of single commits, of
//! commits from many clients at once, and the durable upload of 1,000 chunks of 256 KiB.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_server::blocking::block_on;
use dfs_server::chunk_store::{ChunkStore, DiskStore};
use dfs_server::metadata::MetadataStore;
use dfs_server::metadata::sqlite::SqliteStore;
use dfs_server::sync::SyncService;
use dfs_shared::event::EventBus;
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::manifest::{ChunkRef, Manifest};
use dfs_shared::name::Name;
use dfs_shared::record::{Change, ChangeGroup, EntryRecord, NodeKind, NodeRecord, Record};
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::{CommitRequest, GroupOutcome, NewContent, RegisterRequest, SmallChunk};

const FILES: usize = 10_000;
const BATCH: usize = 1_000;
const FILE_LEN: usize = 1_000;

fn main() -> anyhow::Result<()> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(base)?;
    let metadata: Arc<dyn MetadataStore> = Arc::new(SqliteStore::open(dir.path())?);
    let chunks: Arc<dyn ChunkStore> = Arc::new(DiskStore::open(&dir.path().join("chunks"))?);
    let service = Arc::new(SyncService::new(metadata, chunks, EventBus::new()));
    let volume = VolumeName::new("main")?;
    block_on(service.ensure_volume(&volume))?;
    let mut client = Client::register(&service, &volume, "a")?;
    batches(&mut client)?;
    single(&mut client)?;
    concurrent(&service, &volume)?;
    let log = std::fs::metadata(dir.path().join("metadata.sqlite-wal"))?.len();
    say("write-ahead log", &format!("{} MiB", log >> 20));
    uploads(&service, dir.path())?;
    Ok(())
}

fn say(what: &str, text: &str) {
    eprintln!("{what:<44} {text}");
}

struct Client {
    service: Arc<SyncService>,
    volume: VolumeName,
    id: ClientId,
    number: u64,
}

impl Client {
    fn register(service: &Arc<SyncService>, volume: &VolumeName, name: &str) -> anyhow::Result<Self> {
        let request = RegisterRequest { client_name: name.to_owned(), client: None, uid: 0, gid: 0 };
        let id = block_on(service.register(volume, request))?.client;
        Ok(Self { service: Arc::clone(service), volume: volume.clone(), id, number: 0 })
    }

    /// A request that makes `count` files in the root directory.
    fn request(&mut self, count: usize) -> CommitRequest {
        self.number += 1;
        let (client, commit) = (self.id.clone(), self.number);
        let mut request = CommitRequest {
            client,
            commit,
            groups: Vec::new(),
            contents: Vec::new(),
            small_chunks: Vec::new(),
        };
        for index in 0..count {
            let id = NodeId::generate();
            let mut bytes = vec![0; FILE_LEN];
            bytes[..16].copy_from_slice(id.as_bytes());
            let chunk = ChunkRef { hash: ChunkHash::of(&bytes), len: bytes.len() as u64 };
            let manifest = Manifest { chunk_log2: 14, chunks: vec![chunk] };
            let name = Name::new(format!("{}-{commit}-{index}", self.id).as_bytes()).expect("a good name");
            let file = file(id, &manifest);
            let entry = Record::Entry(EntryRecord { parent: NodeId::ROOT, name, node: id });
            let put = |record: Record| Change { key: record.key(), base: None, value: Some(record) };
            request.groups.push(ChangeGroup { changes: vec![put(file), put(entry)] });
            request.small_chunks.push(SmallChunk { hash: chunk.hash, bytes });
            request.contents.push(NewContent { manifest, file_hash: None });
        }
        request
    }

    fn commit(&self, request: CommitRequest) -> anyhow::Result<()> {
        let reply = block_on(self.service.commit(&self.volume, SyncService::prepare(request)?))?;
        let refused = reply.outcomes.iter().find(|outcome| **outcome != GroupOutcome::Accepted);
        anyhow::ensure!(refused.is_none(), "{refused:?}");
        Ok(())
    }
}

fn file(id: NodeId, manifest: &Manifest) -> Record {
    let now = Timestamp::from(std::time::SystemTime::now());
    Record::Node(NodeRecord {
        id,
        kind: NodeKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        size: manifest.size(),
        content: Some(manifest.id()),
        rdev: 0,
        target: Vec::new(),
        xattrs: std::collections::BTreeMap::new(),
    })
}

fn batches(client: &mut Client) -> anyhow::Result<()> {
    let requests: Vec<_> = (0..FILES / BATCH).map(|_| client.request(BATCH)).collect();
    let started = Instant::now();
    for request in requests {
        client.commit(request)?;
    }
    say("10,000 files, 1,000 in a request", &format!("{:?}", started.elapsed()));
    Ok(())
}

fn single(client: &mut Client) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..1_000 {
        let request = client.request(1);
        let started = Instant::now();
        client.commit(request)?;
        times.push(started.elapsed());
    }
    say("1,000 single commits, one after the other", &percentiles(times));
    Ok(())
}

fn concurrent(service: &Arc<SyncService>, volume: &VolumeName) -> anyhow::Result<()> {
    let clients = (0..16).map(|index| Client::register(service, volume, &format!("c{index}")));
    let clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
    let started = Instant::now();
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || -> anyhow::Result<Vec<Duration>> {
                let mut times = Vec::new();
                for _ in 0..200 {
                    let request = client.request(1);
                    let started = Instant::now();
                    client.commit(request)?;
                    times.push(started.elapsed());
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for thread in threads {
        times.extend(thread.join().expect("the thread does not panic")?);
    }
    let per_second = times.len() as f64 / started.elapsed().as_secs_f64();
    say("16 clients at once", &format!("{per_second:.0} commits/s, {}", percentiles(times)));
    Ok(())
}

fn uploads(service: &SyncService, dir: &Path) -> anyhow::Result<()> {
    let chunks: Vec<_> = (0..1_000_u32)
        .map(|index| {
            let mut bytes = vec![7; 256 * 1024];
            bytes[..4].copy_from_slice(&index.to_be_bytes());
            (ChunkHash::of(&bytes), Bytes::from(bytes))
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let started = Instant::now();
    runtime.block_on(async {
        for part in chunks.chunks(100) {
            let mut batch = service.upload();
            for (hash, bytes) in part {
                batch.put(*hash, bytes.clone()).await?;
            }
            batch.finish().await?;
        }
        anyhow::Ok(())
    })?;
    say("1,000 chunks of 256 KiB, 100 in a batch", &format!("{:?}", started.elapsed()));
    let store = DiskStore::open(&dir.join("other"))?;
    let started = Instant::now();
    for (hash, bytes) in &chunks {
        store.put(*hash, bytes)?;
    }
    let written = started.elapsed();
    store.sync()?;
    say("the same on one thread, one syncfs", &format!("{:?}, {written:?} of it writing", started.elapsed()));
    Ok(())
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    format!("p50 {:?}, p95 {:?}, max {:?}", at(0.5), at(0.95), at(1.0))
}
