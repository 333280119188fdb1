//! Room on the disk of the data directory that bytes of files may not take: it is for the metadata.
//!
//! A database without any room cannot be opened, nor forget what would make room. So chunks are refused while some is left, and a
//! server whose disk is full starts, is read, and collects.

use std::io;
use std::path::Path;

use crate::limits::DISK_RESERVE;

/// Checks that the disk with this path may take so many bytes of files. Costs one system call.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`].
pub(crate) fn check(path: &Path, len: u64) -> io::Result<()> {
    // A disk that cannot be asked tells the writer itself.
    let Ok(disk) = rustix::fs::statvfs(path) else { return Ok(()) };
    let (all, free) =
        (disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize));
    match takes(all, free, len) {
        true => Ok(()),
        false => Err(io::ErrorKind::StorageFull.into()),
    }
}

fn takes(all: u64, free: u64, len: u64) -> bool {
    free >= len.saturating_add(DISK_RESERVE.min(all / 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_left_and_of_a_small_disk_an_eighth() {
        let large = 100 * DISK_RESERVE;
        assert!(takes(large, DISK_RESERVE + 10, 10));
        assert!(!takes(large, DISK_RESERVE + 9, 10));
        assert!(takes(800, 110, 10));
        assert!(!takes(800, 109, 10));
        assert!(!takes(large, large, u64::MAX));
    }
}
