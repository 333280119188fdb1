//! What a mount says of a file's content: its hash, and all of it in the metadata language.
//!
//! Invariants: nothing here asks the server; what is not known here is left out and never guessed. A hash is that of bytes
//! which stood still while they were read.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use dfs_shared::ddl::{self, FileHash, FileMetadata, ModifiedAt, SyncState, SyncStatus};
use dfs_shared::hash::ChunkHash;
use dfs_shared::record::{NodeKind, NodeRecord};
use sha2::{Digest, Sha256};

use super::{Fs, FsError, record_of};
use crate::cache::{CacheError, HashSource};
use crate::limits::XATTR_HASH_LEN_MAX;
use crate::tree::LocalNode;

/// The owner that the server's public API has set.
const OWNER: &[u8] = b"user.dfs.owner";

/// The version of a file whose contents nobody here has counted: the server does.
const UNCOUNTED: u64 = 0;

impl Fs {
    /// Returns the SHA-256 of a file's bytes: told by its only chunk, or read from bytes that are all here and at most
    /// [`XATTR_HASH_LEN_MAX`]. Blocks on the disk.
    pub(super) fn content_hash(&self, node: &LocalNode) -> Result<Option<ChunkHash>, FsError> {
        let record = record_of(node)?;
        if record.kind != NodeKind::File {
            return Ok(None);
        }
        if node.dirty_content.is_none() {
            let Some(content) = record.content else { return Ok(Some(ChunkHash::of(b""))) };
            if let Some((id, manifest)) = self.tree.manifest(node.id)?
                && id == content
                && let [chunk] = manifest.chunks.as_slice()
                && !chunk.hash.is_hole()
            {
                return Ok(Some(chunk.hash));
            }
        }
        let source = match self.cache.open_for_hash(node.id) {
            Ok(source) if source.size <= XATTR_HASH_LEN_MAX => source,
            // Bytes that are not here, or that change at this moment.
            Ok(_) | Err(CacheError::Partial | CacheError::Changed | CacheError::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let hash = hash_of(&source).map_err(|source| CacheError::Io {
            action: "read",
            path: PathBuf::from("a backing file"),
            source,
        })?;
        Ok(Some(hash).filter(|_| source.stood_still()))
    }

    /// Describes a file in the metadata language. Blocks on the disk.
    pub(super) fn metadata_text(&self, node: &LocalNode) -> Result<Vec<u8>, FsError> {
        let record = record_of(node)?;
        let path = self.tree.path_of(node.id)?.filter(|_| record.kind == NodeKind::File);
        // A file that only an open handle still leads to has no name.
        let Some(name) = path else { return Err(FsError::NoAttribute) };
        let hash = self.content_hash(node)?;
        let metadata = FileMetadata {
            name,
            version: UNCOUNTED,
            size: record.size,
            hash: FileHash::from(hash.unwrap_or(ChunkHash::HOLE)),
            last_modified: ModifiedAt::from(record.mtime),
            owner: owner(record),
            sync_state: SyncState { status: status(self.state(node)?), replicas: Vec::new() },
        };
        let text = match hash {
            Some(_) => ddl::print(&[metadata]),
            None => ddl::print_without_hash(&metadata),
        };
        Ok(text.into_bytes())
    }
}

/// The owner as the server's public API tells it.
fn owner(record: &NodeRecord) -> String {
    match record.xattrs.get(OWNER) {
        Some(owner) => String::from_utf8_lossy(owner).into_owned(),
        None => record.uid.to_string(),
    }
}

/// The language's word for a value of `user.dfs.state`.
fn status(state: &str) -> SyncStatus {
    match state {
        "conflict" => SyncStatus::Conflict,
        "uploading" => SyncStatus::Syncing,
        "journaled" => SyncStatus::Modified,
        // `remote` is a matter of this mount's cache: the server has the content.
        _ => SyncStatus::Synced,
    }
}

/// Hashes all bytes; holes count as zeros.
fn hash_of(source: &HashSource) -> io::Result<ChunkHash> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    while at < source.size {
        let wanted = usize::try_from(source.size - at).unwrap_or(usize::MAX).min(buffer.len());
        source.file.read_exact_at(&mut buffer[..wanted], at)?;
        hasher.update(&buffer[..wanted]);
        at += wanted as u64;
    }
    Ok(ChunkHash::from_bytes(hasher.finalize().into()))
}
