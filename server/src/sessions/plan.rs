//! The plan of a session: compared, kept, and ended file by file; the events that tell of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use dfs_shared::ddl::SyncStatus;
use dfs_shared::event::kinds::server::{
    FileConflictDetected, SyncCompleted, SyncFailed, SyncRound, SyncStarted,
};
use dfs_shared::hash::MerkleHash;
use dfs_shared::ids::VolumeName;
use dfs_shared::revision::Revision;

use super::diff::{Action, Comparison, LocalFile, Plan, ServerFile};
use super::state::{Call, State};
use super::{SessionError, SessionService, settle, state_of};
use crate::files::{FileInfo, FilePath, FilesError};
use crate::metadata::sessions::{FileAction, SessionFile, SessionId, SessionRow};
use crate::metadata::{MetadataError, WriteMetadata};
use crate::report::chain;

/// Files of a plan that are written in one transaction.
const PLAN_BATCH: usize = 1024;

impl SessionService {
    /// Compares a client's files with a volume's; refuses a plan of more than `files_max` files. Blocks.
    pub(super) fn compare(
        &self,
        volume: &VolumeName,
        local: BTreeMap<Vec<u8>, LocalFile>,
        root: Option<MerkleHash>,
        files_max: usize,
    ) -> Result<(Plan, Revision, MerkleHash), SessionError> {
        let found = self.files.sync().volume(volume)?;
        if root == Some(found.root) {
            return Ok((Plan::new(), found.revision, found.root));
        }
        let too_long = |count| (count > files_max).then_some(SessionError::PlanTooLong { max: files_max });
        let mut comparison = Comparison::new(local);
        let found = self.each_file(volume, &mut |info| {
            comparison.add(info.path.to_bytes(), &self.server_file(&info)?);
            too_long(comparison.planned()).map_or(Ok(ControlFlow::Continue(())), Err)
        })?;
        let plan = comparison.finish(|path| self.deleted(volume, path))?;
        // What only the client has counts too.
        too_long(plan.len()).map_or(Ok((plan, found.revision, found.root)), Err)
    }

    /// Describes a file with its hash; a damaged file has none, and so differs from every other.
    fn server_file(&self, info: &FileInfo) -> Result<ServerFile, SessionError> {
        Ok(ServerFile { version: info.version, size: info.size(), hash: self.hash(info)? })
    }

