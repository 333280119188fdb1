//! The metadata store: what it promises, whatever database is behind it.
//!
//! A store holds the records, Merkle trees, contents and history of every volume. Reads see a
//! consistent snapshot. Writes are [`WriteJob`]s: they are queued, run one after the other on one
//! writer, share a transaction and its fsync, and are told the outcome when it is durable.
//! Invariant: a job's `finish(Ok)` is called only after everything that it wrote is durable, and
//! jobs are finished in the order in which they ran, so that revisions are published in order.

use std::sync::Arc;

use dfs_shared::hash::{ChunkHash, ContentId, MerkleHash};
use dfs_shared::ids::{ClientId, NodeId, VolumeId, VolumeName};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::WireError;
use tokio::sync::oneshot;

use crate::blocking::block_on;
use sessions::{ReadSessions, WriteSessions};

mod changes;
#[cfg(test)]
mod conformance;
mod files;
pub mod memory;
mod replicas;
pub mod sessions;
pub mod sqlite;
pub mod token;
pub mod upkeep;
mod writer;

use token::{AccessToken, TokenId};
use upkeep::{ReadUpkeep, WriteUpkeep};

pub use changes::{CommitChanges, ReadChanges, WriteChanges};
pub use files::{Announced, ReadFiles, WriteFiles};
pub use replicas::{HeldVersion, ReadReplicas, WriteReplicas};

/// Names a volume inside one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeKey(pub i64);

/// A volume's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Names it inside the store.
    pub key: VolumeKey,
    /// Names it for people.
    pub name: VolumeName,
    /// Which life of the volume this is.
    pub id: VolumeId,
    /// The newest revision.
    pub revision: Revision,
    /// The Merkle root at that revision.
    pub root: MerkleHash,
    /// Bytes of all its files, as `Record::quota_len` counts them. Modulo 2^64, so that adding and taking away is exact.
    pub used: u64,
    /// Most bytes that commits may bring its files to; `None` for any number.
    pub quota: Option<u64>,
}

/// Where the bytes of a chunk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkPlace {
    /// In the database.
    Small {
        /// Length in bytes.
        len: u64,
    },
    /// In the chunk store, durable.
    Stored {
        /// Length in bytes.
        len: u64,
    },
}

impl ChunkPlace {
    /// Returns the chunk's length in bytes.
    #[must_use]
    pub fn len(self) -> u64 {
        match self {
            Self::Small { len } | Self::Stored { len } => len,
        }
    }

    /// Tells whether the chunk has no bytes; never true for a stored chunk.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// A record that was replaced or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastRecord {
    /// The node that it is about: itself, or what the entry led to.
    pub node: NodeId,
    /// The revision that made it.
    pub began: Revision,
    /// The revision that ended it.
    pub ended: Revision,
    /// When it ended.
    pub time: Timestamp,
    /// Who made it, if that is known.
    pub author: Option<ClientId>,
    /// The record.
    pub record: Record,
}

/// A registered client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its id.
    pub id: ClientId,
    /// Its name for people.
    pub name: String,
    /// When it registered last.
    pub last_seen: Timestamp,
}

/// Why the store could not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetadataError {
    /// The database refused or failed.
    #[error("cannot {attempted} in the metadata database")]
    Database {
        /// What was attempted.
        attempted: &'static str,
        /// What the database said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
        /// Whether it is no longer known what is on disk.
        is_fatal: bool,
    },
    /// There is no room on the disk that holds the database.
    #[error("the disk that holds the metadata database is full")]
    DiskFull,
    /// A stored value cannot be read.
    #[error("the stored {what} is damaged")]
    Damaged {
        /// What was read.
        what: &'static str,
        /// What the decoder found.
        #[source]
        source: Option<Arc<WireError>>,
    },
    /// The database was made by a newer program.
    #[error(
        "the metadata database has schema version {found}, this program knows up to {known}: update dfs-server"
    )]
    SchemaTooNew {
        /// The version found.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// Another process holds the database for too long.
    #[error("cannot {attempted}: another process holds the metadata database")]
    Locked {
        /// What was attempted.
        attempted: &'static str,
    },
    /// A write ended in a panic; nothing of it was done.
    #[error("a write panicked: this is a bug")]
    Panicked,
    /// Too many writes wait already.
    #[error("{waiting} writes wait already: try again")]
    Busy {
        /// How many wait.
        waiting: usize,
    },
    /// The store has stopped: the server is shutting down or a write failed earlier.
    #[error("the metadata store has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl MetadataError {
    /// Tells whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::DiskFull | Self::Locked { .. } | Self::Busy { .. } => true,
            Self::Database { .. } | Self::Damaged { .. } | Self::SchemaTooNew { .. } => false,
            Self::Panicked | Self::Stopped { .. } => false,
        }
    }

    /// Tells whether it is no longer known what is on disk, so that nothing more may be written.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Database { is_fatal, .. } => *is_fatal,
            Self::DiskFull | Self::Locked { .. } | Self::Busy { .. } | Self::Damaged { .. } => false,
            Self::SchemaTooNew { .. } | Self::Panicked | Self::Stopped { .. } => false,
        }
    }
}

