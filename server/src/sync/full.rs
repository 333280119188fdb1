//! What the server says while its disk takes nothing: what it knows already. So a mount that comes back is let in and reads on, and a
//! commit that finds no room is known not to have been made.

use std::sync::Arc;

use dfs_shared::ids::{ClientId, VolumeName};
use dfs_shared::wire::messages::{CommitReply, CommitRequest, RegisterReply};

use super::commit::{Answer, Numbered};
use super::{SyncError, SyncService, register};
use crate::blocking::offload;
use crate::metadata::{MetadataError, MetadataStore};

impl SyncService {
    /// Returns what a client that is registered is told when it registers again. Blocks.
    ///
    /// # Errors
    /// [`SyncError::VolumeNotFound`] or [`SyncError::Metadata`].
    pub fn registered(
        &self,
        name: &VolumeName,
        client: &ClientId,
    ) -> Result<Option<RegisterReply>, SyncError> {
        registered(&*self.metadata, name, client)
    }

    /// Returns the reply that a commit got, if it was made and the reply is still kept. Blocks.
    ///
    /// # Errors
    /// [`SyncError::VolumeNotFound`], [`SyncError::NumberTaken`] or [`SyncError::Metadata`].
    pub fn committed(
        &self,
        name: &VolumeName,
        request: &CommitRequest,
    ) -> Result<Option<CommitReply>, SyncError> {
        let numbered = Numbered::of(request);
        numbered.map_or(Ok(None), |numbered| committed(&*self.metadata, name, &numbered)?.transpose())
    }
}

/// Answers for a registration that found no room.
pub(super) async fn register_anyway(
    metadata: &Arc<dyn MetadataStore>,
    name: &VolumeName,
    client: ClientId,
) -> Result<RegisterReply, SyncError> {
    let (metadata, name) = (Arc::clone(metadata), name.clone());
    let known = offload(move || registered(&*metadata, &name, &client)).await?;
    known.ok_or(SyncError::Metadata(MetadataError::DiskFull))
}

/// Answers for a commit that found no room. Another one of the same number may have been made before it, and was over when this one
/// failed.
pub(super) async fn commit_anyway(
    metadata: &Arc<dyn MetadataStore>,
    name: &VolumeName,
    numbered: Numbered,
) -> Result<CommitReply, SyncError> {
    let (metadata, name) = (Arc::clone(metadata), name.clone());
    let known = offload(move || committed(&*metadata, &name, &numbered)).await?;
    known.unwrap_or(Err(SyncError::Metadata(MetadataError::DiskFull)))
}

fn registered(
    metadata: &dyn MetadataStore,
    name: &VolumeName,
    client: &ClientId,
) -> Result<Option<RegisterReply>, SyncError> {
    super::read(metadata, name, |snapshot, volume| {
        let known = snapshot.client(volume.key, client)?;
        Ok(known.map(|known| register::reply(known.id, volume)))
    })
}

fn committed(
    metadata: &dyn MetadataStore,
    name: &VolumeName,
    numbered: &Numbered,
) -> Result<Option<Answer>, SyncError> {
    super::read(metadata, name, |snapshot, volume| numbered.kept(snapshot, volume.key))
}
