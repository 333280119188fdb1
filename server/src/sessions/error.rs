//! Why something could not be done in a sync session.

use std::path::PathBuf;

use dfs_shared::hash::ChunkHash;

use super::state::WrongState;
use crate::files::{FilePath, FilesError};
use crate::metadata::MetadataError;
use crate::sync::SyncError;

/// Why something could not be done in a sync session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// There is no such session, or it has expired.
    #[error("there is no session `{session}`, or it has expired: start a new one")]
    NotFound {
        /// What was asked for.
        session: String,
    },
    /// The call does not fit the session's state.
    #[error(transparent)]
    WrongState(
        /// Both states.
        #[from]
        WrongState,
    ),
    /// There are too many sessions.
    #[error(
        "{count} sessions {whose} are open: {max} are allowed; they end {silence_s} seconds after their last call"
    )]
    TooManySessions {
        /// Whose sessions.
        whose: &'static str,
        /// How many there are.
        count: u64,
        /// How many are allowed.
        max: u64,
        /// When they end.
        silence_s: i64,
    },
    /// The chunk's bytes have another hash than announced.
    #[error("chunk {number} of `{path}` has the hash {found}, not {announced}: send it again")]
    ChunkMismatch {
        /// The file.
        path: FilePath,
        /// The chunk's number.
        number: u64,
        /// What its bytes have.
        found: ChunkHash,
        /// What was announced.
        announced: ChunkHash,
    },
    /// A number of chunks is zero, too large, or a chunk's number is not below it.
    #[error("chunk {number} of {total}: a file has 1 to {max} chunks, numbered from 0")]
    ChunkNumber {
        /// The chunk's number.
        number: u64,
        /// How many chunks were announced.
        total: u64,
        /// How many are allowed.
        max: u64,
    },
    /// A chunk is too long.
    #[error("a chunk of {len} bytes is too long: {max} are allowed")]
    ChunkTooLong {
        /// Its length.
        len: usize,
        /// How many bytes are allowed.
        max: usize,
    },
    /// The session holds too many bytes that are not published.
    #[error("the session would hold {len} bytes that are not published: {max} are allowed")]
    TooManyBytes {
        /// How many there would be.
        len: u64,
        /// How many are allowed.
        max: u64,
    },
    /// Chunks have not arrived, or were found damaged and have to be sent again.
    #[error("{count} chunks of `{path}` are missing, the first is {first}: send them, then complete again")]
    ChunksMissing {
        /// The file.
        path: FilePath,
        /// How many, at least.
        count: usize,
        /// The first one's number.
        first: u64,
    },
    /// No chunk of the file has arrived.
    #[error("no chunk of `{path}` has been uploaded in this session")]
    NothingStaged {
        /// The file.
        path: FilePath,
    },
    /// The file is being published.
    #[error("`{path}` is being published: its upload can be changed when that is answered")]
    Applying {
        /// The file.
        path: FilePath,
    },
    /// The assembled file has another hash than expected.
    #[error(
        "the uploaded `{path}` has the hash sha256:{found}, not sha256:{expected}: nothing was published"
    )]
    FileMismatch {
        /// The file.
        path: FilePath,
        /// What its bytes have.
        found: ChunkHash,
        /// What was expected.
        expected: ChunkHash,
    },
    /// Too many files differ.
    #[error("more than {max} files differ: too many for one session; a mount syncs any number")]
    PlanTooLong {
        /// How many may differ.
        max: usize,
    },
    /// The staging directory failed.
    #[error("cannot {attempted} {}", path.display())]
    Staging {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The files could not be read or changed.
    #[error(transparent)]
    Files(
        /// Why.
        #[from]
        FilesError,
    ),
}

impl From<SyncError> for SessionError {
    fn from(error: SyncError) -> Self {
        Self::Files(error.into())
    }
}

impl From<MetadataError> for SessionError {
    fn from(error: MetadataError) -> Self {
        Self::Files(error.into())
    }
}

impl SessionError {
    /// Tells whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::TooManySessions { .. } | Self::Applying { .. } => true,
            Self::Staging { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            Self::Files(error) => error.is_retryable(),
            Self::NotFound { .. } | Self::WrongState(_) | Self::ChunkMismatch { .. } => false,
            Self::PlanTooLong { .. } => false,
            Self::ChunkNumber { .. } | Self::ChunkTooLong { .. } | Self::TooManyBytes { .. } => false,
            Self::ChunksMissing { .. } | Self::NothingStaged { .. } | Self::FileMismatch { .. } => false,
        }
    }

    /// Tells whether the server itself is at fault in a way that the client cannot mend, so that a session fails.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Staging { source, .. } => source.kind() != std::io::ErrorKind::StorageFull,
            Self::Files(FilesError::Sync(SyncError::Metadata(_) | SyncError::Chunks(_))) => {
                !self.is_retryable()
            }
            Self::Files(_) | Self::TooManySessions { .. } | Self::Applying { .. } => false,
            Self::NotFound { .. } | Self::WrongState(_) | Self::ChunkMismatch { .. } => false,
            Self::PlanTooLong { .. } => false,
            Self::ChunkNumber { .. } | Self::ChunkTooLong { .. } | Self::TooManyBytes { .. } => false,
            Self::ChunksMissing { .. } | Self::NothingStaged { .. } | Self::FileMismatch { .. } => false,
        }
    }
}
