//! Events that concern the server alone: the bus carries them beside those of `dfs_shared::event::kinds`.

use std::sync::Arc;
use std::time::Duration;

use dfs_shared::event::Event;
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{ClientId, VolumeName};
use dfs_shared::revision::Revision;

use super::FileChange;

/// What a commit did to files; published behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesChanged {
    /// The volume.
    pub volume: VolumeName,
    /// The commit.
    pub revision: Revision,
    /// The changes, in their order: at least one.
    pub changes: Arc<[FileChange]>,
}

impl Event for FilesChanged {
    const NAME: &'static str = "FilesChanged";
}

/// A commit request was answered, whatever became of its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitAnswered {
    /// The volume.
    pub volume: VolumeName,
    /// The volume's revision after it.
    pub revision: Revision,
    /// Who asked.
    pub client: ClientId,
    /// Records changed.
    pub changes: usize,
    /// Groups accepted.
    pub accepted: usize,
    /// Groups refused.
    pub refused: usize,
    /// From the request to this moment.
    pub took: Duration,
}

impl Event for CommitAnswered {
    const NAME: &'static str = "CommitAnswered";
}

/// A volume's quota was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaSet {
    /// The volume.
    pub volume: VolumeName,
    /// Most bytes that its files may have together; `None` for any number.
    pub limit: Option<u64>,
}

impl Event for QuotaSet {
    const NAME: &'static str = "QuotaSet";
}

/// A stored chunk was found damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkCorrupt {
    /// The chunk.
    pub hash: ChunkHash,
    /// What is wrong, with the file's name.
    pub why: String,
}

impl Event for ChunkCorrupt {
    const NAME: &'static str = "ChunkCorrupt";
}

/// Chunks came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunksMoved {
    /// An upload has become durable.
    Stored {
        /// Chunks in it.
        count: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// A chunk was read for a mount.
    Served {
        /// Its bytes.
        bytes: u64,
    },
}

impl Event for ChunksMoved {
    const NAME: &'static str = "ChunksMoved";
}
