//! The server as the engine sees it: a trait, its errors, and two implementations.
//!
//! Owns how requests travel and how what arrives is checked: no chunk leaves here without having been hashed,
//! no message is read past its limit. Leaves when to ask what, and what to do about an error, to `engine`.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::ClientId;
use dfs_shared::lineage::{Known, State};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::RecordKey;
use dfs_shared::wire::history::{HistoryReply, HistoryRequest};
use dfs_shared::wire::messages::{
    CommitReply, MerkleReply, RecordsReply, RegisterReply, RegisterRequest, StreamFrame, WhoamiReply,
};
use dfs_shared::wire::report::{ReportReply, ReportRequest};
use futures_util::Stream;
use futures_util::future::BoxFuture;

pub mod http;
pub mod limit;
pub mod memory;
pub mod token;

/// What a call to the server comes to.
pub type RemoteFuture<'a, T> = BoxFuture<'a, Result<T, RemoteError>>;
/// Chunks in the order asked. [`RemoteError::CorruptChunk`] and [`RemoteError::AbsentChunk`] speak of one chunk
/// and the stream goes on; every other error ends it.
pub type ChunkStream = Pin<Box<dyn Stream<Item = Result<(ChunkHash, Bytes), RemoteError>> + Send>>;
/// Frames of the event stream. An error, or the end, means that the stream is dead.
pub type FrameStream = Pin<Box<dyn Stream<Item = Result<StreamFrame, RemoteError>> + Send>>;

/// The file that chunks belong to, for the server's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadOf {
    /// Who uploads.
    pub client: ClientId,
    /// The file's path in the volume.
    pub path: Vec<u8>,
    /// The file's length in bytes.
    pub size: u64,
}

/// A volume on a server. Every call may be repeated; each has its own deadline.
pub trait Remote: Send + Sync {
    /// Introduces this mount.
    fn register(&self, request: RegisterRequest) -> RemoteFuture<'_, RegisterReply>;
    /// Asks which of these states the volume had; at most `STATES_SEEN_MAX`.
    fn lineage(&self, seen: Vec<State>) -> RemoteFuture<'_, Known>;
    /// Asks what time it is for the server, and who else has this client's name.
    fn whoami(&self, client: ClientId) -> RemoteFuture<'_, WhoamiReply>;
    /// Sends an encoded [`CommitRequest`](dfs_shared::wire::messages::CommitRequest): encoded, so that what is
    /// repeated after a crash is the same to the byte.
    fn commit(&self, request: Bytes) -> RemoteFuture<'_, CommitReply>;
    /// Sends an encoded [`CommitRequest`](dfs_shared::wire::messages::CommitRequest) of one change of one file: what it becomes is
    /// kept as a version that was replaced, and the file stays as it is.
    fn past(&self, request: Bytes) -> RemoteFuture<'_, CommitReply>;
    /// Asks which of these chunks have to be uploaded; at most `QUERY_ITEMS_MAX`. The first question about a file names it.
    fn missing(&self, hashes: Vec<ChunkHash>, of: Option<UploadOf>) -> RemoteFuture<'_, Vec<ChunkHash>>;
    /// Uploads chunks of the named file, at most `CHUNK_BATCH_LEN_MAX` bytes; they are durable when this returns.
    fn put_chunks(&self, chunks: Vec<(ChunkHash, Bytes)>, of: Option<UploadOf>) -> RemoteFuture<'_, ()>;
    /// Downloads chunks, at most `QUERY_ITEMS_MAX`; each was hashed before it comes out of the stream.
    fn get_chunks(&self, hashes: Vec<ChunkHash>) -> RemoteFuture<'_, ChunkStream>;
    /// Asks for manifests, at most `QUERY_ITEMS_MAX`; each was hashed.
    fn contents(&self, contents: Vec<ContentId>) -> RemoteFuture<'_, Vec<Option<Manifest>>>;
    /// Asks for records, at most `QUERY_ITEMS_MAX`.
    fn records(&self, keys: Vec<RecordKey>) -> RemoteFuture<'_, RecordsReply>;
    /// Asks for nodes of the Merkle tree, at most `QUERY_ITEMS_MAX`.
    fn merkle(&self, prefixes: Vec<Vec<u8>>) -> RemoteFuture<'_, MerkleReply>;
    /// Asks what a path held.
    fn history(&self, request: HistoryRequest) -> RemoteFuture<'_, HistoryReply>;
    /// Tells what this mount holds and has done.
    fn report(&self, request: ReportRequest) -> RemoteFuture<'_, ReportReply>;
    /// Opens the event stream; silence longer than `STREAM_SILENCE_MS_MAX` is an error in the stream.
    fn stream(&self, client: ClientId) -> RemoteFuture<'_, FrameStream>;
    /// Names the server that is being talked to, for people.
    fn name(&self) -> String;
    /// Returns what is taken of the line at most.
    fn rates(&self) -> limit::Rates {
        limit::Rates::default()
    }
}

