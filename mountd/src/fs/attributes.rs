//! Attributes: what `stat` shows, what `chmod`, `chown`, `utimensat` and `truncate` change, and `statfs`.

use std::ffi::CString;
use std::fs::FileTimes;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

use dfs_shared::record::{NodeKind, NodeRecord};
use dfs_shared::time::Timestamp;

use super::{Caller, Fs, FsError, check_file, record_of};
use crate::cache::not_before;
use crate::tree::content::Stamp;
use crate::tree::namespace::AttributeChange;
use crate::tree::{Ino, LocalNode};

/// What `stat` shows of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// What sort of node.
    pub kind: NodeKind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Link count.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Length in bytes.
    pub size: u64,
    /// Allocated blocks of 512 bytes; for content that is not here as many as its length needs.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
    /// When the node was made.
    pub crtime: Timestamp,
}

/// Attributes to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission, set-id and sticky bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The present.
    Now,
    /// This time.
    At(Timestamp),
}

impl SetTime {
    fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Now => now,
            Self::At(at) => at,
        }
    }
}

/// Room on the file system that holds what is written here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size of a block in bytes.
    pub block_size: u32,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks that an ordinary user may use.
    pub available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
}

/// Length and blocks that directories show, as on ext4.
const DIRECTORY_SIZE: u64 = 4096;
/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;
const CAPABILITY_XATTR: &[u8] = b"security.capability";

impl Fs {
    /// Returns what `stat` shows, for `caller` to keep.
    ///
    /// # Errors
    /// [`FsError`]: `NotFound`, or a failing tree or disk.
    pub fn getattr(&self, ino: Ino, caller: Caller) -> Result<Attr, FsError> {
        self.answers.tell(ino, caller.thread);
        self.steady(|| self.attr(ino))
    }

    /// Looks again if the tree was told of a change meanwhile. A record that was read before its file was closed, and a
    /// handle that was looked for after, would together show a length from before the last write, and the kernel would
    /// believe it for ever.
    pub(super) fn steady<T>(&self, look: impl Fn() -> Result<T, FsError>) -> Result<T, FsError> {
        let mut told = self.told.load(Ordering::Acquire);
        loop {
            let seen = look()?;
            let now = self.told.load(Ordering::Acquire);
            if now == told {
                return Ok(seen);
            }
            told = now;
        }
    }

    /// The open file is looked at before the record is read: what has been noticed by then is in the record. The other way
    /// round a change that is noticed in between would be in neither.
    pub(super) fn attr(&self, ino: Ino) -> Result<Attr, FsError> {
        let stamp = self.open_stamp(ino)?;
        let node = self.node(ino)?;
        let mut attr = plain_attr(&node)?;
        if attr.kind == NodeKind::File {
            match stamp {
                Some(stamp) => overlay(&mut attr, &stamp),
                None => attr.blocks = self.cache.blocks_of(&node)?,
            }
        }
        Ok(attr)
    }

    /// What `fstat` says of a file whose changes the tree does not know yet.
    fn open_stamp(&self, ino: Ino) -> Result<Option<Stamp>, FsError> {
        let Some(open) = self.open_file(ino) else { return Ok(None) };
        match open.backing_to_look_at() {
            Some(backing) => Ok(backing.unnoticed()?),
            None => Ok(None),
        }
    }

