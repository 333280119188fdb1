//! A file's content as an ordered list of chunks.
//!
//! Invariant: the [`ContentId`] is the SHA-256 of [`Manifest::encode`], so two files with the same
//! bytes, cut the same way, have the same content id.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hash::{ChunkHash, ContentId};

/// One slice of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChunkRef {
    /// What the slice holds; [`ChunkHash::HOLE`] for zeros that are stored nowhere.
    pub hash: ChunkHash,
    /// Length in bytes, at least 1. Only a hole is longer than `limits::CHUNK_LEN_MAX`.
    pub len: u64,
}

/// The ordered list of chunks that makes a file's content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Base-2 logarithm of the average chunk size that cut this content, in bytes.
    pub chunk_log2: u8,
    /// The slices in order; empty for an empty file.
    pub chunks: Vec<ChunkRef>,
}

impl Manifest {
    /// Returns the content's length in bytes, saturating.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.chunks.iter().fold(0, |sum: u64, chunk| sum.saturating_add(chunk.len))
    }

    /// Returns the bytes that are hashed: for each chunk its 32-byte hash and its length as 8 bytes,
    /// big-endian. `chunk_log2` only steers later chunking and is not part of the identity.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.chunks.len() * 40);
        for chunk in &self.chunks {
            bytes.extend_from_slice(chunk.hash.as_bytes());
            bytes.extend_from_slice(&chunk.len.to_be_bytes());
        }
        bytes
    }

    /// Returns the name of the content.
    #[must_use]
    pub fn id(&self) -> ContentId {
        let mut hasher = Sha256::new();
        for chunk in &self.chunks {
            hasher.update(chunk.hash.as_bytes());
            hasher.update(chunk.len.to_be_bytes());
        }
        ContentId::from_bytes(hasher.finalize().into())
    }

    /// Returns each chunk with its offset in the file, in order.
    pub fn offsets(&self) -> impl Iterator<Item = (u64, ChunkRef)> + '_ {
        self.chunks.iter().scan(0_u64, |at, chunk| {
            let start = *at;
            *at = at.saturating_add(chunk.len);
            Some((start, *chunk))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_id_is_the_hash_of_the_encoding_and_ignores_the_chunk_size_setting() {
        let chunks = vec![
            ChunkRef { hash: ChunkHash::of(b"a"), len: 1 },
            ChunkRef { hash: ChunkHash::HOLE, len: 1 << 40 },
        ];
        let one = Manifest { chunk_log2: 14, chunks: chunks.clone() };
        let two = Manifest { chunk_log2: 20, chunks };
        assert_eq!(one.id(), ContentId::of(&one.encode()));
        assert_eq!(one.id(), two.id());
        assert_eq!(one.size(), (1 << 40) + 1);
        assert_eq!(one.offsets().map(|(at, _)| at).collect::<Vec<_>>(), [0, 1]);
    }
}
