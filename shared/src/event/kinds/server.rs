//! Events of a server.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::hash::{ChunkHash, ContentId};
use crate::ids::{ClientId, NodeId, VolumeName};
use crate::name::Name;
use crate::record::RecordKey;
use crate::revision::Revision;
use crate::wire::messages;

/// A commit is durable; carries what is pushed to the mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The volume.
    pub volume: VolumeName,
    /// The commit with its records.
    pub commit: Arc<messages::Committed>,
}

/// A name that was not there leads to a node now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileAdded {
    /// The volume.
    pub volume: VolumeName,
    /// The commit that added it.
    pub revision: Revision,
    /// The node.
    pub node: NodeId,
    /// The directory.
    pub parent: NodeId,
    /// The name in it.
    pub name: Name,
}

/// A node has new content or attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileModified {
    /// The volume.
    pub volume: VolumeName,
    /// The commit that changed it.
    pub revision: Revision,
    /// The node.
    pub node: NodeId,
    /// Its length in bytes now.
    pub size: u64,
}

/// A name is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDeleted {
    /// The volume.
    pub volume: VolumeName,
    /// The commit that removed it.
    pub revision: Revision,
    /// The node that the name led to.
    pub node: NodeId,
    /// The directory.
    pub parent: NodeId,
    /// The name in it.
    pub name: Name,
}

/// A client began to send a file or a batch of chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileUploadStarted {
    /// The volume.
    pub volume: VolumeName,
    /// Who sends, where it is a registered client.
    pub client: Option<ClientId>,
    /// Announced length in bytes, if it is known.
    pub size: Option<u64>,
    /// Its path, where the client named one.
    pub path: Option<Vec<u8>>,
}

/// A chunk arrived and is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChunkReceived {
    /// The volume.
    pub volume: VolumeName,
    /// The chunk.
    pub chunk: ChunkHash,
    /// Its length in bytes.
    pub len: u64,
    /// Who sent it, where it is a registered client.
    pub client: Option<ClientId>,
    /// The file's path, where the client named one.
    pub path: Option<Vec<u8>>,
}

/// All of a content is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileUploadCompleted {
    /// The volume.
    pub volume: VolumeName,
    /// The content; an empty file has none.
    pub content: Option<ContentId>,
    /// Its length in bytes.
    pub size: u64,
    /// Who sent it, where it is a registered client.
    pub client: Option<ClientId>,
    /// The file, where a mount's commit named one.
    pub node: Option<NodeId>,
    /// Its path, where the client named one.
    pub path: Option<Vec<u8>>,
}

/// A content, or a batch of chunks, was sent to a client to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDownloadCompleted {
    /// The volume.
    pub volume: VolumeName,
    /// The content, where a whole one was asked for.
    pub content: Option<ContentId>,
    /// Bytes sent.
    pub size: u64,
    /// Who took it, where it is a registered client.
    pub client: Option<ClientId>,
    /// Its path, where the client named one.
    pub path: Option<Vec<u8>>,
}

/// What a client and the server bring in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncRound {
    /// All files of a client without a mount.
    Session,
    /// A mount's changes that wait in its journal.
    Commit,
    /// A mount's whole tree, after it was without the server.
    Reconciliation,
}

impl SyncRound {
    /// Returns the word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Commit => "commit",
            Self::Reconciliation => "reconciliation",
        }
    }
}

/// A client began to bring itself and the server in step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncStarted {
    /// The volume.
    pub volume: VolumeName,
    /// The client.
    pub client: ClientId,
    /// What is brought in step.
    pub round: SyncRound,
}

/// A client's changes are dealt with: committed or refused, each with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncCompleted {
    /// The volume.
    pub volume: VolumeName,
    /// The client.
    pub client: ClientId,
    /// What was brought in step.
    pub round: SyncRound,
    /// The volume's newest revision.
    pub revision: Revision,
    /// Files, change groups or records that were dealt with.
    pub accepted: u64,
    /// Change groups refused.
    pub refused: u64,
}

/// A client's changes could not be dealt with; it will repeat them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncFailed {
    /// The volume.
    pub volume: VolumeName,
    /// The client.
    pub client: ClientId,
    /// What could not be brought in step.
    pub round: SyncRound,
    /// Why, for people.
    pub reason: String,
}

/// A client's change was based on a state that is no longer the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConflictDetected {
    /// The volume.
    pub volume: VolumeName,
    /// The client whose change came second.
    pub client: ClientId,
    /// The record, where a mount's change named one.
    pub key: Option<RecordKey>,
    /// The path, where the client named one.
    pub path: Option<Vec<u8>>,
}

/// A client has decided a conflict: it has sent the file again, or has kept both versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConflictResolved {
    /// The volume.
    pub volume: VolumeName,
    /// The client that resolved it.
    pub client: ClientId,
    /// The record, where a mount's change named one.
    pub key: Option<RecordKey>,
    /// The path, where the client named one.
    pub path: Option<Vec<u8>>,
    /// Where the other version is now, where both were kept.
    pub copy: Option<Vec<u8>>,
}

/// The server accepts connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStarted {
    /// Where.
    pub address: SocketAddr,
}

/// The server was told to end: it takes no more connections soon, finishes what is in flight and goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerShuttingDown;

events!(
    Committed,
    FileAdded,
    FileModified,
    FileDeleted,
    FileUploadStarted,
    FileChunkReceived,
    FileUploadCompleted,
    FileDownloadCompleted,
    SyncStarted,
    SyncCompleted,
    SyncFailed,
    FileConflictDetected,
    FileConflictResolved,
    ServerStarted,
    ServerShuttingDown,
);
