//! A commit as a write job: repeated or new, group by group, one revision, one Merkle update, one event.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use dfs_shared::event::EventBus;
use dfs_shared::event::kinds::server::{
    Committed, FileConflictDetected, FileUploadCompleted, SyncCompleted, SyncFailed, SyncRound,
};
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::limits::{
    COMMIT_CHANGES_MAX, COMMIT_SMALL_BYTES_MAX, EVENT_MANIFEST_CHUNKS_MAX, SMALL_CONTENT_LEN_MAX,
};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{NodeKind, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::{self, CommitReply, CommitRequest, CurrentRecord, GroupOutcome, SmallChunk};
use dfs_shared::wire::{decode_plain, encode_plain};
use tokio::sync::oneshot;

use super::changes::FileChange;
use super::event::{CommitAnswered, FilesChanged};
use super::group::Groups;
use super::request::CheckedRequest;
use super::{SyncError, merkle};
use crate::limits::{COMMIT_CHANGES_LEN_KEPT, COMMIT_REPLIES_KEPT};
use crate::metadata::{
    CommitChanges, MetadataError, PastRecord, ReadMetadata, Volume, VolumeKey, WriteJob, WriteMetadata,
};

/// The number of commits that are never repeated: no reply is kept. What the server itself commits has it.
pub const UNNUMBERED: u64 = u64::MAX;

/// A queued commit.
pub(super) struct CommitJob {
    pub(super) volume: VolumeName,
    pub(super) request: CheckedRequest,
    pub(super) bus: EventBus,
    /// When the request was taken, for the measured latency.
    pub(super) taken: Instant,
    pub(super) done: Option<Done>,
    pub(super) reply: oneshot::Sender<Answer>,
}

pub(super) type Answer = Result<CommitReply, SyncError>;

/// What a commit has come to, before it is durable.
pub(super) enum Done {
    /// An earlier reply, or a refusal of the whole request.
    Answer(Answer),
    /// A new reply and, if a group was accepted, what to publish.
    New { reply: CommitReply, commit: Option<Concluded>, changes: usize },
}

/// A commit that has advanced the volume: what is pushed, what its records were before, and what that comes to.
pub(super) struct Concluded {
    pub(super) commit: messages::Committed,
    before: Vec<Option<Versioned>>,
    changes: Vec<FileChange>,
}

impl Concluded {
    /// Tells of it, then of what it did to files.
    pub(super) fn publish(self, volume: &VolumeName, bus: &EventBus) {
        let revision = self.commit.revision;
        bus.publish(Committed { volume: volume.clone(), commit: Arc::new(self.commit) });
        if !self.changes.is_empty() {
            bus.publish(FilesChanged { volume: volume.clone(), revision, changes: self.changes.into() });
        }
    }
}

/// A request that may come again.
#[derive(Debug, Clone)]
pub(super) struct Numbered {
    pub(super) client: ClientId,
    pub(super) number: u64,
    pub(super) fingerprint: ChunkHash,
}

impl Numbered {
    pub(super) fn of(request: &CommitRequest) -> Option<Self> {
        let (client, number) = (&request.client, request.commit);
        (number != UNNUMBERED).then(|| Self {
            client: client.clone(),
            number,
            fingerprint: request.fingerprint(),
        })
    }

    /// Returns the reply that an earlier commit of the same number got, if that was this one.
    pub(super) fn kept(
        &self,
        snapshot: &dyn ReadMetadata,
        volume: VolumeKey,
    ) -> Result<Option<Answer>, MetadataError> {
        let Some(kept) = snapshot.commit_reply(volume, &self.client, self.number)? else { return Ok(None) };
        let decoded = match decode_plain::<(CommitReply, ChunkHash)>(&kept) {
            // Those of an older version have no fingerprint.
            Err(_) => decode_plain(&kept).map(|reply| (reply, self.fingerprint)),
            decoded => decoded,
        };
        let (reply, fingerprint) = decoded.map_err(|source| MetadataError::Damaged {
            what: "kept reply",
            source: Some(Arc::new(source)),
        })?;
        Ok(Some(if fingerprint == self.fingerprint {
            Ok(reply)
        } else {
            Err(SyncError::NumberTaken { client: self.client.clone(), number: self.number })
        }))
    }
}

impl WriteJob for CommitJob {
    fn weight(&self) -> usize {
        self.request.weight()
    }

    fn run(&mut self, tx: &mut dyn WriteMetadata) -> Result<(), MetadataError> {
        let Some(volume) = tx.volume(&self.volume)? else {
            let name = self.volume.clone();
            self.done = Some(Done::Answer(Err(SyncError::VolumeNotFound { name })));
            return Ok(());
        };
        let numbered = self.request.numbered.as_ref();
        if let Some(kept) = numbered.map(|numbered| numbered.kept(tx, volume.key)).transpose()?.flatten() {
            self.done = Some(Done::Answer(kept));
            return Ok(());
        }
        let client = &self.request.client;
        if tx.client(volume.key, client)?.is_none() {
            self.done = Some(Done::Answer(Err(SyncError::ClientUnknown { client: client.clone() })));
            return Ok(());
        }
        self.done = Some(commit(tx, &volume, &self.request)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), MetadataError>) {
        let answer = match (outcome, self.done) {
            (Err(error), _) => Err(SyncError::Metadata(error)),
            (Ok(()), None) => unreachable!("a job that ran without an error has an outcome"),
            (Ok(()), Some(Done::Answer(answer))) => answer,
            (Ok(()), Some(Done::New { reply, commit, changes })) => {
                if let Some(commit) = commit {
                    let is_upload = self.request.is_numbered();
                    let uploaded = is_upload.then(|| uploads(&commit, &self.volume).collect::<Vec<_>>());
                    commit.publish(&self.volume, &self.bus);
                    uploaded.into_iter().flatten().for_each(|upload| self.bus.publish(upload));
                }
                for key in reply.outcomes.iter().filter_map(conflict) {
                    let (volume, client) = (self.volume.clone(), self.request.client.clone());
                    self.bus.publish(FileConflictDetected {
                        volume,
                        client,
                        key: Some(key.clone()),
                        path: None,
                    });
                }
                let accepted = reply.outcomes.iter().filter(|outcome| is_accepted(outcome)).count();
                self.bus.publish(CommitAnswered {
                    volume: self.volume.clone(),
                    revision: reply.revision,
                    client: self.request.client.clone(),
                    changes,
                    accepted,
                    refused: reply.outcomes.len() - accepted,
                    took: self.taken.elapsed(),
                });
                Ok(reply)
            }
        };
        if self.request.is_numbered() {
            publish_round(&self.bus, &self.volume, &self.request.client, &answer);
        }
        // The asker may have gone away; the commit stands, and a repeated request gets the kept reply.
        let _ = self.reply.send(answer);
    }
}

/// Tells how a mount's commit round ended.
fn publish_round(bus: &EventBus, volume: &VolumeName, client: &ClientId, answer: &Answer) {
    let (volume, client, round) = (volume.clone(), client.clone(), SyncRound::Commit);
    match answer {
        Ok(reply) => {
            let accepted = reply.outcomes.iter().filter(|outcome| is_accepted(outcome)).count() as u64;
            let refused = reply.outcomes.len() as u64 - accepted;
            let revision = reply.revision;
            bus.publish(SyncCompleted { volume, client, round, revision, accepted, refused });
        }
        Err(error) => {
            let reason = crate::report::chain(error);
            bus.publish(SyncFailed { volume, client, round, reason });
        }
    }
}

/// The contents of a mount's commit that were uploaded before it, chunk by chunk.
fn uploads<'c>(
    concluded: &'c Concluded,
    volume: &'c VolumeName,
) -> impl Iterator<Item = FileUploadCompleted> + 'c {
    let records = concluded.commit.records.iter().zip(&concluded.before);
    records.filter_map(|(current, before)| {
        let content = new_content(before.as_ref(), current.value.as_ref())?;
        let Record::Node(node) = &current.value.as_ref()?.record else { return None };
        (node.size > SMALL_CONTENT_LEN_MAX).then(|| FileUploadCompleted {
            volume: volume.clone(),
            content: Some(content),
            size: node.size,
            client: Some(concluded.commit.client.clone()),
            node: Some(node.id),
            path: None,
        })
    })
}

