//! Sync sessions of the store in memory. Looking for sessions by their rows looks at all of them: there are a few
//! thousand at most.

use std::ops::Range;
use std::sync::Arc;

use dfs_shared::ids::{ClientId, VolumeName};
use dfs_shared::time::Timestamp;
use imbl::OrdMap;

use super::tables::{Bytes, Tables, whole_micros};
use crate::metadata::sessions::{
    FileAction, PathUnderWay, ReadSessions, SessionFile, SessionId, SessionRow, StagedChunk, StagedFile,
    WhichSessions, WriteSessions,
};
use crate::metadata::{MetadataError, VolumeKey};

impl Tables {
    fn session_rows(&self) -> impl Iterator<Item = &Arc<SessionRow>> {
        self.sessions.values().filter_map(|session| session.row.as_ref())
    }

    fn chunks_of(&self, id: &SessionId, path: &[u8]) -> Option<&OrdMap<u64, StagedChunk>> {
        self.sessions.get(id)?.chunks.get(path)
    }
}

impl ReadSessions for Tables {
    fn session(&self, id: &SessionId) -> Result<Option<SessionRow>, MetadataError> {
        let row = self.sessions.get(id).and_then(|session| session.row.as_ref());
        Ok(row.map(|row| SessionRow::clone(row)))
    }

    fn session_count(&self, volume: &VolumeName, client: &ClientId) -> Result<(u64, u64), MetadataError> {
        let theirs = self.session_rows().filter(|row| row.volume == *volume && row.client == *client);
        Ok((self.session_rows().count() as u64, theirs.count() as u64))
    }

    fn sessions_heard_before(&self, at: Timestamp, limit: usize) -> Result<Vec<SessionId>, MetadataError> {
        let at = whole_micros(at);
        let silent = self.session_rows().filter(|row| row.heard < at);
        let mut silent: Vec<_> = silent.map(|row| (row.heard, row.id)).collect();
        silent.sort_unstable();
        Ok(silent.into_iter().take(limit).map(|(_, id)| id).collect())
    }

    fn sessions_in_state(&self, state: u8, limit: usize) -> Result<Vec<SessionId>, MetadataError> {
        let rows = self.session_rows().filter(|row| row.state == state);
        Ok(rows.take(limit).map(|row| row.id).collect())
    }

    fn session_file(&self, id: &SessionId, path: &[u8]) -> Result<Option<SessionFile>, MetadataError> {
        let file = self.sessions.get(id).and_then(|session| session.plan.get(path));
        Ok(file.map(|file| SessionFile::clone(file)))
    }

    fn path_under_way(&self, which: WhichSessions<'_>, path: &[u8]) -> Result<PathUnderWay, MetadataError> {
        let heard_from = whole_micros(which.heard_from);
        let is_meant = |row: &SessionRow| {
            row.volume == *which.volume && 1 << row.state & which.states != 0 && row.heard >= heard_from
        };
        let mut found = PathUnderWay::default();
        for session in self.sessions.values().filter(|session| session.row.as_deref().is_some_and(is_meant)) {
            found.is_staged |= session.files.contains_key(path);
            found.is_in_conflict |=
                session.plan.get(path).is_some_and(|file| file.action == FileAction::Conflict);
        }
        Ok(found)
    }

    fn staged_file(&self, id: &SessionId, path: &[u8]) -> Result<Option<StagedFile>, MetadataError> {
        Ok(self.sessions.get(id).and_then(|session| session.files.get(path)).copied())
    }

    fn staged_chunks(
        &self,
        id: &SessionId,
        path: &[u8],
        from: u64,
        limit: usize,
    ) -> Result<Vec<StagedChunk>, MetadataError> {
        let chunks = self.chunks_of(id, path).into_iter().flat_map(|chunks| chunks.range(from..));
        Ok(chunks.take(limit).map(|(_, chunk)| *chunk).collect())
    }

    fn missing_chunks(
        &self,
        id: &SessionId,
        path: &[u8],
        range: Range<u64>,
        limit: usize,
    ) -> Result<Vec<u64>, MetadataError> {
        let Some(chunks) = self.chunks_of(id, path) else { return Ok(range.take(limit).collect()) };
        // Walks the arrived numbers in order and notes the gaps; stops when enough are found.
        let (mut missing, mut next) = (Vec::new(), range.start);
        for (number, _) in chunks.range(range.start..) {
            let number = (*number).min(range.end);
            missing.extend((next..number).take(limit - missing.len()));
            next = number + 1;
            if missing.len() == limit || number == range.end {
                return Ok(missing);
            }
        }
        missing.extend((next..range.end).take(limit - missing.len()));
        Ok(missing)
    }
}

impl WriteSessions for Tables {
    fn put_session(&mut self, row: &SessionRow) -> Result<(), MetadataError> {
        let heard = whole_micros(row.heard);
        self.session_mut(row.id).row = Some(Arc::new(SessionRow { heard, ..row.clone() }));
        Ok(())
    }

    fn remove_session(&mut self, id: &SessionId) -> Result<(), MetadataError> {
        self.sessions.take(id);
        Ok(())
    }

    fn put_session_files(&mut self, id: &SessionId, files: &[SessionFile]) -> Result<(), MetadataError> {
        let plan = files.iter().map(|file| (Bytes::from(&*file.path), Arc::new(file.clone())));
        self.session_mut(*id).plan = plan.collect();
        Ok(())
    }

    fn put_session_file(
        &mut self,
        id: &SessionId,
        path: &[u8],
        file: Option<&SessionFile>,
    ) -> Result<(), MetadataError> {
        let plan = &mut self.session_mut(*id).plan;
        match file {
            Some(file) => {
                let file = SessionFile { path: path.to_vec(), ..file.clone() };
                plan.insert(path.into(), Arc::new(file))
            }
            None => plan.remove(path),
        };
        Ok(())
    }

    fn put_staged_file(
        &mut self,
        id: &SessionId,
        path: &[u8],
        file: &StagedFile,
    ) -> Result<(), MetadataError> {
        self.session_mut(*id).files.insert(path.into(), *file);
        Ok(())
    }

    fn remove_staged_file(&mut self, id: &SessionId, path: &[u8]) -> Result<(), MetadataError> {
        if let Some(session) = self.sessions.get_mut(id) {
            session.files.remove(path);
            session.chunks.remove(path);
        }
        Ok(())
    }

    fn clear_applying(&mut self, id: &SessionId) -> Result<(), MetadataError> {
        if let Some(session) = self.sessions.get_mut(id) {
            let unmark =
                |(path, file): (&Bytes, &StagedFile)| (path.clone(), StagedFile { applying: false, ..*file });
            session.files = session.files.iter().map(unmark).collect();
        }
        Ok(())
    }

    fn put_staged_chunk(
        &mut self,
        id: &SessionId,
        path: &[u8],
        chunk: &StagedChunk,
    ) -> Result<(), MetadataError> {
        let chunks = self.session_mut(*id).chunks.entry(path.into()).or_default();
        chunks.insert(chunk.number, *chunk);
        Ok(())
    }

    fn remove_staged_chunk(&mut self, id: &SessionId, path: &[u8], number: u64) -> Result<(), MetadataError> {
        let session = self.sessions.get_mut(id);
        if let Some(chunks) = session.and_then(|session| session.chunks.get_mut(path)) {
            chunks.remove(&number);
        }
        Ok(())
    }

    fn put_client_platform(
        &mut self,
        _volume: VolumeKey,
        _client: &ClientId,
        _platform: &str,
    ) -> Result<(), MetadataError> {
        // A platform is for people who look into the database; there is none to look into.
        Ok(())
    }
}
