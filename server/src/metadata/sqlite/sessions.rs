//! The statements of the SQLite store about sync sessions.

use std::ops::Range;

use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{ClientId, VolumeName};
use dfs_shared::time::Timestamp;
use rusqlite::Row;

use super::failed;
use super::read::{Tables, from_micros, micros, signed, unsigned};
use crate::metadata::sessions::{
    FileAction, PathUnderWay, ReadSessions, SessionFile, SessionId, SessionRow, StagedChunk, StagedFile,
    WhichSessions, WriteSessions,
};
use crate::metadata::{MetadataError, VolumeKey};

/// Whether an upload, and whether a conflict, is under way at path ?1 in a session of volume ?2 with a state in ?3, heard from ?4 on.
pub(super) const UNDER_WAY: &str = "\
    SELECT EXISTS (SELECT 1 FROM staged_file JOIN session ON id = session WHERE path = ?1 \
               AND volume = ?2 AND (1 << state) & ?3 <> 0 AND heard >= ?4), \
           EXISTS (SELECT 1 FROM session_file JOIN session ON id = session WHERE path = ?1 AND action = 3 \
               AND volume = ?2 AND (1 << state) & ?3 <> 0 AND heard >= ?4)";

const UPLOAD: i64 = 1;
const DOWNLOAD: i64 = 2;
const CONFLICT: i64 = 3;

/// The names of volume and client as text, and the rest of the row.
type RawSession = (String, String, u8, i64, [u64; 7], Option<String>);

fn raw_session(row: &Row<'_>) -> rusqlite::Result<RawSession> {
    let mut counts = [0; 7];
    for (at, count) in counts.iter_mut().enumerate() {
        *count = unsigned(row.get(4 + at)?);
    }
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, counts, row.get(11)?))
}

fn session(id: SessionId, raw: RawSession) -> Result<SessionRow, MetadataError> {
    let (volume, client, state, heard, counts, last_error) = raw;
    let [transfers, conflicts, bytes_left, applying, staged, files_synced, bytes_synced] = counts;
    let damaged = |_| MetadataError::Damaged { what: "session", source: None };
    Ok(SessionRow {
        id,
        volume: VolumeName::new(&volume).map_err(damaged)?,
        client: ClientId::new(&client).map_err(damaged)?,
        state,
        heard: from_micros(heard),
        transfers,
        conflicts,
        bytes_left,
        applying,
        staged,
        files_synced,
        bytes_synced,
        last_error,
    })
}

fn action(number: i64) -> Result<FileAction, MetadataError> {
    match number {
        UPLOAD => Ok(FileAction::Upload),
        DOWNLOAD => Ok(FileAction::Download),
        CONFLICT => Ok(FileAction::Conflict),
        _ => Err(MetadataError::Damaged { what: "plan of a session", source: None }),
    }
}

fn number(action: FileAction) -> i64 {
    match action {
        FileAction::Upload => UPLOAD,
        FileAction::Download => DOWNLOAD,
        FileAction::Conflict => CONFLICT,
    }
}

fn id_row(row: &Row<'_>) -> rusqlite::Result<SessionId> {
    row.get(0).map(SessionId::from_bytes)
}

fn chunk_row(row: &Row<'_>) -> rusqlite::Result<StagedChunk> {
    let hash = ChunkHash::from_bytes(row.get(1)?);
    Ok(StagedChunk { number: unsigned(row.get(0)?), hash, len: unsigned(row.get(2)?) })
}

