//! Why bytes of a file cannot be had, kept or changed; and why they could not be fetched.

use std::path::PathBuf;

use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::NodeId;

use crate::tree::TreeError;

/// Why bytes of a file cannot be had, kept or changed.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The file system under the state or cache directory failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The tree failed.
    #[error("the local tree failed")]
    Tree {
        /// Why.
        #[source]
        source: TreeError,
    },
    /// The node is gone or is no file.
    #[error("no such file")]
    NotFound,
    /// Some of the file's bytes are not here.
    #[error("not all of the file is here")]
    Partial,
    /// The file has bytes that the server does not have, or is in use.
    #[error("the file is in use or not yet on the server")]
    Busy,
    /// The file is to stay here.
    #[error("the file is pinned; `dfs unpin` lets it go")]
    Pinned {
        /// The pin that covers it.
        by: NodeId,
    },
    /// The file has changed and what was asked for is about an older state of it.
    #[error("the file has changed")]
    Changed,
    /// Bytes that exist nowhere else are missing from the state directory.
    #[error("the backing file {} is missing", path.display())]
    Lost {
        /// Where it should be.
        path: PathBuf,
    },
}

impl From<TreeError> for CacheError {
    fn from(source: TreeError) -> Self {
        Self::Tree { source }
    }
}

/// Why bytes could not be fetched.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// The server cannot be reached.
    #[error("the server cannot be reached and these bytes are not here")]
    Offline,
    /// The deadline passed.
    #[error("the bytes did not come in time")]
    TimedOut,
    /// The server's copy of a chunk is damaged.
    #[error("chunk {chunk} is damaged on the server")]
    Corrupt {
        /// Which chunk.
        chunk: ChunkHash,
    },
    /// The server does not have the content.
    #[error("the server does not have these bytes")]
    NotFound,
    /// There is no room to keep them.
    #[error("no space left for fetched content")]
    NoSpace,
    /// The bytes could not be kept, or the server failed.
    #[error("fetching failed: {reason}")]
    Failed {
        /// Why, for the log.
        reason: String,
    },
}
