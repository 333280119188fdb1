//! Why the sync service could not do something.

use dfs_shared::ids::{ClientId, VolumeName};

use crate::chunk_store::ChunkError;
use crate::metadata::MetadataError;

/// Why the sync service could not do something.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The server has no volume of this name.
    #[error("there is no volume `{name}` here: `dfs-server volume create {name}` makes one")]
    VolumeNotFound {
        /// The name asked for.
        name: VolumeName,
    },
    /// The client has not registered with the volume.
    #[error("client `{client}` is not registered with this volume: register first")]
    ClientUnknown {
        /// The client.
        client: ClientId,
    },
    /// The client's number belongs to another request.
    #[error(
        "client `{client}` has sent another commit {number} before: its state directory is a copy, or older than what was \
         sent from it; register as a new client"
    )]
    NumberTaken {
        /// The client.
        client: ClientId,
        /// The number.
        number: u64,
    },
    /// The request contradicts itself.
    #[error("{why}")]
    BadRequest {
        /// What is wrong.
        why: String,
    },
    /// The request holds more than is allowed.
    #[error("{count} {what} are too many: {max} are allowed")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// The metadata store failed.
    #[error("the metadata store failed")]
    Metadata(
        /// How.
        #[from]
        MetadataError,
    ),
    /// The chunk store failed.
    #[error("the chunk store failed")]
    Chunks(
        /// How.
        #[from]
        ChunkError,
    ),
}

impl SyncError {
    /// Tells whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Metadata(error) => error.is_retryable(),
            Self::Chunks(error) => error.is_retryable(),
            Self::VolumeNotFound { .. } | Self::ClientUnknown { .. } | Self::NumberTaken { .. } => false,
            Self::BadRequest { .. } | Self::TooMany { .. } => false,
        }
    }
}