/// The record over which a group was refused because somebody else had changed it.
fn conflict(outcome: &GroupOutcome) -> Option<&RecordKey> {
    match outcome {
        GroupOutcome::Refused { reason: messages::Refusal::BaseChanged { key }, .. } => Some(key),
        GroupOutcome::Refused { .. } | GroupOutcome::Accepted => None,
    }
}

fn is_accepted(outcome: &GroupOutcome) -> bool {
    matches!(outcome, GroupOutcome::Accepted)
}

fn commit(
    tx: &mut dyn WriteMetadata,
    volume: &Volume,
    request: &CheckedRequest,
) -> Result<Done, MetadataError> {
    let revision = volume.revision.next();
    let mut groups = Groups {
        tx,
        volume: volume.key,
        revision,
        request,
        replaced: HashMap::new(),
        introduced: HashMap::new(),
        used: volume.used,
        quota: volume.quota,
    };
    let outcomes = request.groups.iter().map(|group| groups.apply(group)).collect::<Result<Vec<_>, _>>()?;
    let Groups { tx, replaced, introduced, .. } = groups;
    let mut reply = CommitReply { outcomes, revision: volume.revision, root: volume.root };
    let mut published = None;
    let changes = replaced.len();
    if !replaced.is_empty() {
        let replaced = replaced.into_iter().collect();
        let committed =
            conclude(tx, volume, &request.client, request.commit, replaced, &introduced, Some(request))?;
        (reply.revision, reply.root) = (committed.commit.revision, committed.commit.root);
        published = Some(committed);
    }
    if let Some(numbered) = &request.numbered {
        let kept = encode_plain(&(&reply, numbered.fingerprint));
        tx.put_commit_reply(volume.key, &request.client, request.commit, &kept, COMMIT_REPLIES_KEPT)?;
    }
    Ok(Done::New { reply, commit: published, changes })
}

