//! What the server says while its disk takes nothing: what it knows already. So a mount that comes back is let in and reads on, and a
//! commit that finds no room is known not to have been made.

use std::sync::Arc;

use dfs_shared::ids::{ClientId, VolumeName};
use dfs_shared::wire::messages::{CommitReply, RegisterReply};

use super::{SyncError, SyncService, commit, register};
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

    /// Returns the reply that a client's commit of this number got, if it was made and the reply is still kept. Blocks.
    ///
    /// # Errors
    /// [`SyncError::VolumeNotFound`] or [`SyncError::Metadata`].
    pub fn committed(
        &self,
        name: &VolumeName,
        client: &ClientId,
        number: u64,
    ) -> Result<Option<CommitReply>, SyncError> {
        committed(&*self.metadata, name, client, number)
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
    client: ClientId,
    number: u64,
) -> Result<CommitReply, SyncError> {
    let (metadata, name) = (Arc::clone(metadata), name.clone());
    let known = offload(move || committed(&*metadata, &name, &client, number)).await?;
    known.ok_or(SyncError::Metadata(MetadataError::DiskFull))
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
    client: &ClientId,
    number: u64,
) -> Result<Option<CommitReply>, SyncError> {
    super::read(metadata, name, |snapshot, volume| {
        let kept = snapshot.commit_reply(volume.key, client, number)?;
        kept.as_deref().map(commit::kept_reply).transpose()
    })
}