/// What can be read, in a snapshot or inside the write transaction.
pub trait ReadMetadata: ReadFiles + ReadSessions + ReadReplicas + ReadChanges + ReadUpkeep {
    /// Finds a volume by name.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn volume(&self, name: &VolumeName) -> Result<Option<Volume>, MetadataError>;

    /// Lists all volumes by name.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn volumes(&self) -> Result<Vec<Volume>, MetadataError>;

    /// Reads the Merkle root of a volume at an earlier revision, if it is kept.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn root_at(&self, volume: VolumeKey, revision: Revision) -> Result<Option<MerkleHash>, MetadataError>;

    /// Tells the oldest revision whose Merkle root is kept.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn oldest_root(&self, volume: VolumeKey) -> Result<Option<Revision>, MetadataError>;

    /// Reads a record.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or the record is damaged.
    fn record(&self, volume: VolumeKey, key: &RecordKey) -> Result<Option<Versioned>, MetadataError>;

    /// Reads up to `limit` entries that lead to a node.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or a record is damaged.
    fn entries_to(
        &self,
        volume: VolumeKey,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError>;

    /// Reads up to `limit` entries of a directory, by name.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or a record is damaged.
    fn entries_in(
        &self,
        volume: VolumeKey,
        parent: NodeId,
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError>;

    /// Reads a node of the Merkle tree: its bytes, or `None` when it is not there.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn merkle_node(&self, volume: VolumeKey, prefix: &[u8]) -> Result<Option<Vec<u8>>, MetadataError>;

    /// Reads the manifest of a content.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or the manifest is damaged.
    fn content(&self, id: &ContentId) -> Result<Option<Manifest>, MetadataError>;

    /// Tells where a chunk is, if it is here.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn chunk_place(&self, hash: &ChunkHash) -> Result<Option<ChunkPlace>, MetadataError>;

    /// Reads a chunk that lives in the database. The bytes are not verified here.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn small_chunk(&self, hash: &ChunkHash) -> Result<Option<Vec<u8>>, MetadataError>;

    /// Reads up to `limit` past records about a node, newest first.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or a record is damaged.
    fn history(
        &self,
        volume: VolumeKey,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<PastRecord>, MetadataError>;

    /// Finds a registered client.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn client(&self, volume: VolumeKey, id: &ClientId) -> Result<Option<Client>, MetadataError>;

    /// Reads the reply that a client's commit got, if it is still kept.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn commit_reply(
        &self,
        volume: VolumeKey,
        client: &ClientId,
        number: u64,
    ) -> Result<Option<Vec<u8>>, MetadataError>;

    /// Lists all access tokens, also the revoked ones, the oldest first.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or a row is damaged.
    fn tokens(&self) -> Result<Vec<AccessToken>, MetadataError>;
}

/// What can be written inside the write transaction.
pub trait WriteMetadata:
    ReadMetadata + WriteFiles + WriteSessions + WriteReplicas + WriteChanges + WriteUpkeep
{
    /// Makes an empty volume.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or the name is taken.
    fn create_volume(&mut self, name: &VolumeName, id: VolumeId) -> Result<Volume, MetadataError>;

    /// Advances a volume whose files now have `used` bytes, and keeps the roots of its newest `limits::ROOTS_KEPT` revisions.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn advance_volume(
        &mut self,
        volume: VolumeKey,
        revision: Revision,
        root: MerkleHash,
        used: u64,
    ) -> Result<(), MetadataError>;

    /// Sets how many bytes a volume's files may have.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn set_quota(&mut self, volume: VolumeKey, quota: Option<u64>) -> Result<(), MetadataError>;

    /// Writes a record.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_record(
        &mut self,
        volume: VolumeKey,
        revision: Revision,
        record: &Record,
    ) -> Result<(), MetadataError>;

    /// Removes a record.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn remove_record(&mut self, volume: VolumeKey, key: &RecordKey) -> Result<(), MetadataError>;

    /// Writes or, with `None`, removes a node of the Merkle tree.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_merkle_node(
        &mut self,
        volume: VolumeKey,
        prefix: &[u8],
        node: Option<&[u8]>,
    ) -> Result<(), MetadataError>;

    /// Keeps a manifest; one that is here stays, but takes the file hash if it had none.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_content(
        &mut self,
        id: &ContentId,
        manifest: &Manifest,
        file_hash: Option<&ChunkHash>,
    ) -> Result<(), MetadataError>;

    /// Keeps a chunk in the database and reprieves it. The caller has verified it.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_small_chunk(&mut self, hash: &ChunkHash, bytes: &[u8]) -> Result<(), MetadataError>;

    /// Notes that a chunk is durable in the chunk store and reprieves it.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_chunk(&mut self, hash: &ChunkHash, len: u64) -> Result<(), MetadataError>;

    /// Forgets a chunk, so that it counts as missing.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn forget_chunk(&mut self, hash: &ChunkHash) -> Result<(), MetadataError>;

    /// Keeps a record that was replaced or removed.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_history(&mut self, volume: VolumeKey, past: &PastRecord) -> Result<(), MetadataError>;

    /// Writes a client's row.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_client(&mut self, volume: VolumeKey, client: &Client) -> Result<(), MetadataError>;

    /// Keeps the reply to a client's commit and drops those that are `keep` numbers older.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_commit_reply(
        &mut self,
        volume: VolumeKey,
        client: &ClientId,
        number: u64,
        reply: &[u8],
        keep: u64,
    ) -> Result<(), MetadataError>;

    /// Keeps a new access token.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or the id is taken.
    fn put_token(&mut self, token: &AccessToken) -> Result<(), MetadataError>;

    /// Marks an access token as revoked; one that is revoked already keeps its time. `false` when there is none.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn revoke_token(&mut self, id: &TokenId, at: Timestamp) -> Result<bool, MetadataError>;
}

