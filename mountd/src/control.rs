//! The socket on which `dfs` talks to a running mount: one JSON object per line, each answered by one.
//!
//! | request | answer |
//! |---|---|
//! | `{"command":"status"}` | [`MountStatus`] |
//! | `{"command":"wait","timeout_ms":N}` | `{"reached":true}` when all that was changed before is on the server |
//! | `{"command":"explain","path":[bytes]}` | [`Explanation`] |
//! | `{"command":"evict","path":[bytes]}` | `{}` |
//! | `{"command":"conflicts"}` | [`ConflictList`] |
//! | `{"command":"resolve","copies":[node ids]}` | `{}`: those conflicts are forgotten |
//! | `{"command":"unmount","flush":bool}` | `{}`, then the mount ends and the socket closes |
//!
//! A failure is `{"error":{"code":…,"message":…}}`; the codes are those of [`Code`].

use serde::{Deserialize, Serialize};

use crate::engine::Status;

pub mod client;
pub mod server;

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
    /// Which conflicts nobody has decided.
    Conflicts,
    /// Forget conflicts: somebody has decided.
    Resolve {
        /// The nodes of their copies, as [`Conflict::copy`] has them.
        copies: Vec<String>,
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
    /// `synced`, `journaled`, `uploading` or `stuck`.
    pub state: String,
    /// In words.
    pub text: String,
    /// Length in bytes.
    pub size: u64,
    /// Tells whether all its bytes are on this machine.
    pub here: bool,
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
