//! The room on the store's disk, and the reserve for the journal; the head of the module above says what they are for.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::{Inner, Store};
use crate::limits;

impl Store {
    /// Returns how little room the store's disk has; `None` while it is comfortable.
    #[must_use]
    pub fn shortage(&self) -> Option<Shortage> {
        if matches!(&*self.inner.read(), Some(Inner::Memory(_))) {
            return None;
        }
        let space = space_of(&self.dir).ok()?;
        let comfortable = (space.all / 8).min(limits::DISK_LOW);
        let lacks = comfortable.saturating_sub(space.free);
        (lacks > 0).then_some(Shortage { lacks, comfortable })
    }

    /// Returns the room in bytes that this process may still use on the store's file system.
    pub(super) fn room(&self) -> u64 {
        match &*self.inner.read() {
            Some(Inner::Memory(memory)) => {
                if memory.is_full() {
                    0
                } else {
                    u64::MAX
                }
            }
            Some(Inner::Database { .. }) | None => space_of(&self.dir).map_or(u64::MAX, |space| space.free),
        }
    }

    fn reserve_path(&self) -> PathBuf {
        self.dir.join("reserve")
    }

    pub(super) fn release_reserve(&self) {
        if self.reserve_held.swap(false, Ordering::AcqRel) {
            tracing::warn!(dir = %self.dir.display(), "the disk is full: using the reserve for the journal");
            if let Err(error) = std::fs::remove_file(self.reserve_path()) {
                tracing::error!(%error, "the reserve file cannot be removed");
            }
        }
    }

    /// Takes the reserve (again) if there is ample room for it. Called at start and from time to time.
    pub fn watch_reserve(&self) {
        if self.reserve_held.load(Ordering::Acquire) || matches!(&*self.inner.read(), Some(Inner::Memory(_)))
        {
            return;
        }
        if self.room() < limits::STORE_FREE_MIN + 2 * limits::STORE_RESERVE_BYTES {
            return;
        }
        match preallocate(&self.reserve_path()) {
            Ok(()) => self.reserve_held.store(true, Ordering::Release),
            Err(error) => tracing::warn!(%error, "no reserve for a full disk can be kept"),
        }
    }
}

fn preallocate(path: &Path) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let file = File::create(path)?;
    let len = libc::off_t::try_from(limits::STORE_RESERVE_BYTES).unwrap_or(libc::off_t::MAX);
    // SAFETY: the descriptor is open for the whole call, which touches no memory of this process.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len) } {
        0 => Ok(()),
        errno => {
            let _ = std::fs::remove_file(path);
            Err(std::io::Error::from_raw_os_error(errno))
        }
    }
}

/// What a disk with little room lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes to be freed, so that it is comfortable again.
    pub lacks: u64,
    /// How much room that is: [`limits::DISK_LOW`], or an eighth of a small disk.
    pub comfortable: u64,
}

/// A file system's bytes.
struct DiskSpace {
    /// How many it has.
    all: u64,
    /// How many this process may still allocate.
    free: u64,
}

/// Returns the space of the file system that holds `path`.
fn space_of(path: &Path) -> std::io::Result<DiskSpace> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with NUL and `found` has room for the structure that the call fills on success.
    if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it filled the structure.
    let found = unsafe { found.assume_init() };
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let blocks = if root { found.f_bfree } else { found.f_bavail };
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(DiskSpace { all: bytes(found.f_blocks), free: bytes(blocks) })
}
