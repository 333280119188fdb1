//! File metadata as the language, the binary form and the public API have it.

use std::fmt;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::hash::ChunkHash;
use crate::time::Timestamp;

/// What is said of one version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMetadata {
    /// Path from the volume's root, without a leading `/`. Bytes: names need not be UTF-8.
    pub name: Vec<u8>,
    /// Which version of the file; grows.
    pub version: u64,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the file's bytes.
    pub hash: FileHash,
    /// Last change of the content.
    pub last_modified: ModifiedAt,
    /// Who made the version.
    pub owner: String,
    /// How far it has come.
    pub sync_state: SyncState,
}

/// How far a version has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncState {
    /// Where it stands.
    pub status: SyncStatus,
    /// Who has which version of the content.
    pub replicas: Vec<Replica>,
}

/// A mount or server that has a version of the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its name.
    pub node: String,
    /// The version.
    pub version: u64,
}

/// Where a version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SyncStatus {
    /// On the server.
    #[default]
    Synced,
    /// Changed, not yet on its way.
    Modified,
    /// On its way.
    Syncing,
    /// One side of a conflict.
    Conflict,
    /// Removed.
    Deleted,
}

impl SyncStatus {
    /// All of them, in the order of their binary numbers.
    pub const ALL: [Self; 5] = [Self::Synced, Self::Modified, Self::Syncing, Self::Conflict, Self::Deleted];

    /// Returns the word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Modified => "modified",
            Self::Syncing => "syncing",
            Self::Conflict => "conflict",
            Self::Deleted => "deleted",
        }
    }

    /// Returns what the word stands for.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// The SHA-256 of a file's bytes as text: `sha256:` and hexadecimal digits. Somebody else's text may have shortened it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileHash(String);

impl FileHash {
    const PREFIX: &'static str = "sha256:";
    const DIGITS_MAX: usize = 64;

    /// Takes `sha256:` and 1 to 64 hexadecimal digits, as lower case.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(Self::PREFIX)?;
        let good =
            (1..=Self::DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        good.then(|| Self(text.to_ascii_lowercase()))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the hash if all of it is there.
    #[must_use]
    pub fn sha256(&self) -> Option<ChunkHash> {
        ChunkHash::from_hex(&self.0[Self::PREFIX.len()..])
    }
}

impl From<ChunkHash> for FileHash {
    fn from(hash: ChunkHash) -> Self {
        Self(format!("{}{hash}", Self::PREFIX))
    }
}

/// A time that RFC 3339 can write: in the years 0 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ModifiedAt(Timestamp);

impl ModifiedAt {
    const SECS_MIN: i64 = -62_167_219_200;
    const SECS_MAX: i64 = 253_402_300_799;

    /// Returns the point in time.
    #[must_use]
    pub const fn timestamp(self) -> Timestamp {
        self.0
    }

    /// Reads a date and time as RFC 3339 has it, with any offset; a leap second counts as the second before it.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        let at = Timestamp { secs: at.unix_timestamp(), nanos: at.nanosecond() };
        (Self::SECS_MIN..=Self::SECS_MAX).contains(&at.secs).then_some(Self(at))
    }
}

impl From<Timestamp> for ModifiedAt {
    /// Takes the nearest time that can be written.
    fn from(at: Timestamp) -> Self {
        match at.secs {
            ..Self::SECS_MIN => Self(Timestamp { secs: Self::SECS_MIN, nanos: 0 }),
            Self::SECS_MIN..=Self::SECS_MAX => Self(at),
            _ => Self(Timestamp { secs: Self::SECS_MAX, nanos: 999_999_999 }),
        }
    }
}

impl fmt::Display for ModifiedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0.secs) * 1_000_000_000 + i128::from(self.0.nanos);
        let text =
            OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().and_then(|at| at.format(&Rfc3339).ok());
        f.write_str(&text.ok_or(fmt::Error)?)
    }
}
