//! Rows of access tokens: who may do what on which volume.
//!
//! Owns the words; checking a token is `access`. Invariant: of a secret only its SHA-256 is ever here.

use std::fmt;
use std::str::FromStr;

use dfs_shared::ids::VolumeName;
use dfs_shared::time::Timestamp;

/// What a token allows on its volume; each includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Reads.
    Read,
    /// Reads and writes.
    Write,
    /// Everything, also what is about the volume as a whole.
    Admin,
}

impl Access {
    /// Returns the number that a store keeps.
    #[must_use]
    pub const fn code(self) -> i64 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Admin => 3,
        }
    }

    /// Takes back what [`Access::code`] returned.
    #[must_use]
    pub const fn from_code(code: i64) -> Option<Self> {
        match code {
            1 => Some(Self::Read),
            2 => Some(Self::Write),
            3 => Some(Self::Admin),
            _ => None,
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        })
    }
}

/// The text names no kind of access.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no kind of access: give read, write or admin")]
pub struct AccessError {
    /// The text.
    pub text: String,
}

impl FromStr for Access {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, AccessError> {
        match text {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            "admin" => Ok(Self::Admin),
            _ => Err(AccessError { text: text.to_owned() }),
        }
    }
}

/// Names a token; no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 8]);

impl TokenId {
    /// Digits of an id as text.
    pub const TEXT_LEN: usize = 16;

    /// Takes an id back from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

/// The text is no token's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no id of a token: it has 16 hexadecimal digits, as `dfs-server token list` prints them")]
pub struct TokenIdError {
    /// The text.
    pub text: String,
}

impl FromStr for TokenId {
    type Err = TokenIdError;

    fn from_str(text: &str) -> Result<Self, TokenIdError> {
        let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_hex && text.len() == Self::TEXT_LEN);
        number.map(|number| Self(number.to_be_bytes())).ok_or_else(|| TokenIdError { text: text.to_owned() })
    }
}

/// A token's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// Names it.
    pub id: TokenId,
    /// SHA-256 of its secret.
    pub digest: [u8; 32],
    /// The only volume that it is good for.
    pub volume: VolumeName,
    /// What it allows there.
    pub access: Access,
    /// What it is for, for people.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_printed_and_in_no_other_way() {
        let id = TokenId::from_bytes([0, 1, 2, 3, 0xab, 5, 6, 0xff]);
        assert_eq!(id.to_string(), "00010203ab0506ff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "00010203AB0506FF", "+0010203ab0506ff", "00010203ab0506f", "00010203ab0506ff0"] {
            assert!(bad.parse::<TokenId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_access_includes_the_ones_before_and_keeps_its_number() {
        assert!(Access::Read < Access::Write && Access::Write < Access::Admin);
        for access in [Access::Read, Access::Write, Access::Admin] {
            assert_eq!(Access::from_code(access.code()), Some(access));
            assert_eq!(access.to_string().parse(), Ok(access));
        }
        assert_eq!(Access::from_code(0), None);
    }
}
