//! The messages about versions that were replaced or removed.

use serde::{Deserialize, Serialize};

use crate::hash::ContentId;
use crate::limits::HISTORY_ITEMS_MAX;
use crate::revision::Revision;
use crate::time::Timestamp;

/// Asks what a path held: `POST /sync/{volume}/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HistoryRequest {
    /// The versions of the file that is, or was, at this path.
    Versions {
        /// The path, without a leading slash.
        path: Vec<u8>,
    },
    /// What was removed from a directory.
    Removed {
        /// The directory's path, without a leading slash; empty for the root.
        path: Vec<u8>,
        /// Names up to this one were told before.
        after: Vec<u8>,
    },
}

/// Answers [`HistoryRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HistoryReply {
    /// The versions, newest first.
    Versions {
        /// At most `limits::HISTORY_ITEMS_MAX`.
        #[serde(deserialize_with = "super::bounded::list::<HISTORY_ITEMS_MAX, _, _>")]
        versions: Vec<FileVersion>,
    },
    /// What was removed, by name.
    Removed {
        /// At most `limits::HISTORY_ITEMS_MAX`.
        #[serde(deserialize_with = "super::bounded::list::<HISTORY_ITEMS_MAX, _, _>")]
        names: Vec<RemovedName>,
        /// Where to go on; `None` after the last one.
        next: Option<Vec<u8>>,
    },
}

/// One version of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileVersion {
    /// Which version of the file it is, from 1; another file that had the same path counts for itself.
    pub number: u64,
    /// The commit that made it: one of a kind among all versions of a path.
    pub revision: Revision,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the bytes.
    pub mtime: Timestamp,
    /// Permission bits.
    pub mode: u32,
    /// The bytes; `None` for an empty file.
    pub content: Option<ContentId>,
    /// Who made it, if that is known.
    pub author: Option<String>,
    /// How it stands now.
    pub state: VersionState,
}

/// How a version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionState {
    /// It is there.
    Current,
    /// A newer version of the same file followed.
    Replaced,
    /// The file was removed, or moved away, or another one took its name.
    Removed,
}

/// A name that was removed from a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedName {
    /// The name.
    pub name: Vec<u8>,
    /// Tells whether it was a directory.
    pub is_directory: bool,
    /// Length of the last version in bytes.
    pub size: u64,
    /// When it was removed.
    pub at: Timestamp,
    /// Who removed it, if that is known.
    pub by: Option<String>,
}
