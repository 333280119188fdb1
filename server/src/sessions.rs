//! Sync sessions: a client without a mount compares its files with a volume's, and sends and fetches what differs.
//!
//! ```text
//! start ─► diff ─► upload_chunk … upload_complete   (once for each file to upload)
//!              └─► downloads that name the session  (once for each file to download)
//! ```
//!
//! [`state`] has the rules of the calls, [`diff`] those of the comparison, both pure. Sessions and what has arrived of an upload are
//! in the metadata store, the bytes in the staging directory, so that a restarted server goes on where it was. Leaves
//! publishing to `files`. Invariant: a session's row is changed in one transaction with what it counts, and nothing
//! of an upload is seen by anyone before all of it is published in one commit.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use dfs_shared::ddl::SyncStatus;
use dfs_shared::event::EventBus;
use dfs_shared::hash::{ChunkHash, MerkleHash};
use dfs_shared::ids::{ClientId, VolumeName};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;

use crate::blocking::offload;
use crate::files::{FileInfo, FilePath, FileService, FilesError};
use crate::limits::{
    CLIENT_SESSIONS_MAX, FILE_PAGE_LEN_DEFAULT, PLAN_FILES_MAX, SESSION_SILENCE_S_MAX, SESSIONS_MAX,
};
use crate::metadata::sessions::{PathUnderWay, SessionId, SessionRow, WhichSessions};
use crate::metadata::{MetadataError, MetadataStore, Volume, WriteMetadata};
use crate::sync::SyncError;

mod assemble;
pub mod diff;
mod error;
mod plan;
mod publish;
mod staging;
pub mod state;
mod sweep;
mod upload;

pub use error::SessionError;
pub use sweep::Sweeper;
pub use upload::{ChunkUpload, Received};

use diff::LocalFile;
use staging::Staging;
use state::{Call, Left, State};

/// Directory of the staged chunks inside the data directory.
pub const STAGING_DIRECTORY: &str = "staging";

/// What a comparison tells the client, besides the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diffed {
    /// What is to be done, by path.
    pub plan: diff::Plan,
    /// Where the session stands now.
    pub state: State,
    /// The volume's newest revision before it was compared.
    pub revision: Revision,
    /// The Merkle root at that revision.
    pub root: MerkleHash,
}

/// Sync sessions over the files, the store and the staging directory.
pub struct SessionService {
    files: Arc<FileService>,
    metadata: Arc<dyn MetadataStore>,
    staging: Staging,
    bus: EventBus,
}

impl std::fmt::Debug for SessionService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionService").field("staging", &self.staging).finish_non_exhaustive()
    }
}

impl SessionService {
    /// Opens the staging directory under the data directory, lets sessions that a stopped server left go on, and
    /// removes what has expired. Blocks.
    ///
    /// # Errors
    /// [`SessionError`] when the directory or the store cannot be used.
    pub fn open(
        files: Arc<FileService>,
        metadata: Arc<dyn MetadataStore>,
        data_dir: &Path,
        bus: EventBus,
    ) -> Result<Self, SessionError> {
        let staging = Staging::open(&data_dir.join(STAGING_DIRECTORY))?;
        let service = Self { files, metadata, staging, bus };
        service.restart()?;
        service.sweep(now())?;
        Ok(service)
    }

    /// Returns the files that the sessions work on.
    #[must_use]
    pub fn files(&self) -> &Arc<FileService> {
        &self.files
    }

    /// Returns the time in seconds since 1970.
    #[must_use]
    pub fn now_secs(&self) -> u64 {
        u64::try_from(now().secs).unwrap_or(0)
    }

