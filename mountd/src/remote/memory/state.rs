//! What the server in memory holds, and what it does with a request.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use dfs_shared::hash::{ChunkHash, ContentId, MerkleHash};
use dfs_shared::ids::{ClientId, NodeId, VolumeId};
use dfs_shared::manifest::Manifest;
use dfs_shared::merkle::{self, MemoryNodes};
use dfs_shared::record::{ChangeGroup, NodeKind, NodeRecord, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::{
    CommitReply, CommitRequest, Committed, CurrentRecord, GroupOutcome, Refusal, SmallChunk, StreamFrame,
};
use dfs_shared::wire::report::{Held, Holding, ReportReply, ReportRequest};
use tokio::sync::mpsc;

use crate::remote::RemoteError;

#[derive(Debug)]
pub(super) struct State {
    pub(super) volume: VolumeId,
    pub(super) revision: Revision,
    pub(super) records: BTreeMap<RecordKey, Versioned>,
    pub(super) nodes: MemoryNodes,
    pub(super) roots: BTreeMap<Revision, MerkleHash>,
    pub(super) chunks: HashMap<ChunkHash, Bytes>,
    pub(super) corrupt: HashSet<ChunkHash>,
    pub(super) contents: HashMap<ContentId, Manifest>,
    pub(super) replies: HashMap<ClientId, BTreeMap<u64, (ChunkHash, CommitReply)>>,
    pub(super) streams: Vec<(ClientId, mpsc::UnboundedSender<Result<StreamFrame, RemoteError>>)>,
    pub(super) clients: u64,
    pub(super) online: bool,
    pub(super) swallow_replies: u32,
    pub(super) registered: BTreeSet<ClientId>,
    pub(super) clock_ahead_s: i64,
    pub(super) talk_too_much: bool,
    pub(super) lose_commits: u32,
    pub(super) commits: u64,
    pub(super) reports: BTreeMap<ClientId, Reports>,
    pub(super) swallow_reports: u32,
    pub(super) swallow_contents: u32,
    pub(super) past: Vec<NodeRecord>,
    pub(super) lose_past: bool,
    /// After so many more requests for records it goes away.
    pub(super) records_left: Option<u32>,
    pub(super) refusals_left: Option<u32>,
    /// Its disk takes nothing.
    pub(super) full: bool,
    /// Most bytes of all files.
    pub(super) quota: Option<u64>,
}

/// Of each client, as the real server does.
const REPLIES_KEPT: usize = 64;

/// What a client has reported.
#[derive(Debug, Default)]
pub(super) struct Reports {
    pub(super) number: u64,
    pub(super) held: BTreeMap<NodeId, Option<ContentId>>,
    pub(super) requests: Vec<ReportRequest>,
}

pub(super) fn root() -> NodeRecord {
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
    pub(super) fn root(&self) -> MerkleHash {
        merkle::root(&self.nodes).expect("memory does not fail")
    }

    pub(super) fn set_online(&mut self, online: bool) {
        self.online = online;
        if !online {
            for (_, stream) in std::mem::take(&mut self.streams) {
                let _ = stream.send(Err(super::unreachable()));
            }
        }
    }

    /// Counts a read while it is away, and comes back for the last.
    pub(super) fn count_refusal(&mut self) {
        self.refusals_left = self.refusals_left.map(|left| left.saturating_sub(1));
        if self.refusals_left == Some(0) {
            self.refusals_left = None;
            self.online = true;
        }
    }

    /// Counts a request for records, and goes away with the last.
    pub(super) fn take_leave(&mut self) -> Result<(), RemoteError> {
        match self.records_left {
            Some(0) => {
                self.records_left = None;
                self.set_online(false);
                Err(super::unreachable())
            }
            left => {
                self.records_left = left.map(|left| left - 1);
                Ok(())
            }
        }
    }

    pub(super) fn current(&self, key: &RecordKey) -> CurrentRecord {
        CurrentRecord { key: key.clone(), value: self.records.get(key).cloned() }
    }

    /// Makes the records true under the next revision.
    pub(super) fn write(&mut self, changes: Vec<(RecordKey, Option<Record>)>) -> Vec<CurrentRecord> {
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

    pub(super) fn refusal(
        &self,
        group: &ChangeGroup,
        written: &BTreeMap<RecordKey, Option<Record>>,
    ) -> Option<Refusal> {
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
        self.over_quota(group, written)
    }

    /// Tells whether a group would grow the files over the quota, with what was accepted before it.
    fn over_quota(
        &self,
        group: &ChangeGroup,
        written: &BTreeMap<RecordKey, Option<Record>>,
    ) -> Option<Refusal> {
        let len = |record: Option<&Record>| i128::from(record.map_or(0, Record::quota_len));
        let old = |key: &RecordKey| len(self.records.get(key).map(|found| &found.record));
        let all: i128 = self.records.values().map(|found| len(Some(&found.record))).sum();
        let used = all + written.iter().map(|(key, new)| len(new.as_ref()) - old(key)).sum::<i128>();
        let growth: i128 =
            group.changes.iter().map(|change| len(change.value.as_ref()) - old(&change.key)).sum();
        let limit = self.quota.filter(|limit| growth > 0 && used + growth > i128::from(*limit))?;
        let [used, growth] = [used, growth].map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX));
        Some(Refusal::OverQuota { limit, used, growth })
    }

    /// What has to come before a content can be referred to.
    pub(super) fn lacking(&self, content: Option<ContentId>) -> Option<Refusal> {
        let content = content?;
        let Some(manifest) = self.contents.get(&content) else {
            return Some(Refusal::ContentMissing { contents: vec![content] });
        };
        let chunks = manifest.chunks.iter().map(|chunk| chunk.hash).filter(|hash| !hash.is_hole());
        let hashes: Vec<_> = chunks.filter(|hash| !self.chunks.contains_key(hash)).collect();
        (!hashes.is_empty()).then_some(Refusal::ChunksMissing { hashes })
    }

    pub(super) fn take_contents(&mut self, request: &CommitRequest) {
        for chunk in &request.small_chunks {
            if ChunkHash::of(&chunk.bytes) == chunk.hash {
                self.chunks.insert(chunk.hash, chunk.bytes.clone().into());
            }
        }
        let manifests = request.contents.iter().map(|content| content.manifest.clone());
        self.contents.extend(manifests.map(|manifest| (manifest.id(), manifest)));
    }

    /// Returns what a commit of this number was answered, and the fingerprint of that commit.
    pub(super) fn reply_to(&self, client: &ClientId, number: u64) -> Option<&(ChunkHash, CommitReply)> {
        self.replies.get(client)?.get(&number)
    }

    pub(super) fn commit(&mut self, request: CommitRequest) -> Result<CommitReply, RemoteError> {
        self.commits += 1;
        let fingerprint = request.fingerprint();
        if let Some((made, reply)) = self.reply_to(&request.client, request.commit) {
            let (code, message) = ("number_taken".to_owned(), "of another request".to_owned());
            let taken = RemoteError::Refused { status: 409, code, message };
            return if *made == fingerprint { Ok(reply.clone()) } else { Err(taken) };
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
        let kept = self.replies.entry(request.client).or_default();
        kept.insert(request.commit, (fingerprint, reply.clone()));
        if kept.len() > REPLIES_KEPT {
            kept.pop_first();
        }
        Ok(reply)
    }

    /// Keeps the version of a file that is there, once.
    /// What has been done is answered, unless the answer is to get lost.
    pub(super) fn answer(&mut self, reply: CommitReply) -> Result<CommitReply, RemoteError> {
        if self.swallow_replies > 0 {
            self.swallow_replies -= 1;
            return Err(RemoteError::Disconnected { server: "memory".to_owned() });
        }
        if self.talk_too_much {
            return Err(RemoteError::TooLong {
                server: "memory".to_owned(),
                what: "commit reply",
                len_max: 1,
            });
        }
        Ok(reply)
    }

    pub(super) fn keep_past(&mut self, request: CommitRequest) -> CommitReply {
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

    pub(super) fn push(
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

    pub(super) fn report(&mut self, request: ReportRequest) -> ReportReply {
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

    pub(super) fn chunk(&self, hash: ChunkHash) -> Result<(ChunkHash, Bytes), RemoteError> {
        match self.chunks.get(&hash) {
            _ if self.corrupt.contains(&hash) => Err(RemoteError::CorruptChunk { hash }),
            Some(bytes) => Ok((hash, bytes.clone())),
            None => Err(RemoteError::AbsentChunk { hash }),
        }
    }
}
