//! A server in memory, for tests of the engine: one volume, the commit rules that mounts rely on, and faults.
//!
//! Checks base revisions and that contents and chunks are there; the rules of the tree's shape are the real
//! server's, and the suites that run on it hold them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use dfs_shared::hash::{ChunkHash, ContentId, MerkleHash};
use dfs_shared::ids::{ClientId, NodeId, VolumeId};
use dfs_shared::lineage::{self, Known};
use dfs_shared::manifest::Manifest;
use dfs_shared::merkle::{self, MemoryNodes};
use dfs_shared::name::Name;
use dfs_shared::record::{EntryRecord, NodeKind, NodeRecord, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::decode;
use dfs_shared::wire::history::{HistoryReply, HistoryRequest};
use dfs_shared::wire::messages::{
    CommitReply, CommitRequest, MerkleReply, Namesake, RecordsReply, RegisterReply, RegisterRequest,
    StreamFrame, WhoamiReply,
};
use dfs_shared::wire::report::{ReportReply, ReportRequest};
use futures_util::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;

mod state;

use state::{State, root};

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
            registered: BTreeSet::new(),
            clock_ahead_s: 0,
            lose_commits: 0,
            commits: 0,
            reports: BTreeMap::new(),
            talk_too_much: false,
            swallow_reports: 0,
            swallow_contents: 0,
            past: Vec::new(),
            lose_past: false,
            records_left: None,
            refusals_left: None,
            full: false,
            quota: None,
        };
        let root = Record::Node(root());
        state.write(vec![(root.key(), Some(root))]);
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Makes the server reachable or not. Going away breaks the streams.
    pub fn set_online(&self, online: bool) {
        self.state.lock().set_online(online);
    }

    /// Makes the server come back for the `count`th read while it is away.
    pub fn come_back_after(&self, count: u32) {
        self.state.lock().refusals_left = Some(count);
    }

    /// Makes the server go away after `count` more requests for records.
    pub fn leave_after_records(&self, count: u32) {
        self.state.lock().records_left = Some(count);
    }

    /// Makes empty files without asking anybody, `in_each` in each of the directories `d0` and so on.
    pub fn make_files(&self, directories: usize, in_each: usize) {
        let node = |kind| NodeRecord { id: NodeId::generate(), kind, ..root() };
        let mut state = self.state.lock();
        let mut made = Vec::new();
        let mut name = |parent, name: String, node: &NodeRecord| {
            let name = Name::new(name.as_bytes()).expect("a name");
            made.push(Record::Node(node.clone()));
            made.push(Record::Entry(EntryRecord { parent, name, node: node.id }));
        };
        for directory in 0..directories {
            let parent = node(NodeKind::Directory);
            name(NodeId::ROOT, format!("d{directory}"), &parent);
            (0..in_each).for_each(|file| name(parent.id, format!("f{file}"), &node(NodeKind::File)));
        }
        state.write(made.into_iter().map(|record| (record.key(), Some(record))).collect());
    }

    /// Fills the server's disk or makes room.
    pub fn set_full(&self, full: bool) {
        self.state.lock().full = full;
    }

    /// Makes the server do the next `count` commits without answering.
    pub fn swallow_replies(&self, count: u32) {
        self.state.lock().swallow_replies = count;
    }

    /// Makes the server answer commits with more than any server has to say, or rightly again.
    pub fn talk_too_much(&self, talk: bool) {
        self.state.lock().talk_too_much = talk;
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

    /// Sets its clock ahead, or behind if negative.
    pub fn set_clock_ahead(&self, secs: i64) {
        self.state.lock().clock_ahead_s = secs;
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

    /// Returns the Merkle root of the records.
    #[must_use]
    pub fn root(&self) -> MerkleHash {
        self.state.lock().root()
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

    /// Sets the volume's quota and, unless `silently`, tells the mounts.
    pub fn set_quota(&self, limit: Option<u64>, silently: bool) {
        let mut state = self.state.lock();
        state.quota = limit;
        if !silently {
            state.streams.retain(|(_, stream)| stream.send(Ok(StreamFrame::Quota { limit })).is_ok());
        }
    }

    fn online(&self) -> Result<parking_lot::MutexGuard<'_, State>, RemoteError> {
        let state = self.state.lock();
        if state.online { Ok(state) } else { Err(unreachable()) }
    }

    fn count_refusal(&self) {
        let mut state = self.state.lock();
        if !state.online {
            state.count_refusal();
        }
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

fn no_room() -> RemoteError {
    let (code, message) = ("disk_full".to_owned(), "the disk is full".to_owned());
    RemoteError::Refused { status: 507, code, message }
}

fn message(request: &Bytes) -> Result<CommitRequest, RemoteError> {
    decode(request).map_err(|error| RemoteError::Refused {
        status: 400,
        code: "bad_message".to_owned(),
        message: error.to_string(),
    })
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
            state.registered.insert(client.clone());
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

    fn whoami(&self, client: ClientId) -> RemoteFuture<'_, WhoamiReply> {
        self.call(move |state| {
            let now = Timestamp::from(SystemTime::now());
            let time = Timestamp { secs: now.secs + state.clock_ahead_s, ..now };
            let others = state.registered.iter().filter(|other| **other != client).cloned();
            let namesakes = others.map(|client| Namesake { client, last_seen: now }).collect();
            Ok(WhoamiReply { time, namesakes })
        })
    }

    fn commit(&self, request: Bytes) -> RemoteFuture<'_, CommitReply> {
        self.call(move |state| {
            let request = message(&request)?;
            if state.lose_commits > 0 {
                state.lose_commits -= 1;
                state.commits += 1;
                return Err(RemoteError::Disconnected { server: "memory".to_owned() });
            }
            let made = state.reply_to(&request.client, request.commit).is_some();
            if state.full && !made {
                return Err(no_room());
            }
            let reply = state.commit(request)?;
            state.answer(reply)
        })
    }

    fn past(&self, request: Bytes) -> RemoteFuture<'_, CommitReply> {
        self.call(move |state| {
            let request = message(&request)?;
            if state.lose_past {
                return Err(RemoteError::Disconnected { server: "memory".to_owned() });
            }
            let reply = state.keep_past(request);
            state.answer(reply)
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
            if state.full {
                return Err(no_room());
            }
            state.chunks.extend(chunks);
            Ok(())
        })
    }

    fn get_chunks(&self, hashes: Vec<ChunkHash>) -> RemoteFuture<'_, ChunkStream> {
        self.count_refusal();
        self.call(move |state| {
            let found: Vec<_> = hashes.into_iter().map(|hash| state.chunk(hash)).collect();
            Ok(stream::iter(found).boxed())
        })
    }

    fn contents(&self, contents: Vec<ContentId>) -> RemoteFuture<'_, Vec<Option<Manifest>>> {
        self.count_refusal();
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
            state.take_leave()?;
            let records = keys.iter().map(|key| state.current(key)).collect();
            Ok(RecordsReply { revision: state.revision, records })
        })
    }

    fn history(&self, _request: HistoryRequest) -> RemoteFuture<'_, HistoryReply> {
        let (code, message) = ("not_built".to_owned(), "a server in memory keeps no history".to_owned());
        Box::pin(async move { Err(RemoteError::Refused { status: 501, code, message }) })
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
            let _ = sender.send(Ok(StreamFrame::Quota { limit: state.quota }));
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
