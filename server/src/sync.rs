//! The sync service: what mounts ask of the server, without HTTP.
//!
//! Reads block the thread for the time of a database read; writes are queued and awaited. Leaves
//! storage to `metadata` and `chunk_store`, and telling the mounts to the components on the bus.
//! Invariant: everything acknowledged is durable, and every commit is published once, in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use dfs_shared::event::EventBus;
use dfs_shared::event::kinds::server::{SyncRound, SyncStarted};
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{VolumeId, VolumeName};
use dfs_shared::limits::{NAMESAKES_MAX, STATES_SEEN_MAX};
use dfs_shared::lineage::Known;
use dfs_shared::record::Versioned;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::{
    CommitReply, CommitRequest, ContentsReply, ContentsRequest, CurrentRecord, LineageReply, LineageRequest,
    MerkleReply, MerkleRequest, MissingReply, MissingRequest, Namesake, RecordsReply, RecordsRequest,
    RegisterReply, RegisterRequest, WhoamiReply, WhoamiRequest,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::chunk_store::ChunkStore;
use crate::limits::CLIENT_NAME_LEN_MAX;
use crate::metadata::upkeep::Kind;
use crate::metadata::{Client, MetadataError, MetadataStore, ReadMetadata, Volume};

mod changes;
mod chunks;
mod claims;
mod commit;
mod error;
mod event;
mod full;
mod group;
mod merkle;
mod past;
mod register;
mod report;
mod request;
mod validity;

pub use changes::FileChange;
pub use chunks::{Batch, ChunkSource, FoundChunk};
pub use claims::Claims;
pub use commit::UNNUMBERED;
pub use error::SyncError;
pub use event::{ChunkCorrupt, ChunksMoved, CommitAnswered, FilesChanged, QuotaSet};
pub use merkle::{node as merkle_node, rebuild as rebuild_tree};
pub use report::shown_version;

use commit::CommitJob;
use past::PastJob;
use register::{RegisterJob, new_client_id, root_record};
pub use request::CheckedRequest;
use request::{at_most, check_query};

/// What the public API tells about a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// The volume.
    pub volume: Volume,
    /// How many records it has.
    pub records: u64,
}

/// The sync service over its stores.
pub struct SyncService {
    metadata: Arc<dyn MetadataStore>,
    chunks: Arc<dyn ChunkStore>,
    claims: Arc<Claims>,
    bus: EventBus,
    /// The quotas that were told last.
    quotas: Mutex<BTreeMap<VolumeName, Option<u64>>>,
}

impl std::fmt::Debug for SyncService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncService").finish_non_exhaustive()
    }
}

impl SyncService {
    /// Joins the stores and the bus.
    #[must_use]
    pub fn new(metadata: Arc<dyn MetadataStore>, chunks: Arc<dyn ChunkStore>, bus: EventBus) -> Self {
        Self { metadata, chunks, claims: Arc::default(), bus, quotas: Mutex::default() }
    }

    /// Reads the quotas, which another process may have set, and tells of those that differ from what was told before. Blocks.
    ///
    /// # Errors
    /// [`SyncError::Metadata`] when the store fails.
    pub fn tell_quotas(&self) -> Result<(), SyncError> {
        // Held while telling, so that the newest is told last.
        let mut told = self.quotas.lock();
        for Volume { name, quota, .. } in self.volumes()? {
            if told.insert(name.clone(), quota) != Some(quota) {
                self.bus.publish(QuotaSet { volume: name, limit: quota });
            }
        }
        Ok(())
    }

    /// Returns the chunks that are being uploaded at this moment.
    #[must_use]
    pub fn claims(&self) -> &Arc<Claims> {
        &self.claims
    }

    /// Makes a volume if there is none of this name; returns it and whether it is new.
    ///
    /// # Errors
    /// [`SyncError::Metadata`] when the store fails.
    pub async fn ensure_volume(&self, name: &VolumeName) -> Result<(Volume, bool), SyncError> {
        let name = name.clone();
        let made = self.metadata.write(1, move |tx| match tx.volume(&name)? {
            Some(volume) => Ok((volume, false)),
            None => Ok((tx.create_volume(&name, VolumeId::generate())?, true)),
        });
        Ok(made.get().await?)
    }

    /// Lists all volumes. Blocks.
    ///
    /// # Errors
    /// [`SyncError::Metadata`] when the store fails.
    pub fn volumes(&self) -> Result<Vec<Volume>, SyncError> {
        Ok(self.metadata.read(|snapshot| snapshot.volumes())?)
    }

    /// Finds a volume. Blocks.
    ///
    /// # Errors
    /// [`SyncError::VolumeNotFound`] or [`SyncError::Metadata`].
    pub fn volume(&self, name: &VolumeName) -> Result<Volume, SyncError> {
        self.read(name, |_, volume| Ok(volume.clone()))
    }

