//! The SHA-256 of whole files: told with the content, evident from its one chunk, or read once and kept.

use std::time::Instant;

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::manifest::{ChunkRef, Manifest};
use sha2::{Digest, Sha256};

use super::{FileInfo, FileService, FilesError};
use crate::limits::FILE_HASH_LEN_MAX;
use crate::sync::FoundChunk;

/// Zeros that holes are hashed with.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl FileService {
    /// Reads the bytes of a content for their hash, and keeps it. One content at a time: who waits for the same one finds
    /// it done.
    pub(super) fn read_hash(&self, info: &FileInfo, id: ContentId) -> Result<ChunkHash, FilesError> {
        let _one_at_a_time = self.hashing.lock();
        if let Some(hash) = self.metadata.read(|snapshot| snapshot.file_hash(&id))? {
            return Ok(hash);
        }
        check_len(info, info.size())?;
        let began = Instant::now();
        let manifest = self.manifest(info)?;
        let mut hasher = Sha256::new();
        for chunk in &manifest.chunks {
            self.hash_chunk(&mut hasher, info, *chunk)?;
        }
        let hash = ChunkHash::from_bytes(hasher.finalize().into());
        tracing::debug!(path = %info.path, size = info.size(), took = ?began.elapsed(), "hashed a file");
        let kept = self.metadata.write(1, move |tx| match tx.content(&id)? {
            Some(_) => tx.put_content(&id, &manifest, Some(&hash)),
            // It was collected meanwhile, and its chunks may be gone.
            None => Ok(()),
        });
        kept.wait()?;
        Ok(hash)
    }

    fn hash_chunk(&self, hasher: &mut Sha256, info: &FileInfo, chunk: ChunkRef) -> Result<(), FilesError> {
        if chunk.hash.is_hole() {
            let mut left = chunk.len;
            while left > 0 {
                let len = left.min(ZEROS.len() as u64);
                hasher.update(&ZEROS[..usize::try_from(len).expect("at most the array's length")]);
                left -= len;
            }
            return Ok(());
        }
        match self.sync.chunk(chunk.hash)? {
            FoundChunk::Bytes(bytes) => hasher.update(&bytes),
            FoundChunk::Absent | FoundChunk::Corrupt => {
                return Err(FilesError::Damaged { path: info.path.clone(), chunk: chunk.hash });
            }
        }
        Ok(())
    }

    /// Finds a content by hash and length: a chunk of that name, or a content whose hash was told.
    pub(super) fn known_content(&self, hash: &ChunkHash, size: u64) -> Result<Option<Manifest>, FilesError> {
        if size == 0 {
            return Ok((*hash == ChunkHash::of(b"")).then(Manifest::default));
        }
        let found = self.metadata.read(|snapshot| {
            if snapshot.chunk_place(hash)?.is_some_and(|place| place.len() == size) {
                return Ok(Some(Manifest {
                    chunk_log2: 0,
                    chunks: vec![ChunkRef { hash: *hash, len: size }],
                }));
            }
            snapshot.content_of_file(hash)
        })?;
        Ok(found.filter(|manifest| manifest.size() == size))
    }
}

/// Refuses to read so many bytes for a hash.
pub(super) fn check_len(info: &FileInfo, size: u64) -> Result<(), FilesError> {
    match size {
        0..=FILE_HASH_LEN_MAX => Ok(()),
        _ => Err(FilesError::TooLong { path: info.path.clone(), len_max: FILE_HASH_LEN_MAX }),
    }
}
