//! A version that was replaced before it came, as a write job: a mount keeps it in a file's history where the last write wins.
//!
//! The request is a commit of one change of one file, whatever its base. The version begins and ends with a revision of its own,
//! which changes no record. Invariant: the file stays as it is, so that no mount ever shows the version; who repeats the request
//! does not make it two.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use dfs_shared::event::EventBus;
use dfs_shared::ids::VolumeName;
use dfs_shared::record::{NodeKind, NodeRecord, Record, RecordKey};
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::{CommitReply, GroupOutcome};
use tokio::sync::oneshot;

use super::SyncError;
use super::commit::{Concluded, conclude};
use super::group::Groups;
use super::request::CheckedRequest;
use crate::limits::PAST_VERSIONS_COMPARED;
use crate::metadata::{MetadataError, PastRecord, Volume, VolumeKey, WriteJob, WriteMetadata};

/// A queued version.
pub(super) struct PastJob {
    volume: VolumeName,
    request: CheckedRequest,
    bus: EventBus,
    done: Option<(Result<CommitReply, SyncError>, Option<Concluded>)>,
    reply: oneshot::Sender<Result<CommitReply, SyncError>>,
}

impl PastJob {
    /// Makes the job.
    ///
    /// # Errors
    /// [`SyncError::BadRequest`] unless the request is one change that leaves a file.
    pub(super) fn new(
        volume: VolumeName,
        request: CheckedRequest,
        bus: EventBus,
        reply: oneshot::Sender<Result<CommitReply, SyncError>>,
    ) -> Result<Self, SyncError> {
        if version(&request).is_none() {
            let why = "a past version is one group with one change, which leaves a file".to_owned();
            return Err(SyncError::BadRequest { why });
        }
        Ok(Self { volume, request, bus, done: None, reply })
    }
}

/// The version that a request brings.
fn version(request: &CheckedRequest) -> Option<&NodeRecord> {
    let [checked] = &request.groups[..] else { return None };
    let [change] = &checked.group.changes[..] else { return None };
    match &change.value {
        Some(Record::Node(node)) if node.kind == NodeKind::File => Some(node),
        Some(Record::Node(_) | Record::Entry(_)) | None => None,
    }
}

impl WriteJob for PastJob {
    fn weight(&self) -> usize {
        self.request.weight()
    }

    fn run(&mut self, tx: &mut dyn WriteMetadata) -> Result<(), MetadataError> {
        let Some(volume) = tx.volume(&self.volume)? else {
            let name = self.volume.clone();
            self.done = Some((Err(SyncError::VolumeNotFound { name }), None));
            return Ok(());
        };
        let client = &self.request.client;
        if tx.client(volume.key, client)?.is_none() {
            self.done = Some((Err(SyncError::ClientUnknown { client: client.clone() }), None));
            return Ok(());
        }
        self.done = Some(keep(tx, &volume, &self.request)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), MetadataError>) {
        let answer = match (outcome, self.done) {
            (Err(error), _) => Err(SyncError::Metadata(error)),
            (Ok(()), None) => unreachable!("a job that ran without an error has an outcome"),
            (Ok(()), Some((answer, concluded))) => {
                if let Some(concluded) = concluded {
                    concluded.publish(&self.volume, &self.bus);
                }
                answer
            }
        };
        // The asker may have gone away; the version stays.
        let _ = self.reply.send(answer);
    }
}

type Kept = (Result<CommitReply, SyncError>, Option<Concluded>);

fn keep(
    tx: &mut dyn WriteMetadata,
    volume: &Volume,
    request: &CheckedRequest,
) -> Result<Kept, MetadataError> {
    let [checked] = &request.groups[..] else { unreachable!("checked when the job was made") };
    let version = version(request).expect("checked when the job was made");
    let revision = volume.revision.next();
    let (replaced, introduced) = (HashMap::new(), HashMap::new());
    // The history does not count.
    let (used, quota) = (volume.used, None);
    let mut groups = Groups { tx, volume: volume.key, revision, request, replaced, introduced, used, quota };
    let outcome = groups.keep_contents_of(checked)?;
    let tx = groups.tx;
    let mut reply = CommitReply { outcomes: vec![outcome], revision: volume.revision, root: volume.root };
    if reply.outcomes != [GroupOutcome::Accepted] || is_known(tx, volume.key, version)? {
        return Ok((Ok(reply), None));
    }
    let past = PastRecord {
        node: version.id,
        began: revision,
        ended: revision,
        time: Timestamp::from(SystemTime::now()),
        author: Some(request.client.clone()),
        record: Record::Node(version.clone()),
    };
    tx.put_history(volume.key, &past)?;
    let concluded = conclude(tx, volume, &request.client, 0, BTreeMap::new(), &HashMap::new(), None)?;
    reply.revision = concluded.commit.revision;
    Ok((Ok(reply), Some(concluded)))
}

/// Tells whether the file has, or had a short time ago, just this content from this time.
fn is_known(tx: &dyn WriteMetadata, volume: VolumeKey, version: &NodeRecord) -> Result<bool, MetadataError> {
    let is_same = |record: &Record| match record {
        Record::Node(node) => (node.content, node.mtime) == (version.content, version.mtime),
        Record::Entry(_) => false,
    };
    let current = tx.record(volume, &RecordKey::Node(version.id))?;
    if current.is_some_and(|current| is_same(&current.record)) {
        return Ok(true);
    }
    let history = tx.history(volume, version.id, PAST_VERSIONS_COMPARED)?;
    Ok(history.iter().any(|past| is_same(&past.record)))
}

#[cfg(test)]
mod tests;
