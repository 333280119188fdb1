//! An upload's last step: assembled, checked, published in one commit, ended.
//!
//! ```text
//! mark as applying ─► assemble ─► hash is right ─► publish ─► end the upload
//!                        │             │              └─ another version is there ─► a conflict; the upload stays
//!                        │             └─ wrong ─► the upload stays
//!                        └─ a chunk is damaged ─► it counts as missing
//! ```
//!
//! Invariant: whatever happens, the mark is taken off again, and a call that was not answered may be repeated: a
//! version that has the uploaded bytes already is what was asked for.

use std::sync::Arc;

use dfs_shared::event::kinds::server::{FileConflictResolved, FileUploadCompleted};
use dfs_shared::hash::ChunkHash;
use dfs_shared::manifest::Manifest;

use super::assemble::{Assembled, Upload, assemble};
use super::plan::{conflict, end_file};
use super::state::Call;
use super::upload::drop_staged;
use super::{SessionError, SessionService, empty_hash, settle, state_of};
use crate::blocking::offload;
use crate::files::{FileInfo, FilePath, FilesError, NewContent, Publish};
use crate::limits::UPLOAD_MISSING_MAX;
use crate::metadata::sessions::{FileAction, SessionFile, SessionId, SessionRow};
use crate::metadata::{MetadataError, WriteMetadata};
use crate::report::chain;

/// An upload that is marked as being published.
struct Begun {
    row: SessionRow,
    planned: Option<SessionFile>,
    /// How many chunks it has; 0 for an empty file of which nothing was sent.
    total: u64,
}

impl SessionService {
    /// Publishes an uploaded file if its bytes have the expected hash. Returns when that is durable.
    ///
    /// # Errors
    /// [`SessionError::FileMismatch`], [`SessionError::ChunksMissing`], [`SessionError::NothingStaged`],
    /// [`FilesError::VersionConflict`] and what else keeps it from being published; nothing is published then.
    pub async fn upload_complete(
        self: &Arc<Self>,
        id: SessionId,
        path: &FilePath,
        expected: ChunkHash,
    ) -> Result<FileInfo, SessionError> {
        let begun = self.begin_apply(id, path, expected).await?;
        match self.apply(&begun, path, expected).await {
            Ok(info) => {
                self.end_apply(&begun, path, &info).await?;
                Ok(info)
            }
            Err(error) => {
                self.stop_apply(&begun, path, &error).await?;
                Err(error)
            }
        }
    }

    async fn begin_apply(
        &self,
        id: SessionId,
        path: &FilePath,
        expected: ChunkHash,
    ) -> Result<Begun, SessionError> {
        let (bytes, name) = (path.to_bytes(), path.clone());
        let begun = self.change(id, 2, move |tx, row| {
            let state = match state_of(row)?.begin(Call::UploadComplete) {
                Ok(state) => state,
                Err(error) => return Ok(Err(error.into())),
            };
            let total = match tx.staged_file(&id, &bytes)? {
                Some(file) if file.applying => {
                    return Ok(Err(SessionError::Applying { path: name.clone() }));
                }
                Some(mut file) => {
                    let missing =
                        tx.missing_chunks(&id, &bytes, file.prefix..file.total, UPLOAD_MISSING_MAX)?;
                    if let Some(first) = missing.first() {
                        let (path, count, first) = (name.clone(), missing.len(), *first);
                        return Ok(Err(SessionError::ChunksMissing { path, count, first }));
                    }
                    file.applying = true;
                    tx.put_staged_file(&id, &bytes, &file)?;
                    row.applying += 1;
                    file.total
                }
                None if expected == empty_hash() => 0,
                None => return Ok(Err(SessionError::NothingStaged { path: name.clone() })),
            };
            if total > 0 {
                row.state = state.number();
            }
            Ok(Ok((row.clone(), tx.session_file(&id, &bytes)?, total)))
        });
        let (row, planned, total) = begun.await?;
        Ok(Begun { row, planned, total })
    }

    /// Assembles, checks and publishes.
    async fn apply(
        self: &Arc<Self>,
        begun: &Begun,
        path: &FilePath,
        expected: ChunkHash,
    ) -> Result<FileInfo, SessionError> {
        let (content, found) = self.assembled(begun, path).await?;
        if found != expected {
            return Err(SessionError::FileMismatch { path: path.clone(), found, expected });
        }
        let expected_version = match &begun.planned {
            Some(SessionFile { action: FileAction::Upload | FileAction::Conflict, base, .. }) => {
                Some(base.unwrap_or(0))
            }
            // The plan says nothing of it, or that the client should fetch it: it has decided otherwise.
            Some(SessionFile { action: FileAction::Download, .. }) | None => None,
        };
        let (volume, author) = (begun.row.volume.clone(), begun.row.client.clone());
        let wanted =
            Publish { path: path.clone(), content, mtime: None, owner: None, author, expected_version };
        match self.files.publish(&volume, wanted).await {
            Err(FilesError::VersionConflict { path, expected: version, found }) => {
                // A call that was not answered may have published it.
                let (service, name) = (Arc::clone(self), path.clone());
                let there = offload(move || service.current_with_hash(&volume, &name, expected)).await?;
                there.ok_or_else(|| FilesError::VersionConflict { path, expected: version, found }.into())
            }
            published => Ok(published?),
        }
    }

