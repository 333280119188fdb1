//! One file's bytes on this mount: its backing file, which ranges of it are there, and who uses it.
//!
//! ```text
//!  Absent ──create_row──► Partial ──last range──► Whole ──evict──► Absent
//!                            ▲                      │
//!                            └─ damage, forgotten ──┘      every state ──detach──► Detached: the row is not ours any more;
//!                               while nobody uses it                                the file goes with the last user
//! ```
//!
//! The tree's row ([`ContentState`]) is what counts after a restart; here stands what counts while the mount
//! runs. They differ only in that fetched ranges are written down in batches.
//!
//! Invariants:
//! - While one of these lives, nobody else changes its row's `file`, `place` or `present`.
//! - The lock here is taken before the tree's writer lock, never after it.
//! - Bytes are in the file before a range is called present, and a written range is in the row before the reply.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use dfs_shared::hash::ContentId;
use dfs_shared::ids::NodeId;
use parking_lot::Mutex;

use super::files::{Adopted, can_others_write, not_before, read_full, same_bytes, stamp_of};
use super::ranges::RangeSet;
use super::{Cache, CacheError};
use crate::tree::content::{ContentState, FileId, Place, Present, Stamp};
use crate::tree::namespace::ContentChange;

/// One file's bytes on this mount. Shared by everyone who uses them at the same time.
pub struct Backing {
    pub(super) cache: Arc<Cache>,
    /// Changes only while there is no file: filling may take over the one of the old version.
    id: AtomicU64,
    whole: AtomicBool,
    pub(super) inner: Mutex<Inner>,
}

/// What changes of a [`Backing`].
pub(super) struct Inner {
    pub(super) node: NodeId,
    /// The row under `node` is (or may become) ours.
    pub(super) attached: bool,
    /// There is such a row.
    pub(super) stored: bool,
    pub(super) place: Place,
    pub(super) content: Option<ContentId>,
    pub(super) present: RangeSet,
    /// Length of the content; without meaning once the file exists, which knows it.
    pub(super) size: u64,
    pub(super) file: Option<Arc<File>>,
    /// The daemon itself wrote since the last look.
    pub(super) touched: bool,
    /// Kernel handles and fills that use it.
    pub(super) users: u32,
    /// A newer version took the node while the kernel could still write to this one: what `fstat` said then.
    pub(super) superseded: Option<Stamp>,
    /// The node went while somebody used the file: what the server has, which may keep the node.
    pub(super) discarded: Option<Discarded>,
    /// The file belongs to another node's row, which was moved there: it stays.
    pub(super) foreign: bool,
    /// Blocks that the cache's account holds for it.
    pub(super) counted: u64,
}

/// What the server has of a file whose node went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Discarded {
    /// All, and `fstat` said this then.
    Whole(Stamp),
    /// What is here of it and is missing. Fetching changes what `fstat` says, but only the daemon writes to such a file.
    Part,
}

impl Inner {
    /// What there is of an empty file that nobody uses and no row names.
    pub(super) fn empty(node: NodeId, place: Place) -> Self {
        Self {
            node,
            attached: true,
            stored: false,
            place,
            content: None,
            present: RangeSet::default(),
            size: 0,
            file: None,
            touched: false,
            users: 0,
            foreign: false,
            superseded: None,
            discarded: None,
            counted: 0,
        }
    }
}

/// What a look at a file found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noticed {
    /// The bytes are as they were.
    Nothing,
    /// They changed, and the tree knows now.
    Change,
    /// They may have changed, but belong to no node any more.
    Detached,
}

impl Backing {
    pub(super) fn new(cache: Arc<Cache>, id: FileId, whole: bool, inner: Inner) -> Self {
        Self { cache, id: AtomicU64::new(id.0), whole: AtomicBool::new(whole), inner: Mutex::new(inner) }
    }

    /// Returns the backing file's id.
    #[must_use]
    pub fn id(&self) -> FileId {
        FileId(self.id.load(Ordering::Acquire))
    }