    /// Changes attributes. The kernel has checked that the caller may.
    ///
    /// # Errors
    /// [`FsError`]: `ReadOnly`, `NotFound`, `IsDirectory` or `Invalid` (a length for what is no file), or a failing disk or tree.
    pub fn setattr(&self, ino: Ino, set: &SetAttr, caller: Caller) -> Result<Attr, FsError> {
        self.check_writable()?;
        let _hold = self.hold.read();
        let node = self.node(ino)?;
        if let Some(size) = set.size {
            check_file(&node)?;
            if size > i64::MAX.unsigned_abs() {
                return Err(FsError::Invalid);
            }
            self.truncate(&node, size)?;
        }
        let at = self.now();
        let mut change = AttributeChange {
            mode: set.mode,
            uid: set.uid,
            gid: set.gid,
            atime: set.atime.map(|time| time.resolve(at)),
            mtime: set.mtime.map(|time| time.resolve(at)),
            ctime: at,
        };
        let kind = record_of(&node)?.kind;
        let is_file = kind == NodeKind::File;
        // The kernel asks for nothing at all where an owner was set to what it is.
        let owner_changes = set.uid.is_some() || set.gid.is_some() || *set == SetAttr::default();
        // A new owner takes them from a device or fifo too, and from root's change too; directories keep theirs.
        let loses_set_id = owner_changes && !matches!(kind, NodeKind::Directory | NodeKind::Symlink);
        if loses_set_id || (is_file && set.size.is_some() && caller.uid != 0) {
            let record = record_of(&node)?;
            let kept = keeps_group_id(record, caller);
            change.mode = kill_set_id(set.mode.unwrap_or(record.mode), kept).or(set.mode);
        }
        let nothing = AttributeChange { ctime: at, ..AttributeChange::default() };
        if change == nothing && set.size.is_some() {
            return self.getattr(ino, caller);
        }
        if is_file && (change.mtime.is_some() || change.atime.is_some()) {
            self.notice_open(ino)?;
            self.stamp_orphan(ino, &change)?;
        }
        if is_file && owner_changes {
            self.drop_capabilities(&node, at)?;
        }
        self.change_attributes(ino, &change)?;
        self.getattr(ino, caller)
    }

    fn change_attributes(&self, ino: Ino, change: &AttributeChange) -> Result<(), FsError> {
        if let Some(orphan) = self.orphans.lock().get_mut(&ino) {
            if let Some(record) = orphan.record.as_mut() {
                record.mode = change.mode.map_or(record.mode, |mode| mode & 0o7777);
                record.uid = change.uid.unwrap_or(record.uid);
                record.gid = change.gid.unwrap_or(record.gid);
                record.atime = change.atime.unwrap_or(record.atime);
                record.mtime = change.mtime.unwrap_or(record.mtime);
                record.ctime = change.ctime;
            }
            return Ok(());
        }
        self.tree.set_attributes(ino, change)?;
        self.told_tree();
        Ok(())
    }

    /// A file without a name that is being written shows the times of its backing file: they are set there.
    fn stamp_orphan(&self, ino: Ino, change: &AttributeChange) -> Result<(), FsError> {
        if !self.orphans.lock().contains_key(&ino) {
            return Ok(());
        }
        let Some(backing) = self.open_file(ino).and_then(|open| open.backing_to_look_at()) else {
            return Ok(());
        };
        let mut times = FileTimes::new();
        if let Some(at) = change.atime {
            times = times.set_accessed(at.to_system_time());
        }
        if let Some(at) = change.mtime {
            times = times.set_modified(at.to_system_time());
        }
        Ok(backing.file()?.set_times(times)?)
    }

    /// Tells whether a write by an ordinary user takes something away.
    pub(super) fn has_privileges(&self, node: &LocalNode, caller: Caller) -> Result<bool, FsError> {
        let record = record_of(node)?;
        let set_id = kill_set_id(record.mode, keeps_group_id(record, caller));
        Ok(set_id.is_some() || record.xattrs.contains_key(CAPABILITY_XATTR))
    }

    /// What an ordinary user did to a file's bytes without writing takes privileges too; the kernel, which leaves that to us,
    /// has to be told.
    pub(super) fn bytes_changed_by(&self, ino: Ino, caller: Caller) -> Result<(), FsError> {
        if caller.uid == 0 || !self.has_privileges(&self.node(ino)?, caller)? {
            return Ok(());
        }
        self.kill_privileges(ino, caller)?;
        self.attributes_changed(ino);
        Ok(())
    }

