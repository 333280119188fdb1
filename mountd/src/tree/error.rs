//! Why an operation on the tree failed.

use dfs_shared::merkle::MerkleError;

/// Why an operation on the tree failed. `fs` maps each to one errno.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A node or a name does not exist.
    #[error("no such file or directory")]
    NotFound,
    /// The name exists already.
    #[error("the name exists already")]
    Exists,
    /// Something that has to be a directory is none.
    #[error("not a directory")]
    NotDirectory,
    /// Something that must not be a directory is one.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A directory would be moved into itself.
    #[error("a directory cannot be moved into itself")]
    IntoItself,
    /// The operation is not allowed on this sort of node.
    #[error("not permitted on this sort of node")]
    NotPermitted,
    /// The node has as many names as it can have.
    #[error("too many links")]
    TooManyLinks,
    /// The named extended attribute does not exist.
    #[error("no such attribute")]
    NoAttribute,
    /// An extended attribute, or all of a node together, is too large.
    #[error("attributes too large")]
    AttributesTooLarge,
    /// As many files and directories are pinned as can be.
    #[error(
        "{} files and directories are pinned, which is the most (PINS_MAX): pin a directory above them",
        crate::limits::PINS_MAX
    )]
    TooManyPins,
    /// The disk under the state directory is full.
    #[error("no space left under the state directory")]
    NoSpace,
    /// The store failed.
    #[error("the local store failed")]
    Store {
        /// What the store said.
        #[source]
        source: fjall::Error,
    },
    /// The store could not be opened again after a failed write: see the log; a restart is needed.
    #[error("the local store is closed after a failed write; restart the mount")]
    Closed,
    /// A stored value cannot be read.
    #[error("the local store holds a damaged {what}")]
    Damaged {
        /// Which sort of value.
        what: &'static str,
    },
    /// A remote change cannot be resolved before these files' contents have been hashed: see `Tree::set_contents`.
    #[error("{} files have to be hashed before the remote change can be applied", nodes.len())]
    HashFirst {
        /// The files.
        nodes: Vec<dfs_shared::ids::NodeId>,
    },
}

impl From<fjall::Error> for TreeError {
    fn from(source: fjall::Error) -> Self {
        match &source {
            fjall::Error::Io(error) if error.raw_os_error() == Some(libc::ENOSPC) => Self::NoSpace,
            _ => Self::Store { source },
        }
    }
}

impl From<MerkleError<TreeError>> for TreeError {
    fn from(error: MerkleError<TreeError>) -> Self {
        match error {
            MerkleError::Store(error) => error,
            MerkleError::Damaged { .. } => Self::Damaged { what: "Merkle node" },
        }
    }
}
