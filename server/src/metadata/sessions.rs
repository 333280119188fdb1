//! Sync sessions as the metadata store keeps them: rows, without the rules, which are in `sessions`.
//!
//! Invariant: what belongs to a session goes with it: [`WriteSessions::remove_session`] leaves no row behind.

use std::fmt;
use std::ops::Range;

use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::time::Timestamp;

use super::{MetadataError, VolumeKey};

/// Names a sync session, as a node's id names a node: the time and 74 random bits, in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// Makes a fresh one.
    #[must_use]
    pub fn generate() -> Self {
        Self(*NodeId::generate().as_bytes())
    }

    /// Takes one back from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Parses 32 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        NodeId::from_hex(text).map(|id| Self(*id.as_bytes()))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NodeId::from_bytes(self.0).fmt(f)
    }
}

/// A session's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Names it.
    pub id: SessionId,
    /// The volume that it syncs with.
    pub volume: VolumeName,
    /// Whose it is.
    pub client: ClientId,
    /// The number of its state.
    pub state: u8,
    /// When the client asked last.
    pub heard: Timestamp,
    /// Files of the plan that are still to be uploaded or downloaded.
    pub transfers: u64,
    /// Files of the plan that are still in conflict.
    pub conflicts: u64,
    /// Bytes of all these.
    pub bytes_left: u64,
    /// Uploads that are being published.
    pub applying: u64,
    /// Bytes of all staged chunks.
    pub staged: u64,
    /// Files uploaded and downloaded.
    pub files_synced: u64,
    /// Their bytes.
    pub bytes_synced: u64,
    /// What went wrong last, for people.
    pub last_error: Option<String>,
}

/// What a plan wants done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAction {
    /// The client sends it.
    Upload,
    /// The client fetches it.
    Download,
    /// The client decides.
    Conflict,
}

/// A file that a session's plan still wants something of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFile {
    /// Its path.
    pub path: Vec<u8>,
    /// What is to be done.
    pub action: FileAction,
    /// Bytes to move.
    pub bytes: u64,
    /// The server's version that the plan is about.
    pub base: Option<u64>,
}

/// An upload under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagedFile {
    /// How many chunks it has in all.
    pub total: u64,
    /// All chunks below this number have arrived.
    pub prefix: u64,
    /// Whether it is being published.
    pub applying: bool,
}

/// A chunk that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagedChunk {
    /// Its place in the file, from 0.
    pub number: u64,
    /// The SHA-256 of its bytes.
    pub hash: ChunkHash,
    /// Its length in bytes.
    pub len: u64,
}

/// Which sessions are asked for what they have under way.
#[derive(Debug, Clone, Copy)]
pub struct WhichSessions<'a> {
    /// Those of this volume,
    pub volume: &'a VolumeName,
    /// in a state of which the bit is set: bit N stands for the state number N,
    pub states: u32,
    /// whose clients were heard then or later.
    pub heard_from: Timestamp,
}

/// What sessions have under way at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathUnderWay {
    /// An upload has begun and is not published.
    pub is_staged: bool,
    /// A plan has the path in conflict.
    pub is_in_conflict: bool,
}

/// What can be read of sessions.
pub trait ReadSessions {
    /// Reads a session's row.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or the row is damaged.
    fn session(&self, id: &SessionId) -> Result<Option<SessionRow>, MetadataError>;

    /// Counts the sessions: all, and those of one client.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn session_count(&self, volume: &VolumeName, client: &ClientId) -> Result<(u64, u64), MetadataError>;

    /// Lists up to `limit` sessions whose clients were heard before a time, oldest first.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn sessions_heard_before(&self, at: Timestamp, limit: usize) -> Result<Vec<SessionId>, MetadataError>;

    /// Lists up to `limit` sessions in a state.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn sessions_in_state(&self, state: u8, limit: usize) -> Result<Vec<SessionId>, MetadataError>;

    /// Reads what the plan wants of a file.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or the row is damaged.
    fn session_file(&self, id: &SessionId, path: &[u8]) -> Result<Option<SessionFile>, MetadataError>;

    /// Tells what the sessions that are meant have under way at a path.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn path_under_way(&self, which: WhichSessions<'_>, path: &[u8]) -> Result<PathUnderWay, MetadataError>;

    /// Reads an upload under way.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn staged_file(&self, id: &SessionId, path: &[u8]) -> Result<Option<StagedFile>, MetadataError>;

    /// Reads up to `limit` arrived chunks of a file from a number on, in order.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn staged_chunks(
        &self,
        id: &SessionId,
        path: &[u8],
        from: u64,
        limit: usize,
    ) -> Result<Vec<StagedChunk>, MetadataError>;

    /// Lists up to `limit` numbers in `range` whose chunks have not arrived, in order.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn missing_chunks(
        &self,
        id: &SessionId,
        path: &[u8],
        range: Range<u64>,
        limit: usize,
    ) -> Result<Vec<u64>, MetadataError>;
}

/// What can be written of sessions.
pub trait WriteSessions: ReadSessions {
    /// Writes a session's row.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_session(&mut self, row: &SessionRow) -> Result<(), MetadataError>;

    /// Removes a session and everything that belongs to it.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn remove_session(&mut self, id: &SessionId) -> Result<(), MetadataError>;

    /// Replaces the plan of a session.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_session_files(&mut self, id: &SessionId, files: &[SessionFile]) -> Result<(), MetadataError>;

    /// Writes what the plan wants of one file; `None` when it wants nothing more.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_session_file(
        &mut self,
        id: &SessionId,
        path: &[u8],
        file: Option<&SessionFile>,
    ) -> Result<(), MetadataError>;

    /// Writes an upload's row.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_staged_file(
        &mut self,
        id: &SessionId,
        path: &[u8],
        file: &StagedFile,
    ) -> Result<(), MetadataError>;

    /// Removes an upload and its chunks.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn remove_staged_file(&mut self, id: &SessionId, path: &[u8]) -> Result<(), MetadataError>;

    /// Marks no upload of a session as being published.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn clear_applying(&mut self, id: &SessionId) -> Result<(), MetadataError>;

    /// Writes an arrived chunk.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_staged_chunk(
        &mut self,
        id: &SessionId,
        path: &[u8],
        chunk: &StagedChunk,
    ) -> Result<(), MetadataError>;

    /// Removes an arrived chunk, so that it counts as missing.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn remove_staged_chunk(&mut self, id: &SessionId, path: &[u8], number: u64) -> Result<(), MetadataError>;

    /// Notes the platform of a registered client.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails.
    fn put_client_platform(
        &mut self,
        volume: VolumeKey,
        client: &ClientId,
        platform: &str,
    ) -> Result<(), MetadataError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_survives_its_text_and_nothing_else_is_one() {
        let id = SessionId::generate();
        assert_eq!(SessionId::from_hex(&id.to_string()), Some(id));
        for bad in ["", "../../etc", "+0000000000000000000000000000001", &"0".repeat(31), &"0".repeat(33)] {
            assert_eq!(SessionId::from_hex(bad), None, "{bad}");
        }
    }
}
