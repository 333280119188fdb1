//! The chunk store: bytes under their SHA-256, whatever keeps them.
//!
//! Invariants: bytes are verified on the way in and on the way out, so that a damaged chunk is never
//! served: those that are read each time, those that are sent from their file when the file is not the one that was
//! verified lately (docs/adr/0002-chunks-are-sent-from-their-files.md); a chunk counts as present only after [`ChunkStore::sync`] returned and the metadata
//! database has noted it. A chunk may be put again at any time, which also mends a damaged one.

use std::ops::ControlFlow;
use std::path::PathBuf;

use bytes::Bytes;
use dfs_shared::hash::ChunkHash;

mod disk;
pub(crate) mod room;
mod verified;

pub use disk::DiskStore;
pub use verified::ChunkFile;

/// Why the chunk store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// The bytes that were to be stored have another hash.
    #[error("the bytes sent for chunk {hash} have another hash")]
    HashMismatch {
        /// The name they came under.
        hash: ChunkHash,
    },
    /// The chunk is not here.
    #[error("chunk {hash} is not in the chunk store")]
    Absent {
        /// The chunk.
        hash: ChunkHash,
    },
    /// The stored bytes have another hash.
    #[error("chunk {hash} is damaged on disk: {} does not hold its bytes", path.display())]
    Corrupt {
        /// The chunk.
        hash: ChunkHash,
        /// The file that holds it.
        path: PathBuf,
    },
    /// There is no room on the disk that holds the chunks.
    #[error("the disk that holds {} is full", path.display())]
    DiskFull {
        /// The file that was to be written.
        path: PathBuf,
    },
    /// The disk failed.
    #[error("cannot {attempted} {}", path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl ChunkError {
    /// Tells whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::HashMismatch { .. } | Self::Absent { .. } | Self::Corrupt { .. } | Self::Io { .. } => false,
        }
    }
}

/// A store of chunks. All calls block. See the head of this module for what every implementation promises.
pub trait ChunkStore: Send + Sync {
    /// Verifies and writes a chunk; it may be lost at power loss until [`ChunkStore::sync`] returns.
    ///
    /// # Errors
    /// [`ChunkError::HashMismatch`], [`ChunkError::DiskFull`] or [`ChunkError::Io`].
    fn put(&self, hash: ChunkHash, bytes: &[u8]) -> Result<(), ChunkError>;

    /// Makes every chunk durable whose `put` returned before.
    ///
    /// # Errors
    /// [`ChunkError::DiskFull`] or [`ChunkError::Io`].
    fn sync(&self) -> Result<(), ChunkError>;

    /// Reads and verifies a chunk.
    ///
    /// # Errors
    /// [`ChunkError::Absent`], [`ChunkError::Corrupt`] or [`ChunkError::Io`].
    fn get(&self, hash: ChunkHash) -> Result<Bytes, ChunkError>;

    /// Removes a chunk; one that is not here is no error. The caller sees to it that nobody puts it at this moment.
    ///
    /// # Errors
    /// [`ChunkError::Io`].
    fn remove(&self, hash: ChunkHash) -> Result<(), ChunkError>;

    /// Shows the names and lengths of all stored chunks, in no order, until `visit` breaks.
    ///
    /// # Errors
    /// [`ChunkError::Io`].
    fn each(&self, visit: &mut dyn FnMut(ChunkHash, u64) -> ControlFlow<()>) -> Result<(), ChunkError>;
    /// Opens a chunk whose bytes are to be sent from its file, and verifies it unless it is the file that was verified
    /// lately. `None` where the store has no files, or too many of them are open: then it has to be read.
    ///
    /// # Errors
    /// As [`ChunkStore::get`].
    fn open(&self, hash: ChunkHash) -> Result<Option<ChunkFile>, ChunkError>;

    /// Tells whether [`ChunkStore::open`] will hardly read the chunk: it was verified lately. A guess that touches no disk.
    fn is_verified(&self, hash: ChunkHash) -> bool;
}
