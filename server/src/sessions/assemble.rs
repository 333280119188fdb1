//! Puts an uploaded file together: staged chunks in, content-defined chunks out.
//!
//! ```text
//! staged chunks ─ verified ─► SHA-256 of the file ─► cut as mounts cut ─► those that are missing here go to the chunk store
//! ```
//!
//! Invariant: memory is bounded by one staged chunk and a batch of chunks, whatever the file's length; nothing refers to what was
//! stored until it is published.

use std::collections::VecDeque;
use std::io::{self, Read};

use bytes::Bytes;
use dfs_shared::chunking::{Chunks, chunk_log2_for, push_chunk};
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::VolumeName;
use dfs_shared::limits::{CHUNK_BATCH_LEN_MAX, CHUNK_LEN_MAX, QUERY_ITEMS_MAX, SMALL_CONTENT_LEN_MAX};
use dfs_shared::manifest::{ChunkRef, Manifest};
use dfs_shared::wire::messages::{MissingRequest, SmallChunk};
use sha2::{Digest, Sha256};

use super::SessionError;
use super::staging::Staging;
use crate::blocking::block_on;
use crate::files::NewContent;
use crate::limits::STAGED_CHUNKS_READ;
use crate::metadata::MetadataStore;
use crate::metadata::sessions::{SessionId, StagedChunk};
use crate::sync::SyncService;

/// What an upload came to.
#[derive(Debug)]
pub(super) enum Assembled {
    /// The whole file; its chunks are on the server or in `small_chunks`.
    Whole(NewContent, ChunkHash),
    /// The bytes of this staged chunk are gone or damaged.
    Damaged(u64),
}

/// Where the parts of an upload are.
pub(super) struct Upload<'a> {
    pub(super) metadata: &'a dyn MetadataStore,
    pub(super) staging: &'a Staging,
    pub(super) session: SessionId,
    pub(super) path: &'a [u8],
    /// How many chunks it has.
    pub(super) total: u64,
}