/// A unit of writing: all of it happens, or nothing.
pub trait WriteJob: Send {
    /// Tells about how many rows the job writes, so that a batch stays short.
    fn weight(&self) -> usize;

    /// Does the work inside the shared transaction. After an error everything it wrote is undone.
    ///
    /// # Errors
    /// [`MetadataError`] undoes this job alone, unless the whole transaction is lost.
    fn run(&mut self, tx: &mut dyn WriteMetadata) -> Result<(), MetadataError>;

    /// Is told the outcome, on the writer's thread; must be quick. `Ok` means durable.
    fn finish(self: Box<Self>, outcome: Result<(), MetadataError>);
}

/// Reads inside a snapshot.
pub type ReadWork<'a> = dyn FnMut(&dyn ReadMetadata) -> Result<(), MetadataError> + 'a;

/// A store of metadata. See the head of this module for what every implementation promises.
pub trait MetadataStore: Send + Sync {
    /// Queues a job. Never blocks; a full queue finishes the job with [`MetadataError::Busy`].
    fn submit(&self, job: Box<dyn WriteJob>);

    /// Runs `work` on one consistent snapshot. Blocks for the time of the reads.
    ///
    /// # Errors
    /// What `work` returned, or [`MetadataError`] when no snapshot can be had.
    fn read_with(&self, work: &mut ReadWork<'_>) -> Result<(), MetadataError>;
}

impl dyn MetadataStore + '_ {
    /// Runs `work` on one consistent snapshot and returns its value. Blocks for the time of the reads.
    ///
    /// # Errors
    /// What `work` returned, or [`MetadataError`] when no snapshot can be had.
    pub fn read<T>(
        &self,
        mut work: impl FnMut(&dyn ReadMetadata) -> Result<T, MetadataError>,
    ) -> Result<T, MetadataError> {
        let mut value = None;
        self.read_with(&mut |snapshot| {
            value = Some(work(snapshot)?);
            Ok(())
        })?;
        Ok(value.expect("a read that returned Ok has set the value"))
    }

    /// Queues `work` as a job; the value arrives when everything it wrote is durable.
    pub fn write<T, F>(&self, weight: usize, work: F) -> Pending<T>
    where
        T: Send + 'static,
        F: FnMut(&mut dyn WriteMetadata) -> Result<T, MetadataError> + Send + 'static,
    {
        let (reply, receiver) = oneshot::channel();
        self.submit(Box::new(FnJob { weight, work, value: None, reply }));
        Pending(receiver)
    }
}

/// The outcome of a queued job: wait for it in a task or on a thread.
#[derive(Debug)]
pub struct Pending<T>(oneshot::Receiver<Result<T, MetadataError>>);

impl<T> Pending<T> {
    /// Takes the receiver of a job that replies by itself.
    #[must_use]
    pub fn new(receiver: oneshot::Receiver<Result<T, MetadataError>>) -> Self {
        Self(receiver)
    }

    /// Waits in a task.
    ///
    /// # Errors
    /// What the job returned, or [`MetadataError::Stopped`].
    pub async fn get(self) -> Result<T, MetadataError> {
        self.0.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Blocks the thread.
    ///
    /// # Errors
    /// What the job returned, or [`MetadataError::Stopped`].
    pub fn wait(self) -> Result<T, MetadataError> {
        block_on(self.get())
    }
}

fn lost() -> MetadataError {
    MetadataError::Stopped { reason: "the writer ended before the write was done".to_owned() }
}

struct FnJob<T, F> {
    weight: usize,
    work: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, MetadataError>>,
}

impl<T, F> WriteJob for FnJob<T, F>
where
    T: Send,
    F: FnMut(&mut dyn WriteMetadata) -> Result<T, MetadataError> + Send,
{
    fn weight(&self) -> usize {
        self.weight
    }

    fn run(&mut self, tx: &mut dyn WriteMetadata) -> Result<(), MetadataError> {
        self.value = Some((self.work)(tx)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), MetadataError>) {
        let Self { value, reply, .. } = *self;
        // The asker may have gone away; the write stands all the same.
        let _ = reply.send(outcome.map(|()| value.expect("a job that ran has a value")));
    }
}
