//! What a mount tells of itself: which contents it holds, and what it has done. docs/PROTOCOL.md has the rules.
//!
//! Nothing here changes a file. Losing a report delays what `replicas` shows and loses events, nothing else.

use serde::{Deserialize, Serialize};

use crate::hash::ContentId;
use crate::ids::{ClientId, NodeId};
use crate::limits::{REPORT_EVENTS_MAX, REPORT_HELD_MAX};
use crate::revision::Revision;

/// Tells what a mount holds and what it has done since its last report: `POST /sync/{volume}/report`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRequest {
    /// Who tells.
    pub client: ClientId,
    /// The number of the report that this one follows, as the last reply gave it; it becomes the next one.
    pub after: u64,
    /// What earlier reports said is void: this is the first part of all that the mount holds.
    pub anew: bool,
    /// Files whose holding changed, at most `limits::REPORT_HELD_MAX`, no file twice.
    #[serde(deserialize_with = "super::bounded::list::<REPORT_HELD_MAX, _, _>")]
    pub held: Vec<Held>,
    /// What happened, in order, at most `limits::REPORT_EVENTS_MAX`.
    #[serde(deserialize_with = "super::bounded::list::<REPORT_EVENTS_MAX, _, _>")]
    pub events: Vec<MountEvent>,
}

/// Which content of a file a mount holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The file.
    pub node: NodeId,
    /// What is there of it.
    pub holding: Holding,
}

/// What a mount holds of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holding {
    /// Not all bytes of any content that was committed.
    Nothing,
    /// All bytes of this content; `None` is the empty one.
    Whole(Option<ContentId>),
}

/// Something that happened on a mount. Paths are bytes from the volume's root, without a leading slash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountEvent {
    /// It began to compare its tree with the server's.
    SyncStarted,
    /// It is in step with the server.
    SyncCompleted {
        /// The revision that it is in step with.
        revision: Revision,
        /// Records that were news to it.
        records: u64,
    },
    /// It could not get in step with the server, or lost it.
    SyncFailed {
        /// Why, for people.
        reason: String,
    },
    /// It has fetched a file to its end.
    Downloaded {
        /// Where the file is.
        #[serde(with = "crate::byte_string")]
        path: Vec<u8>,
        /// What was fetched.
        content: ContentId,
        /// Its length in bytes.
        size: u64,
    },
    /// Its own version of a file and the server's exclude each other.
    ConflictDetected {
        /// Where the file is.
        #[serde(with = "crate::byte_string")]
        path: Vec<u8>,
    },
    /// It has kept both versions.
    ConflictResolved {
        /// Where the file is that has the server's version.
        #[serde(with = "crate::byte_string")]
        path: Vec<u8>,
        /// Where its own version is now.
        #[serde(with = "crate::byte_string")]
        copy: Vec<u8>,
    },
}

/// Answers [`ReportRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportReply {
    /// The number of the newest report that the server has from this client.
    pub number: u64,
    /// Whether what the mount holds was noted. If not, the report did not follow the newest one: the mount has to
    /// tell everything anew.
    pub is_noted: bool,
}