    /// Tells about a volume. Blocks.
    ///
    /// # Errors
    /// [`SyncError::VolumeNotFound`] or [`SyncError::Metadata`].
    pub fn info(&self, name: &VolumeName) -> Result<VolumeInfo, SyncError> {
        self.read(name, |snapshot, volume| {
            let records = merkle::count(snapshot, volume.key)?;
            Ok(VolumeInfo { volume: volume.clone(), records })
        })
    }

    /// Checks that the metadata store takes writes. Writes nothing.
    ///
    /// # Errors
    /// [`SyncError::Metadata`] when it does not.
    pub async fn check(&self) -> Result<(), SyncError> {
        Ok(self.metadata.write(0, |_| Ok(())).get().await?)
    }

    /// Registers a client; the first one of a volume also makes its root directory.
    ///
    /// # Errors
    /// [`SyncError::VolumeNotFound`], [`SyncError::TooMany`], [`SyncError::BadRequest`] or [`SyncError::Metadata`].
    pub async fn register(
        &self,
        name: &VolumeName,
        request: RegisterRequest,
    ) -> Result<RegisterReply, SyncError> {
        at_most("bytes in a client's name", request.client_name.len(), CLIENT_NAME_LEN_MAX)?;
        let known = request.client.clone();
        let id = match request.client {
            Some(client) => client,
            None => new_client_id(&request.client_name)?,
        };
        let now = Timestamp::from(SystemTime::now());
        let (reply, replied) = oneshot::channel();
        self.metadata.submit(Box::new(RegisterJob {
            volume: name.clone(),
            client: Client { id: id.clone(), name: request.client_name, last_seen: now },
            root: root_record(request.uid, request.gid, now),
            bus: self.bus.clone(),
            done: None,
            reply,
        }));
        match (replied.await.unwrap_or_else(|_| Err(writer_ended())), known) {
            (Err(SyncError::Metadata(MetadataError::DiskFull)), Some(known)) => {
                full::register_anyway(&self.metadata, name, known).await
            }
            (registered, _) => Ok(register::reply(id, &registered?)),
        }
    }

    /// Tells which of the states that a mount has seen the volume had. Blocks.
    ///
    /// # Errors
    /// As [`SyncService::missing`].
    pub fn lineage(&self, name: &VolumeName, request: &LineageRequest) -> Result<LineageReply, SyncError> {
        at_most("states", request.seen.len(), STATES_SEEN_MAX)?;
        self.read(name, |snapshot, volume| {
            let mut common = None;
            for state in &request.seen {
                let root = match state.revision == volume.revision {
                    true => Some(volume.root),
                    false => snapshot.root_at(volume.key, state.revision)?,
                };
                if root == Some(state.root) {
                    common = common.max(Some(state.revision));
                }
            }
            let kept_from = snapshot.oldest_root(volume.key)?.unwrap_or(volume.revision);
            Ok(LineageReply { known: Known { common, kept_from } })
        })
    }

    /// Tells a client the time, and who else has its name. Blocks.
    ///
    /// # Errors
    /// [`SyncError::VolumeNotFound`] or [`SyncError::Metadata`].
    pub fn whoami(&self, name: &VolumeName, request: &WhoamiRequest) -> Result<WhoamiReply, SyncError> {
        self.read(name, |snapshot, volume| {
            let clients = snapshot.clients(volume.key)?;
            let own = clients.iter().find(|client| client.id == request.client);
            let same =
                |client: &&Client| own.is_some_and(|own| own.name == client.name && own.id != client.id);
            let named = |client: &Client| Namesake { client: client.id.clone(), last_seen: client.last_seen };
            let mut namesakes: Vec<_> = clients.iter().filter(same).map(named).collect();
            namesakes.sort_by_key(|namesake| std::cmp::Reverse(namesake.last_seen));
            namesakes.truncate(NAMESAKES_MAX);
            Ok(WhoamiReply { time: Timestamp::from(SystemTime::now()), namesakes })
        })
    }

    /// Checks a commit request as far as that needs no store: hashes its bytes, takes milliseconds if it is large.
    ///
    /// # Errors
    /// [`SyncError::TooMany`] or [`SyncError::BadRequest`].
    pub fn prepare(request: CommitRequest) -> Result<CheckedRequest, SyncError> {
        CheckedRequest::new(request)
    }

    /// Commits change groups. Returns when everything accepted is durable and published.
    ///
    /// # Errors
    /// [`SyncError`] when the request as a whole is refused; refused groups are no error.
    pub async fn commit(&self, name: &VolumeName, request: CheckedRequest) -> Result<CommitReply, SyncError> {
        let taken = Instant::now();
        if request.is_numbered() {
            let (volume, client) = (name.clone(), request.client.clone());
            self.bus.publish(SyncStarted { volume, client, round: SyncRound::Commit });
        }
        let numbered = request.numbered.clone();
        let (reply, replied) = oneshot::channel();
        self.metadata.submit(Box::new(CommitJob {
            volume: name.clone(),
            request,
            bus: self.bus.clone(),
            taken,
            done: None,
            reply,
        }));
        match (replied.await.unwrap_or_else(|_| Err(writer_ended())), numbered) {
            (Err(SyncError::Metadata(MetadataError::DiskFull)), Some(numbered)) => {
                full::commit_anyway(&self.metadata, name, numbered).await
            }
            (committed, _) => committed,
        }
    }