    /// Describes what was last at a path where nothing is now.
    fn deleted(&self, volume: &VolumeName, path: &[u8]) -> Result<Option<ServerFile>, SessionError> {
        let Ok(path) = FilePath::from_bytes(path) else { return Ok(None) };
        match self.files.history(volume, &path) {
            Ok(versions) => match versions.first().filter(|info| info.status == SyncStatus::Deleted) {
                Some(info) => self.server_file(info).map(Some),
                None => Ok(None),
            },
            Err(
                FilesError::NotFound { .. } | FilesError::NotAFile { .. } | FilesError::NotADirectory { .. },
            ) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps what a comparison came to; returns the state that follows.
    pub(super) async fn keep_plan(&self, row: &SessionRow, plan: &Plan) -> Result<State, SessionError> {
        let files: Vec<_> = plan
            .iter()
            .filter_map(|(path, planned)| {
                let action = match planned.action {
                    Action::Upload => FileAction::Upload,
                    Action::Download => FileAction::Download,
                    Action::Conflict => FileAction::Conflict,
                    // The client does these by itself; a session does not wait for them.
                    Action::DeleteRemote | Action::DeleteLocal => return None,
                };
                Some(SessionFile { path: path.clone(), action, bytes: planned.bytes, base: planned.base })
            })
            .collect();
        let conflicts: Vec<_> = files
            .iter()
            .filter(|file| file.action == FileAction::Conflict)
            .map(|file| file.path.clone())
            .collect();
        let (conflicts_left, files_left) = (conflicts.len() as u64, files.len() as u64);
        let bytes_left = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
        let id = row.id;
        let cleared = self.change(id, 1, move |tx, _| Ok(Ok(tx.put_session_files(&id, &[])?)));
        cleared.await?;
        // Bit by bit, so that the commits of mounts do not wait for a long plan. It counts when the row says so.
        for files in files.chunks(PLAN_BATCH) {
            let files = files.to_vec();
            let written = self.change(id, files.len(), move |tx, row| {
                let put = |file: &SessionFile| tx.put_session_file(&row.id, &file.path, Some(file));
                Ok(Ok(files.iter().try_for_each(put)?))
            });
            written.await?;
        }
        let changed = self.change(id, 1, move |_, row| {
            (row.conflicts, row.transfers, row.bytes_left) =
                (conflicts_left, files_left - conflicts_left, bytes_left);
            row.last_error = None;
            Ok(Ok((settle(row)?, row.clone())))
        });
        let (state, row) = changed.await?;
        for path in conflicts {
            self.bus.publish(conflict(&row, path));
        }
        self.announce(&row, state);
        Ok(state)
    }

    /// Marks a session as failed and tells why.
    pub(super) async fn fail(&self, row: &SessionRow, error: &SessionError) -> Result<(), SessionError> {
        let reason = chain(error);
        let text = reason.clone();
        let failed = self.change(row.id, 1, move |tx, row| {
            row.state = state_of(row)?.fail().number();
            row.last_error = Some(text.clone());
            row.applying = 0;
            tx.clear_applying(&row.id)?;
            Ok(Ok(()))
        });
        failed.await?;
        self.bus.publish(SyncFailed {
            volume: row.volume.clone(),
            client: row.client.clone(),
            round: SyncRound::Session,
            reason,
        });
        Ok(())
    }

    /// Notes that a client has fetched a file of its plan.
    ///
    /// # Errors
    /// [`SessionError::NotFound`] or [`SessionError::WrongState`].
    pub async fn downloaded(&self, id: SessionId, path: &FilePath, bytes: u64) -> Result<(), SessionError> {
        let path = path.to_bytes();
        let changed = self.change(id, 2, move |tx, row| {
            if let Err(error) = state_of(row)?.begin(Call::Download) {
                return Ok(Err(error.into()));
            }
            let planned = tx.session_file(&id, &path)?;
            if planned.is_some_and(|file| file.action == FileAction::Download) {
                end_file(tx, row, &path)?;
                row.files_synced += 1;
                row.bytes_synced = row.bytes_synced.saturating_add(bytes);
            }
            Ok(Ok((settle(row)?, row.clone())))
        });
        let (state, row) = changed.await?;
        self.announce(&row, state);
        Ok(())
    }

    /// Tells of a session that has come to its end.
    pub(super) fn announce(&self, row: &SessionRow, state: State) {
        if state != State::Complete {
            return;
        }
        let revision = self.files.sync().volume(&row.volume).map(|volume| volume.revision);
        self.bus.publish(SyncCompleted {
            volume: row.volume.clone(),
            client: row.client.clone(),
            round: SyncRound::Session,
            revision: revision.unwrap_or_default(),
            accepted: row.files_synced,
            refused: 0,
        });
    }
}

/// Takes a file off the plan; returns what the plan wanted of it.
pub(super) fn end_file(
    tx: &mut dyn WriteMetadata,
    row: &mut SessionRow,
    path: &[u8],
) -> Result<Option<SessionFile>, MetadataError> {
    let Some(file) = tx.session_file(&row.id, path)? else { return Ok(None) };
    tx.put_session_file(&row.id, path, None)?;
    let counted = match file.action {
        FileAction::Conflict => &mut row.conflicts,
        FileAction::Upload | FileAction::Download => &mut row.transfers,
    };
    *counted = counted.saturating_sub(1);
    row.bytes_left = row.bytes_left.saturating_sub(file.bytes);
    Ok(Some(file))
}

pub(super) fn started(row: &SessionRow) -> SyncStarted {
    SyncStarted { volume: row.volume.clone(), client: row.client.clone(), round: SyncRound::Session }
}

pub(super) fn conflict(row: &SessionRow, path: Vec<u8>) -> FileConflictDetected {
    FileConflictDetected {
        volume: row.volume.clone(),
        client: row.client.clone(),
        key: None,
        path: Some(path),
    }
}