impl ReadSessions for Tables<'_> {
    fn session(&self, id: &SessionId) -> Result<Option<SessionRow>, MetadataError> {
        let sql = "SELECT volume, client, state, heard, transfers, conflicts, bytes_left, applying, staged, \
                   files_synced, bytes_synced, last_error FROM session WHERE id = ?1";
        let found = self.one("read a session", sql, [id.as_bytes()], raw_session)?;
        found.map(|raw| session(*id, raw)).transpose()
    }

    fn session_count(&self, volume: &VolumeName, client: &ClientId) -> Result<(u64, u64), MetadataError> {
        let sql = "SELECT count(*), coalesce(sum(volume = ?1 AND client = ?2), 0) FROM session";
        let counts = self.one("count the sessions", sql, (volume.as_str(), client.as_str()), |row| {
            Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)))
        })?;
        Ok(counts.unwrap_or_default())
    }

    fn sessions_heard_before(&self, at: Timestamp, limit: usize) -> Result<Vec<SessionId>, MetadataError> {
        let sql = "SELECT id FROM session WHERE heard < ?1 ORDER BY heard LIMIT ?2";
        self.all("find expired sessions", sql, (micros(at), signed(limit as u64)), id_row)
    }

    fn sessions_in_state(&self, state: u8, limit: usize) -> Result<Vec<SessionId>, MetadataError> {
        let sql = "SELECT id FROM session WHERE state = ?1 ORDER BY id LIMIT ?2";
        self.all("find sessions by state", sql, (state, signed(limit as u64)), id_row)
    }

    fn session_file(&self, id: &SessionId, path: &[u8]) -> Result<Option<SessionFile>, MetadataError> {
        let sql = "SELECT action, bytes, base FROM session_file WHERE session = ?1 AND path = ?2";
        let found = self.one("read a session's plan", sql, (id.as_bytes(), path), |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<i64>>(2)?))
        })?;
        let file = |(number, bytes, base): (i64, i64, Option<i64>)| {
            let (action, bytes, base) = (action(number)?, unsigned(bytes), base.map(unsigned));
            Ok(SessionFile { path: path.to_vec(), action, bytes, base })
        };
        found.map(file).transpose()
    }

    fn path_under_way(&self, which: WhichSessions<'_>, path: &[u8]) -> Result<PathUnderWay, MetadataError> {
        let params = (path, which.volume.as_str(), which.states, micros(which.heard_from));
        let found = self.one("look for sessions at a path", UNDER_WAY, params, |row| {
            Ok(PathUnderWay { is_staged: row.get(0)?, is_in_conflict: row.get(1)? })
        })?;
        Ok(found.unwrap_or_default())
    }

    fn staged_file(&self, id: &SessionId, path: &[u8]) -> Result<Option<StagedFile>, MetadataError> {
        let sql = "SELECT total, prefix, applying FROM staged_file WHERE session = ?1 AND path = ?2";
        self.one("read an upload", sql, (id.as_bytes(), path), |row| {
            let (total, prefix) = (unsigned(row.get(0)?), unsigned(row.get(1)?));
            Ok(StagedFile { total, prefix, applying: row.get(2)? })
        })
    }

    fn staged_chunks(
        &self,
        id: &SessionId,
        path: &[u8],
        from: u64,
        limit: usize,
    ) -> Result<Vec<StagedChunk>, MetadataError> {
        let sql = "SELECT number, hash, len FROM staged_chunk \
                   WHERE session = ?1 AND path = ?2 AND number >= ?3 ORDER BY number LIMIT ?4";
        let params = (id.as_bytes(), path, signed(from), signed(limit as u64));
        self.all("read staged chunks", sql, params, chunk_row)
    }

    fn missing_chunks(
        &self,
        id: &SessionId,
        path: &[u8],
        range: Range<u64>,
        limit: usize,
    ) -> Result<Vec<u64>, MetadataError> {
        // Walks the arrived numbers in order and notes the gaps; stops when enough are found.
        let sql = "SELECT number FROM staged_chunk \
                   WHERE session = ?1 AND path = ?2 AND number >= ?3 ORDER BY number";
        let walk = || -> rusqlite::Result<Vec<u64>> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query((id.as_bytes(), path, signed(range.start)))?;
            let (mut missing, mut next) = (Vec::new(), range.start);
            while let Some(row) = rows.next()? {
                let number = unsigned(row.get(0)?).min(range.end);
                missing.extend((next..number).take(limit - missing.len()));
                next = number + 1;
                if missing.len() == limit {
                    return Ok(missing);
                }
            }
            missing.extend((next..range.end).take(limit - missing.len()));
            Ok(missing)
        };
        walk().map_err(failed("find missing chunks"))
    }
}

