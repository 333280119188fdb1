//! What the public API asks of a metadata store beside records by their keys: directories from a name on, hashes of whole
//! files, versions, removed names, and announced files.

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{RecordKey, Versioned};

use super::{MetadataError, PastRecord, VolumeKey};

/// A file that was announced without a content: its path with NUL for each slash, and its metadata in binary form.
pub type Announced = (Vec<u8>, Vec<u8>);

/// Reads about files.
pub trait ReadFiles {
    /// Reads up to `limit` entries of a directory whose names are these bytes or sort after them, by name.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or a record is damaged.
    fn entries_from(
        &self,
        volume: VolumeKey,
        parent: NodeId,
        first: &[u8],
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError>;

    /// Tells the SHA-256 of a content's bytes if it was told, or if the content is a single chunk.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or the manifest is damaged.
    fn file_hash(&self, id: &ContentId) -> Result<Option<ChunkHash>, MetadataError>;

    /// Finds a content of several chunks by the SHA-256 of its bytes, if that was told.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or the manifest is damaged.
    fn content_of_file(&self, hash: &ChunkHash) -> Result<Option<Manifest>, MetadataError>;

    /// Counts the past records of a node itself.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn past_versions(&self, volume: VolumeKey, node: NodeId) -> Result<u64, MetadataError>;

    /// Reads what an entry was before it was last removed or led elsewhere.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or the record is damaged.
    fn removed_entry(&self, volume: VolumeKey, key: &RecordKey) -> Result<Option<PastRecord>, MetadataError>;

    /// Reads up to `limit` announced files whose path (with NUL for each slash) is these bytes or sorts after them.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn announced_from(
        &self,
        volume: VolumeKey,
        first: &[u8],
        limit: usize,
    ) -> Result<Vec<Announced>, MetadataError>;
}

/// Writes about files.
pub trait WriteFiles {
    /// Keeps or, with `None`, drops an announced file.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_announced(
        &mut self,
        volume: VolumeKey,
        path: &[u8],
        metadata: Option<&[u8]>,
    ) -> Result<(), MetadataError>;
}
