//! Telling the tree of changed bytes: on flush, fsync, release and rename, and before a remote change is applied.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dfs_shared::record::NodeKind;

use super::effects::Invalidation;
use super::{Fs, FsError};
use crate::cache::{Backing, FetchDone, Noticed};
use crate::tree::namespace::NewNode;
use crate::tree::{Ino, LocalNode};

impl Fs {
    /// Looks at a file and tells the tree if it changed. Returns whether it did. `hold` is held.
    pub(super) fn notice(&self, backing: &Arc<Backing>, force: bool) -> Result<bool, FsError> {
        match backing.notice(force)? {
            Noticed::Change => {
                if let Some(node) = backing.node() {
                    (self.on_modified)(node);
                }
                Ok(true)
            }
            Noticed::Nothing => Ok(false),
            Noticed::Detached => self.rescue(backing),
        }
    }

    /// Bytes were written to a version that the server's replaced while it was open: they become a conflict copy.
    pub(super) fn rescue(&self, backing: &Arc<Backing>) -> Result<bool, FsError> {
        let Some(origin) = backing.written_too_late()? else { return Ok(false) };
        let node = self.tree.node_by_id(origin)?;
        let Some(record) = node.and_then(|node| node.record) else { return Ok(false) };
        let Some((parent, name)) = self.tree.names_of(origin)?.into_iter().next() else { return Ok(false) };
        let Some(dir) = self.tree.node_by_id(parent)? else { return Ok(false) };
        let at = self.now();
        let name = self.tree.conflict_name(parent, &name, at)?;
        let owner = (record.uid, record.gid);
        let new = NewNode { opened: true, ..NewNode::plain(NodeKind::File, record.mode, owner, at) };
        let copy = self.tree.create(dir.ino, &name, new)?;
        tracing::warn!(%name, "a file was written after the server's version had replaced it: kept beside it");
        self.cache.rehome(backing, copy.id)?;
        backing.notice(true)?;
        (self.on_modified)(copy.id);
        self.told_tree();
        self.invalidations.send(Invalidation::Entry { parent: dir.ino, name });
        Ok(true)
    }

    pub(super) fn notice_backing(&self, backing: &Arc<Backing>) -> Result<(), FsError> {
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

    /// Looks at a file that is to be sent, whoever has it open: a state directory that was copied has other times. `hold` is held.
    pub(super) fn notice_unsent(&self, node: &LocalNode) -> Result<(), FsError> {
        if node.dirty_content.is_none() {
            return Ok(());
        }
        let backing = self.cache.backing(node)?;
        backing.file()?;
        self.notice_backing(&backing)
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
        let open = self.open_file(ino).ok_or(FsError::BadHandle)?;
        let backing = open.backing()?;
        let file = backing.file()?;
        if only_data {
            file.sync_data()?
        } else {
            file.sync_all()?
        }
        if self.barrier.is_some() || open.is_look_due() {
            let _hold = self.hold.read();
            self.notice_backing(&backing)?;
        }
        self.persist()
    }

    /// Makes what only the tree knows survive power loss. Free if nothing came since the last time: a log that is synced after every
    /// line costs one fsync for each, not two.
    fn persist(&self) -> Result<(), FsError> {
        let told = self.told.load(Ordering::Acquire);
        if self.persisted.load(Ordering::Acquire) < told {
            self.tree.persist()?;
            self.persisted.fetch_max(told, Ordering::AcqRel);
        }
        Ok(())
    }

    /// As [`Self::fsync`] for a directory.
    pub fn fsyncdir(&self, done: Box<dyn FnOnce(Result<(), FsError>) + Send>) {
        self.after_barrier(self.persist(), done);
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
        self.check_room(&backing, size)?;
        let mark = !marked && backing.node() == Some(node.id);
        if mark {
            self.mark_open(node.id)?;
        }
        backing.set_len(size)?;
        self.notice(&backing, true)?;
        if mark && !self.is_open_for_writing(node.ino) {
            self.unmark_open(node.id)?;
        }
        Ok(())
    }

    fn is_open_for_writing(&self, ino: Ino) -> bool {
        self.open_file(ino).is_some_and(|open| open.inner.lock().writers > 0)
    }
}