impl WriteSessions for Tables<'_> {
    fn put_session(&mut self, row: &SessionRow) -> Result<(), MetadataError> {
        let sql = "INSERT OR REPLACE INTO session \
                   (id, volume, client, state, heard, transfers, conflicts, bytes_left, applying, staged, \
                   files_synced, bytes_synced, last_error) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        let params = (
            row.id.as_bytes(),
            row.volume.as_str(),
            row.client.as_str(),
            row.state,
            micros(row.heard),
            signed(row.transfers),
            signed(row.conflicts),
            signed(row.bytes_left),
            signed(row.applying),
            signed(row.staged),
            signed(row.files_synced),
            signed(row.bytes_synced),
            row.last_error.as_deref(),
        );
        self.execute("write a session", sql, params)
    }

    fn remove_session(&mut self, id: &SessionId) -> Result<(), MetadataError> {
        for sql in [
            "DELETE FROM staged_chunk WHERE session = ?1",
            "DELETE FROM staged_file WHERE session = ?1",
            "DELETE FROM session_file WHERE session = ?1",
            "DELETE FROM session WHERE id = ?1",
        ] {
            self.execute("remove a session", sql, [id.as_bytes()])?;
        }
        Ok(())
    }

    fn put_session_files(&mut self, id: &SessionId, files: &[SessionFile]) -> Result<(), MetadataError> {
        let sql = "DELETE FROM session_file WHERE session = ?1";
        self.execute("drop a session's plan", sql, [id.as_bytes()])?;
        files.iter().try_for_each(|file| self.put_session_file(id, &file.path, Some(file)))
    }

    fn put_session_file(
        &mut self,
        id: &SessionId,
        path: &[u8],
        file: Option<&SessionFile>,
    ) -> Result<(), MetadataError> {
        let Some(file) = file else {
            let sql = "DELETE FROM session_file WHERE session = ?1 AND path = ?2";
            return self.execute("end a file of a plan", sql, (id.as_bytes(), path));
        };
        let sql = "INSERT OR REPLACE INTO session_file (session, path, action, bytes, base) \
                   VALUES (?1, ?2, ?3, ?4, ?5)";
        let params = (id.as_bytes(), path, number(file.action), signed(file.bytes), file.base.map(signed));
        self.execute("write a session's plan", sql, params)
    }

    fn put_staged_file(
        &mut self,
        id: &SessionId,
        path: &[u8],
        file: &StagedFile,
    ) -> Result<(), MetadataError> {
        let sql = "INSERT OR REPLACE INTO staged_file (session, path, total, prefix, applying) \
                   VALUES (?1, ?2, ?3, ?4, ?5)";
        let params = (id.as_bytes(), path, signed(file.total), signed(file.prefix), file.applying);
        self.execute("write an upload", sql, params)
    }

    fn remove_staged_file(&mut self, id: &SessionId, path: &[u8]) -> Result<(), MetadataError> {
        let params = (id.as_bytes(), path);
        let sql = "DELETE FROM staged_chunk WHERE session = ?1 AND path = ?2";
        self.execute("remove staged chunks", sql, params)?;
        self.execute("remove an upload", "DELETE FROM staged_file WHERE session = ?1 AND path = ?2", params)
    }

    fn clear_applying(&mut self, id: &SessionId) -> Result<(), MetadataError> {
        let sql = "UPDATE staged_file SET applying = 0 WHERE session = ?1";
        self.execute("unmark uploads", sql, [id.as_bytes()])
    }

    fn put_staged_chunk(
        &mut self,
        id: &SessionId,
        path: &[u8],
        chunk: &StagedChunk,
    ) -> Result<(), MetadataError> {
        let sql = "INSERT OR REPLACE INTO staged_chunk (session, path, number, hash, len) \
                   VALUES (?1, ?2, ?3, ?4, ?5)";
        let params = (id.as_bytes(), path, signed(chunk.number), chunk.hash.as_bytes(), signed(chunk.len));
        self.execute("note a staged chunk", sql, params)
    }

    fn remove_staged_chunk(&mut self, id: &SessionId, path: &[u8], number: u64) -> Result<(), MetadataError> {
        let sql = "DELETE FROM staged_chunk WHERE session = ?1 AND path = ?2 AND number = ?3";
        self.execute("forget a staged chunk", sql, (id.as_bytes(), path, signed(number)))
    }

    fn put_client_platform(
        &mut self,
        volume: VolumeKey,
        client: &ClientId,
        platform: &str,
    ) -> Result<(), MetadataError> {
        let sql = "UPDATE client SET platform = ?3 WHERE volume = ?1 AND id = ?2";
        self.execute("note a platform", sql, (volume.0, client.as_str(), platform))
    }
}