    /// Keeps a version of a file that lost to a later one in its history. Returns when that is durable; the file stays as it is.
    ///
    /// # Errors
    /// [`SyncError`] when the request as a whole is refused, as one that is not of one file; a refused version is no error.
    pub async fn past(&self, name: &VolumeName, request: CheckedRequest) -> Result<CommitReply, SyncError> {
        let (reply, replied) = oneshot::channel();
        self.metadata.submit(Box::new(PastJob::new(name.clone(), request, self.bus.clone(), reply)?));
        replied.await.unwrap_or_else(|_| Err(writer_ended()))
    }

    /// Tells which chunks are not here. Blocks.
    ///
    /// # Errors
    /// [`SyncError`] when the volume is unknown, too much is asked, or the store fails.
    pub fn missing(&self, name: &VolumeName, request: &MissingRequest) -> Result<MissingReply, SyncError> {
        check_query("hashes", request.hashes.len())?;
        self.read(name, |snapshot, _| {
            let mut missing = Vec::new();
            for hash in request.hashes.iter().filter(|hash| **hash != ChunkHash::HOLE) {
                // What is about to be collected is asked for again: who was told "here" has the whole grace to commit.
                let is_here = snapshot.chunk_place(hash)?.is_some();
                if !is_here || snapshot.condemned_since(Kind::Chunk, hash.as_bytes())?.is_some() {
                    missing.push(*hash);
                }
            }
            Ok(MissingReply { missing })
        })
    }

    /// Reads manifests. Blocks.
    ///
    /// # Errors
    /// As [`SyncService::missing`].
    pub fn contents(&self, name: &VolumeName, request: &ContentsRequest) -> Result<ContentsReply, SyncError> {
        check_query("contents", request.contents.len())?;
        self.read(name, |snapshot, _| {
            let manifests =
                request.contents.iter().map(|id| snapshot.content(id)).collect::<Result<_, _>>()?;
            Ok(ContentsReply { manifests })
        })
    }

    /// Reads records. Blocks.
    ///
    /// # Errors
    /// As [`SyncService::missing`].
    pub fn records(&self, name: &VolumeName, request: &RecordsRequest) -> Result<RecordsReply, SyncError> {
        check_query("keys", request.keys.len())?;
        self.read(name, |snapshot, volume| {
            let current = |key: &_| -> Result<CurrentRecord, MetadataError> {
                let value: Option<Versioned> = snapshot.record(volume.key, key)?;
                Ok(CurrentRecord { key: key.clone(), value })
            };
            let records = request.keys.iter().map(current).collect::<Result<_, _>>()?;
            Ok(RecordsReply { revision: volume.revision, records })
        })
    }

    /// Reads nodes of the Merkle tree. Blocks.
    ///
    /// # Errors
    /// As [`SyncService::missing`].
    pub fn merkle(&self, name: &VolumeName, request: &MerkleRequest) -> Result<MerkleReply, SyncError> {
        check_query("prefixes", request.prefixes.len())?;
        self.read(name, |snapshot, volume| {
            let nodes = request.prefixes.iter().map(|prefix| merkle::node(snapshot, volume.key, prefix));
            Ok(MerkleReply { revision: volume.revision, nodes: nodes.collect::<Result<_, _>>()? })
        })
    }

    fn read<T>(
        &self,
        name: &VolumeName,
        work: impl FnMut(&dyn ReadMetadata, &Volume) -> Result<T, MetadataError>,
    ) -> Result<T, SyncError> {
        read(&*self.metadata, name, work)
    }
}

/// Reads in one snapshot, with the volume's row at hand.
fn read<T>(
    metadata: &dyn MetadataStore,
    name: &VolumeName,
    mut work: impl FnMut(&dyn ReadMetadata, &Volume) -> Result<T, MetadataError>,
) -> Result<T, SyncError> {
    let found = metadata.read(|snapshot| match snapshot.volume(name)? {
        Some(volume) => work(snapshot, &volume).map(Some),
        None => Ok(None),
    })?;
    found.ok_or_else(|| SyncError::VolumeNotFound { name: name.clone() })
}

fn writer_ended() -> SyncError {
    let reason = "the writer ended before the write was done".to_owned();
    SyncError::Metadata(MetadataError::Stopped { reason })
}

#[cfg(test)]
mod kit;
#[cfg(test)]
mod tests;