/// Advances the volume over changed records: history, Merkle tree, revision; returns the event's message.
pub(super) fn conclude(
    tx: &mut dyn WriteMetadata,
    volume: &Volume,
    client: &ClientId,
    commit: u64,
    replaced: BTreeMap<RecordKey, Option<Versioned>>,
    introduced: &HashMap<ContentId, Manifest>,
    request: Option<&CheckedRequest>,
) -> Result<Concluded, MetadataError> {
    let revision = volume.revision.next();
    let time = Timestamp::from(SystemTime::now());
    let mut records = Vec::with_capacity(replaced.len());
    let mut before = Vec::with_capacity(replaced.len());
    let mut contents = Vec::new();
    let mut used = volume.used;
    let len = |version: Option<&Versioned>| version.map_or(0, |version| version.record.quota_len());
    for (key, old) in replaced {
        let value = tx.record(volume.key, &key)?;
        used = used.wrapping_add(len(value.as_ref())).wrapping_sub(len(old.as_ref()));
        if let Some(content) = new_content(old.as_ref(), value.as_ref()) {
            contents.push(content);
        }
        if let Some(mut past) = past(old.as_ref(), value.as_ref(), revision, time) {
            past.author = tx.commit_author(volume.key, past.began)?;
            tx.put_history(volume.key, &past)?;
        }
        before.push(old);
        records.push(CurrentRecord { key, value });
    }
    let root = merkle::update(tx, volume.key, &records)?;
    tx.advance_volume(volume.key, revision, root, used)?;
    tx.put_commit_author(volume.key, revision, client, time)?;
    let changes: Vec<FileChange> = FileChange::all(&records, &before).collect();
    let kept = CommitChanges { revision, time, changes: encode_plain(&changes) };
    tx.put_changes(volume.key, &kept, COMMIT_CHANGES_LEN_KEPT)?;
    let (manifests, small_chunks) = pushed(tx, &contents, introduced, request, COMMIT_SMALL_BYTES_MAX)?;
    let client = client.clone();
    let commit = messages::Committed { revision, root, client, commit, records, manifests, small_chunks };
    Ok(Concluded { commit, before, changes })
}

