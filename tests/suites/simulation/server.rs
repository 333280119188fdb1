//! The simulated machine that the server runs on: the real sync service and notifier over stores that survive its end.
//!
//! A request is done there and then, on the caller's thread: how long it takes is the network's matter. What the server
//! says of every commit is held against a second, plain reckoning of the records.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use dfs_mountd::remote::RemoteError;
use dfs_server::blocking::block_on;
use dfs_server::chunk_store::ChunkStore;
use dfs_server::component::{Notifier, Subscription};
use dfs_server::metadata::MetadataStore;
use dfs_server::metadata::memory::MemoryStore;
use dfs_server::sync::{CheckedRequest, FoundChunk, SyncError, SyncService};
use dfs_shared::event::kinds::server::Committed;
use dfs_shared::event::{self, EventBus, SubscribeOptions};
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::lineage;
use dfs_shared::merkle::{self, MemoryNodes};
use dfs_shared::record::{NodeKind, NodeRecord, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::wire::messages::{self, StreamFrame};
use dfs_shared::wire::report::{ReportReply, ReportRequest};
use parking_lot::Mutex;

use super::chunks::MemoryChunks;

/// What is on the server's disk, and the process if it runs.
pub(crate) struct SimServer {
    metadata: Arc<dyn MetadataStore>,
    chunks: Arc<MemoryChunks>,
    running: Mutex<Running>,
    ledger: Arc<Mutex<Ledger>>,
    volume: VolumeName,
}

struct Running {
    sync: Arc<SyncService>,
    notifier: Arc<Notifier>,
    full: bool,
    _joined: Vec<event::Subscription>,
}

/// The records as the events tell them.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The newest state of every record.
    pub(crate) records: BTreeMap<RecordKey, Versioned>,
    /// Every content that a file had, with the file.
    pub(crate) contents: Vec<(NodeId, ContentId)>,
    /// Every node that there was.
    nodes_seen: BTreeSet<NodeId>,
    nodes: MemoryNodes,
    revision: Revision,
    /// Bytes of all files, and most that they may have.
    used: u64,
    limit: Option<u64>,
    /// What did not fit.
    pub(crate) wrong: Option<String>,
}

/// An event stream.
pub(crate) struct Stream {
    /// The first frame.
    pub(crate) first: [StreamFrame; 2],
    /// What the hello covers.
    pub(crate) revision: Revision,
    /// What follows; it ends with the process.
    pub(crate) pushed: Subscription,
}

