//! Chunks of an upload on their way in: checked, written, noted, in any order and more than once.

use std::sync::Arc;

use bytes::Bytes;
use dfs_shared::event::kinds::server::{FileChunkReceived, FileUploadStarted};
use dfs_shared::hash::ChunkHash;

use super::state::Call;
use super::{SessionError, SessionService, state_of};
use crate::blocking::offload;
use crate::files::FilePath;
use crate::limits::{SESSION_STAGED_LEN_MAX, UPLOAD_CHUNK_LEN_MAX, UPLOAD_CHUNKS_MAX, UPLOAD_MISSING_MAX};
use crate::metadata::sessions::{SessionId, SessionRow, StagedChunk, StagedFile};
use crate::metadata::{MetadataError, ReadMetadata, WriteMetadata};

/// A chunk that a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkUpload {
    /// The session.
    pub session: SessionId,
    /// The file.
    pub path: FilePath,
    /// The chunk's place in the file, from 0.
    pub number: u64,
    /// How many chunks the file has. Another number than before begins the file's upload anew.
    pub total: u64,
    /// The announced SHA-256 of the bytes.
    pub hash: ChunkHash,
    /// The bytes.
    pub bytes: Bytes,
}

/// What a client learns about an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Chunks that have not arrived, in order, at most `limits::UPLOAD_MISSING_MAX`.
    pub missing: Vec<u64>,
    /// Whether there may be more than are listed.
    pub has_more: bool,
}

impl SessionService {
    /// Takes a chunk. Returns when it is durable.
    ///
    /// # Errors
    /// [`SessionError`]: it does not fit the session, the limits or its hash, or it cannot be stored.
    pub async fn upload_chunk(self: &Arc<Self>, chunk: ChunkUpload) -> Result<Received, SessionError> {
        let service = Arc::clone(self);
        let (id, path, total) = (chunk.session, chunk.path.to_bytes(), chunk.total);
        let staged = chunk.clone();
        let (row, before) = offload(move || {
            let found = service.check_room(&staged)?;
            check(&staged)?;
            Ok::<_, SessionError>(found)
        })
        .await?;
        if before.is_some_and(|file| file.total != total) {
            self.begin_anew(id, path.clone()).await?;
        }
        let service = Arc::clone(self);
        let (staged, place) = (chunk.clone(), path.clone());
        offload(move || service.staging.put(&id, &place, staged.number, &staged.bytes)).await?;
        let arrived = StagedChunk { number: chunk.number, hash: chunk.hash, len: chunk.bytes.len() as u64 };
        let name = chunk.path.clone();
        let noted = self.change(id, 3, move |tx, row| {
            if let Err(error) = state_of(row)?.begin(Call::UploadChunk) {
                return Ok(Err(error.into()));
            }
            match note(tx, row, &path, total, &arrived)? {
                Noted::Applying => Ok(Err(SessionError::Applying { path: name.clone() })),
                Noted::TooMany(len) => {
                    Ok(Err(SessionError::TooManyBytes { len, max: SESSION_STAGED_LEN_MAX }))
                }
                Noted::Missing(missing) => {
                    let has_more = missing.len() == UPLOAD_MISSING_MAX;
                    Ok(Ok(Received { missing, has_more }))
                }
            }
        });
        let received = noted.await?;
        self.tell(&row, &chunk, before.is_none());
        Ok(received)
    }

    fn tell(&self, row: &SessionRow, chunk: &ChunkUpload, is_first: bool) {
        let (volume, path) = (row.volume.clone(), Some(chunk.path.to_bytes()));
        let client = Some(row.client.clone());
        if is_first {
            self.bus.publish(FileUploadStarted {
                volume: volume.clone(),
                client: client.clone(),
                size: None,
                path: path.clone(),
            });
        }
        let len = chunk.bytes.len() as u64;
        self.bus.publish(FileChunkReceived { volume, chunk: chunk.hash, len, client, path });
    }

