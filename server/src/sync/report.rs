//! What mounts tell of themselves: which contents they hold, and what they have done.
//!
//! A report is noted if it follows the client's newest one, or repeats it; anything else means that one side has forgotten
//! something, and the mount tells everything anew. Contents become versions in a snapshot beside the writer, whose
//! transaction then holds nothing but the rows. Invariant: what is shown of a mount is what it said last.

use std::sync::Arc;

use dfs_shared::event::EventBus;
use dfs_shared::event::kinds::server::{
    FileConflictDetected, FileConflictResolved, FileDownloadCompleted, SyncCompleted, SyncFailed, SyncRound,
    SyncStarted,
};
use dfs_shared::hash::ContentId;
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::limits::{REPORT_EVENTS_MAX, REPORT_HELD_MAX, REPORT_PATH_LEN_MAX, REPORT_REASON_LEN_MAX};
use dfs_shared::record::{Record, RecordKey};
use dfs_shared::wire::report::{Held, Holding, MountEvent, ReportReply, ReportRequest};

use super::request::at_most;
use super::{SyncError, SyncService};
use crate::blocking::offload;
use crate::limits::FILE_VERSIONS_MAX;
use crate::metadata::{HeldVersion, MetadataError, MetadataStore, ReadMetadata, VolumeKey};

/// Rows to be written: what a client holds of a file now.
type Rows = Vec<(NodeId, Option<HeldVersion>)>;

impl SyncService {
    /// Notes what a mount holds and publishes what it has done.
    ///
    /// # Errors
    /// [`SyncError::TooMany`], [`SyncError::BadRequest`], [`SyncError::ClientUnknown`], [`SyncError::VolumeNotFound`], or the
    /// store failed.
    pub async fn report(&self, name: &VolumeName, request: ReportRequest) -> Result<ReportReply, SyncError> {
        check(&request)?;
        let ReportRequest { client, after, anew, held, events } = request;
        let (metadata, volume, asker) = (Arc::clone(&self.metadata), name.clone(), client.clone());
        let (key, rows) = offload(move || held_versions(&*metadata, &volume, &asker, &held)).await?;
        // Before the rows: who waits for them finds the events told.
        events.into_iter().for_each(|event| publish(&self.bus, name, &client, event));
        if rows.is_empty() && !anew {
            let number = self.metadata.read(|snapshot| snapshot.report_number(key, &client))?;
            return Ok(ReportReply { number, is_noted: follows(number, after) });
        }
        let noted = self.metadata.write(1 + rows.len(), move |tx| {
            let number = tx.report_number(key, &client)?;
            if !anew && !follows(number, after) {
                return Ok(ReportReply { number, is_noted: false });
            }
            if anew {
                tx.drop_replicas(key, &client)?;
            }
            for (node, held) in &rows {
                tx.put_replica(key, *node, &client, held.as_ref())?;
            }
            // Greater than both, so that an older report that is still on its way does not follow it.
            let next = if anew { number.max(after).saturating_add(1) } else { after + 1 };
            tx.put_report_number(key, &client, next)?;
            Ok(ReportReply { number: next, is_noted: true })
        });
        Ok(noted.get().await?)
    }

    /// Tells whether a client is registered with a volume. Blocks.
    ///
    /// # Errors
    /// [`SyncError::VolumeNotFound`] or [`SyncError::Metadata`].
    pub fn knows(&self, name: &VolumeName, client: &ClientId) -> Result<bool, SyncError> {
        self.read(name, |snapshot, volume| Ok(snapshot.client(volume.key, client)?.is_some()))
    }
}

fn held_versions(
    metadata: &dyn MetadataStore,
    name: &VolumeName,
    client: &ClientId,
    held: &[Held],
) -> Result<(VolumeKey, Rows), SyncError> {
    metadata.read(|snapshot| {
        let Some(volume) = snapshot.volume(name)? else {
            return Ok(Err(SyncError::VolumeNotFound { name: name.clone() }));
        };
        if snapshot.client(volume.key, client)?.is_none() {
            return Ok(Err(SyncError::ClientUnknown { client: client.clone() }));
        }
        let row = |held: &Held| Ok::<_, MetadataError>((held.node, version_of(snapshot, volume.key, held)?));
        Ok(Ok((volume.key, held.iter().map(row).collect::<Result<Rows, _>>()?)))
    })?
}

