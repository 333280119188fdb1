//! Byte strings for `#[serde(with)]`: encoded as a sequence of `u8` is, length and bytes, but in one go; serde takes a
//! `Vec<u8>` byte by byte.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

/// Encodes a byte string.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// Decodes a byte string. Allocates only what is there: from a slice the bytes are borrowed first.
///
/// # Errors
/// Those of the deserializer.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    deserializer.deserialize_bytes(ByteString)
}

struct ByteString;

impl Visitor<'_> for ByteString {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte string")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use crate::wire::{decode_plain, encode_plain};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Fast {
        #[serde(with = "super")]
        bytes: Vec<u8>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Plain {
        bytes: Vec<u8>,
    }

    #[test]
    fn a_byte_string_is_encoded_as_a_sequence_of_bytes_is() {
        for len in [0, 1, 250, 251, 65_535, 65_536, 100_000] {
            let bytes: Vec<u8> = (0..len).map(|n| u8::try_from(n % 256).expect("a byte")).collect();
            let encoded = encode_plain(&Plain { bytes: bytes.clone() });
            assert_eq!(encode_plain(&Fast { bytes: bytes.clone() }), encoded, "{len}");
            assert_eq!(decode_plain::<Fast>(&encoded).expect("whole"), Fast { bytes }, "{len}");
            if len > 0 {
                assert!(decode_plain::<Fast>(&encoded[..encoded.len() - 1]).is_err(), "{len}");
            }
        }
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        assert!(decode_plain::<Fast>(&[253, 255, 255, 255, 255, 255, 255, 255, 127]).is_err());
        assert!(decode_plain::<Fast>(&[252, 0, 0, 0, 1, 7]).is_err());
    }
}
