//! Between the kernel's types and those of `fs`.

use std::time::Duration;

use dfs_shared::record::NodeKind;
use dfs_shared::time::Timestamp;
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::fs::{Attr, SetTime};
use crate::tree::Ino;

/// How long the kernel may keep what it was told: until it is told otherwise. (The kernel counts in jiffies.)
pub(super) const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

const BLOCK_SIZE: u32 = 4096;

pub(super) fn ino(ino: INodeNo) -> Ino {
    Ino(ino.0)
}

pub(super) fn kind(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
        NodeKind::CharDevice => FileType::CharDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.to_system_time(),
        mtime: attr.mtime.to_system_time(),
        ctime: attr.ctime.to_system_time(),
        crtime: attr.crtime.to_system_time(),
        kind: kind(attr.kind),
        // 12 bits.
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// The answer for a name that leads nowhere: the kernel remembers that too.
pub(super) fn nothing() -> FileAttr {
    let epoch = Timestamp::default().to_system_time();
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

pub(super) fn time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(from_kernel(at)),
    }
}

/// Returns the kind that `mknod(2)` asks for, if it is one that it can make.
pub(super) fn kind_of_mode(mode: u32) -> Option<NodeKind> {
    match mode & libc::S_IFMT {
        libc::S_IFREG => Some(NodeKind::File),
        libc::S_IFIFO => Some(NodeKind::Fifo),
        libc::S_IFSOCK => Some(NodeKind::Socket),
        libc::S_IFCHR => Some(NodeKind::CharDevice),
        libc::S_IFBLK => Some(NodeKind::BlockDevice),
        _ => None,
    }
}

/// Takes a time as the FUSE library hands it over: before 1970 it counts the nanoseconds backwards, the kernel forwards.
fn from_kernel(at: std::time::SystemTime) -> Timestamp {
    match at.duration_since(std::time::UNIX_EPOCH) {
        Ok(_) => Timestamp::from(at),
        Err(before) => {
            let before = before.duration();
            let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            Timestamp { secs: -secs, nanos: before.subsec_nanos() }
        }
    }
}
