//! The one place where failures become errno numbers: exhaustive, without a catch-all.

use fuser::Errno;

use crate::cache::{CacheError, FetchError};
use crate::fs::FsError;
use crate::tree::TreeError;

/// Returns the errno of a failure, and logs those that nobody expects.
pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        // The kernel looks the path up once more.
        FsError::Stale => Errno::ESTALE,
        FsError::BadHandle => Errno::EBADF,
        FsError::IsDirectory => Errno::EISDIR,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::Invalid => Errno::EINVAL,
        FsError::NotSupported => Errno::EOPNOTSUPP,
        FsError::NotPermitted => Errno::EPERM,
        FsError::ReadOnly => Errno::EROFS,
        FsError::NoAttribute => Errno::ENODATA,
        FsError::BufferTooSmall | FsError::AttributeNameTooLong => Errno::ERANGE,
        FsError::AttributeTooLong => Errno::E2BIG,
        FsError::NoSuchOffset => Errno::ENXIO,
        FsError::Interrupted => Errno::EINTR,
        // Not EDQUOT: `statfs` shows the quota as the size, so programs that look there find what they expect.
        FsError::OverQuota => Errno::ENOSPC,
        FsError::System { source } => of_io(source),
        FsError::Tree(error) => of_tree(error),
        FsError::Cache(error) => of_cache(error),
        FsError::Fetch(error) => of_fetch(error),
    }
}

fn of_io(error: &std::io::Error) -> Errno {
    match error.raw_os_error() {
        Some(code) => Errno::from_i32(code),
        None => Errno::EIO,
    }
}

fn of_tree(error: &TreeError) -> Errno {
    match error {
        TreeError::NotFound => Errno::ENOENT,
        TreeError::Exists => Errno::EEXIST,
        TreeError::NotDirectory => Errno::ENOTDIR,
        TreeError::IsDirectory => Errno::EISDIR,
        TreeError::NotEmpty => Errno::ENOTEMPTY,
        TreeError::IntoItself => Errno::EINVAL,
        TreeError::NotPermitted => Errno::EPERM,
        TreeError::TooManyLinks => Errno::EMLINK,
        TreeError::NoAttribute => Errno::ENODATA,
        TreeError::AttributesTooLarge | TreeError::NoSpace | TreeError::TooManyPins => Errno::ENOSPC,
        TreeError::Store { .. }
        | TreeError::Closed
        | TreeError::Damaged { .. }
        | TreeError::HashFirst { .. } => {
            tracing::error!(%error, source = ?std::error::Error::source(error), "the tree failed");
            Errno::EIO
        }
    }
}

fn of_cache(error: &CacheError) -> Errno {
    match error {
        CacheError::Io { source, .. } => {
            let errno = of_io(source);
            if errno != Errno::ENOSPC {
                tracing::warn!(%error, %source, "a backing file failed");
            }
            errno
        }
        CacheError::Tree { source } => of_tree(source),
        CacheError::NotFound => Errno::ENOENT,
        CacheError::Busy | CacheError::Pinned { .. } => Errno::EBUSY,
        CacheError::Partial | CacheError::Changed => Errno::EIO,
        CacheError::Lost { .. } => {
            tracing::error!(%error, "bytes are lost");
            Errno::EIO
        }
    }
}

fn of_fetch(error: &FetchError) -> Errno {
    match error {
        FetchError::Offline => Errno::EHOSTUNREACH,
        FetchError::TimedOut => Errno::ETIMEDOUT,
        FetchError::NoSpace => Errno::ENOSPC,
        FetchError::Corrupt { .. } | FetchError::NotFound | FetchError::Failed { .. } => {
            tracing::error!(%error, "content could not be fetched");
            Errno::EIO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_enospc_wherever_it_is_met() {
        let full = || std::io::Error::from_raw_os_error(libc::ENOSPC);
        let io = CacheError::Io { action: "write", path: "/x".into(), source: full() };
        for error in [
            FsError::System { source: full() },
            FsError::OverQuota,
            FsError::Tree(TreeError::NoSpace),
            FsError::Cache(io),
            FsError::Fetch(FetchError::NoSpace),
        ] {
            assert_eq!(errno(&error), Errno::ENOSPC, "{error}");
        }
    }
}
