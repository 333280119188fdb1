//! What a metadata store keeps of the mounts: who is registered, and which contents of which files each of them holds, as it
//! said last.

use dfs_shared::hash::ContentId;
use dfs_shared::ids::{ClientId, NodeId};

use super::{Client, MetadataError, VolumeKey};

/// A version of a file that a client holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldVersion {
    /// Its content; `None` for the empty one.
    pub content: Option<ContentId>,
    /// Which version of the file it was when the client said so.
    pub version: u64,
}

/// Reads about mounts.
pub trait ReadReplicas {
    /// Lists the clients of a volume by id.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or a row is damaged.
    fn clients(&self, volume: VolumeKey) -> Result<Vec<Client>, MetadataError>;

    /// Returns the number of a client's newest report; 0 for a client that has not reported, or is not known.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn report_number(&self, volume: VolumeKey, client: &ClientId) -> Result<u64, MetadataError>;

    /// Reads up to `limit` clients that hold a version of a file, by id.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or a row is damaged.
    fn replicas(
        &self,
        volume: VolumeKey,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<(ClientId, HeldVersion)>, MetadataError>;
}

/// Writes about mounts.
pub trait WriteReplicas {
    /// Keeps the number of a client's newest report. Does nothing for a client that is not known.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_report_number(
        &mut self,
        volume: VolumeKey,
        client: &ClientId,
        number: u64,
    ) -> Result<(), MetadataError>;

    /// Keeps or, with `None`, drops what a client holds of a file.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_replica(
        &mut self,
        volume: VolumeKey,
        node: NodeId,
        client: &ClientId,
        held: Option<&HeldVersion>,
    ) -> Result<(), MetadataError>;

    /// Drops everything that a client was said to hold.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn drop_replicas(&mut self, volume: VolumeKey, client: &ClientId) -> Result<(), MetadataError>;

    /// Forgets a client: its row, what it holds, and the replies that were kept for it. `false` when there is none.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn remove_client(&mut self, volume: VolumeKey, client: &ClientId) -> Result<bool, MetadataError>;
}
