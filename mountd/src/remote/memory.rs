//! A server in memory, for tests of the engine: one volume, the commit rules that mounts rely on, and faults.
//!
//! Checks base revisions and that contents and chunks are there; the rules of the tree's shape are the real
//! server's, and the suites that run on it hold them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use dfs_shared::hash::{ChunkHash, ContentId, MerkleHash};
use dfs_shared::ids::{ClientId, NodeId, VolumeId};
use dfs_shared::lineage::{self, Known};
use dfs_shared::manifest::Manifest;
use dfs_shared::merkle::{self, MemoryNodes};
use dfs_shared::record::{ChangeGroup, NodeKind, NodeRecord, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::decode;
use dfs_shared::wire::messages::{
    CommitReply, CommitRequest, Committed, CurrentRecord, GroupOutcome, MerkleReply, RecordsReply, Refusal,
    RegisterReply, RegisterRequest, SmallChunk, StreamFrame,
};
use dfs_shared::wire::report::{Held, Holding, ReportReply, ReportRequest};
use futures_util::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{ChunkStream, FrameStream, Remote, RemoteError, RemoteFuture, UploadOf};

/// What a server had at some moment, for [`MemoryRemote::restore`].
#[derive(Debug, Clone)]
pub struct Backup {
    revision: Revision,
    records: BTreeMap<RecordKey, Versioned>,
    nodes: MemoryNodes,
    roots: BTreeMap<Revision, MerkleHash>,
    contents: HashMap<ContentId, Manifest>,
    chunks: HashMap<ChunkHash, Bytes>,
}

/// The server. Clones are the same server.
#[derive(Debug, Clone)]
pub struct MemoryRemote {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    volume: VolumeId,
    revision: Revision,
    records: BTreeMap<RecordKey, Versioned>,
    nodes: MemoryNodes,
    roots: BTreeMap<Revision, MerkleHash>,
    chunks: HashMap<ChunkHash, Bytes>,
    corrupt: HashSet<ChunkHash>,
    contents: HashMap<ContentId, Manifest>,
    replies: HashMap<ClientId, (u64, CommitReply)>,
    streams: Vec<(ClientId, mpsc::UnboundedSender<Result<StreamFrame, RemoteError>>)>,
    clients: u64,
    online: bool,
    swallow_replies: u32,
    lose_commits: u32,
    commits: u64,
    reports: BTreeMap<ClientId, Reports>,
    swallow_reports: u32,
    swallow_contents: u32,
    past: Vec<NodeRecord>,
    lose_past: bool,
}

/// What a client has reported.
#[derive(Debug, Default)]
struct Reports {
    number: u64,
    held: BTreeMap<NodeId, Option<ContentId>>,
    requests: Vec<ReportRequest>,
}

impl Default for MemoryRemote {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryRemote {
    /// Makes a volume that holds only its root directory.
    #[must_use]
    pub fn new() -> Self {
        let mut state = State {
            volume: VolumeId::generate(),
            revision: Revision::ZERO,
            records: BTreeMap::new(),
            nodes: MemoryNodes::default(),
            roots: BTreeMap::new(),
            chunks: HashMap::new(),
            corrupt: HashSet::new(),
            contents: HashMap::new(),
            replies: HashMap::new(),
            streams: Vec::new(),
            clients: 0,
            online: true,
            swallow_replies: 0,
            lose_commits: 0,
            commits: 0,
            reports: BTreeMap::new(),
            swallow_reports: 0,
            swallow_contents: 0,
            past: Vec::new(),
            lose_past: false,
        };
        let root = Record::Node(root());
        state.write(vec![(root.key(), Some(root))]);
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Makes the server reachable or not. Going away breaks the streams.
    pub fn set_online(&self, online: bool) {
        let mut state = self.state.lock();
        state.online = online;
        if !online {
            for (_, stream) in std::mem::take(&mut state.streams) {
                let _ = stream.send(Err(unreachable()));
            }
        }
    }

    /// Makes the server do the next `count` commits without answering.
    pub fn swallow_replies(&self, count: u32) {
        self.state.lock().swallow_replies = count;
    }

    /// Makes the next `count` commits get lost on their way to the server.
    pub fn lose_commits(&self, count: u32) {
        self.state.lock().lose_commits = count;
    }

    /// Makes the server find the chunk damaged.
    pub fn corrupt_chunk(&self, hash: ChunkHash) {
        self.state.lock().corrupt.insert(hash);
    }

    /// Forgets a chunk, as a server does that was restored from an older backup.
    pub fn forget_chunk(&self, hash: ChunkHash) {
        self.state.lock().chunks.remove(&hash);
    }

    /// Changes a record and tells no stream of it: an event that got lost without a trace.
    pub fn change_silently(&self, change: impl Fn(&Record) -> Option<Record>) {
        let mut state = self.state.lock();
        let changes = state.records.iter().filter_map(|(key, value)| {
            let record = change(&value.record)?;
            Some((key.clone(), Some(record)))
        });
        let changes = changes.collect();
        state.write(changes);
    }

    /// Returns what a backup taken now holds.
    #[must_use]
    pub fn backup(&self) -> Backup {
        let state = self.state.lock();
        Backup {
            revision: state.revision,
            records: state.records.clone(),
            nodes: state.nodes.clone(),
            roots: state.roots.clone(),
            contents: state.contents.clone(),
            chunks: state.chunks.clone(),
        }
    }

    /// Goes back to what a backup holds, and ends every stream.
    pub fn restore(&self, backup: Backup) {
        let mut state = self.state.lock();
        let Backup { revision, records, nodes, roots, contents, chunks } = backup;
        (state.revision, state.records, state.nodes, state.roots) = (revision, records, nodes, roots);
        (state.contents, state.chunks) = (contents, chunks);
        state.replies.clear();
        state.streams.clear();
    }

    /// Returns how many commit requests arrived, repeated ones included.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.state.lock().commits
    }

    /// Makes the server note the next `count` reports without answering.
    pub fn swallow_reports(&self, count: u32) {
        self.state.lock().swallow_reports = count;
    }

    /// Makes the next `count` answers about contents get lost.
    pub fn swallow_contents(&self, count: u32) {
        self.state.lock().swallow_contents = count;
    }

    /// Forgets what clients have reported, as when they are removed.
    pub fn forget_reports(&self) {
        self.state.lock().reports.clear();
    }

    /// Returns what the only client holds, as it reported.
    #[must_use]
    pub fn held(&self) -> BTreeMap<NodeId, Option<ContentId>> {
        let state = self.state.lock();
        state.reports.values().flat_map(|reports| reports.held.clone()).collect()
    }

    /// Returns all reports that came, in order, repeated ones included.
    #[must_use]
    pub fn reports(&self) -> Vec<ReportRequest> {
        let state = self.state.lock();
        state.reports.values().flat_map(|reports| reports.requests.clone()).collect()
    }

    /// Makes past versions get lost on their way to the server, from now on or no more.
    pub fn lose_past(&self, lose: bool) {
        self.state.lock().lose_past = lose;
    }

    /// Returns the versions that were brought as past ones, in order.
    #[must_use]
    pub fn past_versions(&self) -> Vec<NodeRecord> {
        self.state.lock().past.clone()
    }

    /// Returns all records.
    #[must_use]
    pub fn all_records(&self) -> BTreeMap<RecordKey, Versioned> {
        self.state.lock().records.clone()
    }

    /// Returns the bytes of a content, if all its chunks are here.
    #[must_use]
    pub fn content(&self, id: ContentId) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let mut bytes = Vec::new();
        for chunk in &state.contents.get(&id)?.chunks {
            match chunk.hash.is_hole() {
                true => bytes.resize(bytes.len() + usize::try_from(chunk.len).ok()?, 0),
                false => bytes.extend_from_slice(state.chunks.get(&chunk.hash)?),
            }
        }
        Some(bytes)
    }

    fn online(&self) -> Result<parking_lot::MutexGuard<'_, State>, RemoteError> {
        let state = self.state.lock();
        if state.online { Ok(state) } else { Err(unreachable()) }
    }

    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, RemoteError> + Send + 'static,
    ) -> RemoteFuture<'_, T> {
        async move { work(&mut *self.online()?) }.boxed()
    }
}

