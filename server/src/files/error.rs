//! Why something could not be done with a file by its path.

use dfs_shared::hash::ChunkHash;

use super::FilePath;
use crate::metadata::MetadataError;
use crate::sync::SyncError;

/// Why something could not be done with a file by its path.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is nothing at this path.
    #[error("there is no file `{path}`")]
    NotFound {
        /// The path.
        path: FilePath,
    },
    /// There is a directory, a symlink or a special file at this path.
    #[error("`{path}` is no regular file")]
    NotAFile {
        /// The path.
        path: FilePath,
    },
    /// A name on the way to the file is no directory.
    #[error("`{path}` cannot be: one of the names before the last is no directory")]
    NotADirectory {
        /// The path.
        path: FilePath,
    },
    /// The file is there already, with another content.
    #[error("`{path}` is there already, with another content")]
    Exists {
        /// The path.
        path: FilePath,
    },
    /// The file has another version than the caller expected.
    #[error("`{path}` has version {found}, not {expected}")]
    VersionConflict {
        /// The path.
        path: FilePath,
        /// What the caller expected; 0: that there is no file.
        expected: u64,
        /// What there is; 0: no file.
        found: u64,
    },
    /// The file never had this version, or it is not kept any more.
    #[error("`{path}` has no version {version}: 1 to {newest} are kept")]
    NoVersion {
        /// The path.
        path: FilePath,
        /// The version asked for.
        version: u64,
        /// The newest one.
        newest: u64,
    },
    /// The text is no path of a file.
    #[error("bad path: {why}")]
    BadPath {
        /// What is wrong with it.
        why: String,
    },
    /// The text is no cursor that an earlier page gave.
    #[error("bad cursor: take it from the page before, with the same prefix")]
    BadCursor,
    /// No content here has this hash.
    #[error("no content with the hash sha256:{hash} and {size} bytes is here: upload the file first")]
    ContentUnknown {
        /// SHA-256 of the wanted bytes.
        hash: ChunkHash,
        /// Their number.
        size: u64,
    },
    /// Chunks of the content are not here.
    #[error("{count} chunks of the content are not here: upload them first")]
    ChunksMissing {
        /// How many.
        count: usize,
    },
    /// Stored bytes of the content are damaged or gone.
    #[error("chunk {chunk} of `{path}` is damaged or gone; a mount that has it can bring it again")]
    Damaged {
        /// The path.
        path: FilePath,
        /// The first such chunk.
        chunk: ChunkHash,
    },
    /// The file is too long for its hash to be computed here.
    #[error("the hash of `{path}` is not computed: the file is longer than {len_max} bytes")]
    TooLong {
        /// The path.
        path: FilePath,
        /// The longest that is read.
        len_max: u64,
    },
    /// Others changed the same records again and again.
    #[error("`{path}` was changed by others {tries} times while this was tried: try again")]
    Contended {
        /// The path.
        path: FilePath,
        /// How often it was tried.
        tries: usize,
    },
    /// The volume would have more bytes than its quota.
    #[error(
        "the volume's quota of {limit} bytes is reached: {used} are used, this needs {growth} more; remove something, or \
         raise it with `dfs-server volume quota`"
    )]
    OverQuota {
        /// Most bytes that the volume's files may have together.
        limit: u64,
        /// Bytes that they have.
        used: u64,
        /// Bytes by which this would grow them.
        growth: u64,
    },
    /// The commit rules forbid it.
    #[error("{why}")]
    Refused {
        /// Which rule, and how.
        why: String,
    },
    /// The sync service refused or failed.
    #[error(transparent)]
    Sync(
        /// Why.
        #[from]
        SyncError,
    ),
}

impl From<MetadataError> for FilesError {
    fn from(error: MetadataError) -> Self {
        Self::Sync(error.into())
    }
}

impl FilesError {
    /// Tells whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Contended { .. } | Self::OverQuota { .. } => true,
            Self::Sync(error) => error.is_retryable(),
            Self::NotFound { .. } | Self::NotAFile { .. } | Self::NotADirectory { .. } => false,
            Self::Exists { .. } | Self::VersionConflict { .. } | Self::NoVersion { .. } => false,
            Self::BadPath { .. } | Self::BadCursor | Self::ContentUnknown { .. } => false,
            Self::ChunksMissing { .. } | Self::Damaged { .. } | Self::Refused { .. } => false,
            Self::TooLong { .. } => false,
        }
    }
}
