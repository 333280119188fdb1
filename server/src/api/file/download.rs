//! `GET /api/file/download/{path...}`: a version of a file, whole or a range, chunk by chunk.
//!
//! Long chunks go from their files to the socket, and the next ones are verified meanwhile. Invariants: every byte sent belongs to
//! a verified chunk; a chunk that is damaged or gone breaks the connection off, so that a short or wrong file never looks whole;
//! memory is bounded by a few chunks, and so is what is verified for a peer that stops reading.

use std::sync::Arc;

use bytes::Bytes;
use dfs_shared::event::kinds::server::FileDownloadCompleted;
use dfs_shared::ids::VolumeName;
use dfs_shared::manifest::{ChunkRef, Manifest};
use tokio::sync::mpsc;

use crate::access::Access;
use crate::api::ahead::{Ahead, Work};
use crate::api::fields::{query_number, session_id};
use crate::api::outgoing::{Closed, Outgoing};
use crate::api::session::check_session;
use crate::api::status::{ApiError, answer};
use crate::api::{Api, volume_asked};
use crate::blocking::{beside, block_on, offload};
use crate::files::{FileInfo, FilePath, FileService, FilesError};
use crate::http::{Answer, Body, EntityTag, Method, Representation, Response, StreamError, StreamItem};
use crate::limits::{CHUNK_FROM_FILE_LEN_MIN, CHUNK_PIECE_LEN, CHUNK_PIECES_MAX};
use crate::metadata::sessions::SessionId;
use crate::router::Call;
use crate::sessions::state;
use crate::sync::{ChunkSource, FoundChunk, SyncService};

/// `GET /api/file/download/{path...}?version=N&session_id=ID&volume=NAME`
pub(in crate::api) async fn download(api: Arc<Api>, call: Call) -> Response {
    answer(try_download(&api, &call).await)
}

async fn try_download(api: &Arc<Api>, call: &Call) -> Result<Response, ApiError> {
    let volume = volume_asked(call)?;
    let path = FilePath::from_bytes(call.params.get_bytes("path").unwrap_or_default())?;
    let version = call.request.query("version").map(|_| query_number(call, "version")).transpose()?;
    let session = call.request.query("session_id").map(session_id).transpose()?;
    if let Some(id) = session {
        check_session(api, &call.grant, id, Access::Read).await?;
    }
    let (sessions, name, at) = (Arc::clone(&api.sessions), volume.clone(), path.clone());
    let (info, manifest) = offload(move || -> Result<_, ApiError> {
        if let Some(id) = session {
            sessions.check(&id, state::Call::Download)?;
        }
        let info = find(sessions.files(), &name, &at, version)?;
        let manifest = sessions.files().manifest(&info)?;
        Ok((info, manifest))
    })
    .await?;
    let tag = EntityTag::strong(&info.content().map_or("empty".to_owned(), |id| id.to_string()));
    // A time to come would make every later request look unmodified.
    let modified = u64::try_from(info.mtime().secs).ok().filter(|at| *at <= api.sessions.now_secs());
    let size = manifest.size();
    let representation = Representation { len: size, tag: &tag, modified };
    let decided = representation.answer(call.request.method, &call.request.headers);
    let (start, end) = match decided {
        Answer::Whole => (0, size),
        Answer::Part { start, end } => (start, end),
        Answer::NotModified | Answer::PreconditionFailed | Answer::RangeNotSatisfiable => {
            return Ok(representation.head(decided));
        }
    };
    let response = representation
        .head(decided)
        .with_header("Content-Type", "application/octet-stream")
        .with_header("Cache-Control", "no-cache")
        .with_header("X-Dfs-Version", info.version.to_string());
    let (pieces, body) = mpsc::channel(CHUNK_PIECES_MAX);
    let is_head = call.request.method == Method::Head;
    if !is_head {
        let sent = Sent { api: Arc::clone(api), volume, path, info, session };
        beside(move || sent.run(&manifest, start, end, &pieces));
    }
    Ok(response.with_body(Body::Sized(end - start, body)))
}

/// Finds the version that is asked for. Blocks.
fn find(
    files: &FileService,
    volume: &VolumeName,
    path: &FilePath,
    version: Option<u64>,
) -> Result<FileInfo, ApiError> {
    if let Some(version) = version {
        return Ok(files.at_version(volume, path, version)?);
    }
    match files.find(volume, path) {
        Err(FilesError::NotFound { path }) => match files.history(volume, &path) {
            Ok(versions) if !versions.is_empty() => Err(ApiError::FileDeleted { path }),
            Ok(_) | Err(FilesError::NotFound { .. }) => Err(FilesError::NotFound { path }.into()),
            Err(error) => Err(error.into()),
        },
        found => Ok(found?),
    }
}

/// A download under way.
struct Sent {
    api: Arc<Api>,
    volume: VolumeName,
    path: FilePath,
    info: FileInfo,
    session: Option<SessionId>,
}

impl Sent {
    /// Sends the bytes `start..end`, ahead of the peer by [`CHUNK_PIECES_MAX`] pieces. Blocks as long as the peer reads.
    fn run(self, manifest: &Manifest, start: u64, end: u64, pieces: &mpsc::Sender<StreamItem>) {
        match send(&self.api.sync, manifest, start, end, pieces) {
            Ok(()) if start == 0 && end == self.info.size() => self.completed(pieces),
            // A part, or the peer is gone.
            Ok(()) | Err(Broken::Closed) => {}
            Err(Broken::Failed(reason)) => {
                tracing::error!(path = %self.path, error = %reason, "a download was broken off");
                let _ = pieces.blocking_send(Err(StreamError { reason }));
            }
        }
    }