    /// A write or a new length takes set-id bits and file capabilities, unless the caller is root.
    pub(super) fn kill_privileges(&self, ino: Ino, caller: Caller) -> Result<(), FsError> {
        let node = self.node(ino)?;
        let at = self.now();
        let record = record_of(&node)?;
        if let Some(mode) = kill_set_id(record.mode, keeps_group_id(record, caller)) {
            let change = AttributeChange { mode: Some(mode), ctime: at, ..AttributeChange::default() };
            self.change_attributes(ino, &change)?;
        }
        self.drop_capabilities(&node, at)
    }

    fn drop_capabilities(&self, node: &LocalNode, at: Timestamp) -> Result<(), FsError> {
        if record_of(node)?.xattrs.contains_key(CAPABILITY_XATTR) && self.tree.node(node.ino)?.is_some() {
            self.tree.remove_xattr(node.ino, CAPABILITY_XATTR, at)?;
        }
        Ok(())
    }

    /// Returns how much room there is for what is written here: on the disk, and within the volume's quota.
    ///
    /// # Errors
    /// [`FsError::System`].
    pub fn statfs(&self) -> Result<Space, FsError> {
        let path =
            CString::new(self.cache.state_dir().as_os_str().as_bytes()).map_err(|_| FsError::Invalid)?;
        let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the path ends with NUL and `found` has room for the structure that the call fills on success.
        if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        // SAFETY: the call succeeded, so it filled the structure.
        let found = unsafe { found.assume_init() };
        Ok(self.within_quota(Space {
            block_size: u32::try_from(found.f_frsize).unwrap_or(4096),
            blocks: found.f_blocks,
            free: found.f_bfree,
            available: found.f_bavail,
            files: found.f_files,
            files_free: found.f_ffree,
        }))
    }
}

/// Tells whether set-group-id may stay on a file whose group may not execute it. The kernel tells a request's group, not the
/// caller's further ones: who has the file's group among those only loses the bit.
fn keeps_group_id(record: &NodeRecord, caller: Caller) -> bool {
    caller.uid == 0 || caller.gid == record.gid
}

/// Returns the mode without set-id bits as Linux takes them away, or `None` if nothing changes: set-group-id stays
/// where the group may not execute and the caller belongs to it.
fn kill_set_id(mode: u32, in_group: bool) -> Option<u32> {
    let taken = if mode & 0o010 == 0 && in_group { SET_ID & !0o2000 } else { SET_ID };
    (mode & taken != 0).then_some(mode & !taken)
}

/// Returns what the tree knows of a node's attributes; blocks of files are the cache's.
pub(super) fn plain_attr(node: &LocalNode) -> Result<Attr, FsError> {
    let record = record_of(node)?;
    let is_dir = record.kind == NodeKind::Directory;
    Ok(Attr {
        ino: node.ino,
        kind: record.kind,
        mode: record.mode,
        nlink: if is_dir && node.entries == 0 && node.ino != Ino::ROOT { 0 } else { node.nlink() },
        uid: record.uid,
        gid: record.gid,
        rdev: record.rdev,
        size: if is_dir { DIRECTORY_SIZE } else { record.size },
        blocks: if is_dir { DIRECTORY_SIZE / 512 } else { 0 },
        atime: record.atime,
        mtime: record.mtime,
        ctime: record.ctime,
        crtime: record.crtime,
    })
}

fn overlay(attr: &mut Attr, stamp: &Stamp) {
    attr.size = stamp.size;
    attr.blocks = stamp.blocks;
    attr.mtime = not_before(attr.mtime, stamp.mtime);
    attr.ctime = attr.ctime.max(stamp.ctime);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_ids_are_taken_as_linux_takes_them() {
        for (mode, of_member, of_stranger) in [
            (0o4755, Some(0o755), Some(0o755)),
            (0o2755, Some(0o755), Some(0o755)),
            (0o2644, None, Some(0o644)),
            (0o6745, Some(0o2745), Some(0o745)),
            (0o1777, None, None),
        ] {
            assert_eq!(kill_set_id(mode, true), of_member, "{mode:o}");
            assert_eq!(kill_set_id(mode, false), of_stranger, "{mode:o}");
        }
    }
}
