//! The socket on which `dfs` talks to a running mount: one JSON object per line, each answered by one.
//!
//! | request | answer |
//! |---|---|
//! | `{"command":"status"}` | [`MountStatus`] |
//! | `{"command":"wait","timeout_ms":N}` | `{"reached":true}` when all that was changed before is on the server |
//! | `{"command":"explain","path":[bytes]}` | [`Explanation`] |
//! | `{"command":"evict","path":[bytes]}` | `{}` |
//! | `{"command":"history","path":[bytes]}` | [`HistoryPage`] with versions, newest first |
//! | `{"command":"removed","path":[bytes],"after":[bytes]}` | [`HistoryPage`] with removed names |
//! | `{"command":"version","path":[bytes],"version":…}` | [`Version`], then its bytes in frames, see `history` |
//! | `{"command":"conflicts"}` | [`ConflictList`] |
//! | `{"command":"merge","copy":node id}` | `{}`: the two versions of that conflict are one file |
//! | `{"command":"resolve","copies":[node ids]}` | `{}`: those conflicts are forgotten |
//! | `{"command":"verify","path":[bytes],"repair":bool}` | lines of [`VerifyLine`], the last one `verified` or `error` |
//! | `{"command":"pin","path":[bytes],"wait":bool}` | lines of [`PinLine`], the last one `pinned` or `error` |
//! | `{"command":"unpin","path":[bytes]}` | [`Unpinned`] |
//! | `{"command":"unmount","flush":bool}` | `{}`, then the mount ends and the socket closes |
//!
//! A failure is `{"error":{"code":…,"message":…}}`; the codes are those of [`Code`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::engine::Status;
use crate::engine::verify::{Finding, Verified};

pub mod client;
mod history;
mod pin;
pub mod server;
mod verify;

/// Name of the extended attribute of a mount's root that holds the socket's path.
pub const CONTROL_XATTR: &str = "user.dfs.control";

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// How the mount stands.
    Status,
    /// Wait until the server has everything.
    Wait {
        /// For how long at most, in milliseconds.
        timeout_ms: Option<u64>,
    },
    /// Why a file is not on the server, or where it stands.
    Explain {
        /// Its path under the mount point.
        path: Vec<u8>,
    },
    /// Remove a file's bytes from this machine.
    Evict {
        /// Its path under the mount point.
        path: Vec<u8>,
    },
    /// List the versions of a file.
    History {
        /// Its path under the mount point.
        path: Vec<u8>,
    },
    /// List what was removed from a directory.
    Removed {
        /// Its path under the mount point.
        path: Vec<u8>,
        /// Names up to this one were told before.
        after: Vec<u8>,
    },
    /// Send the bytes of a version.
    Version {
        /// The file's path under the mount point.
        path: Vec<u8>,
        /// Which; `None`: the last one of a removed file.
        version: Option<VersionId>,
    },
    /// Which conflicts nobody has decided.
    Conflicts,
    /// Merge the two versions of a conflict.
    Merge {
        /// The node of the copy, as [`Conflict::copy`] has it.
        copy: String,
    },
    /// Forget conflicts: somebody has decided.
    Resolve {
        /// The nodes of their copies, as [`Conflict::copy`] has them.
        copies: Vec<String>,
    },
    /// Compare mount, cache and server.
    Verify {
        /// The file, or the directory below which files are compared; empty for the whole mount.
        path: Vec<u8>,
        /// Put right what can be.
        repair: bool,
    },
    /// Keep a file, or all that is below a directory, on this machine.
    Pin {
        /// Its path under the mount point.
        path: Vec<u8>,
        /// First wait until all of it is here.
        wait: bool,
    },
    /// Remove a pin.
    Unpin {
        /// The path under the mount point that was pinned.
        path: Vec<u8>,
    },
    /// End the mount.
    Unmount {
        /// First wait until the server has everything.
        flush: bool,
    },
}

/// How a mount stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountStatus {
    /// Where it is mounted.
    pub mount_point: String,
    /// The volume.
    pub volume: String,
    /// Where the journal is.
    pub state_dir: String,
    /// The process.
    pub pid: u32,
    /// The program's version.
    pub version: String,
    /// How it stands to its server.
    #[serde(flatten)]
    pub sync: Status,
}

