//! Open files: one [`OpenFile`] per inode that the kernel holds handles of.
//!
//! ```text
//!           open for writing and the quota is far, or larger than SMALL_FILE_LEN_MAX, and wholly here, and the kernel takes
//!           backing files
//! closed ──┬──────────────────────────────────────────────────────────────────► Passthrough ─┐ last
//!          └─ otherwise ──────────────────────────────────────────────────────► Cached ──────┴ release ─► closed
//! ```
//!
//! Invariant: every handle of an inode is in the mode that the first one got, and in passthrough mode all have one
//! backing id; the kernel answers anything else with EIO.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::effects::Invalidation;
use super::versions::Pages;
use super::{Caller, Fs, FsError, check_file, record_of};
use crate::cache::Backing;
use crate::limits::{LINGERING_MAX, SMALL_FILE_LEN_MAX, SYNC_LOOK_INTERVAL_MS};
use crate::tree::{Ino, LocalNode};

/// A backing file as the kernel knows it; the kernel forgets it when the last clone is dropped.
pub type Token = Arc<dyn Any + Send + Sync>;

/// Gives a backing file to the kernel.
pub type Register<'a> = &'a mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Token>;

/// A handle that was opened.
pub struct Opened {
    /// To be given back with every operation on the handle.
    pub handle: u64,
    /// Set in passthrough mode.
    pub token: Option<Token>,
    /// The pages that the kernel has are those of this version.
    pub keep_cache: bool,
    /// Closing it has nothing to tell.
    pub no_flush: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The kernel reads and writes the backing file itself.
    Passthrough,
    /// The kernel caches pages; the daemon serves the rest.
    Cached,
}

/// An inode that the kernel holds handles of.
pub(super) struct OpenFile {
    pub(super) inner: Mutex<OpenInner>,
}

/// What changes of an [`OpenFile`].
#[derive(Default)]
pub(super) struct OpenInner {
    pub(super) mode: Option<Mode>,
    pub(super) backing: Option<Arc<Backing>>,
    pub(super) token: Option<Token>,
    readers: u32,
    pub(super) writers: u32,
    /// Some handle could write through a mapping, which outlives the handle.
    mappable: bool,
    /// It was written in cached mode: the kernel's pages are the newest bytes.
    written: bool,
    /// The tree has a newer version than these handles read.
    pub(super) superseded: bool,
    /// It was made by the first of these handles, in this directory.
    made_in: Option<Ino>,
    /// When an fsync last looked for changes.
    looked: Option<Instant>,
    /// The last handle is gone; whoever finds this looks for another.
    closed: bool,
}

impl OpenFile {
    /// Tells whether some handle can write.
    pub(super) fn has_writers(&self) -> bool {
        self.inner.lock().writers > 0
    }

    /// Returns the bytes if somebody may be changing them.
    pub(super) fn backing_to_look_at(&self) -> Option<Arc<Backing>> {
        let inner = self.inner.lock();
        if inner.writers == 0 && !inner.superseded {
            return None;
        }
        inner.backing.clone()
    }

    /// Returns the bytes that the handles read and write now.
    pub(super) fn backing(&self) -> Result<Arc<Backing>, FsError> {
        self.inner.lock().backing.clone().ok_or(FsError::BadHandle)
    }

    /// Tells whether an fsync is to look for changes. A database syncs all the time: between two looks its bytes are safe here, and
    /// the mark says that they may not be known.
    pub(super) fn is_look_due(&self) -> bool {
        let mut inner = self.inner.lock();
        let due = inner.looked.is_none_or(|at| at.elapsed() >= Duration::from_millis(SYNC_LOOK_INTERVAL_MS));
        if due {
            inner.looked = Some(Instant::now());
        }
        due
    }

    /// Notes that the daemon wrote.
    pub(super) fn written(&self) {
        self.inner.lock().written = true;
    }
}

fn access(flags: i32) -> i32 {
    flags & libc::O_ACCMODE
}

