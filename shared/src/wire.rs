//! Messages between mount and server, and their versioned encoding.
//!
//! Every message body is a header of 6 bytes and a payload:
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | magic `dfsw` |
//! | 4..6 | wire version, big-endian, now [`WIRE_VERSION`] |
//! | 6.. | bincode 2 (standard configuration, varint integers) of the message |
//!
//! The event stream carries frames: a length of 4 bytes, big-endian, then one such message.
//! Batches of chunks are framed by the headers of [`chunks`], so that bytes are never copied through bincode.
//! Incomplete input is `Ok(None)`, never an error; an unknown version is refused by name.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::MESSAGE_LEN_MAX;

mod bounded;
pub mod chunks;
pub mod history;
pub mod messages;
pub mod report;

/// First bytes of every message.
pub const WIRE_MAGIC: [u8; 4] = *b"dfsw";
/// Version of the messages in [`messages`]; raised when one of them changes.
pub const WIRE_VERSION: u16 = 1;
/// Media type of an encoded message.
pub const CONTENT_TYPE: &str = "application/x-dfs";
/// Media type of a batch of chunks.
pub const CHUNKS_CONTENT_TYPE: &str = "application/x-dfs-chunks";
/// Media type of the event stream.
pub const STREAM_CONTENT_TYPE: &str = "application/x-dfs-stream";
const HEADER_LEN: usize = 6;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The message does not start with [`WIRE_MAGIC`], or is shorter than its header.
    #[error("not a dfs message: it does not start with `dfsw` and a version")]
    NotAMessage,
    /// The message has a version that this program does not know.
    #[error(
        "wire version {found} is not known here (this program speaks {WIRE_VERSION}): update the older side"
    )]
    UnknownVersion {
        /// The version found.
        found: u16,
    },
    /// The message is longer than allowed.
    #[error("a message of {len} bytes is over the limit of {MESSAGE_LEN_MAX}")]
    TooLong {
        /// The length found or announced, in bytes.
        len: usize,
    },
    /// The payload is cut short or damaged.
    #[error("the message is cut short or damaged")]
    Damaged {
        /// What the decoder found.
        #[source]
        source: bincode::error::DecodeError,
    },
    /// The payload has bytes after its end.
    #[error("{count} bytes follow the end of the message")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MESSAGE_LEN_MAX>()
}

/// Encodes a value without the header, for stores and hashes. The encoding is canonical: equal values
/// give equal bytes.
#[must_use]
pub fn encode_plain<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, config()).expect("records and messages hold only encodable types")
}

/// Decodes what [`encode_plain`] made.
///
/// # Errors
/// [`WireError::Damaged`] or [`WireError::TrailingBytes`].
pub fn decode_plain<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, config()).map_err(|source| WireError::Damaged { source })?;
    match bytes.len() - used {
        0 => Ok(value),
        count => Err(WireError::TrailingBytes { count }),
    }
}

/// Encodes a message with its header.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    encode_sized(message, 0)
}

/// As [`encode`], with room made at once for a message that carries about `len` bytes of content: large ones would otherwise be
/// copied again and again while they grow.
#[must_use]
pub fn encode_sized<T: Serialize>(message: &T, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len.saturating_add(1 << 10));
    encode_into(message, &mut bytes);
    bytes
}

fn encode_into<T: Serialize>(message: &T, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&WIRE_MAGIC);
    bytes.extend_from_slice(&WIRE_VERSION.to_be_bytes());
    bincode::serde::encode_into_std_write(message, bytes, config())
        .expect("a vector takes every byte and messages hold only encodable types");
}

/// Decodes a whole message.
///
/// # Errors
/// [`WireError`] when the bytes are not exactly one message of a known version.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    decode_plain(payload_of(bytes)?)
}

fn payload_of(bytes: &[u8]) -> Result<&[u8], WireError> {
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(WireError::TooLong { len: bytes.len() });
    }
    let (header, payload) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(WireError::NotAMessage)?;
    if header[..4] != WIRE_MAGIC {
        return Err(WireError::NotAMessage);
    }
    match u16::from_be_bytes([header[4], header[5]]) {
        WIRE_VERSION => Ok(payload),
        found => Err(WireError::UnknownVersion { found }),
    }
}

