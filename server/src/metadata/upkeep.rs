//! What looking after a store needs: reading everything in pages, dropping old history, condemning and taking what
//! nothing refers to.
//!
//! The rules are in `gc` and `check`. Invariant: [`WriteUpkeep::take_content`] and [`WriteUpkeep::take_chunk`] remove only
//! what is condemned at that moment, and whoever makes a reference reprieves what it refers to in the same transaction.

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;

use super::{ChunkPlace, MetadataError, PastRecord, ReadMetadata, VolumeKey};
use crate::limits::UPKEEP_PAGE_LEN;

/// What can be condemned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A manifest.
    Content,
    /// A chunk, wherever its bytes are.
    Chunk,
}

/// A past record and its place in the history of all volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// Names the row; later rows have larger ones.
    pub id: u64,
    /// The volume.
    pub volume: VolumeKey,
    /// The record.
    pub past: PastRecord,
}

/// What became of a page of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// How many rows went.
    pub count: u64,
    /// Where to go on; `None` when all that follows is young.
    pub next: Option<u64>,
}

/// Reads for upkeep. Pages are in the order of their keys and begin behind `after`.
pub trait ReadUpkeep {
    /// Reads up to `limit` records of a volume.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or a record is damaged.
    fn records_from(
        &self,
        volume: VolumeKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError>;

    /// Reads up to `limit` past records of all volumes.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or a record is damaged.
    fn history_from(&self, after: u64, limit: usize) -> Result<Vec<HistoryRow>, MetadataError>;

    /// Returns the newest past record of all volumes; 0 without any.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn newest_history(&self) -> Result<u64, MetadataError>;

    /// Reads up to `limit` contents; `None` stands for a manifest that cannot be read.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn contents_from(
        &self,
        after: Option<&ContentId>,
        limit: usize,
    ) -> Result<Vec<(ContentId, Option<Manifest>)>, MetadataError>;

    /// Reads up to `limit` chunks; one that is in both places may come once for each.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn chunks_from(
        &self,
        after: Option<&ChunkHash>,
        limit: usize,
    ) -> Result<Vec<(ChunkHash, ChunkPlace)>, MetadataError>;

    /// Counts contents and chunks.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn content_counts(&self) -> Result<(u64, u64), MetadataError>;

    /// Tells whether anything at all is condemned.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn is_any_condemned(&self) -> Result<bool, MetadataError>;

    /// Tells since when something is condemned.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn condemned_since(&self, kind: Kind, hash: &[u8; 32]) -> Result<Option<Timestamp>, MetadataError>;

    /// Counts what is condemned.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn condemned_count(&self, kind: Kind) -> Result<u64, MetadataError>;

    /// Lists up to `limit` nodes with more than `keep` past records of any sort.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn crowded_nodes(
        &self,
        keep: u64,
        after: Option<(VolumeKey, NodeId)>,
        limit: usize,
    ) -> Result<Vec<(VolumeKey, NodeId)>, MetadataError>;

    /// Tells who made a revision, if that is still known.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn commit_author(&self, volume: VolumeKey, revision: Revision)
    -> Result<Option<ClientId>, MetadataError>;

    /// Reads up to `limit` past records of one entry, newest first.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or a record is damaged.
    fn past_entries(
        &self,
        volume: VolumeKey,
        key: &RecordKey,
        limit: usize,
    ) -> Result<Vec<PastRecord>, MetadataError>;

    /// Reads the newest past record of each of up to `limit` names of a directory that sort after `after`.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or a record is damaged.
    fn past_names(
        &self,
        volume: VolumeKey,
        parent: NodeId,
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<PastRecord>, MetadataError>;

    /// Lets the database check itself; returns what it found, nothing when it is sound. Takes long.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn integrity(&self) -> Result<Vec<String>, MetadataError>;
}

impl dyn ReadMetadata + '_ {
    /// Shows all records of a volume, page by page in the order of their keys.
    ///
    /// # Errors
    /// What `each` returns, and [`MetadataError`] when the database fails or a record is damaged.
    pub fn record_pages(
        &self,
        volume: VolumeKey,
        mut each: impl FnMut(Vec<Versioned>) -> Result<(), MetadataError>,
    ) -> Result<(), MetadataError> {
        let mut after = None;
        loop {
            let page = self.records_from(volume, after.as_ref(), UPKEEP_PAGE_LEN)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.record.key());
            each(page)?;
        }
    }

    /// Shows the past records of all volumes, page by page in the order in which they came.
    ///
    /// # Errors
    /// What `each` returns, and [`MetadataError`] when the database fails or a record is damaged.
    pub fn history_pages(
        &self,
        mut each: impl FnMut(Vec<HistoryRow>) -> Result<(), MetadataError>,
    ) -> Result<(), MetadataError> {
        let mut after = 0;
        loop {
            let page = self.history_from(after, UPKEEP_PAGE_LEN)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            each(page)?;
        }
    }
}

/// Writes for upkeep.
pub trait WriteUpkeep: ReadUpkeep {
    /// Notes who made a revision.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_commit_author(
        &mut self,
        volume: VolumeKey,
        revision: Revision,
        client: &ClientId,
        time: Timestamp,
    ) -> Result<(), MetadataError>;

    /// Forgets who made up to `limit` revisions of a volume that are older than `before`; returns how many.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn drop_commit_authors(
        &mut self,
        volume: VolumeKey,
        before: Timestamp,
        limit: usize,
    ) -> Result<u64, MetadataError>;

    /// Has the rows of the history behind `after` that say that they ended before `to` say that they ended then; returns how many.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn lift_history(&mut self, after: u64, to: Timestamp) -> Result<u64, MetadataError>;

    /// Looks at up to `limit` rows of the history behind `after` and drops those that ended before `before`. Versions
    /// that are left keep their numbers.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn drop_history(&mut self, after: u64, before: Timestamp, limit: usize)
    -> Result<Dropped, MetadataError>;

    /// Drops up to `limit` past records of a node itself, all but the `keep` newest; returns how many.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn drop_versions(
        &mut self,
        volume: VolumeKey,
        node: NodeId,
        keep: u64,
        limit: usize,
    ) -> Result<u64, MetadataError>;

    /// Condemns; what is condemned already keeps its time, unless that is later.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn condemn(&mut self, kind: Kind, hash: &[u8; 32], at: Timestamp) -> Result<(), MetadataError>;

    /// Takes a condemnation back.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn reprieve(&mut self, kind: Kind, hash: &[u8; 32]) -> Result<(), MetadataError>;

    /// Removes a content if it is condemned; tells whether it was.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn take_content(&mut self, id: &ContentId) -> Result<bool, MetadataError>;

    /// Removes the rows of a chunk if it is condemned; tells whether it was.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn take_chunk(&mut self, hash: &ChunkHash) -> Result<bool, MetadataError>;

    /// Removes all nodes of a volume's Merkle tree, so that it can be made anew.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn clear_merkle(&mut self, volume: VolumeKey) -> Result<(), MetadataError>;
}