    /// Returns the node that the bytes belong to, if they still belong to one.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        let inner = self.inner.lock();
        inner.attached.then_some(inner.node)
    }

    /// Returns the node whose content the bytes are, also of one that is gone; `None` if it has a newer version.
    #[must_use]
    pub fn origin(&self) -> Option<NodeId> {
        let inner = self.inner.lock();
        (inner.attached || inner.superseded.is_none()).then_some(inner.node)
    }

    /// Tells whether every byte is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// Tells whether the bytes of `range` are here.
    #[must_use]
    pub fn has(&self, range: &Range<u64>) -> bool {
        self.is_whole() || self.inner.lock().present.contains(range)
    }

    /// Keeps the bytes from being evicted until [`Self::unuse`].
    pub fn use_it(&self) {
        let mut inner = self.inner.lock();
        inner.users += 1;
        let node = inner.node;
        drop(inner);
        self.cache.used_now(node);
    }

    /// Takes back one [`Self::use_it`].
    pub fn unuse(&self) {
        let mut inner = self.inner.lock();
        inner.users = inner.users.saturating_sub(1);
    }

    /// Tells whether somebody uses it.
    #[cfg(test)]
    pub(crate) fn is_used(&self) -> bool {
        self.inner.lock().users > 0
    }

    /// Tells whether a newer version has taken the node.
    pub(super) fn is_replaced(&self, inner: &Inner) -> bool {
        !inner.attached && inner.superseded.is_some()
    }

    /// Opens the backing file; makes it, and the row, if there is none. Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError`]: `Io`, `Tree`, or `Lost` when a file that exists nowhere else is missing.
    pub fn file(&self) -> Result<Arc<File>, CacheError> {
        let mut inner = self.inner.lock();
        self.open_file(&mut inner)
    }

    pub(super) fn open_file(&self, inner: &mut Inner) -> Result<Arc<File>, CacheError> {
        if let Some(file) = &inner.file {
            return Ok(Arc::clone(file));
        }
        if !inner.stored && self.is_replaced(inner) {
            // Replaced by a newer version before any of it was here.
            return Err(CacheError::Partial);
        }
        if inner.stored {
            match self.cache.dirs.find(inner.place, self.id())? {
                Some((file, place)) => {
                    if place != inner.place {
                        inner.place = place;
                        self.update_row(inner, |row| row.place = place)?;
                    }
                    self.mend_length(inner, &file)?;
                    return Ok(self.keep(inner, file));
                }
                None => self.lost(inner)?,
            }
        }
        let file = self.cache.dirs.create(inner.place, self.id())?;
        if inner.size > 0 {
            file.set_len(inner.size).map_err(|source| self.failed("extend", inner, source))?;
        }
        let file = self.keep(inner, file);
        self.store_row(inner)?;
        Ok(file)
    }

    /// Closes our descriptor if nobody is using it; it is opened again when it is needed.
    pub fn close_file(&self) {
        let mut inner = self.inner.lock();
        inner.file.take_if(|file| Arc::strong_count(file) == 1);
    }

    fn keep(&self, inner: &mut Inner, file: File) -> Arc<File> {
        let file = Arc::new(file);
        inner.file = Some(Arc::clone(&file));
        file
    }

    /// Tells whether the server has these bytes as what the node's content is now.
    fn is_clean(&self, inner: &Inner) -> Result<bool, CacheError> {
        let node = self.cache.tree.node_by_id(inner.node)?;
        Ok(node.is_some_and(|node| {
            node.dirty_content.is_none() && node.live().is_some_and(|record| record.content == inner.content)
        }))
    }

    /// A file that took over the old version's may have kept its length in a crash.
    fn mend_length(&self, inner: &Inner, file: &File) -> Result<(), CacheError> {
        if self.is_whole() || !inner.attached || !self.is_clean(inner)? {
            return Ok(());
        }
        let mend = |found: Stamp| if found.size == inner.size { Ok(()) } else { file.set_len(inner.size) };
        stamp_of(file).and_then(mend).map_err(|source| self.failed("resize", inner, source))
    }

    /// A file that the row names is missing: fine if the server has the bytes, otherwise they are lost.
    fn lost(&self, inner: &mut Inner) -> Result<(), CacheError> {
        if !inner.attached || !self.is_clean(inner)? {
            return Err(CacheError::Lost { path: self.cache.dirs.path(inner.place, self.id()) });
        }
        tracing::info!(node = %inner.node, "fetched content was removed from the cache directory");
        inner.present = RangeSet::default();
        inner.place = Place::Cache;
        self.whole.store(inner.size == 0, Ordering::Release);
        Ok(())
    }

    pub(super) fn whole_flag(&self) -> &AtomicBool {
        &self.whole
    }

    /// Takes over the file of the old version; only while this one has none.
    pub(super) fn take_over(&self, file: FileId) {
        self.id.store(file.0, Ordering::Release);
    }

    /// The bytes were evicted from `file`.
    pub(super) fn emptied(&self, inner: &mut Inner, file: FileId) {
        if file != self.id() {
            return;
        }
        inner.file = None;
        inner.present = RangeSet::default();
        inner.place = Place::Cache;
        inner.counted = 0;
        inner.stored = false;
        self.whole.store(inner.size == 0, Ordering::Release);
    }

    pub(super) fn failed(&self, action: &'static str, inner: &Inner, source: std::io::Error) -> CacheError {
        CacheError::Io { action, path: self.cache.dirs.path(inner.place, self.id()), source }
    }

    fn present(&self, inner: &Inner) -> Present {
        if self.is_whole() { Present::All } else { Present::Ranges(inner.present.as_slice().to_vec()) }
    }

    /// Writes our row in place of whatever is there, and removes the file that it replaces.
    pub(super) fn store_row(&self, inner: &mut Inner) -> Result<(), CacheError> {
        if !inner.attached {
            return Ok(());
        }
        let stamp = self.stamp(inner)?;
        let row = ContentState {
            file: self.id(),
            place: inner.place,
            content: inner.content,
            present: self.present(inner),
            stamp,
        };
        let mut replaced = None;
        self.cache.tree.update_content_state(inner.node, |old| {
            replaced = old.filter(|old| old.file != self.id());
            Some(row)
        })?;
        inner.stored = true;
        self.count(inner, stamp.blocks);
        if let Some(old) = replaced {
            self.cache.account(old.stamp.blocks, 0);
            self.cache.remove_file(old.place, old.file);
        }
        Ok(())
    }

    pub(super) fn update_row(
        &self,
        inner: &Inner,
        change: impl FnOnce(&mut ContentState),
    ) -> Result<(), CacheError> {
        if !inner.attached || !inner.stored {
            return Ok(());
        }
        self.cache.tree.update_content_state(inner.node, |row| match row {
            Some(mut row) if row.file == self.id() => {
                change(&mut row);
                Some(row)
            }
            other => other,
        })?;
        Ok(())
    }

    pub(super) fn count(&self, inner: &mut Inner, blocks: u64) {
        self.cache.account(inner.counted, blocks);
        inner.counted = blocks;
    }

    pub(super) fn stamp(&self, inner: &Inner) -> Result<Stamp, CacheError> {
        match &inner.file {
            Some(file) => stamp_of(file).map_err(|source| self.failed("look at", inner, source)),
            None => Ok(Stamp { size: inner.size, ..Stamp::default() }),
        }
    }

    /// Returns the length in bytes; does not make the file if there is none yet.
    ///
    /// # Errors
    /// [`CacheError::Io`].
    pub fn size(&self) -> Result<u64, CacheError> {
        Ok(self.stamp(&self.inner.lock())?.size)
    }

    /// Moves the bytes to the state directory, where what is written here belongs. Blocks on the disk if they have to
    /// be copied, which happens only with `may_copy`: while the kernel has the file it must stay the same.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn adopt(&self, may_copy: bool) -> Result<(), CacheError> {
        let mut inner = self.inner.lock();
        self.adopt_locked(&mut inner, may_copy)
    }

    fn adopt_locked(&self, inner: &mut Inner, may_copy: bool) -> Result<(), CacheError> {
        if inner.place == Place::State {
            return Ok(());
        }
        if !inner.stored && inner.file.is_none() {
            inner.place = Place::State;
            return Ok(());
        }
        let file = self.open_file(inner)?;
        match self.cache.dirs.adopt(self.id(), &file, may_copy)? {
            Adopted::Moved => {}
            Adopted::Copied(copy) => inner.file = Some(Arc::new(copy)),
            Adopted::NotYet => return Ok(()),
        }
        inner.place = Place::State;
        let stamp = self.stamp(inner)?;
        self.update_row(inner, |row| {
            row.place = Place::State;
            row.stamp = stamp;
        })
    }

    /// Reads at `offset`, as many bytes as are there up to the end of the file.
    ///
    /// # Errors
    /// [`CacheError::Partial`] when some of the bytes have to be fetched first; otherwise what the disk says.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, CacheError> {
        let file = {
            let mut inner = self.inner.lock();
            // Before the file is made: until then the old version's is there to start from.
            if !self.is_whole() {
                let size = self.stamp(&inner)?.size;
                let end = size.min(offset.saturating_add(buffer.len() as u64));
                if !inner.present.contains(&(offset..end)) {
                    return Err(CacheError::Partial);
                }
            }
            let was_whole = self.is_whole();
            let file = self.open_file(&mut inner)?;
            if was_whole && !self.is_whole() {
                // The cache directory was emptied: the bytes have to be fetched again.
                return Err(CacheError::Partial);
            }
            file
        };
        read_full(&file, buffer, offset).map_err(|source| self.failed("read", &self.inner.lock(), source))
    }

    /// Writes for the daemon. A range that was not here is called present in the row before this returns.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<(), CacheError> {
        let mut inner = self.inner.lock();
        self.adopt_locked(&mut inner, true)?;
        let file = self.open_file(&mut inner)?;
        self.announce(&mut inner)?;
        let old_size = if self.is_whole() { 0 } else { self.stamp(&inner)?.size };
        file.write_all_at(data, offset).map_err(|source| self.failed("write", &inner, source))?;
        let end = offset.saturating_add(data.len() as u64);
        self.now_present(&mut inner, old_size, offset..end)
    }

    /// The daemon is about to change bytes. A whole file shows that by its stamp, also after a crash; one that is being fetched
    /// changes its stamp all the time, so the tree has to know before.
    fn announce(&self, inner: &mut Inner) -> Result<(), CacheError> {
        if inner.attached && !inner.touched && !self.is_whole() {
            self.cache.tree.content_announced(inner.node, SystemTime::now().into())?;
        }
        inner.touched = true;
        Ok(())
    }

    /// Runs `work` on the file for the daemon, as a change of `range`; what lies between the old end and `range` is a hole.
    ///
    /// # Errors
    /// [`CacheError`] when `work`, the disk or the tree fails.
    pub fn change(
        &self,
        range: Range<u64>,
        action: &'static str,
        work: impl FnOnce(&File) -> std::io::Result<()>,
    ) -> Result<(), CacheError> {
        let mut inner = self.inner.lock();
        self.adopt_locked(&mut inner, true)?;
        let file = self.open_file(&mut inner)?;
        let old_size = self.stamp(&inner)?.size;
        self.announce(&mut inner)?;
        work(&file).map_err(|source| self.failed(action, &inner, source))?;
        self.now_present(&mut inner, old_size, range)
    }

    fn now_present(&self, inner: &mut Inner, old_size: u64, range: Range<u64>) -> Result<(), CacheError> {
        if self.is_whole() || (range.end <= old_size && inner.present.contains(&range)) {
            return Ok(());
        }
        let size = self.stamp(inner)?.size;
        if range.end > old_size {
            inner.present.insert(old_size.min(range.start)..size.max(old_size));
        }
        inner.present.insert(range.start..range.end.min(size));
        self.settle_present(inner, size)
    }

    /// Writes down which ranges are there; all of them if they cover `size`.
    pub(super) fn settle_present(&self, inner: &mut Inner, size: u64) -> Result<(), CacheError> {
        if inner.present.contains(&(0..size)) {
            self.whole.store(true, Ordering::Release);
        }
        let present = self.present(inner);
        self.update_row(inner, |row| row.present = present)
    }

    /// Cuts or extends the file. Fetches nothing: what lies beyond the old end is a hole.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn set_len(&self, len: u64) -> Result<(), CacheError> {
        let mut inner = self.inner.lock();
        self.adopt_locked(&mut inner, true)?;
        let file = self.open_file(&mut inner)?;
        let old = self.stamp(&inner)?.size;
        self.announce(&mut inner)?;
        file.set_len(len).map_err(|source| self.failed("truncate", &inner, source))?;
        inner.size = len;
        if self.is_whole() {
            return Ok(());
        }
        inner.present.truncate(len);
        inner.present.insert(old..len);
        self.settle_present(&mut inner, len)
    }

    /// Returns what `fstat` says if that is not what the tree was told last: for attributes of a file that is being written.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn unnoticed(&self) -> Result<Option<Stamp>, CacheError> {
        let inner = self.inner.lock();
        if inner.file.is_none() {
            return Ok(None);
        }
        let now = self.stamp(&inner)?;
        if !inner.attached {
            return Ok(Some(now));
        }
        let told = self.cache.tree.content_state(inner.node)?.filter(|row| row.file == self.id());
        let same = told.is_none_or(|row| same_bytes(&row.stamp, &now));
        let changed = inner.touched || (self.is_whole() && !same);
        Ok(changed.then_some(now))
    }

    /// Looks whether the bytes changed since the last look and tells the tree. With `force` they count as changed.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn notice(&self, force: bool) -> Result<Noticed, CacheError> {
        let mut inner = self.inner.lock();
        if !inner.attached {
            return Ok(Noticed::Detached);
        }
        if inner.file.is_none() {
            return Ok(Noticed::Nothing);
        }
        let now = self.stamp(&inner)?;
        let told = self.cache.tree.content_state(inner.node)?;
        let Some(row) = told.filter(|row| row.file == self.id()) else { return Ok(Noticed::Detached) };
        let changed = force || inner.touched || (self.is_whole() && !same_bytes(&row.stamp, &now));
        if !changed {
            return Ok(Noticed::Nothing);
        }
        if !self.is_whole() {
            // A kill may have come between cutting the file and noting that.
            inner.present.truncate(now.size);
            self.settle_present(&mut inner, now.size)?;
        }
        let known = self.cache.tree.node_by_id(inner.node)?.and_then(|node| node.record);
        let (mtime, ctime) = known.map_or((now.mtime, now.ctime), |record| {
            (not_before(record.mtime, now.mtime), record.ctime.max(now.ctime))
        });
        let change = ContentChange { size: now.size, mtime, ctime, stamp: Some(now) };
        self.cache.tree.content_changed(inner.node, change)?;
        inner.touched = false;
        inner.size = now.size;
        self.count(&mut inner, now.blocks);
        Ok(Noticed::Change)
    }

    /// Tells whether bytes were written after a newer version had taken the node, or the node went with bytes that nobody else has,
    /// and returns the node if so.
    ///
    /// # Errors
    /// [`CacheError`] when the disk fails.
    pub fn written_too_late(&self) -> Result<Option<NodeId>, CacheError> {
        let mut inner = self.inner.lock();
        let before = match (inner.superseded, inner.discarded) {
            (Some(before), _) | (None, Some(Discarded::Whole(before))) => before,
            (None, Some(Discarded::Part)) => return Ok(inner.touched.then_some(inner.node)),
            (None, None) => return Ok(None),
        };
        self.open_file(&mut inner)?;
        let late = inner.touched || !same_bytes(&before, &self.stamp(&inner)?);
        Ok(late.then_some(inner.node))
    }

    /// Tells whether somebody outside this process (a mapping) can write to the file. Closes our own descriptor for that.
    ///
    /// # Errors
    /// [`CacheError::Io`].
    pub fn is_writable_elsewhere(&self) -> Result<bool, CacheError> {
        let mut inner = self.inner.lock();
        if inner.file.as_ref().is_some_and(|file| Arc::strong_count(file) > 1) {
            // Somebody in this process is using it just now: look again later.
            return Ok(true);
        }
        inner.file = None;
        let path = self.cache.dirs.path(inner.place, self.id());
        let file = File::open(path).map_err(|source| self.failed("open", &inner, source))?;
        let writable = can_others_write(&file);
        drop(file);
        self.open_file(&mut inner)?;
        Ok(writable)
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        let id = self.id();
        let inner = self.inner.get_mut();
        if !inner.attached && !inner.foreign {
            self.cache.drop_set_aside(inner.node, inner.place, id, inner.counted);
        }
        let node = inner.node;
        self.cache.drop_dead(node);
    }
}