/// Encodes a message as one frame of the event stream.
#[must_use]
pub fn encode_frame<T: Serialize>(message: &T) -> Vec<u8> {
    encode_frame_sized(message, 0)
}

/// As [`encode_frame`], with room as in [`encode_sized`].
#[must_use]
pub fn encode_frame_sized<T: Serialize>(message: &T, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len.saturating_add(1 << 10));
    bytes.extend_from_slice(&[0; 4]);
    encode_into(message, &mut bytes);
    let len = u32::try_from(bytes.len() - 4).expect("MESSAGE_LEN_MAX fits 32 bits");
    bytes[..4].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// Takes the first frame off `bytes`: the message and how many bytes it used; `None` while it is incomplete.
///
/// # Errors
/// [`WireError`] when the frame is too long or holds no message.
pub fn decode_frame<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(T, usize)>, WireError> {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*len) as usize;
    if len > MESSAGE_LEN_MAX {
        return Err(WireError::TooLong { len });
    }
    match rest.get(..len) {
        Some(body) => decode(body).map(|message| Some((message, 4 + len))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::messages::{MissingReply, MissingRequest};
    use super::*;
    use crate::hash::ChunkHash;

    fn message() -> MissingRequest {
        MissingRequest { hashes: vec![ChunkHash::of(b"a"), ChunkHash::of(b"b")] }
    }

    #[test]
    fn a_message_cut_at_any_byte_is_refused_and_never_panics() {
        let bytes = encode(&message());
        assert_eq!(decode::<MissingRequest>(&bytes).expect("whole"), message());
        for len in 0..bytes.len() {
            assert!(decode::<MissingRequest>(&bytes[..len]).is_err(), "{len}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(matches!(decode::<MissingRequest>(&longer), Err(WireError::TrailingBytes { count: 1 })));
    }

    #[test]
    fn an_unknown_version_is_refused_by_name() {
        let mut bytes = encode(&message());
        bytes[5] = 99;
        let error = decode::<MissingRequest>(&bytes).expect_err("unknown");
        assert!(error.to_string().contains("99"), "{error}");
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut bytes = encode(&MissingReply { missing: vec![] });
        let at = bytes.len() - 1;
        bytes.truncate(at);
        bytes.extend_from_slice(&[253, 255, 255, 255, 255, 255, 255, 255, 255]);
        assert!(decode::<MissingReply>(&bytes).is_err());
    }

    #[test]
    fn a_message_and_a_frame_may_have_the_largest_length_and_no_more() {
        // Nobody touches these pages: what they hold is no message, which is found at its first bytes.
        let bytes = vec![0; MESSAGE_LEN_MAX + 1];
        let refusal = |bytes: &[u8]| decode::<MissingRequest>(bytes).expect_err("no message");
        assert!(matches!(refusal(&bytes[1..]), WireError::NotAMessage));
        assert!(matches!(refusal(&bytes), WireError::TooLong { len } if len == MESSAGE_LEN_MAX + 1));
        let frame = |len: usize| {
            decode_frame::<MissingRequest>(&u32::try_from(len).expect("32 bits").to_be_bytes()).map(drop)
        };
        assert!(frame(MESSAGE_LEN_MAX).is_ok(), "it is waited for");
        assert!(matches!(frame(MESSAGE_LEN_MAX + 1), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn frames_are_found_at_every_split() {
        let one = encode_frame(&message());
        let two = [&one[..], &one[..]].concat();
        for len in 0..one.len() {
            assert!(decode_frame::<MissingRequest>(&two[..len]).expect("incomplete is no error").is_none());
        }
        for len in one.len()..two.len() {
            let (found, used) = decode_frame(&two[..len]).expect("a frame").expect("whole");
            assert_eq!((found, used), (message(), one.len()));
        }
    }
}