    /// Returns the hash of a file as the API shows it; `None` where it cannot be had. Blocks, see [`FileService::file_hash`].
    ///
    /// # Errors
    /// The store failed.
    pub fn hash(&self, info: &FileInfo) -> Result<Option<ChunkHash>, SessionError> {
        match self.files.file_hash(info) {
            Ok(hash) => Ok(Some(hash)),
            Err(FilesError::Damaged { .. } | FilesError::TooLong { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Notes what kind of machine a registered client is.
    ///
    /// # Errors
    /// The store failed.
    pub async fn note_platform(
        &self,
        volume: &VolumeName,
        client: &ClientId,
        platform: &str,
    ) -> Result<(), SessionError> {
        let (name, client, platform) = (volume.clone(), client.clone(), platform.to_owned());
        let noted = self.metadata.write(1, move |tx| match tx.volume(&name)? {
            Some(volume) => tx.put_client_platform(volume.key, &client, &platform),
            None => Ok(()),
        });
        Ok(noted.get().await?)
    }

    /// Starts a session for a registered client.
    ///
    /// # Errors
    /// [`SyncError::ClientUnknown`], [`SyncError::VolumeNotFound`] or [`SessionError::TooManySessions`].
    pub async fn start(&self, volume: &VolumeName, client: &ClientId) -> Result<SessionRow, SessionError> {
        let row = SessionRow {
            id: SessionId::generate(),
            volume: volume.clone(),
            client: client.clone(),
            state: State::Idle.number(),
            heard: now(),
            transfers: 0,
            conflicts: 0,
            bytes_left: 0,
            applying: 0,
            staged: 0,
            files_synced: 0,
            bytes_synced: 0,
            last_error: None,
        };
        let started = row.clone();
        let made = self.metadata.write(1, move |tx| {
            let Some(found) = tx.volume(&row.volume)? else {
                return Ok(Err(SyncError::VolumeNotFound { name: row.volume.clone() }.into()));
            };
            if tx.client(found.key, &row.client)?.is_none() {
                return Ok(Err(SyncError::ClientUnknown { client: row.client.clone() }.into()));
            }
            let (all, own) = tx.session_count(&row.volume, &row.client)?;
            if let Some(error) = too_many(all, own) {
                return Ok(Err(error));
            }
            tx.put_session(&row)?;
            Ok(Ok(()))
        });
        made.get().await??;
        self.bus.publish(plan::started(&started));
        Ok(started)
    }

    /// Reads a session. Blocks.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], or the store failed.
    pub fn status(&self, id: &SessionId) -> Result<SessionRow, SessionError> {
        let row = self.metadata.read(|snapshot| snapshot.session(id))?;
        row.filter(|row| !state::is_expired(row.heard, now())).ok_or_else(|| not_found(id))
    }

    /// Tells what sessions have under way at each of these paths of a volume: [`SyncStatus::Conflict`] where a plan waits for its
    /// client to decide, otherwise [`SyncStatus::Syncing`] where an upload has begun and is not published. Blocks.
    ///
    /// # Errors
    /// The store failed.
    pub fn under_way(
        &self,
        volume: &VolumeName,
        paths: &[&[u8]],
    ) -> Result<Vec<Option<SyncStatus>>, SessionError> {
        let heard_from = state::expired_before(now());
        let which = WhichSessions { volume, states: State::bits_of_open(), heard_from };
        let found = self.metadata.read(|snapshot| {
            paths.iter().map(|path| snapshot.path_under_way(which, path)).collect::<Result<Vec<_>, _>>()
        })?;
        let status = |found: PathUnderWay| match found {
            PathUnderWay { is_in_conflict: true, .. } => Some(SyncStatus::Conflict),
            PathUnderWay { is_staged: true, .. } => Some(SyncStatus::Syncing),
            PathUnderWay { .. } => None,
        };
        Ok(found.into_iter().map(status).collect())
    }

    /// Checks that a call fits a session. Blocks.
    ///
    /// # Errors
    /// [`SessionError::NotFound`] or [`SessionError::WrongState`].
    pub fn check(&self, id: &SessionId, call: Call) -> Result<SessionRow, SessionError> {
        let row = self.status(id)?;
        state_of(&row)?.begin(call)?;
        Ok(row)
    }

    /// Changes a session's row and what belongs to it in one transaction; nothing is changed if `work` refuses.
    async fn change<T: Send + 'static>(
        &self,
        id: SessionId,
        weight: usize,
        mut work: impl FnMut(
            &mut dyn WriteMetadata,
            &mut SessionRow,
        ) -> Result<Result<T, SessionError>, MetadataError>
        + Send
        + 'static,
    ) -> Result<T, SessionError> {
        let changed = self.metadata.write(weight, move |tx| {
            let at = now();
            let Some(mut row) = tx.session(&id)?.filter(|row| !state::is_expired(row.heard, at)) else {
                return Ok(Err(not_found(&id)));
            };
            row.heard = at;
            let outcome = work(tx, &mut row)?;
            if outcome.is_ok() {
                tx.put_session(&row)?;
            }
            Ok(outcome)
        });
        changed.get().await?
    }

    /// Shows all files of a volume until `visit` breaks, page by page: a slow visitor holds no snapshot of the database. What is
    /// changed on the way is seen before or after its change; the volume returned is the one before the first page. Blocks.
    ///
    /// # Errors
    /// The store failed, or what `visit` returns.
    pub fn each_file(
        &self,
        volume: &VolumeName,
        visit: &mut dyn FnMut(FileInfo) -> Result<ControlFlow<()>, SessionError>,
    ) -> Result<Volume, SessionError> {
        let before = self.files.sync().volume(volume)?;
        let mut cursor = None;
        loop {
            let page = self.files.list(volume, b"", FILE_PAGE_LEN_DEFAULT, cursor.as_deref())?;
            for info in page.files {
                if visit(info)?.is_break() {
                    return Ok(before);
                }
            }
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(before);
            }
        }
    }

    /// Looks at a file, `None` if it is not there. Blocks.
    fn current(&self, volume: &VolumeName, path: &FilePath) -> Result<Option<FileInfo>, SessionError> {
        match self.files.find(volume, path) {
            Ok(info) => Ok(Some(info)),
            Err(FilesError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Compares a client's files with the volume's and keeps what is to be done as the session's plan. A client that
    /// sends the Merkle root that the volume has needs no comparison.
    ///
    /// # Errors
    /// [`SessionError::WrongState`], [`SessionError::NotFound`], or the files could not be read; then the session has failed.
    pub async fn diff(
        self: &Arc<Self>,
        id: SessionId,
        local: BTreeMap<Vec<u8>, LocalFile>,
        root: Option<MerkleHash>,
    ) -> Result<Diffed, SessionError> {
        let row = self
            .change(id, 1, |_, row| {
                let begun = state_of(row)?;
                Ok(begun.begin(Call::Diff).map_err(SessionError::from).map(|state| {
                    row.state = state.number();
                    row.clone()
                }))
            })
            .await?;
        let service = Arc::clone(self);
        let volume = row.volume.clone();
        let compared = offload(move || service.compare(&volume, local, root, PLAN_FILES_MAX)).await;
        match compared {
            Ok((plan, revision, root)) => {
                let state = self.keep_plan(&row, &plan).await?;
                Ok(Diffed { plan, state, revision, root })
            }
            Err(error) => {
                self.fail(&row, &error).await?;
                Err(error)
            }
        }
    }
}

/// Takes the state out of a row.
fn state_of(row: &SessionRow) -> Result<State, MetadataError> {
    State::from_number(row.state).ok_or(MetadataError::Damaged { what: "state of a session", source: None })
}

/// Moves a row to the state that what is left decides.
fn settle(row: &mut SessionRow) -> Result<State, MetadataError> {
    let left = Left { transfers: row.transfers, conflicts: row.conflicts, applying: row.applying };
    let state = state_of(row)?.settle(left);
    row.state = state.number();
    Ok(state)
}

fn not_found(id: &SessionId) -> SessionError {
    SessionError::NotFound { session: id.to_string() }
}

fn too_many(all: u64, own: u64) -> Option<SessionError> {
    let over = |whose, count, max| {
        let silence_s = SESSION_SILENCE_S_MAX;
        (count >= max).then_some(SessionError::TooManySessions { whose, count, max, silence_s })
    };
    over("of this client", own, CLIENT_SESSIONS_MAX).or_else(|| over("in all", all, SESSIONS_MAX))
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// Returns the SHA-256 of no bytes: what an empty file has.
fn empty_hash() -> ChunkHash {
    ChunkHash::of(b"")
}

#[cfg(test)]
mod tests;