    /// Checks before any byte is written what is checked again when the chunk is noted. Blocks.
    fn check_room(&self, chunk: &ChunkUpload) -> Result<(SessionRow, Option<StagedFile>), SessionError> {
        let row = self.check(&chunk.session, Call::UploadChunk)?;
        let path = chunk.path.to_bytes();
        let (file, replaced) = self.metadata.read(|snapshot| {
            let file = snapshot.staged_file(&chunk.session, &path)?;
            Ok((file, staged_len(snapshot, &chunk.session, &path, chunk.number)?))
        })?;
        if file.is_some_and(|file| file.applying) {
            return Err(SessionError::Applying { path: chunk.path.clone() });
        }
        let len = row.staged.saturating_sub(replaced).saturating_add(chunk.bytes.len() as u64);
        if len > SESSION_STAGED_LEN_MAX {
            return Err(SessionError::TooManyBytes { len, max: SESSION_STAGED_LEN_MAX });
        }
        Ok((row, file))
    }

    /// Drops what has arrived of a file: the client has cut it otherwise.
    async fn begin_anew(self: &Arc<Self>, id: SessionId, path: Vec<u8>) -> Result<(), SessionError> {
        let place = path.clone();
        self.change(id, 1, move |tx, row| {
            drop_staged(tx, row, &path)?;
            Ok(Ok(()))
        })
        .await?;
        let service = Arc::clone(self);
        offload(move || service.staging.remove_file(&id, &place)).await
    }
}

/// Checks a chunk as far as that needs no store.
fn check(chunk: &ChunkUpload) -> Result<(), SessionError> {
    let ChunkUpload { number, total, .. } = *chunk;
    if total == 0 || total > UPLOAD_CHUNKS_MAX || number >= total {
        return Err(SessionError::ChunkNumber { number, total, max: UPLOAD_CHUNKS_MAX });
    }
    if chunk.bytes.len() > UPLOAD_CHUNK_LEN_MAX {
        return Err(SessionError::ChunkTooLong { len: chunk.bytes.len(), max: UPLOAD_CHUNK_LEN_MAX });
    }
    let found = ChunkHash::of(&chunk.bytes);
    if found != chunk.hash {
        let (path, announced) = (chunk.path.clone(), chunk.hash);
        return Err(SessionError::ChunkMismatch { path, number, found, announced });
    }
    Ok(())
}

/// What came of noting a chunk.
enum Noted {
    /// Its file is being published.
    Applying,
    /// The session would hold this many bytes.
    TooMany(u64),
    /// It is noted; these are missing.
    Missing(Vec<u64>),
}

/// Writes a chunk's row in place of one that may be there.
fn note(
    tx: &mut dyn WriteMetadata,
    row: &mut SessionRow,
    path: &[u8],
    total: u64,
    chunk: &StagedChunk,
) -> Result<Noted, MetadataError> {
    let found = tx.staged_file(&row.id, path)?.filter(|file| file.total == total);
    let mut file = found.unwrap_or(StagedFile { total, prefix: 0, applying: false });
    if file.applying {
        return Ok(Noted::Applying);
    }
    let replaced = staged_len(tx, &row.id, path, chunk.number)?;
    let staged = row.staged.saturating_sub(replaced).saturating_add(chunk.len);
    if staged > SESSION_STAGED_LEN_MAX {
        return Ok(Noted::TooMany(staged));
    }
    row.staged = staged;
    tx.put_staged_chunk(&row.id, path, chunk)?;
    let missing = tx.missing_chunks(&row.id, path, file.prefix..total, UPLOAD_MISSING_MAX)?;
    file.prefix = missing.first().copied().unwrap_or(total);
    tx.put_staged_file(&row.id, path, &file)?;
    Ok(Noted::Missing(missing))
}

/// Returns how many bytes an arrived chunk has; 0 if it has not arrived.
fn staged_len<R: ReadMetadata + ?Sized>(
    tx: &R,
    id: &SessionId,
    path: &[u8],
    number: u64,
) -> Result<u64, MetadataError> {
    let found = tx.staged_chunks(id, path, number, 1)?;
    Ok(found.first().filter(|chunk| chunk.number == number).map_or(0, |chunk| chunk.len))
}

/// Removes the rows of an upload.
pub(super) fn drop_staged(
    tx: &mut dyn WriteMetadata,
    row: &mut SessionRow,
    path: &[u8],
) -> Result<(), MetadataError> {
    let mut next = 0;
    loop {
        let rows = tx.staged_chunks(&row.id, path, next, crate::limits::STAGED_CHUNKS_READ)?;
        let Some(last) = rows.last() else { break };
        next = last.number + 1;
        let len: u64 = rows.iter().map(|chunk| chunk.len).sum();
        row.staged = row.staged.saturating_sub(len);
    }
    tx.remove_staged_file(&row.id, path)
}