    async fn assembled(
        self: &Arc<Self>,
        begun: &Begun,
        path: &FilePath,
    ) -> Result<(NewContent, ChunkHash), SessionError> {
        if begun.total == 0 {
            let (manifest, file_hash) = (Manifest::default(), Some(empty_hash()));
            return Ok((NewContent { manifest, file_hash, small_chunks: Vec::new() }, empty_hash()));
        }
        let (service, id, total, name) = (Arc::clone(self), begun.row.id, begun.total, path.clone());
        let volume = begun.row.volume.clone();
        let assembled = offload(move || {
            let previous = match service.current(&volume, &name)? {
                Some(info) => Some(service.files.manifest(&info)?.chunk_log2),
                None => None,
            };
            let upload = Upload {
                metadata: service.metadata.as_ref(),
                staging: &service.staging,
                session: id,
                path: &name.to_bytes(),
                total,
            };
            assemble(&upload, service.files.sync(), &volume, previous)
        });
        match assembled.await? {
            Assembled::Whole(content, hash) => Ok((content, hash)),
            Assembled::Damaged(number) => {
                self.forget(id, path, number).await?;
                Err(SessionError::ChunksMissing { path: path.clone(), count: 1, first: number })
            }
        }
    }

    /// Lets a staged chunk count as missing.
    async fn forget(&self, id: SessionId, path: &FilePath, number: u64) -> Result<(), SessionError> {
        tracing::warn!(session = %id, %path, number, "a staged chunk is damaged or gone");
        let path = path.to_bytes();
        let forgotten = self.change(id, 2, move |tx, row| {
            let found = tx.staged_chunks(&id, &path, number, 1)?;
            if let Some(chunk) = found.first().filter(|chunk| chunk.number == number) {
                row.staged = row.staged.saturating_sub(chunk.len);
                tx.remove_staged_chunk(&id, &path, number)?;
            }
            if let Some(mut file) = tx.staged_file(&id, &path)? {
                file.prefix = file.prefix.min(number);
                tx.put_staged_file(&id, &path, &file)?;
            }
            Ok(Ok(()))
        });
        forgotten.await
    }

    /// Returns the current version of a file if it has this hash. Blocks.
    fn current_with_hash(
        &self,
        volume: &dfs_shared::ids::VolumeName,
        path: &FilePath,
        hash: ChunkHash,
    ) -> Result<Option<FileInfo>, SessionError> {
        let Some(info) = self.current(volume, path)? else { return Ok(None) };
        Ok((self.files.file_hash(&info)? == hash).then_some(info))
    }

    async fn end_apply(
        self: &Arc<Self>,
        begun: &Begun,
        path: &FilePath,
        info: &FileInfo,
    ) -> Result<(), SessionError> {
        let (id, bytes, size, total) = (begun.row.id, path.to_bytes(), info.size(), begun.total);
        let place = bytes.clone();
        let ended = self.change(id, 3, move |tx, row| {
            if total > 0 {
                drop_staged(tx, row, &bytes)?;
                row.applying = row.applying.saturating_sub(1);
            }
            end_file(tx, row, &bytes)?;
            row.files_synced += 1;
            row.bytes_synced = row.bytes_synced.saturating_add(size);
            row.last_error = None;
            Ok(Ok((settle(row)?, row.clone())))
        });
        let (state, row) = ended.await?;
        let service = Arc::clone(self);
        let path_bytes = place.clone();
        offload(move || service.staging.remove_file(&id, &place)).await?;
        self.bus.publish(FileUploadCompleted {
            volume: row.volume.clone(),
            content: info.content(),
            size,
            client: Some(row.client.clone()),
            node: Some(info.node),
            path: Some(path_bytes.clone()),
        });
        if begun.planned.as_ref().is_some_and(|file| file.action == FileAction::Conflict) {
            let (volume, client) = (row.volume.clone(), row.client.clone());
            self.bus.publish(FileConflictResolved {
                volume,
                client,
                key: None,
                path: Some(path_bytes),
                copy: None,
            });
        }
        let service = Arc::clone(self);
        offload(move || service.announce(&row, state)).await;
        Ok(())
    }

    /// Takes the mark off an upload that was not published.
    async fn stop_apply(
        &self,
        begun: &Begun,
        path: &FilePath,
        error: &SessionError,
    ) -> Result<(), SessionError> {
        if error.is_fatal() {
            return self.fail(&begun.row, error).await;
        }
        let found = match error {
            SessionError::Files(FilesError::VersionConflict { found, .. }) => Some(*found),
            _ => None,
        };
        let (id, bytes, text, total) = (begun.row.id, path.to_bytes(), chain(error), begun.total);
        let stopped = self.change(id, 3, move |tx, row| {
            if let (1.., Some(mut file)) = (total, tx.staged_file(&id, &bytes)?) {
                file.applying = false;
                tx.put_staged_file(&id, &bytes, &file)?;
                row.applying = row.applying.saturating_sub(1);
            }
            if let Some(found) = found {
                mark_conflict(tx, row, &bytes, found)?;
            }
            row.last_error = Some(text.clone());
            settle(row)?;
            Ok(Ok(()))
        });
        stopped.await?;
        if found.is_some() {
            self.bus.publish(conflict(&begun.row, path.to_bytes()));
        }
        Ok(())
    }
}

/// Makes a file of the plan one in conflict with the version that was found; completing it again replaces that one.
fn mark_conflict(
    tx: &mut dyn WriteMetadata,
    row: &mut SessionRow,
    path: &[u8],
    found: u64,
) -> Result<(), MetadataError> {
    let bytes = end_file(tx, row, path)?.map_or(0, |file| file.bytes);
    let base = Some(found).filter(|version| *version > 0);
    let file = SessionFile { path: path.to_vec(), action: FileAction::Conflict, bytes, base };
    tx.put_session_file(&row.id, path, Some(&file))?;
    row.conflicts += 1;
    row.bytes_left = row.bytes_left.saturating_add(bytes);
    Ok(())
}