impl Fs {
    /// Opens a file; with `O_TRUNC` it is empty afterwards. Blocks on the disk, never on the network.
    ///
    /// # Errors
    /// [`FsError`]: `Stale`, `IsDirectory`, `Invalid` (no file), `ReadOnly`, or a failing disk or tree.
    pub fn open(
        &self,
        ino: Ino,
        flags: i32,
        caller: Caller,
        register: Register<'_>,
    ) -> Result<Opened, FsError> {
        let changes = access(flags) != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
        if changes {
            self.check_writable()?;
        }
        let _hold = self.hold.read();
        let node = self.node(ino).map_err(stale)?;
        check_file(&node).map_err(stale)?;
        self.with_open_file(ino, |inner| self.open_locked(&node, inner, flags, caller, register))
    }

    fn open_locked(
        &self,
        node: &LocalNode,
        inner: &mut OpenInner,
        flags: i32,
        caller: Caller,
        register: Register<'_>,
    ) -> Result<Opened, FsError> {
        let writes = access(flags) != libc::O_RDONLY;
        let cuts = flags & libc::O_TRUNC != 0;
        let backing = match &inner.backing {
            Some(backing) => Arc::clone(backing),
            None => self.cache.backing(node)?,
        };
        if (writes || cuts) && inner.writers == 0 && backing.node() == Some(node.id) {
            self.mark_open(node.id)?;
        }
        if writes || cuts {
            backing.adopt(inner.mode.is_none())?;
        }
        if cuts {
            backing.set_len(0)?;
            self.notice(&backing, true)?;
            if caller.uid != 0 {
                self.kill_privileges(node.ino, caller)?;
            }
        }
        let privileged = writes && caller.uid != 0 && self.has_privileges(node, caller)?;
        if privileged && inner.mode == Some(Mode::Passthrough) {
            // The kernel will not tell of the write that would take them away.
            self.kill_privileges(node.ino, caller)?;
        }
        if inner.mode.is_none() {
            let large = record_of(node)?.size > SMALL_FILE_LEN_MAX;
            let is_near = (writes || cuts) && self.looks_at_writes();
            let mut wanted = backing.is_whole() && !privileged && !is_near && (writes || cuts || large);
            if wanted {
                // Opening tells whether the file is there at all: the cache directory may have been emptied.
                backing.file()?;
                wanted = backing.is_whole();
            }
            self.choose_mode(inner, &backing, wanted, register)?;
            backing.use_it();
            inner.backing = Some(Arc::clone(&backing));
        }
        if writes {
            inner.writers += 1;
            inner.mappable |= access(flags) == libc::O_RDWR;
        } else {
            inner.readers += 1;
            if cuts && inner.writers == 0 && backing.node() == Some(node.id) {
                self.unmark_open(node.id)?;
            }
        }
        let keep_cache = inner.mode == Some(Mode::Cached)
            && match self.kernel_pages(node.ino, &backing)? {
                Pages::Current => true,
                Pages::None => {
                    inner.readers == 1 && inner.writers == 0 && self.give_pages(node.ino, &backing)
                }
                Pages::Other => false,
            };
        Ok(opened(inner, flags, keep_cache))
    }