impl SimServer {
    /// Makes a server with an empty volume.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let metadata: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new());
        let chunks = Arc::new(MemoryChunks::default());
        let volume = VolumeName::new("main")?;
        let ledger = Arc::<Mutex<Ledger>>::default();
        let running = start(&metadata, &chunks, &ledger)?;
        block_on(running.sync.ensure_volume(&volume))?;
        Ok(Arc::new(Self { metadata, chunks, running: Mutex::new(running), ledger, volume }))
    }

    /// Ends the process and starts it again on the same stores.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn restart(&self) -> Result<()> {
        let mut running = self.running.lock();
        *running = start(&self.metadata, &self.chunks, &self.ledger)?;
        Ok(())
    }

    /// Fills the disk or makes room.
    pub(crate) fn set_full(&self, full: bool) {
        self.running.lock().full = full;
    }

    /// Sets the volume's quota and tells the mounts.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) fn set_quota(&self, limit: Option<u64>) -> Result<()> {
        let name = self.volume.clone();
        let set = self.metadata.write(1, move |tx| match tx.volume(&name)? {
            Some(volume) => tx.set_quota(volume.key, limit),
            None => Ok(()),
        });
        set.wait()?;
        self.ledger.lock().limit = limit;
        Ok(self.sync().tell_quotas()?)
    }

    /// Checks that the server counts as many bytes as its files have.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn check_used(&self) -> Result<()> {
        let (counted, used) = (self.sync().volume(&self.volume)?.used, self.ledger.lock().used);
        ensure!(counted == used, "the server counts {counted} bytes, its files have {used}");
        Ok(())
    }

    /// Returns what the events told so far.
    pub(crate) fn ledger(&self) -> parking_lot::MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }

    /// Returns the volume's Merkle root.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) fn root(&self) -> Result<dfs_shared::hash::MerkleHash> {
        Ok(self.sync().volume(&self.volume)?.root)
    }

    /// Returns the bytes of a content, if the server has all of them.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) fn content(&self, id: ContentId) -> Result<Option<Vec<u8>>> {
        let request = messages::ContentsRequest { contents: vec![id] };
        let found = self.sync().contents(&self.volume, &request)?.manifests;
        let Some(Some(manifest)) = found.into_iter().next() else { return Ok(None) };
        let mut bytes = Vec::new();
        for chunk in &manifest.chunks {
            if chunk.hash.is_hole() {
                bytes.resize(bytes.len() + usize::try_from(chunk.len)?, 0);
                continue;
            }
            match self.sync().chunk(chunk.hash)? {
                FoundChunk::Bytes(found) => bytes.extend_from_slice(&found),
                FoundChunk::Absent | FoundChunk::Corrupt => return Ok(None),
            }
        }
        Ok(Some(bytes))
    }

    /// Returns the bytes of every version of a file that has its place in the history.
    ///
    /// # Errors
    /// When the server cannot say.
    pub(crate) fn past_versions(&self) -> Result<Vec<Vec<u8>>> {
        let nodes = self.ledger.lock().nodes_seen.clone();
        let volume = self.sync().volume(&self.volume)?.key;
        let mut found = Vec::new();
        for node in nodes {
            for past in self.metadata.read(|snapshot| snapshot.history(volume, node, 10_000))? {
                if let Record::Node(NodeRecord { content: Some(content), .. }) = past.record {
                    found.extend(self.content(content)?);
                }
            }
        }
        Ok(found)
    }

    /// Checks that every content that a file ever had is its present one or in its history.
    ///
    /// # Errors
    /// The content that is neither.
    pub(crate) fn check_history(&self) -> Result<()> {
        let ledger = self.ledger.lock();
        for (node, content) in &ledger.contents {
            let now = ledger.records.get(&RecordKey::Node(*node)).map(|versioned| &versioned.record);
            let has =
                |record: &Record| matches!(record, Record::Node(node) if node.content == Some(*content));
            if now.is_some_and(has) {
                continue;
            }
            let volume = self.sync().volume(&self.volume)?.key;
            let past = self.metadata.read(|snapshot| snapshot.history(volume, *node, 10_000))?;
            ensure!(
                past.iter().any(|past| has(&past.record)),
                "content {content} of {node} is not in its history"
            );
        }
        Ok(())
    }

    fn sync(&self) -> Arc<SyncService> {
        Arc::clone(&self.running.lock().sync)
    }

    fn writable(&self) -> Result<Arc<SyncService>, RemoteError> {
        let running = self.running.lock();
        if running.full {
            let (code, message) = ("disk_full".to_owned(), "the simulated disk is full".to_owned());
            return Err(RemoteError::Refused { status: 507, code, message });
        }
        Ok(Arc::clone(&running.sync))
    }

    pub(super) fn register(
        &self,
        request: messages::RegisterRequest,
    ) -> Result<messages::RegisterReply, RemoteError> {
        let known = request.client.as_ref();
        match (self.writable(), known) {
            (Ok(sync), _) => block_on(sync.register(&self.volume, request)).map_err(refused),
            (Err(full), Some(known)) => {
                self.sync().registered(&self.volume, known).map_err(refused)?.ok_or(full)
            }
            (Err(full), None) => Err(full),
        }
    }

    pub(super) fn commit(&self, request: &Bytes) -> Result<messages::CommitReply, RemoteError> {
        match self.writable() {
            Ok(sync) => block_on(sync.commit(&self.volume, prepared(request)?)).map_err(refused),
            Err(full) => {
                let made = self.sync().committed(&self.volume, &decoded(request)?);
                made.map_err(refused)?.ok_or(full)
            }
        }
    }

    pub(super) fn past(&self, request: &Bytes) -> Result<messages::CommitReply, RemoteError> {
        let request = prepared(request)?;
        block_on(self.writable()?.past(&self.volume, request)).map_err(refused)
    }

    pub(super) fn missing(&self, hashes: Vec<ChunkHash>) -> Result<Vec<ChunkHash>, RemoteError> {
        let reply = self.sync().missing(&self.volume, &messages::MissingRequest { hashes });
        reply.map(|reply| reply.missing).map_err(refused)
    }

    pub(super) fn put_chunks(&self, chunks: Vec<(ChunkHash, Bytes)>) -> Result<(), RemoteError> {
        let sync = self.writable()?;
        let put = async move {
            let mut batch = sync.upload();
            for (hash, bytes) in chunks {
                batch.put(hash, bytes).await?;
            }
            batch.finish().await.map(drop)
        };
        block_on(put).map_err(refused)
    }

    pub(super) fn get_chunk(&self, hash: ChunkHash) -> Result<(ChunkHash, Bytes), RemoteError> {
        match self.sync().chunk(hash).map_err(refused)? {
            FoundChunk::Bytes(bytes) => Ok((hash, bytes)),
            FoundChunk::Absent => Err(RemoteError::AbsentChunk { hash }),
            FoundChunk::Corrupt => Err(RemoteError::CorruptChunk { hash }),
        }
    }

    pub(super) fn contents(
        &self,
        contents: Vec<ContentId>,
    ) -> Result<Vec<Option<dfs_shared::manifest::Manifest>>, RemoteError> {
        let reply = self.sync().contents(&self.volume, &messages::ContentsRequest { contents });
        reply.map(|reply| reply.manifests).map_err(refused)
    }

    pub(super) fn records(&self, keys: Vec<RecordKey>) -> Result<messages::RecordsReply, RemoteError> {
        self.sync().records(&self.volume, &messages::RecordsRequest { keys }).map_err(refused)
    }

    pub(super) fn merkle(&self, prefixes: Vec<Vec<u8>>) -> Result<messages::MerkleReply, RemoteError> {
        self.sync().merkle(&self.volume, &messages::MerkleRequest { prefixes }).map_err(refused)
    }

    pub(super) fn lineage(&self, seen: Vec<lineage::State>) -> Result<lineage::Known, RemoteError> {
        let reply = self.sync().lineage(&self.volume, &messages::LineageRequest { seen });
        reply.map(|reply| reply.known).map_err(refused)
    }

    pub(super) fn report(&self, request: ReportRequest) -> Result<ReportReply, RemoteError> {
        block_on(self.writable()?.report(&self.volume, request)).map_err(refused)
    }

    /// Opens an event stream, as the API does: subscribing comes before reading the revision.
    pub(super) fn stream(&self, client: ClientId) -> Result<Stream, RemoteError> {
        let running = self.running.lock();
        let pushed = running.notifier.subscribe(&self.volume, Some(client), true);
        let volume = running.sync.volume(&self.volume).map_err(refused)?;
        let hello = StreamFrame::Hello { volume: volume.id, revision: volume.revision, root: volume.root };
        let quota = StreamFrame::Quota { limit: volume.quota };
        Ok(Stream { first: [hello, quota], revision: volume.revision, pushed })
    }
}

