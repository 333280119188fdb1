//! Reads a file and names its content.
//!
//! Invariant: a content is given to the tree only if the file stood still while it was read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use dfs_shared::chunking::{Chunks, chunk_log2_for};
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::NodeId;
use dfs_shared::limits::SMALL_CONTENT_LEN_MAX;
use dfs_shared::manifest::{ChunkRef, Manifest};
use dfs_shared::wire::messages::SmallChunk;

use super::shared::{EngineError, Shared};
use crate::cache::{CacheError, HashSource, seek};
use crate::tree::journal::NamedContent;

/// What reading a file came to.
pub(super) enum Hashed {
    /// The tree has the content now.
    Done,
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
    let named = match name(shared, node, size_max)? {
        Named::Content { named, .. } => named,
        Named::Not(why) => return Ok(why),
    };
    let done = shared.tree.set_contents(&[named])?;
    Ok(if done.contains(&node) { Hashed::Done } else { Hashed::Moving })
}

/// A content of which the tree does not know yet, or why there is none.
pub(super) enum Named {
    /// What to tell the tree, and the bytes if they are few.
    Content {
        /// For `Tree::set_contents`.
        named: NamedContent,
        /// The only chunk.
        small: Option<SmallChunk>,
    },
    /// Why not; never `Done`.
    Not(Hashed),
}

/// As [`hash_node`] without telling the tree.
pub(super) fn name(shared: &Shared, node: NodeId, size_max: u64) -> Result<Named, EngineError> {
    let source = match open(shared, node)? {
        Opened::Source(source) => source,
        Opened::Not(why) => return Ok(Named::Not(why)),
    };
    let Some(number) = source.number else { return Ok(Named::Not(Hashed::Nothing)) };
    if source.size > size_max {
        return Ok(Named::Not(Hashed::Large));
    }
    let (manifest, small) = match read(shared, node, &source) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Named::Not(Hashed::Moving)),
        Err(source) => return Err(failed(source).into()),
    };
    if !source.stood_still() {
        notice(shared, node);
        return Ok(Named::Not(Hashed::Moving));
    }
    let named = NamedContent { id: node, number, content: content_id(&manifest), manifest };
    Ok(Named::Content { named, small })
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

fn read(shared: &Shared, node: NodeId, source: &HashSource) -> io::Result<(Manifest, Option<SmallChunk>)> {
    if source.size > SMALL_CONTENT_LEN_MAX {
        let previous = shared.tree.manifest(node).ok().flatten().map(|(_, manifest)| manifest.chunk_log2);
        return Ok((manifest_of(&source.file, source.size, previous)?, None));
    }
    let mut bytes = vec![0; usize::try_from(source.size).expect("a small size")];
    source.file.read_exact_at(&mut bytes, 0)?;
    Ok(small_manifest(bytes))
}

/// Names a small content, which is one chunk.
pub(super) fn small_manifest(bytes: Vec<u8>) -> (Manifest, Option<SmallChunk>) {
    let chunk_log2 = dfs_shared::chunking::chunk_log2_for(bytes.len() as u64, None);
    if bytes.is_empty() {
        return (Manifest { chunk_log2, chunks: Vec::new() }, None);
    }
    let chunk = ChunkRef { hash: dfs_shared::chunking::chunk_hash(&bytes), len: bytes.len() as u64 };
    let small = (!chunk.hash.is_hole()).then_some(SmallChunk { hash: chunk.hash, bytes });
    (Manifest { chunk_log2, chunks: vec![chunk] }, small)
}

/// Cuts a large file into chunks: each stretch of data by itself, so that a chunk ends where a hole begins. Holes are
/// not read. Blocks while it reads.
pub(super) fn manifest_of(file: &File, size: u64, previous_log2: Option<u8>) -> io::Result<Manifest> {
    let chunk_log2 = chunk_log2_for(size, previous_log2);
    let mut manifest = Manifest { chunk_log2, chunks: Vec::new() };
    let mut at = 0;
    while at < size {
        let data = edge(file, at, libc::SEEK_DATA)?.unwrap_or(size).min(size);
        push(&mut manifest, ChunkHash::HOLE, data - at);
        if data == size {
            break;
        }
        let end = edge(file, data, libc::SEEK_HOLE)?.unwrap_or(size).clamp(data + 1, size);
        let mut chunks = Chunks::new(From { file, at: data }, end - data, chunk_log2);
        while let Some(chunk) = chunks.next_chunk()? {
            push(&mut manifest, chunk.hash, chunk.bytes.len() as u64);
        }
        at = end;
    }
    Ok(manifest)
}

/// Appends a slice; holes that touch are one.
fn push(manifest: &mut Manifest, hash: ChunkHash, len: u64) {
    match manifest.chunks.last_mut() {
        _ if len == 0 => {}
        Some(last) if hash.is_hole() && last.hash.is_hole() => last.len += len,
        _ => manifest.chunks.push(ChunkRef { hash, len }),
    }
}

/// Returns where the next data or hole begins; `None` past the last. A file system that cannot tell has data everywhere.
fn edge(file: &File, at: u64, whence: i32) -> io::Result<Option<u64>> {
    let Ok(from) = i64::try_from(at) else { return Ok(None) };
    match seek(file, from, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(_) if whence == libc::SEEK_DATA => Ok(Some(at)),
        Err(_) => Ok(None),
    }
}

/// Reads a file from a position on, without moving the descriptor's own.
struct From<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for From<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