/// The conflicts that nobody has decided, by path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictList {
    /// They.
    pub conflicts: Vec<Conflict>,
}

/// Two versions side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Names the conflict: the node of its copy.
    pub copy: String,
    /// Where the server's version is, under the mount point.
    pub path: Vec<u8>,
    /// Where the version is that was made here.
    pub copy_path: Vec<u8>,
    /// Whose version the copy is.
    pub host: String,
    /// When the two met, in milliseconds since 1970.
    pub at_ms: i64,
    /// Tells whether the path is marked until somebody decides.
    pub manual: bool,
}

/// Where a file stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Its node.
    pub node: String,
    /// `synced`, `journaled`, `uploading`, `no-room` (the quota or the disk there) or `stuck`.
    pub state: String,
    /// In words.
    pub text: String,
    /// Length in bytes.
    pub size: u64,
    /// Tells whether all its bytes are on this machine.
    pub here: bool,
    /// The path under the mount point that was pinned and covers it; empty for the mount point.
    pub pinned_by: Option<String>,
}

/// Names a version of a path: its number, or `r` and the revision that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VersionId {
    /// Of the newest file at the path that has such a version.
    Number(u64),
    /// One of a kind among all versions of a path.
    Revision(u64),
}

impl FromStr for VersionId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
        let id = match text.strip_prefix('r') {
            Some(digits) => number(digits).map(Self::Revision),
            None => number(text).map(Self::Number),
        };
        id.ok_or_else(|| "say a number, as 3, or a revision, as r17".to_owned())
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Revision(revision) => write!(f, "r{revision}"),
        }
    }
}

/// One version of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number, from 1.
    pub version: u64,
    /// The revision that made it.
    pub revision: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the bytes, in seconds since 1970.
    pub mtime_s: i64,
    /// Permission bits.
    pub mode: u32,
    /// Who made it, if that is known.
    pub author: Option<String>,
    /// `current`, `replaced` or `removed`.
    pub state: String,
}

/// A name that was removed from a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedEntry {
    /// The name; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// Tells whether it was a directory.
    pub is_directory: bool,
    /// Length of the last version in bytes.
    pub size: u64,
    /// When, in seconds since 1970.
    pub removed_s: i64,
    /// Who removed it, if that is known.
    pub by: Option<String>,
}

/// Part of a history.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HistoryPage {
    /// Versions of a file, newest first.
    pub versions: Vec<Version>,
    /// What was removed from a directory, by name.
    pub removed: Vec<RemovedEntry>,
    /// Where to go on.
    pub next: Option<Vec<u8>>,
}

/// One line of the answer to [`Request::Verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyLine {
    /// How far it is.
    Progress {
        /// Files compared.
        files: u64,
        /// Bytes compared.
        bytes: u64,
    },
    /// Something is damaged.
    Found(Finding),
    /// All was looked at.
    Verified(Verified),
    /// It ended early.
    Error(Failure),
}

/// One line of the answer to [`Request::Pin`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinLine {
    /// How far it is.
    Progress {
        /// Files that are not here.
        files: u64,
        /// Bytes that are not here.
        bytes: u64,
        /// Tells that there are more than were counted.
        is_at_least: bool,
    },
    /// It is pinned, and all of it is here if that was waited for.
    Pinned {},
    /// It is not pinned, or not all of it can be fetched: see the message.
    Error(Failure),
}

/// The answer to [`Request::Unpin`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpinned {
    /// The path under the mount point of a directory whose pin covers it still.
    pub still_by: Option<String>,
}

/// Why a request was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// It failed.
    Failed,
    /// The request is not understood.
    BadRequest,
    /// There is no such file.
    NotFound,
    /// The server cannot be reached.
    Offline,
    /// Time is up.
    TimedOut,
}

/// A failure as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Why.
    pub code: Code,
    /// For people.
    pub message: String,
}

/// An answer as it is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// It was not done.
    Error {
        /// Why.
        error: Failure,
    },
    /// It was done.
    Done(serde_json::Value),
}

impl Failure {
    /// Makes one.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
