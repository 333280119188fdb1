//! Reads a file and names its content.
//!
//! Invariant: a content is given to the tree only if the file stood still while it was read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use dfs_shared::chunking::{ContentSource, rechunk};
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::NodeId;
use dfs_shared::limits::SMALL_CONTENT_LEN_MAX;
use dfs_shared::manifest::{ChunkRef, Manifest};

use super::shared::{EngineError, Shared};
use crate::cache::{CacheError, HashSource, seek};

/// What reading a file came to.
pub(super) enum Hashed {
    /// The tree has the content now.
    Done {
        /// The content's bytes, if they are few.
        small: Option<(ChunkHash, Bytes)>,
    },
    /// The tree had the content already, or there is no such file any more.
    Nothing,
    /// The file changed meanwhile: again later.
    Moving,
    /// Bytes have to be fetched first.
    Partial,
    /// The file is larger than was allowed.
    Large,
}

/// Names the content of a file of at most `size_max` bytes that changed, and tells the tree. Blocks while it reads.
pub(super) fn hash_node(shared: &Shared, node: NodeId, size_max: u64) -> Result<Hashed, EngineError> {
    let source = match open(shared, node)? {
        Opened::Source(source) => source,
        Opened::Not(why) => return Ok(why),
    };
    let Some(number) = source.number else { return Ok(Hashed::Nothing) };
    if source.size > size_max {
        return Ok(Hashed::Large);
    }
    let (manifest, small) = match read(shared, node, &source) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Hashed::Moving),
        Err(source) => return Err(failed(source).into()),
    };
    if !source.stood_still() {
        notice(shared, node);
        return Ok(Hashed::Moving);
    }
    let done = shared.tree.set_content(node, number, content_id(&manifest), &manifest)?;
    Ok(if done { Hashed::Done { small } } else { Hashed::Moving })
}

/// Returns a content's name; an empty one has none.
pub(super) fn content_id(manifest: &Manifest) -> Option<ContentId> {
    (!manifest.chunks.is_empty()).then(|| manifest.id())
}

/// A file to be read, or why not.
pub(super) enum Opened {
    /// The file.
    Source(HashSource),
    /// Why not; never `Done`.
    Not(Hashed),
}

/// Opens a file for hashing; makes the tree know of changes first. Blocks on the disk.
pub(super) fn open(shared: &Shared, node: NodeId) -> Result<Opened, EngineError> {
    for attempt in 0..2 {
        match shared.cache.open_for_hash(node) {
            Ok(source) => return Ok(Opened::Source(source)),
            Err(CacheError::Changed) if attempt == 0 => notice(shared, node),
            Err(CacheError::Changed) => break,
            Err(CacheError::Partial) => return Ok(Opened::Not(Hashed::Partial)),
            Err(CacheError::NotFound) => return Ok(Opened::Not(Hashed::Nothing)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Opened::Not(Hashed::Moving))
}

fn notice(shared: &Shared, node: NodeId) {
    if let Some(open) = shared.open_files() {
        open.notice(&[node]);
    }
}

fn failed(source: io::Error) -> CacheError {
    CacheError::Io { action: "read", path: std::path::PathBuf::from("a backing file"), source }
}

fn read(
    shared: &Shared,
    node: NodeId,
    source: &HashSource,
) -> io::Result<(Manifest, Option<(ChunkHash, Bytes)>)> {
    if source.size > SMALL_CONTENT_LEN_MAX {
        let previous = shared.tree.manifest(node).ok().flatten().map(|(_, manifest)| manifest.chunk_log2);
        return Ok((manifest_of(&source.file, source.size, previous)?, None));
    }
    let mut bytes = vec![0; usize::try_from(source.size).expect("a small size")];
    source.file.read_exact_at(&mut bytes, 0)?;
    Ok(small_manifest(bytes))
}

/// Names a small content, which is one chunk.
pub(super) fn small_manifest(bytes: Vec<u8>) -> (Manifest, Option<(ChunkHash, Bytes)>) {
    let chunk_log2 = dfs_shared::chunking::chunk_log2_for(bytes.len() as u64, None);
    if bytes.is_empty() {
        return (Manifest { chunk_log2, chunks: Vec::new() }, None);
    }
    let chunk = ChunkRef { hash: dfs_shared::chunking::chunk_hash(&bytes), len: bytes.len() as u64 };
    let small = (!chunk.hash.is_hole()).then(|| (chunk.hash, Bytes::from(bytes)));
    (Manifest { chunk_log2, chunks: vec![chunk] }, small)
}

/// Cuts a large file into chunks; holes are not read. Blocks while it reads.
pub(super) fn manifest_of(file: &File, size: u64, previous_log2: Option<u8>) -> io::Result<Manifest> {
    let previous = Manifest { chunk_log2: previous_log2.unwrap_or(0), chunks: Vec::new() };
    rechunk(&previous, std::slice::from_ref(&(0..size)), size, Source { file })
}

struct Source<'a> {
    file: &'a File,
}

impl ContentSource for Source<'_> {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn next_data(&mut self, offset: u64) -> io::Result<u64> {
        let Ok(at) = i64::try_from(offset) else { return Ok(offset) };
        match seek(self.file, at, libc::SEEK_DATA) {
            Ok(found) => Ok(u64::try_from(found).unwrap_or(offset)),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(u64::MAX),
            Err(_) => Ok(offset),
        }
    }
}
