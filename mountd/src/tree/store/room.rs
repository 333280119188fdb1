//! The room on the store's disk, and the reserve for the journal; the head of the module above says what they are for.

use std::fs::File;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::{Inner, Store, TreeError};
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

    /// Tells whether the disk can take so many bytes and leave the journal what it needs.
    #[must_use]
    pub fn takes(&self, bytes: u64) -> bool {
        self.room() >= bytes.saturating_add(limits::STORE_FREE_MIN)
    }

    /// Takes the reserve (again) if there is ample room for it. Called at start, when files were removed, and from time to time.
    pub fn watch_reserve(&self) {
        if !self.reserve.is_whole() {
            self.reserve.take(self.room());
        }
    }
}

/// Room that is kept for the journal, in files. What is given back to the file system anybody can take, so it goes bit by bit.
#[derive(Debug)]
pub(super) struct Reserve {
    /// `None` of a store in memory.
    dir: Option<PathBuf>,
    /// Parts that are held: the first so many.
    held: Mutex<usize>,
}

impl Reserve {
    /// Finds what an earlier run held.
    pub(super) fn open(dir: &Path) -> Self {
        let reserve = Self { dir: Some(dir.to_owned()), held: Mutex::new(0) };
        let parts = (0..limits::STORE_RESERVE_PARTS)
            .take_while(|part| reserve.path(*part).is_some_and(|path| path.exists()));
        *reserve.held.lock() = parts.count();
        reserve
    }

    /// A reserve that never has anything.
    pub(super) const fn none() -> Self {
        Self { dir: None, held: Mutex::new(0) }
    }

    fn path(&self, part: usize) -> Option<PathBuf> {
        let name = if part == 0 { "reserve".to_owned() } else { format!("reserve.{part}") };
        self.dir.as_ref().map(|dir| dir.join(name))
    }

    fn is_whole(&self) -> bool {
        self.dir.is_none() || *self.held.lock() == limits::STORE_RESERVE_PARTS
    }

    /// Gives a part back to the file system; tells whether there was one.
    pub(super) fn release(&self) -> bool {
        let mut held = self.held.lock();
        let Some(path) = held.checked_sub(1).and_then(|part| self.path(part)) else { return false };
        *held -= 1;
        tracing::warn!(path = %path.display(), left = *held, "the disk is full: using a part of the reserve for the journal");
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::error!(%error, "a part of the reserve cannot be removed");
        }
        true
    }

    fn take(&self, room: u64) {
        if room
            < limits::STORE_FREE_MIN
                + 2 * limits::STORE_RESERVE_PARTS as u64 * limits::STORE_RESERVE_PART_BYTES
        {
            return;
        }
        let mut held = self.held.lock();
        while *held < limits::STORE_RESERVE_PARTS {
            let Some(path) = self.path(*held) else { return };
            if let Err(error) = preallocate(&path) {
                tracing::warn!(%error, "no reserve for a full disk can be kept");
                return;
            }
            *held += 1;
        }
    }

    /// Does what may find the disk full, again for each part of the reserve that is left.
    pub(super) fn with<T>(&self, work: impl Fn() -> Result<T, TreeError>) -> Result<T, TreeError> {
        loop {
            match work() {
                Err(TreeError::NoSpace) if self.release() => {}
                done => return done,
            }
        }
    }
}

fn preallocate(path: &Path) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let file = File::create(path)?;
    let len = libc::off_t::try_from(limits::STORE_RESERVE_PART_BYTES).unwrap_or(libc::off_t::MAX);
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
