//! Telling the tree of changed bytes: on flush, fsync and release, before a remote change is applied, and after a crash.

use std::sync::Arc;

use super::{Fs, FsError};
use crate::cache::{Backing, FetchDone, Noticed};
use crate::tree::{Ino, LocalNode};

impl Fs {
    /// Looks at a file and tells the tree if it changed. Returns whether it did. `hold` is held.
    pub(super) fn notice(&self, backing: &Backing, force: bool) -> Result<bool, FsError> {
        match backing.notice(force)? {
            Noticed::Change => {
                if let Some(node) = backing.node() {
                    (self.on_modified)(node);
                }
                Ok(true)
            }
            Noticed::Nothing | Noticed::Detached => Ok(false),
        }
    }

    pub(super) fn notice_backing(&self, backing: &Backing) -> Result<(), FsError> {
        self.notice(backing, false).map(drop)
    }

    /// Looks at an inode if it is open for writing. `hold` is held.
    pub(super) fn notice_open(&self, ino: Ino) -> Result<(), FsError> {
        let Some(open) = self.open_file(ino) else { return Ok(()) };
        match open.backing_to_look_at() {
            Some(backing) => self.notice_backing(&backing),
            None => Ok(()),
        }
    }

    /// A handle is about to be closed.
    ///
    /// # Errors
    /// [`FsError`]: `BadHandle`, or a failing disk or tree.
    pub fn flush(&self, ino: Ino, handle: u64) -> Result<(), FsError> {
        if handle == 0 {
            return Ok(());
        }
        let _hold = self.hold.read();
        let backing = self.open_file(ino).ok_or(FsError::BadHandle)?.backing()?;
        self.notice_backing(&backing)
    }

    /// Makes a file's bytes and everything that the tree knows of it survive power loss, then calls `done`: at once, or
    /// once the server has it too where that was asked for. Blocks on the disk.
    pub fn fsync(&self, ino: Ino, only_data: bool, done: Box<dyn FnOnce(Result<(), FsError>) + Send>) {
        self.after_barrier(self.fsync_here(ino, only_data), done);
    }

    fn fsync_here(&self, ino: Ino, only_data: bool) -> Result<(), FsError> {
        let backing = self.open_file(ino).ok_or(FsError::BadHandle)?.backing()?;
        let file = backing.file()?;
        if only_data {
            file.sync_data()?
        } else {
            file.sync_all()?
        }
        {
            let _hold = self.hold.read();
            self.notice_backing(&backing)?;
        }
        self.tree.persist()?;
        Ok(())
    }

    /// As [`Self::fsync`] for a directory.
    pub fn fsyncdir(&self, done: Box<dyn FnOnce(Result<(), FsError>) + Send>) {
        let here = self.tree.persist().map_err(FsError::from);
        self.after_barrier(here, done);
    }

    fn after_barrier(&self, here: Result<(), FsError>, done: Box<dyn FnOnce(Result<(), FsError>) + Send>) {
        match (&here, &self.barrier) {
            (Ok(()), Some(barrier)) => {
                let done: FetchDone = Box::new(move |reached| done(reached.map_err(FsError::from)));
                barrier.reached(done);
            }
            _ => done(here),
        }
    }

    /// Sets a file's length; opens it for that if it is not open. `hold` is held.
    pub(super) fn truncate(&self, node: &LocalNode, size: u64) -> Result<(), FsError> {
        let open = self.open_file(node.ino);
        let (backing, marked) = match open.as_ref().map(|open| open.backing()) {
            Some(Ok(backing)) => (backing, open.is_some_and(|open| open.inner.lock().writers > 0)),
            _ => (self.cache.backing(node)?, false),
        };
        let mark = !marked && backing.node() == Some(node.id);
        if mark {
            self.tree.mark_open(node.id)?;
        }
        backing.set_len(size)?;
        self.notice(&backing, true)?;
        if mark && !self.is_open_for_writing(node.ino) {
            self.tree.unmark_open(node.id)?;
        }
        Ok(())
    }

    fn is_open_for_writing(&self, ino: Ino) -> bool {
        self.open_file(ino).is_some_and(|open| open.inner.lock().writers > 0)
    }

    /// Looks at every file that was open for writing when the last run ended.
    pub(super) fn recover(self: &Arc<Self>) -> Result<(), FsError> {
        for id in self.tree.open_marks()? {
            if let Some(node) = self.tree.node_by_id(id)?.filter(|node| node.live().is_some()) {
                self.recover_file(&node)?;
            }
            self.tree.unmark_open(id)?;
        }
        Ok(())
    }

    fn recover_file(&self, node: &LocalNode) -> Result<(), FsError> {
        let Some(row) = self.tree.content_state(node.id)? else { return Ok(()) };
        let backing = self.cache.backing(node)?;
        if backing.id() != row.file {
            return Ok(());
        }
        backing.file()?;
        self.notice_backing(&backing)
    }
}