fn unreachable() -> RemoteError {
    RemoteError::Unreachable {
        server: "memory".to_owned(),
        source: Arc::new(std::io::Error::other("switched off")),
    }
}

fn root() -> NodeRecord {
    let at = Timestamp::default();
    NodeRecord {
        id: NodeId::ROOT,
        kind: NodeKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        atime: at,
        mtime: at,
        ctime: at,
        crtime: at,
        size: 0,
        content: None,
        rdev: 0,
        target: Vec::new(),
        xattrs: BTreeMap::new(),
    }
}

impl State {
    fn root(&self) -> MerkleHash {
        merkle::root(&self.nodes).expect("memory does not fail")
    }

    fn current(&self, key: &RecordKey) -> CurrentRecord {
        CurrentRecord { key: key.clone(), value: self.records.get(key).cloned() }
    }

    /// Makes the records true under the next revision.
    fn write(&mut self, changes: Vec<(RecordKey, Option<Record>)>) -> Vec<CurrentRecord> {
        self.revision = self.revision.next();
        let mut hashes = Vec::new();
        for (key, record) in changes {
            let value = record.map(|record| Versioned { revision: self.revision, record });
            hashes.push((key.clone(), value.as_ref().map(|value| merkle::record_hash(&key, value))));
            match value {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
        let current = hashes.iter().map(|(key, _)| self.current(key)).collect();
        merkle::apply(&mut self.nodes, hashes).expect("memory does not fail");
        let root = self.root();
        self.roots.insert(self.revision, root);
        current
    }

    fn refusal(&self, group: &ChangeGroup, written: &BTreeMap<RecordKey, Option<Record>>) -> Option<Refusal> {
        for change in &group.changes {
            let found = self.records.get(&change.key).map(|value| value.revision);
            if found != change.base || written.contains_key(&change.key) {
                return Some(Refusal::BaseChanged { key: change.key.clone() });
            }
            let Some(Record::Node(NodeRecord { content: Some(content), .. })) = &change.value else {
                continue;
            };
            if let Some(reason) = self.lacking(Some(*content)) {
                return Some(reason);
            }
        }
        None
    }

    /// What has to come before a content can be referred to.
    fn lacking(&self, content: Option<ContentId>) -> Option<Refusal> {
        let content = content?;
        let Some(manifest) = self.contents.get(&content) else {
            return Some(Refusal::ContentMissing { contents: vec![content] });
        };
        let chunks = manifest.chunks.iter().map(|chunk| chunk.hash).filter(|hash| !hash.is_hole());
        let hashes: Vec<_> = chunks.filter(|hash| !self.chunks.contains_key(hash)).collect();
        (!hashes.is_empty()).then_some(Refusal::ChunksMissing { hashes })
    }

    fn take_contents(&mut self, request: &CommitRequest) {
        for chunk in &request.small_chunks {
            if ChunkHash::of(&chunk.bytes) == chunk.hash {
                self.chunks.insert(chunk.hash, chunk.bytes.clone().into());
            }
        }
        let manifests = request.contents.iter().map(|content| content.manifest.clone());
        self.contents.extend(manifests.map(|manifest| (manifest.id(), manifest)));
    }

    fn commit(&mut self, request: CommitRequest) -> CommitReply {
        self.commits += 1;
        if let Some((commit, reply)) = self.replies.get(&request.client)
            && *commit == request.commit
        {
            return reply.clone();
        }
        self.take_contents(&request);
        let manifests: Vec<_> = request.contents.into_iter().map(|content| content.manifest).collect();
        let mut written = BTreeMap::new();
        let mut outcomes = Vec::new();
        for group in request.groups {
            match self.refusal(&group, &written) {
                Some(reason) => {
                    let current = group.changes.iter().map(|change| self.current(&change.key)).collect();
                    outcomes.push(GroupOutcome::Refused { reason, current });
                }
                None => {
                    written.extend(group.changes.into_iter().map(|change| (change.key, change.value)));
                    outcomes.push(GroupOutcome::Accepted);
                }
            }
        }
        if !written.is_empty() {
            let records = self.write(written.into_iter().collect());
            let small_chunks = request.small_chunks;
            self.push(request.client.clone(), request.commit, records, manifests, small_chunks);
        }
        let reply = CommitReply { outcomes, revision: self.revision, root: self.root() };
        self.replies.insert(request.client, (request.commit, reply.clone()));
        reply
    }

    /// Keeps the version of a file that is there, once.
    fn keep_past(&mut self, request: CommitRequest) -> CommitReply {
        self.take_contents(&request);
        let versions = request.groups.iter().flat_map(|group| &group.changes).filter_map(|change| {
            let Some(Record::Node(node)) = &change.value else { return None };
            Some(node.clone())
        });
        let mut outcomes = Vec::new();
        for version in versions.collect::<Vec<_>>() {
            let key = RecordKey::Node(version.id);
            let reason = match self.records.contains_key(&key) {
                true => self.lacking(version.content),
                false => Some(Refusal::TargetMissing { key }),
            };
            outcomes.push(match reason {
                Some(reason) => GroupOutcome::Refused { reason, current: Vec::new() },
                None => GroupOutcome::Accepted,
            });
            if outcomes.last() == Some(&GroupOutcome::Accepted) && !self.past.contains(&version) {
                self.past.push(version);
                let records = self.write(Vec::new());
                self.push(request.client.clone(), 0, records, Vec::new(), Vec::new());
            }
        }
        CommitReply { outcomes, revision: self.revision, root: self.root() }
    }

    fn push(
        &mut self,
        client: ClientId,
        commit: u64,
        records: Vec<CurrentRecord>,
        manifests: Vec<Manifest>,
        small_chunks: Vec<SmallChunk>,
    ) {
        let (revision, root) = (self.revision, self.root());
        let own = Committed {
            revision,
            root,
            client,
            commit,
            records: Vec::new(),
            manifests: Vec::new(),
            small_chunks: Vec::new(),
        };
        let others = Committed { records, manifests, small_chunks, ..own.clone() };
        self.streams.retain(|(client, stream)| {
            let event = if *client == own.client { &own } else { &others };
            stream.send(Ok(StreamFrame::Committed(event.clone()))).is_ok()
        });
    }

    fn report(&mut self, request: ReportRequest) -> ReportReply {
        let reports = self.reports.entry(request.client.clone()).or_default();
        reports.requests.push(request.clone());
        let ReportRequest { after, anew, held, .. } = request;
        let is_noted = anew || reports.number == after || reports.number == after + 1;
        if is_noted {
            if anew {
                reports.held.clear();
            }
            for Held { node, holding } in held {
                match holding {
                    Holding::Whole(content) => reports.held.insert(node, content),
                    Holding::Nothing => reports.held.remove(&node),
                };
            }
            reports.number = if anew { reports.number.max(after) + 1 } else { after + 1 };
        }
        ReportReply { number: reports.number, is_noted }
    }

    fn chunk(&self, hash: ChunkHash) -> Result<(ChunkHash, Bytes), RemoteError> {
        match self.chunks.get(&hash) {
            _ if self.corrupt.contains(&hash) => Err(RemoteError::CorruptChunk { hash }),
            Some(bytes) => Ok((hash, bytes.clone())),
            None => Err(RemoteError::AbsentChunk { hash }),
        }
    }
}

impl Remote for MemoryRemote {
    fn register(&self, request: RegisterRequest) -> RemoteFuture<'_, RegisterReply> {
        self.call(move |state| {
            state.clients += 1;
            let fresh = || ClientId::new(&format!("{}-{}", request.client_name, state.clients));
            let client = match request.client {
                Some(client) => client,
                None => fresh().map_err(|error| RemoteError::Refused {
                    status: 400,
                    code: "bad_request".to_owned(),
                    message: error.to_string(),
                })?,
            };
            let (volume, revision, root) = (state.volume, state.revision, state.root());
            Ok(RegisterReply { client, volume, revision, root, server_version: "memory".to_owned() })
        })
    }

    fn lineage(&self, seen: Vec<lineage::State>) -> RemoteFuture<'_, Known> {
        self.call(move |state| {
            let had = |seen: &&lineage::State| state.roots.get(&seen.revision) == Some(&seen.root);
            let common = seen.iter().filter(had).map(|seen| seen.revision).max();
            Ok(Known { common, kept_from: Revision::ZERO })
        })
    }

