//! Why an operation on the file system failed. `fuse/errno.rs` gives each its errno.

use crate::cache::{CacheError, FetchError};
use crate::tree::TreeError;

/// Why an operation on the file system failed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The node or name does not exist.
    #[error("no such file or directory")]
    NotFound,
    /// The node is gone, though a name led the kernel to it a moment ago: the name may lead to another one.
    #[error("the node is gone")]
    Stale,
    /// The handle is not open.
    #[error("the handle is not open")]
    BadHandle,
    /// A directory where none is allowed.
    #[error("is a directory")]
    IsDirectory,
    /// The name is longer than 255 bytes, or a symlink's target than 4,095.
    #[error("the name is too long")]
    NameTooLong,
    /// An argument has no meaning here.
    #[error("invalid argument")]
    Invalid,
    /// Not supported on this file system.
    #[error("not supported")]
    NotSupported,
    /// Not permitted, for anybody.
    #[error("not permitted")]
    NotPermitted,
    /// The mount is read-only.
    #[error("the mount is read-only")]
    ReadOnly,
    /// The extended attribute does not exist.
    #[error("no such attribute")]
    NoAttribute,
    /// The attribute's value is longer than the caller's buffer.
    #[error("the value does not fit the buffer")]
    BufferTooSmall,
    /// The attribute's name is too long.
    #[error("the attribute's name is too long")]
    AttributeNameTooLong,
    /// The attribute's value is longer than 64 KiB.
    #[error("the attribute's value is too long")]
    AttributeTooLong,
    /// There is no data (no hole) at or after the offset.
    #[error("the offset is past the last data or hole")]
    NoSuchOffset,
    /// The program that reads is being killed.
    #[error("the program is being killed")]
    Interrupted,
    /// The volume's quota leaves no room for what would be written.
    #[error("the volume's quota leaves no room")]
    OverQuota,
    /// A system call on a backing file failed.
    #[error("a system call failed")]
    System {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The tree failed or refused.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Bytes that are not here could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl From<std::io::Error> for FsError {
    fn from(source: std::io::Error) -> Self {
        Self::System { source }
    }
}