/// Tells whether a report that follows number `after` comes right behind the newest one, or is that one again.
fn follows(newest: u64, after: u64) -> bool {
    newest == after || after.checked_add(1) == Some(newest)
}

/// Finds the newest version of a file that has the content; `None` when it never had it.
fn version_of(
    snapshot: &dyn ReadMetadata,
    volume: VolumeKey,
    held: &Held,
) -> Result<Option<HeldVersion>, MetadataError> {
    let Holding::Whole(content) = held.holding else { return Ok(None) };
    let of = |record: &Record| match record {
        Record::Node(node) => Some(node.content),
        Record::Entry(_) => None,
    };
    let mut version = snapshot.past_versions(volume, held.node)?;
    if let Some(current) = snapshot.record(volume, &RecordKey::Node(held.node))?
        && of(&current.record) == Some(content)
    {
        return Ok(Some(HeldVersion { content, version: version + 1 }));
    }
    for past in snapshot.history(volume, held.node, FILE_VERSIONS_MAX)? {
        let Some(found) = of(&past.record) else { continue };
        if found == content {
            return Ok(Some(HeldVersion { content, version }));
        }
        version = version.saturating_sub(1);
    }
    Ok(None)
}

/// Returns the version that a client holds, given the file's current content and version: contents come back.
#[must_use]
pub fn shown_version(held: &HeldVersion, current: Option<(Option<ContentId>, u64)>) -> u64 {
    match current {
        Some((content, version)) if content == held.content => version,
        Some(_) | None => held.version,
    }
}

fn check(request: &ReportRequest) -> Result<(), SyncError> {
    at_most("files in a report", request.held.len(), REPORT_HELD_MAX)?;
    at_most("events in a report", request.events.len(), REPORT_EVENTS_MAX)?;
    for event in &request.events {
        let (path, copy, reason) = match event {
            MountEvent::SyncStarted | MountEvent::SyncCompleted { .. } => continue,
            MountEvent::SyncFailed { reason } => (0, 0, reason.len()),
            MountEvent::Downloaded { path, .. } | MountEvent::ConflictDetected { path } => (path.len(), 0, 0),
            MountEvent::ConflictResolved { path, copy } => (path.len(), copy.len(), 0),
        };
        at_most("bytes in a path", path.max(copy), REPORT_PATH_LEN_MAX)?;
        at_most("bytes in a reason", reason, REPORT_REASON_LEN_MAX)?;
    }
    Ok(())
}

fn publish(bus: &EventBus, volume: &VolumeName, client: &ClientId, event: MountEvent) {
    let (volume, client, round) = (volume.clone(), client.clone(), SyncRound::Reconciliation);
    match event {
        MountEvent::SyncStarted => bus.publish(SyncStarted { volume, client, round }),
        MountEvent::SyncCompleted { revision, records } => {
            let (accepted, refused) = (records, 0);
            bus.publish(SyncCompleted { volume, client, round, revision, accepted, refused });
        }
        MountEvent::SyncFailed { reason } => bus.publish(SyncFailed { volume, client, round, reason }),
        MountEvent::Downloaded { path, content, size } => {
            let (content, client, path) = (Some(content), Some(client), Some(path));
            bus.publish(FileDownloadCompleted { volume, content, size, client, path });
        }
        MountEvent::ConflictDetected { path } => {
            bus.publish(FileConflictDetected { volume, client, key: None, path: Some(path) });
        }
        MountEvent::ConflictResolved { path, copy } => {
            let (key, path, copy) = (None, Some(path), Some(copy));
            bus.publish(FileConflictResolved { volume, client, key, path, copy });
        }
    }
}

#[cfg(test)]
mod tests;