    fn choose_mode(
        &self,
        inner: &mut OpenInner,
        backing: &Backing,
        wanted: bool,
        register: Register<'_>,
    ) -> Result<(), FsError> {
        inner.mode = Some(Mode::Cached);
        if !wanted || !self.passthrough.load(Ordering::Acquire) {
            return Ok(());
        }
        let file = backing.file()?;
        match register(file.as_fd()) {
            Ok(token) => {
                inner.token = Some(token);
                inner.mode = Some(Mode::Passthrough);
            }
            Err(error) => {
                tracing::warn!(%error, "the kernel takes no backing files; the daemon serves the data");
                self.passthrough.store(false, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Registers the handle of a file that was just created.
    pub(super) fn open_created(
        &self,
        parent: Ino,
        node: &LocalNode,
        backing: &Arc<Backing>,
        flags: i32,
        register: Register<'_>,
    ) -> Result<Opened, FsError> {
        self.with_open_file(node.ino, |inner| {
            inner.made_in = Some(parent);
            self.choose_mode(inner, backing, !self.looks_at_writes(), register)?;
            backing.use_it();
            inner.backing = Some(Arc::clone(backing));
            if access(flags) == libc::O_RDONLY {
                inner.readers += 1;
                self.unmark_open(node.id)?;
            } else {
                inner.writers += 1;
                inner.mappable |= access(flags) == libc::O_RDWR;
            }
            Ok(opened(inner, flags, false))
        })
    }

    /// Runs `work` on the open file of an inode, making one if there is none, and removes it if no handle is left.
    fn with_open_file<T>(
        &self,
        ino: Ino,
        work: impl FnOnce(&mut OpenInner) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        loop {
            let file = {
                let mut files = self.open_files.lock();
                let make = || Arc::new(OpenFile { inner: Mutex::default() });
                Arc::clone(files.entry(ino).or_insert_with(make))
            };
            let mut inner = file.inner.lock();
            if inner.closed {
                continue;
            }
            let result = work(&mut inner);
            if inner.readers + inner.writers == 0 {
                self.close(ino, &mut inner);
            }
            return result;
        }
    }

    /// Takes a handle back. Tells the tree of changes, also of those through a mapping.
    ///
    /// # Errors
    /// [`FsError`]: `BadHandle`, or a failing disk or tree; the handle is gone all the same.
    pub fn release(&self, ino: Ino, handle: u64) -> Result<(), FsError> {
        let _hold = self.hold.read();
        let file = self.open_file(ino).ok_or(FsError::BadHandle)?;
        let mut inner = file.inner.lock();
        let backing = inner.backing.clone().ok_or(FsError::BadHandle)?;
        let mut result = Ok(());
        if handle == 0 {
            inner.readers = inner.readers.saturating_sub(1);
        } else {
            inner.writers = inner.writers.saturating_sub(1);
            result = self.release_writer(ino, &inner, &backing);
        }
        if inner.readers + inner.writers == 0 {
            self.close(ino, &mut inner);
        }
        result
    }

    fn release_writer(&self, ino: Ino, inner: &OpenInner, backing: &Arc<Backing>) -> Result<(), FsError> {
        // Of a write the kernel knows; of a change through a mapping it does not.
        if self.notice(backing, false)? && inner.mode == Some(Mode::Passthrough) && inner.mappable {
            self.invalidations.send(Invalidation::Attributes { ino });
        }
        let Some(node) = backing.node() else { return Ok(()) };
        match inner.made_in {
            Some(dir) => self.touched.dir(dir),
            None => self.touched.file(node),
        }
        if inner.writers > 0 {
            return Ok(());
        }
        // The content is complete now: whoever waited for that is to look again.
        (self.on_modified)(node);
        if inner.mappable && inner.mode == Some(Mode::Passthrough) {
            backing.use_it();
            backing.close_file();
            let mut lingering = self.lingering.lock();
            lingering.push(Arc::clone(backing));
            if lingering.len().is_multiple_of(LINGERING_MAX) {
                self.bell.ring();
            }
            return Ok(());
        }
        self.unmark_open(node)
    }

    fn close(&self, ino: Ino, inner: &mut OpenInner) {
        inner.closed = true;
        self.open_files.lock().remove(&ino);
        inner.token = None;
        let Some(backing) = inner.backing.take() else { return };
        backing.unuse();
        if inner.superseded {
            self.invalidations.send(Invalidation::Data { ino });
        } else if inner.mode == Some(Mode::Cached)
            && inner.written
            && let Err(error) = self.kernel_pages(ino, &backing)
        {
            tracing::debug!(%error, "the kernel will drop its pages of a file");
        }
    }
}

/// Whoever opens came by a name, which the kernel looked up before.
fn stale(error: FsError) -> FsError {
    if matches!(error, FsError::NotFound) { FsError::Stale } else { error }
}

fn opened(inner: &OpenInner, flags: i32, keep_cache: bool) -> Opened {
    Opened {
        handle: u64::from(access(flags) != libc::O_RDONLY),
        token: inner.token.clone(),
        keep_cache,
        // Writes through the kernel have had their errors already, and the release looks for what they changed.
        no_flush: access(flags) == libc::O_RDONLY || inner.token.is_some(),
    }
}
