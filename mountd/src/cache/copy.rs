//! Copies ranges between backing files inside the kernel.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use crate::limits::COPY_BUFFER_LEN;

/// Copies `range` of `from` to offset `to_offset` of `to`. Blocks on the disk; shares blocks where the file system can.
pub(crate) fn copy_range(from: &File, range: Range<u64>, to: &File, to_offset: u64) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let wanted = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(1 << 30);
        let target = to_offset + (at - range.start);
        let copied = match copy_some(from, at, to, target, wanted) {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EXDEV | libc::EOPNOTSUPP | libc::EINVAL)) =>
            {
                copy_by_hand(from, at, to, target, wanted)?
            }
            copied => copied?,
        };
        if copied == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        at += copied as u64;
    }
    Ok(())
}

/// Copies between file systems that the kernel does not copy between.
fn copy_by_hand(from: &File, from_at: u64, to: &File, to_at: u64, len: usize) -> io::Result<usize> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; len.min(COPY_BUFFER_LEN)];
    let read = from.read_at(&mut buffer, from_at)?;
    to.write_all_at(&buffer[..read], to_at)?;
    Ok(read)
}

/// As `copy_file_range(2)`: returns how many bytes were copied.
pub(crate) fn copy_some(
    from: &File,
    from_offset: u64,
    to: &File,
    to_offset: u64,
    len: usize,
) -> io::Result<usize> {
    let too_far = |_| io::Error::from_raw_os_error(libc::EOVERFLOW);
    let mut from_at = i64::try_from(from_offset).map_err(too_far)?;
    let mut to_at = i64::try_from(to_offset).map_err(too_far)?;
    // SAFETY: both descriptors are open for the whole call and the offsets are valid for reads and writes.
    let copied = unsafe {
        libc::copy_file_range(from.as_raw_fd(), &raw mut from_at, to.as_raw_fd(), &raw mut to_at, len, 0)
    };
    usize::try_from(copied).map_err(|_| io::Error::last_os_error())
}

/// Moves to the next data (`SEEK_DATA`) or hole (`SEEK_HOLE`) at or after `offset`.
///
/// Moves the descriptor's own position, which nothing else uses.
pub(crate) fn seek(file: &File, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: the descriptor is open for the whole call.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    if found < 0 { Err(io::Error::last_os_error()) } else { Ok(found) }
}

/// As `fallocate(2)`.
pub(crate) fn fallocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let too_far = |_| io::Error::from_raw_os_error(libc::EFBIG);
    let offset = i64::try_from(offset).map_err(too_far)?;
    let len = i64::try_from(len).map_err(too_far)?;
    // SAFETY: the descriptor is open for the whole call, which touches no memory of this process.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Copies a whole file and keeps its holes.
pub(super) fn copy_file(from: &File, to: &File) -> io::Result<()> {
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let mut at = 0;
    loop {
        let data = match seek(from, at, libc::SEEK_DATA) {
            Ok(data) => data,
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(()),
            Err(error) => return Err(error),
        };
        let hole = seek(from, data, libc::SEEK_HOLE)?;
        copy_range(from, data.unsigned_abs()..hole.unsigned_abs(), to, data.unsigned_abs())?;
        at = hole;
    }
}
