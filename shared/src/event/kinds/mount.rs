//! Events of a mount.

use crate::ids::NodeId;

/// A program wrote to, truncated or closed a changed file: its content may be worth sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileModified {
    /// The file.
    pub node: NodeId,
}

events!(FileModified);
