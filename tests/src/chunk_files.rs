//! The chunk files under a server's data directory, found by their names: a chunk is named by its SHA-256.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::ops;

const HASH_DIGITS: usize = 64;

/// One chunk as a file.
#[derive(Clone, Debug)]
pub struct ChunkFile {
    /// Where it is.
    pub path: PathBuf,
    /// The hash that names it, 64 hex digits.
    pub hash: String,
}

/// Every chunk file below `data`, whether its hash is one name or split over directories.
///
/// # Errors
/// When the directory can't be listed.
pub fn chunk_files(data: &Path) -> Result<Vec<ChunkFile>> {
    let mut chunks = Vec::new();
    for path in ops::files_below(data)? {
        let text = path.strip_prefix(data).unwrap_or(&path).to_string_lossy().replace('/', "");
        if text.len() < HASH_DIGITS || !text.is_char_boundary(text.len() - HASH_DIGITS) {
            continue;
        }
        let hash = last_hash(&path, data, &text);
        if let Some(hash) = hash {
            chunks.push(ChunkFile { path, hash });
        }
    }
    Ok(chunks)
}

/// Flips one bit in the middle of a chunk file; doing it again repairs it.
///
/// # Errors
/// When it can't be written.
pub fn flip_bit(chunk: &ChunkFile) -> Result<()> {
    let mut bytes = std::fs::read(&chunk.path).with_context(|| format!("read {}", chunk.path.display()))?;
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("an empty chunk file")? ^= 0x10;
    std::fs::write(&chunk.path, bytes).with_context(|| format!("write {}", chunk.path.display()))
}

/// Layouts that occur: `ab/cd/abcdef…` (whole hash as name) and `ab/cdef…` (split).
fn last_hash(path: &Path, data: &Path, joined: &str) -> Option<String> {
    let is_hash = |text: &str| text.len() == HASH_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = path.file_name()?.to_string_lossy().into_owned();
    let stem = path.file_stem()?.to_string_lossy().into_owned();
    if let Some(hash) = [name, stem].into_iter().find(|text| is_hash(text)) {
        return Some(hash);
    }
    let tail = &joined[joined.len() - HASH_DIGITS..];
    (path.parent() != Some(data) && is_hash(tail)).then(|| tail.to_owned())
}