fn start(
    metadata: &Arc<dyn MetadataStore>,
    chunks: &Arc<MemoryChunks>,
    ledger: &Arc<Mutex<Ledger>>,
) -> Result<Running> {
    let bus = EventBus::new();
    let notifier = Arc::<Notifier>::default();
    let ledger = Arc::clone(ledger);
    let options = SubscribeOptions::new("ledger").priority(200);
    let listen = bus.subscribe(options, move |event: &Committed| ledger.lock().take(&event.commit))?;
    let mut joined = notifier.join(&bus)?;
    joined.push(listen);
    let chunks = Arc::clone(chunks) as Arc<dyn ChunkStore>;
    let sync = Arc::new(SyncService::new(Arc::clone(metadata), chunks, bus));
    Ok(Running { sync, notifier, full: false, _joined: joined })
}

/// Says what the HTTP client would make of the server's error.
fn refused(error: SyncError) -> RemoteError {
    let code = match &error {
        SyncError::Chunks(dfs_server::chunk_store::ChunkError::HashMismatch { .. }) => "hash_mismatch",
        SyncError::ClientUnknown { .. } => "client_unknown",
        SyncError::VolumeNotFound { .. } => {
            return RemoteError::VolumeNotFound { message: error.to_string() };
        }
        _ => "refused",
    };
    let status = if error.is_retryable() { 503 } else { 409 };
    RemoteError::Refused { status, code: code.to_owned(), message: error.to_string() }
}

