//! Framing of chunk batches: uploads (`PUT /sync/{volume}/chunks`) and downloads (`POST /sync/{volume}/chunks/get`).
//!
//! A batch is a row of frames, each a header of 36 bytes and the chunk's bytes:
//!
//! | bytes | content |
//! |---|---|
//! | 0..32 | the chunk's SHA-256 |
//! | 32..36 | length in bytes, big-endian, or one of the marks below |
//!
//! A download answers every asked chunk in order; [`MARK_ABSENT`] and [`MARK_CORRUPT`] stand for a chunk that
//! cannot be served and are followed by no bytes.

use crate::hash::ChunkHash;
use crate::limits::CHUNK_LEN_MAX;

/// Length of a frame's header in bytes.
pub const CHUNK_HEADER_LEN: usize = 36;
/// In place of a length: the server does not have the chunk.
pub const MARK_ABSENT: u32 = u32::MAX;
/// In place of a length: the chunk is damaged on the server's disk and is not served.
pub const MARK_CORRUPT: u32 = u32::MAX - 1;

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// The chunk's name.
    pub hash: ChunkHash,
    /// What follows.
    pub body: ChunkBody,
}

/// What follows a frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkBody {
    /// This many bytes, 1 to `limits::CHUNK_LEN_MAX`.
    Bytes(u32),
    /// Nothing: the server does not have the chunk.
    Absent,
    /// Nothing: the chunk is damaged.
    Corrupt,
}

/// Why 36 bytes are not a frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chunk of {len} bytes is not allowed: 1 to {CHUNK_LEN_MAX} are")]
pub struct ChunkHeaderError {
    /// The length found.
    pub len: u32,
}

impl ChunkHeader {
    /// Encodes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; CHUNK_HEADER_LEN] {
        let len = match self.body {
            ChunkBody::Bytes(len) => len,
            ChunkBody::Absent => MARK_ABSENT,
            ChunkBody::Corrupt => MARK_CORRUPT,
        };
        let mut bytes = [0; CHUNK_HEADER_LEN];
        bytes[..32].copy_from_slice(self.hash.as_bytes());
        bytes[32..].copy_from_slice(&len.to_be_bytes());
        bytes
    }

    /// Decodes a header.
    ///
    /// # Errors
    /// [`ChunkHeaderError`] when the length is 0 or over the limit.
    pub fn decode(bytes: &[u8; CHUNK_HEADER_LEN]) -> Result<Self, ChunkHeaderError> {
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[..32]);
        let len = u32::from_be_bytes([bytes[32], bytes[33], bytes[34], bytes[35]]);
        let body = match len {
            MARK_ABSENT => ChunkBody::Absent,
            MARK_CORRUPT => ChunkBody::Corrupt,
            _ if len == 0 || u64::from(len) > CHUNK_LEN_MAX => return Err(ChunkHeaderError { len }),
            _ => ChunkBody::Bytes(len),
        };
        Ok(Self { hash: ChunkHash::from_bytes(hash), body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_and_lengths_are_checked_at_the_limit_and_one_past_it() {
        let hash = ChunkHash::of(b"x");
        let max = u32::try_from(CHUNK_LEN_MAX).expect("fits");
        for body in [ChunkBody::Bytes(1), ChunkBody::Bytes(max), ChunkBody::Absent, ChunkBody::Corrupt] {
            let header = ChunkHeader { hash, body };
            assert_eq!(ChunkHeader::decode(&header.encode()), Ok(header));
        }
        for len in [0, max + 1] {
            let bytes = ChunkHeader { hash, body: ChunkBody::Bytes(len) }.encode();
            assert_eq!(ChunkHeader::decode(&bytes), Err(ChunkHeaderError { len }));
        }
    }
}
