//! Identifiers of nodes, volumes and clients.
//!
//! Invariant: a [`NodeId`] is made once, by whoever creates the node, and never changes or is used
//! again; only the root directory of every volume has the fixed id [`NodeId::ROOT`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits;

/// Names a node for ever: a UUIDv7, so ids sort by creation time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId([u8; 16]);

impl NodeId {
    /// The root directory of every volume.
    pub const ROOT: Self = Self([0; 16]);

    /// Makes a fresh, time-ordered, collision-free id. Reads the clock and the random source.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().into_bytes())
    }

    /// Takes an id back from its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes of the id, in the order in which ids sort.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Parses 32 hexadecimal digits, as [`fmt::Display`] prints them.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        crate::hash::hex_decode(text).map(Self)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::hash::hex_encode(&self.0, f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// Tells one life of a volume from another: made when the volume is created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VolumeId([u8; 16]);

impl VolumeId {
    /// Makes a fresh id. Reads the clock and the random source.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().into_bytes())
    }

    /// Takes an id back from its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes of the id.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::hash::hex_encode(&self.0, f)
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeId({self})")
    }
}

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: 1 to {len_max} of the characters a-z A-Z 0-9 . _ - are allowed")]
pub struct IdError {
    /// What was to be parsed, for example `volume name`.
    pub what: &'static str,
    /// The offending text.
    pub text: String,
    /// The longest that is allowed, in bytes.
    pub len_max: usize,
}

fn check(what: &'static str, text: &str, len_max: usize) -> Result<String, IdError> {
    let fits = !text.is_empty()
        && text.len() <= len_max
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !text.starts_with('.');
    if fits { Ok(text.to_owned()) } else { Err(IdError { what, text: text.to_owned(), len_max }) }
}

/// Names a volume on a server: 1 to 64 of `a-z A-Z 0-9 . _ -`, not starting with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

/// Names a registered client, for example `laptop1-018f3c…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(String);

macro_rules! text_id {
    ($type:ident, $what:literal, $len_max:expr) => {
        impl $type {
            /// Checks and takes a text.
            ///
            /// # Errors
            /// [`IdError`] when the text is empty, too long or has a character that is not allowed.
            pub fn new(text: &str) -> Result<Self, IdError> {
                check($what, text, $len_max).map(Self)
            }

            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(&text)
            }
        }

        impl std::str::FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> String {
                id.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(VolumeName, "volume name", limits::VOLUME_NAME_LEN_MAX);
text_id!(ClientId, "client id", limits::CLIENT_ID_LEN_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_sort_by_creation_and_survive_hex() {
        let ids: Vec<_> = (0..1000).map(|_| NodeId::generate()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(NodeId::from_hex(&ids[7].to_string()), Some(ids[7]));
        assert_eq!(NodeId::from_hex("xyz"), None);
    }

    #[test]
    fn client_ids_are_checked_at_the_limit_and_one_past_it() {
        assert!(ClientId::new(&"a".repeat(limits::CLIENT_ID_LEN_MAX)).is_ok());
        assert!(ClientId::new(&"a".repeat(limits::CLIENT_ID_LEN_MAX + 1)).is_err());
    }

    #[test]
    fn volume_names_are_checked_at_the_limit_and_one_past_it() {
        assert!(VolumeName::new(&"a".repeat(limits::VOLUME_NAME_LEN_MAX)).is_ok());
        assert!(VolumeName::new(&"a".repeat(limits::VOLUME_NAME_LEN_MAX + 1)).is_err());
        for bad in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(VolumeName::new(bad).is_err(), "{bad}");
        }
    }
}