    fn commit(&self, request: Bytes) -> RemoteFuture<'_, CommitReply> {
        self.call(move |state| {
            let request = decode(&request).map_err(|error| RemoteError::Refused {
                status: 400,
                code: "bad_message".to_owned(),
                message: error.to_string(),
            })?;
            if state.lose_commits > 0 {
                state.lose_commits -= 1;
                state.commits += 1;
                return Err(RemoteError::Disconnected { server: "memory".to_owned() });
            }
            let reply = state.commit(request);
            if state.swallow_replies > 0 {
                state.swallow_replies -= 1;
                return Err(RemoteError::Disconnected { server: "memory".to_owned() });
            }
            Ok(reply)
        })
    }

    fn past(&self, request: Bytes) -> RemoteFuture<'_, CommitReply> {
        self.call(move |state| {
            let request = decode(&request).map_err(|error| RemoteError::Refused {
                status: 400,
                code: "bad_message".to_owned(),
                message: error.to_string(),
            })?;
            if state.lose_past {
                return Err(RemoteError::Disconnected { server: "memory".to_owned() });
            }
            let reply = state.keep_past(request);
            if state.swallow_replies > 0 {
                state.swallow_replies -= 1;
                return Err(RemoteError::Disconnected { server: "memory".to_owned() });
            }
            Ok(reply)
        })
    }

    fn missing(&self, hashes: Vec<ChunkHash>, _of: Option<UploadOf>) -> RemoteFuture<'_, Vec<ChunkHash>> {
        self.call(move |state| {
            Ok(hashes.into_iter().filter(|hash| !state.chunks.contains_key(hash)).collect())
        })
    }

    fn put_chunks(&self, chunks: Vec<(ChunkHash, Bytes)>, _of: Option<UploadOf>) -> RemoteFuture<'_, ()> {
        self.call(move |state| {
            if let Some((hash, _)) = chunks.iter().find(|(hash, bytes)| ChunkHash::of(bytes) != *hash) {
                let (code, message) = ("hash_mismatch".to_owned(), format!("not the bytes of {hash}"));
                return Err(RemoteError::Refused { status: 422, code, message });
            }
            state.chunks.extend(chunks);
            Ok(())
        })
    }

    fn get_chunks(&self, hashes: Vec<ChunkHash>) -> RemoteFuture<'_, ChunkStream> {
        self.call(move |state| {
            let found: Vec<_> = hashes.into_iter().map(|hash| state.chunk(hash)).collect();
            Ok(stream::iter(found).boxed())
        })
    }

    fn contents(&self, contents: Vec<ContentId>) -> RemoteFuture<'_, Vec<Option<Manifest>>> {
        self.call(move |state| {
            if state.swallow_contents > 0 {
                state.swallow_contents -= 1;
                return Err(RemoteError::Disconnected { server: "memory".to_owned() });
            }
            Ok(contents.iter().map(|id| state.contents.get(id).cloned()).collect())
        })
    }

    fn records(&self, keys: Vec<RecordKey>) -> RemoteFuture<'_, RecordsReply> {
        self.call(move |state| {
            let records = keys.iter().map(|key| state.current(key)).collect();
            Ok(RecordsReply { revision: state.revision, records })
        })
    }

    fn merkle(&self, prefixes: Vec<Vec<u8>>) -> RemoteFuture<'_, MerkleReply> {
        self.call(move |state| {
            let node = |prefix: &Vec<u8>| merkle::node(&state.nodes, prefix).expect("memory does not fail");
            Ok(MerkleReply { revision: state.revision, nodes: prefixes.iter().map(node).collect() })
        })
    }

    fn report(&self, request: ReportRequest) -> RemoteFuture<'_, ReportReply> {
        self.call(move |state| {
            let reply = state.report(request);
            if state.swallow_reports > 0 {
                state.swallow_reports -= 1;
                return Err(RemoteError::Disconnected { server: "memory".to_owned() });
            }
            Ok(reply)
        })
    }

    fn stream(&self, client: ClientId) -> RemoteFuture<'_, FrameStream> {
        self.call(move |state| {
            let (sender, receiver) = mpsc::unbounded_channel();
            let (volume, revision, root) = (state.volume, state.revision, state.root());
            let _ = sender.send(Ok(StreamFrame::Hello { volume, revision, root }));
            state.streams.push((client, sender));
            Ok(stream::unfold(receiver, |mut receiver| async {
                let frame = receiver.recv().await?;
                Some((frame, receiver))
            })
            .boxed())
        })
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }
}
