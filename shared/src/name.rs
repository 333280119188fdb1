//! Names of directory entries: any 1 to 255 bytes but `/` and NUL, and not `.` or `..`.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::byte_string;
use crate::limits::NAME_LEN_MAX;

/// Names an entry in a directory. Bytes, not text: names need not be UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

/// Why bytes are not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no bytes.
    #[error("a name needs at least one byte")]
    Empty,
    /// The name is longer than [`NAME_LEN_MAX`] bytes.
    #[error("a name has at most {NAME_LEN_MAX} bytes, this one has {len}")]
    TooLong {
        /// The length found, in bytes.
        len: usize,
    },
    /// The name is `.` or `..`, or contains `/` or NUL.
    #[error("`.` and `..` and names with `/` or NUL are not allowed")]
    Reserved,
}

impl Name {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`NameError`] when the bytes are no name.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        match bytes {
            [] => Err(NameError::Empty),
            _ if bytes.len() > NAME_LEN_MAX => Err(NameError::TooLong { len: bytes.len() }),
            b"." | b".." => Err(NameError::Reserved),
            _ if bytes.iter().any(|b| matches!(b, b'/' | 0)) => Err(NameError::Reserved),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        byte_string::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&byte_string::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_the_limit_and_one_past_it() {
        assert!(Name::new(&[b'x'; NAME_LEN_MAX]).is_ok());
        assert_eq!(Name::new(&[b'x'; NAME_LEN_MAX + 1]), Err(NameError::TooLong { len: NAME_LEN_MAX + 1 }));
        assert_eq!(Name::new(b""), Err(NameError::Empty));
        for bad in [&b"."[..], b"..", b"a/b", b"a\0b"] {
            assert_eq!(Name::new(bad), Err(NameError::Reserved));
        }
        assert!(Name::new(b"\xff\xfe not utf-8 \n").is_ok());
    }
}
