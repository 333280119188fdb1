//! Bytes of open files, for handles that the daemon serves; and what the kernel always asks the daemon for: allocation,
//! holes, copies.

use std::sync::Arc;

use dfs_shared::ids::NodeId;

use super::open::OpenFile;
use super::{Caller, Fs, FsError};
use crate::cache::{Backing, CacheError, copy_some, fallocate, seek};
use crate::limits::FETCHES_PER_READ_MAX;
use crate::tree::Ino;

/// Takes what was read.
pub type ReadDone = Box<dyn FnOnce(Result<&[u8], FsError>) + Send>;

thread_local! {
    /// One buffer per thread: reads are up to a megabyte, and clearing a fresh one costs more than filling it.
    static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Fs {
    /// Reads up to `len` bytes and gives them to `done`: at once, or from another thread if they have to be fetched, at the
    /// latest when the deadline of the last of `FETCHES_PER_READ_MAX` fetches passes.
    pub fn read(&self, ino: Ino, offset: u64, len: u32, done: ReadDone) {
        self.read_within(ino, offset, len, FETCHES_PER_READ_MAX, done);
    }

    fn read_within(&self, ino: Ino, offset: u64, len: u32, fetches: u32, done: ReadDone) {
        let backing = match self.open_file(ino).ok_or(FsError::BadHandle).and_then(|open| open.backing()) {
            Ok(backing) => backing,
            Err(error) => return done(Err(error)),
        };
        let Some(done) = try_read(&backing, offset, len, done) else { return };
        if let Some(node) = backing.origin() {
            return self.fetch_and_read(ino, (node, backing), (offset, len), fetches, done);
        }
        // The version was replaced before any of it was here: the handle goes on with the newest.
        let newest = self.node(ino).and_then(|node| Ok(self.cache.backing(&node)?));
        match newest.map(|backing| (backing.node(), backing)) {
            Ok((Some(node), backing)) => {
                if let Some(done) = try_read(&backing, offset, len, done) {
                    self.fetch_and_read(ino, (node, backing), (offset, len), fetches, done);
                }
            }
            Ok((None, _)) => done(Err(FsError::NotFound)),
            Err(error) => done(Err(error)),
        }
    }

    fn fetch_and_read(
        &self,
        ino: Ino,
        (node, backing): (NodeId, Arc<Backing>),
        (offset, len): (u64, u32),
        fetches: u32,
        done: ReadDone,
    ) {
        let Some(fetches) = fetches.checked_sub(1) else {
            return done(Err(FsError::Cache(CacheError::Partial)));
        };
        let (range, fs) = (offset..offset.saturating_add(u64::from(len)), self.this.clone());
        let fetched = Box::new(move |result: Result<(), _>| match result {
            Ok(()) => {
                let Some(done) = try_read(&backing, offset, len, done) else { return };
                // A newer version came meanwhile, and what was fetched is of that one.
                match fs.upgrade() {
                    Some(fs) => fs.read_within(ino, offset, len, fetches, done),
                    None => done(Err(FsError::Cache(CacheError::Partial))),
                }
            }
            Err(error) => done(Err(FsError::Fetch(error))),
        });
        self.fetch.fetch(node, range, fetched);
    }

    /// Writes all of `data`. The set-id bits go if it is `killer` who writes.
    ///
    /// # Errors
    /// [`FsError`]: `BadHandle`, `OverQuota`, or a failing disk or tree.
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8], killer: Option<Caller>) -> Result<(), FsError> {
        let _hold = self.hold.read();
        let open = self.open_file(ino).ok_or(FsError::BadHandle)?;
        let backing = open.backing()?;
        let grows = self.check_write(&backing, offset, data.len())?;
        backing.write_at(data, offset)?;
        open.written();
        self.grown(&backing, grows)?;
        if let Some(caller) = killer {
            self.kill_privileges(ino, caller)?;
        }
        Ok(())
    }

    /// Reserves, punches out or zeroes a range, as `fallocate(2)`.
    ///
    /// # Errors
    /// [`FsError`]: `BadHandle`, `NotSupported` (the mode), or a failing disk or tree.
    pub fn fallocate(
        &self,
        ino: Ino,
        (offset, len): (u64, u64),
        mode: i32,
        caller: Caller,
    ) -> Result<(), FsError> {
        let known = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        if mode & !known != 0 {
            return Err(FsError::NotSupported);
        }
        let _hold = self.hold.read();
        let open = self.open_file(ino).ok_or(FsError::BadHandle)?;
        let backing = open.backing()?;
        if mode & libc::FALLOC_FL_PUNCH_HOLE == 0 {
            self.check_disk(&backing, len)?;
        }
        let changes_bytes = mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0;
        let end = offset.saturating_add(len);
        if mode & (libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE) == 0 {
            self.check_room(&backing, end)?;
        }
        let range = if changes_bytes { offset..end } else { end..end };
        backing.change(range, "allocate", |file| fallocate(file, mode, offset, len))?;
        open.written();
        self.notice_backing(&backing)?;
        self.bytes_changed_by(ino, caller)
    }

    /// Finds the next data or hole, as `lseek(2)` with `SEEK_DATA` and `SEEK_HOLE`. What is not here counts as data.
    ///
    /// # Errors
    /// [`FsError`]: `BadHandle`, `NoSuchOffset`, `Invalid` (another `whence`), or a failing disk.
    pub fn lseek(&self, ino: Ino, offset: i64, whence: i32) -> Result<i64, FsError> {
        let backing = self.open_file(ino).ok_or(FsError::BadHandle)?.backing()?;
        let at = u64::try_from(offset).map_err(|_| FsError::NoSuchOffset)?;
        if backing.is_whole() {
            let file = backing.file()?;
            if backing.is_whole() {
                return Ok(seek(&file, offset, whence)?);
            }
        }
        let size = backing.size()?;
        if at >= size {
            return Err(FsError::NoSuchOffset);
        }
        let size = i64::try_from(size).map_err(|_| FsError::Invalid)?;
        match whence {
            libc::SEEK_DATA => Ok(offset),
            libc::SEEK_HOLE => Ok(size),
            _ => Err(FsError::Invalid),
        }
    }

    /// Copies between two open files inside the kernel. Returns how much was copied.
    ///
    /// # Errors
    /// [`FsError`]: `BadHandle`, `NotSupported` when bytes would have to be fetched (the caller then reads and writes), or a failing disk or tree.
    pub fn copy_range(
        &self,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
        caller: Caller,
    ) -> Result<usize, FsError> {
        let _hold = self.hold.read();
        let source = self.open_file(from.0).ok_or(FsError::BadHandle)?.backing()?;
        let open: Arc<OpenFile> = self.open_file(to.0).ok_or(FsError::BadHandle)?;
        let target = open.backing()?;
        if !source.is_whole() || !target.is_whole() {
            return Err(FsError::NotSupported);
        }
        let source = source.file()?;
        // The kernel takes 32-bit answers.
        let len = usize::try_from(len.min(1 << 30)).unwrap_or(1 << 30);
        // No more than the source has: callers ask for as much as there may be.
        let there = source.metadata()?.len().saturating_sub(from.1).min(len as u64);
        self.check_room(&target, to.1.saturating_add(there))?;
        let mut copied = 0;
        target.change(0..0, "copy to", |file| {
            copied = copy_some(&source, from.1, file, to.1, len)?;
            Ok(())
        })?;
        open.written();
        self.notice_backing(&target)?;
        self.bytes_changed_by(to.0, caller)?;
        Ok(copied)
    }
}

/// Reads and calls `done`, or gives it back if bytes have to be fetched first.
fn try_read(backing: &Backing, offset: u64, len: u32, done: ReadDone) -> Option<ReadDone> {
    BUFFER.with_borrow_mut(|buffer| {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        match backing.read_at(&mut buffer[..len], offset) {
            Ok(read) => done(Ok(&buffer[..read])),
            Err(CacheError::Partial) => return Some(done),
            Err(error) => done(Err(error.into())),
        }
        None
    })
}