    /// Tells of a whole file that the connection has taken.
    fn completed(self, pieces: &mpsc::Sender<StreamItem>) {
        // Waits until the connection has taken all pieces; after the last one it closes its end.
        let _ = block_on(pieces.reserve_many(CHUNK_PIECES_MAX));
        let (content, size) = (self.info.content(), self.info.size());
        let path = Some(self.path.to_bytes());
        self.api.bus.publish(FileDownloadCompleted {
            volume: self.volume,
            content,
            size,
            client: None,
            path,
        });
        if let Some(id) = self.session
            && let Err(error) = block_on(self.api.sessions.downloaded(id, &self.path, size))
        {
            tracing::warn!(session = %id, error = %crate::report::chain(&error), "cannot note a download");
        }
    }
}

/// Why a body ends before its end.
enum Broken {
    /// Nobody reads it any more.
    Closed,
    /// It cannot be had, and must not look whole.
    Failed(String),
}

impl From<Closed> for Broken {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

/// A chunk, and which of its bytes are wanted.
type Part = (ChunkRef, u64, u64);

/// Its source, and which of its bytes are wanted; a hole has none.
type FoundPart = (Option<ChunkSource>, u64, u64);

/// Parts that are found together: up to about [`CHUNK_PIECE_LEN`] bytes, so that short ones do not wake a thread each.
struct Groups<I>(I);

impl<I: Iterator<Item = Part>> Iterator for Groups<I> {
    type Item = Vec<Part>;

    fn next(&mut self) -> Option<Vec<Part>> {
        let (mut group, mut len) = (Vec::new(), 0);
        while len < CHUNK_PIECE_LEN as u64
            && let Some(part) = self.0.next()
        {
            len += part.0.len;
            group.push(part);
        }
        (!group.is_empty()).then_some(group)
    }
}

struct Find {
    sync: Arc<SyncService>,
    /// The file's chunks are sent from their files, rather than read into memory.
    from_files: bool,
}

impl Work<Vec<Part>, Vec<Result<FoundPart, Broken>>> for Find {
    fn run(&self, parts: Vec<Part>) -> Vec<Result<FoundPart, Broken>> {
        parts.into_iter().map(|part| find_part(&self.sync, part, self.from_files)).collect()
    }

    fn is_long(&self, parts: &Vec<Part>) -> bool {
        let is_long = |chunk: &ChunkRef| !self.from_files || !self.sync.is_at_hand(chunk.hash);
        parts.iter().any(|(chunk, ..)| !chunk.hash.is_hole() && is_long(chunk))
    }
}

/// Hands the bytes `start..end` to the connection; the next chunks are verified meanwhile.
fn send(
    sync: &Arc<SyncService>,
    manifest: &Manifest,
    start: u64,
    end: u64,
    pieces: &mpsc::Sender<StreamItem>,
) -> Result<(), Broken> {
    let mut outgoing = Outgoing::new(pieces);
    let parts = manifest.offsets().filter_map(|(offset, chunk)| {
        let (from, to) = (start.max(offset), end.min(offset + chunk.len));
        (from < to).then(|| (chunk, from - offset, to - offset))
    });
    // Not each by its own length: sent in turn from memory and from a file, none could be gathered.
    let from_files = manifest.size() >= CHUNK_FROM_FILE_LEN_MIN * manifest.chunks.len() as u64;
    let find = Find { sync: Arc::clone(sync), from_files };
    for found in Ahead::new(Groups(parts), find).flatten() {
        match found? {
            (None, from, to) => send_zeros(to - from, &mut outgoing)?,
            (Some(ChunkSource::File(file)), from, to) => outgoing.file(file, from, to)?,
            (Some(ChunkSource::Memory(bytes)), from, to) => {
                let at =
                    |position| usize::try_from(position).expect("a chunk in memory is no longer than memory");
                outgoing.bytes(bytes.slice(at(from)..at(to)))?;
            }
        }
    }
    Ok(outgoing.flush()?)
}

/// Finds and verifies a chunk. Blocks.
fn find_part(sync: &SyncService, (chunk, from, to): Part, from_file: bool) -> Result<FoundPart, Broken> {
    if chunk.hash.is_hole() {
        return Ok((None, from, to));
    }
    match sync.chunk_of_file(chunk.hash, from_file) {
        Ok(FoundChunk::Bytes(source)) if source.len() == chunk.len => Ok((Some(source), from, to)),
        Ok(FoundChunk::Bytes(_) | FoundChunk::Corrupt) => {
            Err(Broken::Failed(format!("chunk {} is damaged", chunk.hash)))
        }
        Ok(FoundChunk::Absent) => Err(Broken::Failed(format!("chunk {} is not here", chunk.hash))),
        Err(error) => Err(Broken::Failed(crate::report::chain(&error))),
    }
}

/// A hole may be longer than memory.
fn send_zeros(mut len: u64, outgoing: &mut Outgoing<'_>) -> Result<(), Closed> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    while len > 0 {
        let piece = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS.len());
        outgoing.bytes(Bytes::from_static(&ZEROS[..piece]))?;
        len -= piece as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