impl Ledger {
    fn take(&mut self, commit: &messages::Committed) {
        if let Err(error) = self.check(commit)
            && self.wrong.is_none()
        {
            self.wrong = Some(format!("commit {}: {error:#}", commit.revision));
        }
    }

    fn check(&mut self, commit: &messages::Committed) -> Result<()> {
        ensure!(commit.revision == self.revision.next(), "it follows {}", self.revision);
        self.revision = commit.revision;
        let mut leaves = Vec::new();
        for current in &commit.records {
            let hash = current.value.as_ref().map(|value| merkle::record_hash(&current.key, value));
            leaves.push((current.key.clone(), hash));
            match &current.value {
                Some(value) => {
                    if let Record::Node(node) = &value.record {
                        self.nodes_seen.insert(node.id);
                        self.contents.extend(node.content.map(|content| (node.id, content)));
                    }
                    self.records.insert(current.key.clone(), value.clone());
                }
                None => drop(self.records.remove(&current.key)),
            }
        }
        let before = self.used;
        self.used = self.records.values().map(|found| found.record.quota_len()).sum();
        if let Some(limit) = self.limit.filter(|limit| self.used > before && self.used > *limit) {
            bail!("it takes the files from {before} to {} bytes, over the quota of {limit}", self.used);
        }
        self.contents.sort();
        self.contents.dedup();
        let root = merkle::apply(&mut self.nodes, leaves)?;
        ensure!(root == commit.root, "its Merkle root is not the one of the records");
        self.check_shape()
    }

    /// Every entry leads from a directory to a node, every node has a name, no directory is inside itself.
    fn check_shape(&self) -> Result<()> {
        let mut above: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        for versioned in self.records.values() {
            let Record::Entry(entry) = &versioned.record else { continue };
            ensure!(self.kind(entry.parent) == Some(NodeKind::Directory), "{} is no directory", entry.parent);
            ensure!(self.kind(entry.node).is_some(), "{} leads to no node", entry.name);
            above.entry(entry.node).or_default().push(entry.parent);
        }
        for versioned in self.records.values() {
            let Record::Node(node) = &versioned.record else { continue };
            if node.id == NodeId::ROOT {
                continue;
            }
            let parents = above.get(&node.id).with_context(|| format!("{} has no name", node.id))?;
            ensure!(node.kind != NodeKind::Directory || parents.len() == 1, "{} has two places", node.id);
            let (mut at, mut steps) = (parents[0], 0);
            while at != NodeId::ROOT {
                steps += 1;
                ensure!(steps <= self.records.len(), "{} is inside itself", node.id);
                at = above.get(&at).with_context(|| format!("{at} has no name"))?[0];
            }
        }
        Ok(())
    }

    fn kind(&self, id: NodeId) -> Option<NodeKind> {
        match &self.records.get(&RecordKey::Node(id))?.record {
            Record::Node(node) => Some(node.kind),
            Record::Entry(_) => None,
        }
    }
}

fn prepared(request: &Bytes) -> Result<CheckedRequest, RemoteError> {
    SyncService::prepare(decoded(request)?).map_err(refused)
}

fn decoded(request: &Bytes) -> Result<messages::CommitRequest, RemoteError> {
    dfs_shared::wire::decode(request).map_err(|error| RemoteError::Refused {
        status: 400,
        code: "bad_message".to_owned(),
        message: error.to_string(),
    })
}