/// The content that a file has got with this change.
fn new_content(old: Option<&Versioned>, new: Option<&Versioned>) -> Option<ContentId> {
    let content = |record: Option<&Versioned>| match record.map(|versioned| &versioned.record) {
        Some(Record::Node(node)) => node.content,
        Some(Record::Entry(_)) | None => None,
    };
    content(new).filter(|id| content(old) != Some(*id))
}

/// What the history keeps: removed records, entries that lead elsewhere, and files whose content changed.
fn past(
    old: Option<&Versioned>,
    new: Option<&Versioned>,
    ended: Revision,
    time: Timestamp,
) -> Option<PastRecord> {
    let old = old?;
    let node = match (&old.record, new.map(|new| &new.record)) {
        (Record::Node(old), Some(Record::Node(new))) => {
            let is_kept = old.kind == NodeKind::File && old.content != new.content;
            is_kept.then_some(old.id)
        }
        (Record::Entry(old), Some(Record::Entry(new))) if old.node == new.node => None,
        (Record::Node(old), _) => Some(old.id),
        (Record::Entry(old), _) => Some(old.node),
    };
    let node: NodeId = node?;
    Some(PastRecord { node, began: old.revision, ended, time, author: None, record: old.record.clone() })
}

/// Manifests and small contents that travel inside the event. No further small content once there are more than
/// `small_bytes_max` bytes of them: that is where a mount ends its commit. And no more of them than a mount reads.
fn pushed(
    tx: &dyn WriteMetadata,
    contents: &[ContentId],
    introduced: &HashMap<ContentId, Manifest>,
    request: Option<&CheckedRequest>,
    small_bytes_max: usize,
) -> Result<(Vec<Manifest>, Vec<SmallChunk>), MetadataError> {
    let mut unique = std::collections::BTreeSet::new();
    let mut manifests = Vec::new();
    let mut small_chunks: BTreeMap<_, Vec<u8>> = BTreeMap::new();
    let mut small_bytes = 0;
    for id in contents.iter().filter(|id| unique.insert(**id)) {
        let Some(manifest) = introduced.get(id) else { continue };
        if manifest.chunks.len() > EVENT_MANIFEST_CHUNKS_MAX {
            continue;
        }
        let is_small = manifest.size() <= SMALL_CONTENT_LEN_MAX;
        for chunk in manifest.chunks.iter().filter(|chunk| is_small && !chunk.hash.is_hole()) {
            let is_full = small_bytes > small_bytes_max || small_chunks.len() == COMMIT_CHANGES_MAX;
            if is_full || small_chunks.contains_key(&chunk.hash) {
                continue;
            }
            let bytes = match request.and_then(|request| request.small_chunks.get(&chunk.hash)) {
                Some(bytes) => Some(bytes.clone()),
                None => tx.small_chunk(&chunk.hash)?,
            };
            if let Some(bytes) = bytes {
                small_bytes += bytes.len();
                small_chunks.insert(chunk.hash, bytes);
            }
        }
        manifests.push(manifest.clone());
    }
    let small_chunks = small_chunks.into_iter().map(|(hash, bytes)| SmallChunk { hash, bytes });
    Ok((manifests, small_chunks.collect()))
}

/// Makes the root directory of a volume that has none yet; returns what to publish.
pub(super) fn make_root(
    tx: &mut dyn WriteMetadata,
    volume: &Volume,
    client: &ClientId,
    root: &Record,
) -> Result<Concluded, MetadataError> {
    let key = root.key();
    tx.put_record(volume.key, volume.revision.next(), root)?;
    conclude(tx, volume, client, 0, BTreeMap::from([(key, None)]), &HashMap::new(), None)
}

/// Tells whether a volume has its root directory.
pub(super) fn has_root(tx: &dyn WriteMetadata, volume: VolumeKey) -> Result<bool, MetadataError> {
    Ok(tx.record(volume, &RecordKey::Node(NodeId::ROOT))?.is_some())
}

#[cfg(test)]
mod tests;