/// Why the server did not answer with what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    /// No connection could be made, or it broke.
    #[error("cannot reach {server}")]
    Unreachable {
        /// Which server.
        server: String,
        /// What the HTTP client said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The server was silent for too long.
    #[error("{server} did not answer within {after_ms} ms")]
    TimedOut {
        /// Which server.
        server: String,
        /// How long was waited, in milliseconds.
        after_ms: u64,
    },
    /// The connection ended inside an answer.
    #[error("the connection to {server} ended")]
    Disconnected {
        /// Which server.
        server: String,
    },
    /// The server answered with an error.
    #[error("the server answered {status} {code}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The stable code.
        code: String,
        /// The explanation.
        message: String,
    },
    /// The server has no such volume.
    #[error("the server has no such volume: {message}")]
    VolumeNotFound {
        /// The explanation.
        message: String,
    },
    /// The two sides speak different versions of the protocol.
    #[error("the server speaks another version of the protocol: {message}")]
    VersionMismatch {
        /// The explanation.
        message: String,
    },
    /// What arrived is no valid answer.
    #[error("{server} sent a damaged {what}: {why}")]
    Damaged {
        /// Which server.
        server: String,
        /// What was expected.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// What arrives is longer than any valid answer is; the rest was not read.
    #[error("{server} sent a {what} that is longer than {len_max} bytes")]
    TooLong {
        /// Which server.
        server: String,
        /// What was expected.
        what: &'static str,
        /// How long it may be, in bytes.
        len_max: usize,
    },
    /// The server found the chunk damaged on its disk and serves it no more.
    #[error("chunk {hash} is damaged on the server")]
    CorruptChunk {
        /// The chunk.
        hash: ChunkHash,
    },
    /// The server does not have the chunk.
    #[error("chunk {hash} is not on the server")]
    AbsentChunk {
        /// The chunk.
        hash: ChunkHash,
    },
}

impl RemoteError {
    /// Tells whether the same request may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Disconnected { .. }
            | Self::Damaged { .. }
            | Self::TooLong { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            Self::VolumeNotFound { .. }
            | Self::VersionMismatch { .. }
            | Self::CorruptChunk { .. }
            | Self::AbsentChunk { .. } => false,
        }
    }

    /// Tells whether the server's disk has no room.
    #[must_use]
    pub fn is_server_full(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "disk_full")
    }

    /// Tells whether the server had another commit of this number.
    #[must_use]
    pub fn is_number_taken(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "number_taken")
    }

    /// Tells whether the server wants another access token: `Some(true)` when this one is no good at all,
    /// `Some(false)` when it is good and does not allow what was asked.
    #[must_use]
    pub fn token_refused(&self) -> Option<bool> {
        match self {
            Self::Refused { status: 401, .. } => Some(true),
            Self::Refused { status: 403, .. } => Some(false),
            Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Disconnected { .. }
            | Self::Damaged { .. }
            | Self::TooLong { .. }
            | Self::VolumeNotFound { .. }
            | Self::VersionMismatch { .. }
            | Self::CorruptChunk { .. }
            | Self::AbsentChunk { .. } => None,
        }
    }

    /// Tells whether the server answered with what no server of ours would: it is broken, or it is another program.
    #[must_use]
    pub fn is_nonsense(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::TooLong { .. })
    }

    /// Tells whether the server could not be talked to at all, as opposed to having answered.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Disconnected { .. })
    }
}
