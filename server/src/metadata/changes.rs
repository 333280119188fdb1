//! What a metadata store keeps of past commits for those who listen: the newest of them, up to a number of bytes.

use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;

use super::{MetadataError, VolumeKey};

/// What a commit did to files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitChanges {
    /// The commit.
    pub revision: Revision,
    /// When it was made.
    pub time: Timestamp,
    /// The changes, encoded by whoever wrote them.
    pub changes: Vec<u8>,
}

/// Reads past commits.
pub trait ReadChanges {
    /// Reads the changes of up to `limit` commits whose revision is `first` or greater, in order.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn changes_from(
        &self,
        volume: VolumeKey,
        first: Revision,
        limit: usize,
    ) -> Result<Vec<CommitChanges>, MetadataError>;

    /// Returns the oldest commit whose changes are kept, if there is any.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn oldest_changes(&self, volume: VolumeKey) -> Result<Option<Revision>, MetadataError>;
}

/// Writes past commits.
pub trait WriteChanges {
    /// Keeps the changes of the newest commit, and drops those of which nothing is among the volume's newest `keep_len` bytes; the
    /// newest stays.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_changes(
        &mut self,
        volume: VolumeKey,
        changes: &CommitChanges,
        keep_len: u64,
    ) -> Result<(), MetadataError>;
}