/// Assembles an upload. `previous` as in [`chunk_log2_for`]. Blocks for the time of reading and writing it.
pub(super) fn assemble(
    upload: &Upload<'_>,
    sync: &SyncService,
    volume: &VolumeName,
    previous: Option<u8>,
) -> Result<Assembled, SessionError> {
    let size = upload.size()?;
    let chunk_log2 = chunk_log2_for(size, previous);
    let mut reader = Staged::new(upload);
    let mut chunks = Chunks::new(&mut reader, size, chunk_log2);
    let mut manifest = Manifest { chunk_log2, chunks: Vec::new() };
    let mut small_chunks = Vec::new();
    let mut store = Store { sync, volume, waiting: Vec::new(), bytes: 0 };
    let outcome = loop {
        match chunks.next_chunk() {
            Ok(Some(chunk)) => {
                push_chunk(
                    &mut manifest.chunks,
                    ChunkRef { hash: chunk.hash, len: chunk.bytes.len() as u64 },
                );
                if chunk.hash.is_hole() {
                } else if size <= SMALL_CONTENT_LEN_MAX {
                    small_chunks.push(SmallChunk { hash: chunk.hash, bytes: chunk.bytes.to_vec() });
                } else {
                    store.put(chunk.hash, chunk.bytes)?;
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    match (outcome, reader.stopped) {
        (Err(_), Some(Stop::Damaged(number))) => Ok(Assembled::Damaged(number)),
        (Err(_), Some(Stop::Failed(error))) => Err(error),
        // The rows have fewer bytes than they had when they were summed up.
        (Err(_), None) => Ok(Assembled::Damaged(reader.next)),
        (Ok(()), _) => {
            store.flush()?;
            let hash = ChunkHash::from_bytes(reader.hasher.finalize().into());
            let content = NewContent { manifest, file_hash: Some(hash), small_chunks };
            Ok(Assembled::Whole(content, hash))
        }
    }
}

impl Upload<'_> {
    fn rows(&self, from: u64) -> Result<Vec<StagedChunk>, SessionError> {
        let rows = self
            .metadata
            .read(|snapshot| snapshot.staged_chunks(&self.session, self.path, from, STAGED_CHUNKS_READ))?;
        Ok(rows.into_iter().filter(|chunk| chunk.number < self.total).collect())
    }

    fn size(&self) -> Result<u64, SessionError> {
        let (mut size, mut next) = (0_u64, 0);
        loop {
            let rows = self.rows(next)?;
            let Some(last) = rows.last() else { return Ok(size) };
            next = last.number + 1;
            size += rows.iter().map(|chunk| chunk.len).sum::<u64>();
        }
    }
}

/// Why reading staged chunks stopped before their end.
enum Stop {
    Damaged(u64),
    Failed(SessionError),
}

/// Reads staged chunks one after the other and hashes what it gives.
struct Staged<'a> {
    upload: &'a Upload<'a>,
    rows: VecDeque<StagedChunk>,
    /// The number of the chunk after the current one.
    next: u64,
    current: io::Cursor<Vec<u8>>,
    hasher: Sha256,
    stopped: Option<Stop>,
}

impl<'a> Staged<'a> {
    fn new(upload: &'a Upload<'a>) -> Self {
        let (rows, current) = (VecDeque::new(), io::Cursor::default());
        Self { upload, rows, next: 0, current, hasher: Sha256::new(), stopped: None }
    }

    /// Opens the next chunk; `false` after the last one.
    fn advance(&mut self) -> Result<bool, Stop> {
        if self.next == self.upload.total {
            return Ok(false);
        }
        if self.rows.is_empty() {
            self.rows = self.upload.rows(self.next).map_err(Stop::Failed)?.into();
        }
        let Some(chunk) = self.rows.pop_front().filter(|chunk| chunk.number == self.next) else {
            return Err(Stop::Damaged(self.next));
        };
        let found = self.upload.staging.get(&self.upload.session, self.upload.path, &chunk);
        let Some(bytes) = found.map_err(Stop::Failed)? else { return Err(Stop::Damaged(chunk.number)) };
        self.current = io::Cursor::new(bytes);
        self.next += 1;
        Ok(true)
    }
}

impl Read for Staged<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let len = self.current.read(buffer)?;
            if len > 0 || buffer.is_empty() {
                self.hasher.update(&buffer[..len]);
                return Ok(len);
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(stop) => {
                    self.stopped = Some(stop);
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
    }
}

/// Gathers chunks and stores those that the server does not have.
struct Store<'a> {
    sync: &'a SyncService,
    volume: &'a VolumeName,
    waiting: Vec<(ChunkHash, Bytes)>,
    bytes: usize,
}

/// Bytes of chunks that are gathered; with one more chunk they still are a batch.
const GATHERED_LEN: usize = CHUNK_BATCH_LEN_MAX - CHUNK_LEN_MAX as usize;

impl Store<'_> {
    fn put(&mut self, hash: ChunkHash, bytes: &[u8]) -> Result<(), SessionError> {
        self.bytes += bytes.len();
        self.waiting.push((hash, Bytes::copy_from_slice(bytes)));
        match self.bytes >= GATHERED_LEN || self.waiting.len() == QUERY_ITEMS_MAX {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Returns when everything gathered is durable.
    fn flush(&mut self) -> Result<(), SessionError> {
        self.bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        let hashes = waiting.iter().map(|(hash, _)| *hash).collect();
        let missing = self.sync.missing(self.volume, &MissingRequest { hashes })?.missing;
        let missing: std::collections::BTreeSet<_> = missing.into_iter().collect();
        let mut batch = self.sync.upload();
        block_on(async {
            for (hash, bytes) in waiting.into_iter().filter(|(hash, _)| missing.contains(hash)) {
                batch.put(hash, bytes).await?;
            }
            batch.finish().await
        })?;
        Ok(())
    }
}
