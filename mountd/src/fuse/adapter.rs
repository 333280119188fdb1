//! One method per request: decode, call `fs`, reply.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dfs_shared::record::NodeKind;
use fuser::{
    AccessFlags, BackingId, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;

use super::convert::{self, FOR_EVER, ino};
use super::errno::errno;
use super::waiting::Waiting;
use crate::fs::{Attr, Caller, Fs, FsError, NewKind, Opened, SetAttr, Token};
use crate::limits::{FUSE_BACKGROUND_MAX, FUSE_WRITE_LEN_MAX};
use crate::tree::namespace::{RenameMode, XattrMode};

/// Inode numbers are never used twice.
const GENERATION: Generation = Generation(0);

/// The file system as the kernel sees it.
pub(super) struct Adapter {
    pub(super) fs: Arc<Fs>,
    /// The mount has the right to give the kernel backing files.
    pub(super) may_pass_through: bool,
    pub(super) waiting: Waiting,
}

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), thread: req.pid() }
}

/// Runs a handler; a panic drops its reply, which answers EIO, and the mount goes on.
fn guarded(handler: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(handler)).is_err() {
        tracing::error!("a handler panicked; its caller got EIO");
    }
}

/// Runs a handler after a pause, in which this thread serves others.
fn slowly(pause: Duration, handler: impl FnOnce() + Send + 'static) {
    let handler = Arc::new(Mutex::new(Some(handler)));
    let run = |handler: &Mutex<Option<_>>| {
        let handler = handler.lock().take();
        handler.into_iter().for_each(guarded);
    };
    let later = Arc::clone(&handler);
    let thread = std::thread::Builder::new().name("dfs-slow".to_owned()).spawn(move || {
        std::thread::sleep(pause);
        run(&later);
    });
    if thread.is_err() {
        run(&handler);
    }
}

fn written(fs: &Fs, node: INodeNo, offset: u64, data: &[u8], killer: Option<Caller>, reply: ReplyWrite) {
    match fs.write(ino(node), offset, data, killer) {
        Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
        Err(error) => reply.error(errno(&error)),
    }
}

fn entry(reply: ReplyEntry, result: Result<Attr, FsError>) {
    match result {
        Ok(attr) => reply.entry(&FOR_EVER, &convert::attr(&attr), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn sized(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, FsError>) {
    let len = result.as_ref().map_or(0, Vec::len);
    match result {
        Ok(_) if size == 0 => reply.size(u32::try_from(len).unwrap_or(u32::MAX)),
        Ok(_) if len as u64 > u64::from(size) => reply.error(errno(&FsError::BufferTooSmall)),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}

fn token(id: std::io::Result<BackingId>) -> std::io::Result<Token> {
    id.map(|id| Arc::new(id) as Token)
}

fn flags_of(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_NOFLUSH, opened.no_flush);
    // The kernel answers EIO to both together.
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache && opened.token.is_none());
    flags
}

fn backing_id(opened: &Opened) -> Option<&BackingId> {
    opened.token.as_ref().and_then(|token| token.downcast_ref::<BackingId>())
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Numbers are never given to another file, so a file handle (`open_by_handle_at`, NFS) holds over restarts.
            InitFlags::FUSE_EXPORT_SUPPORT,
            // Without it every write asks for security.capability; we take set-id bits away ourselves.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            if config.add_capabilities(wanted).is_err() {
                tracing::debug!(?wanted, "the kernel lacks a capability");
            }
        }
        let _ = config.set_max_write(FUSE_WRITE_LEN_MAX);
        let _ = config.set_max_background(FUSE_BACKGROUND_MAX);
        let mut passthrough = self.may_pass_through;
        if passthrough {
            passthrough = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
                && config.set_max_stack_depth(1).is_ok();
        }
        tracing::debug!(passthrough, "the kernel is connected");
        self.fs.set_passthrough(passthrough);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded(|| match self.fs.lookup(ino(parent), name.as_bytes(), caller(req)) {
            Ok(Some(attr)) => reply.entry(&FOR_EVER, &convert::attr(&attr), GENERATION),
            Ok(None) => reply.entry(&FOR_EVER, &convert::nothing(), GENERATION),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn forget(&self, _req: &Request, node: INodeNo, _nlookup: u64) {
        guarded(|| self.fs.forget(ino(node)));
    }

    fn getattr(&self, req: &Request, node: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        guarded(|| match self.fs.getattr(ino(node), caller(req)) {
            Ok(attr) => reply.attr(&FOR_EVER, &convert::attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn setattr(
        &self,
        req: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        guarded(|| {
            let (atime, mtime) = (atime.map(convert::time), mtime.map(convert::time));
            let set = SetAttr { mode, uid, gid, size, atime, mtime };
            match self.fs.setattr(ino(node), &set, caller(req)) {
                Ok(attr) => reply.attr(&FOR_EVER, &convert::attr(&attr)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readlink(&self, _req: &Request, node: INodeNo, reply: ReplyData) {
        guarded(|| match self.fs.readlink(ino(node)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        guarded(|| {
            let kind = match convert::kind_of_mode(mode) {
                Some(kind @ (NodeKind::CharDevice | NodeKind::BlockDevice)) => NewKind::Device(kind, rdev),
                Some(kind) => NewKind::Plain(kind),
                None => return reply.error(errno(&FsError::Invalid)),
            };
            entry(reply, self.fs.make(ino(parent), name.as_bytes(), &kind, mode, caller(req)));
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let kind = NewKind::Plain(NodeKind::Directory);
        guarded(|| entry(reply, self.fs.make(ino(parent), name.as_bytes(), &kind, mode, caller(req))));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded(|| empty(reply, self.fs.unlink(ino(parent), name.as_bytes(), caller(req))));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded(|| empty(reply, self.fs.rmdir(ino(parent), name.as_bytes(), caller(req))));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let kind = NewKind::Symlink(target.as_os_str().as_bytes());
        guarded(|| entry(reply, self.fs.make(ino(parent), name.as_bytes(), &kind, 0o777, caller(req))));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            let mode = match flags {
                flags if flags.is_empty() => RenameMode::Replace,
                RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
                RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
                _ => return reply.error(errno(&FsError::Invalid)),
            };
            let from = (ino(parent), name.as_bytes());
            let to = (ino(newparent), newname.as_bytes());
            empty(reply, self.fs.rename(from, to, mode, caller(req)));
        });
    }

    fn link(&self, req: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded(|| entry(reply, self.fs.link(ino(node), ino(parent), name.as_bytes(), caller(req))));
    }

    fn open(&self, req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guarded(|| {
            let mut register = |file: BorrowedFd<'_>| token(reply.open_backing(file));
            match self.fs.open(ino(node), flags.0, caller(req), &mut register) {
                Ok(opened) => match backing_id(&opened) {
                    Some(id) => reply.opened_passthrough(FileHandle(opened.handle), flags_of(&opened), id),
                    None => reply.opened(FileHandle(opened.handle), flags_of(&opened)),
                },
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn read(
        &self,
        req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guarded(|| {
            let answer = Box::new(|result: Result<&[u8], FsError>| match result {
                Ok(data) => reply.data(data),
                Err(error) => reply.error(errno(&error)),
            });
            self.waiting.until_killed(req.pid(), answer, |done| self.fs.read(ino(node), offset, size, done));
        });
    }

    fn write(
        &self,
        req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let killer = kill.then(|| caller(req));
        match self.fs.writer_pause(ino(node), offset, data.len()) {
            None => guarded(|| written(&self.fs, node, offset, data, killer, reply)),
            Some(pause) => {
                let (fs, data) = (Arc::clone(&self.fs), data.to_vec());
                slowly(pause, move || written(&fs, node, offset, &data, killer, reply));
            }
        }
    }

    fn flush(&self, _req: &Request, node: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        guarded(|| empty(reply, self.fs.flush(ino(node), fh.0)));
    }

    fn release(
        &self,
        _req: &Request,
        node: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        guarded(|| empty(reply, self.fs.release(ino(node), fh.0)));
    }

    fn fsync(&self, _req: &Request, node: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        guarded(|| self.fs.fsync(ino(node), datasync, Box::new(|result| empty(reply, result))));
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // With FUSE_NO_OPENDIR_SUPPORT this says once and for all that directories need no handle.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _req: &Request, dir: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guarded(|| {
            let listed = self.fs.read_dir(ino(dir), offset, |entry| {
                let name = OsStr::from_bytes(entry.name);
                Ok(!reply.add(INodeNo(entry.ino.0), entry.offset, convert::kind(entry.kind), name))
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        dir: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        guarded(|| {
            let listed = self.fs.read_dir(ino(dir), offset, |entry| {
                let attr = match self.fs.getattr(entry.ino, caller(req)) {
                    Ok(attr) => attr,
                    // Removed since it was listed.
                    Err(FsError::NotFound) => return Ok(true),
                    Err(error) => return Err(error),
                };
                let (name, ino) = (OsStr::from_bytes(entry.name), INodeNo(entry.ino.0));
                Ok(!reply.add(ino, entry.offset, name, &FOR_EVER, &convert::attr(&attr), GENERATION))
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        guarded(|| self.fs.fsyncdir(Box::new(|result| empty(reply, result))));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        guarded(|| match self.fs.statfs() {
            Ok(space) => reply.statfs(
                space.blocks,
                space.free,
                space.available,
                space.files,
                space.files_free,
                space.block_size,
                255,
                space.block_size,
            ),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn setxattr(
        &self,
        _req: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            let mode = match flags {
                0 => XattrMode::Any,
                libc::XATTR_CREATE => XattrMode::Create,
                libc::XATTR_REPLACE => XattrMode::Replace,
                _ => return reply.error(errno(&FsError::Invalid)),
            };
            empty(reply, self.fs.setxattr(ino(node), name.as_bytes(), value, mode));
        });
    }

    fn getxattr(&self, _req: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded(|| sized(reply, size, self.fs.getxattr(ino(node), name.as_bytes())));
    }

    fn listxattr(&self, req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        guarded(|| sized(reply, size, self.fs.listxattr(ino(node), caller(req))));
    }

    fn removexattr(&self, _req: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded(|| empty(reply, self.fs.removexattr(ino(node), name.as_bytes())));
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // Never asked with default_permissions: the kernel checks by itself.
        reply.ok();
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        guarded(|| {
            let mut register = |file: BorrowedFd<'_>| token(reply.open_backing(file));
            match self.fs.create(ino(parent), name.as_bytes(), mode, flags, caller(req), &mut register) {
                Ok((attr, opened)) => {
                    let (attr, handle, flags) =
                        (convert::attr(&attr), FileHandle(opened.handle), flags_of(&opened));
                    match backing_id(&opened) {
                        Some(id) => {
                            reply.created_passthrough(&FOR_EVER, &attr, GENERATION, handle, flags, id)
                        }
                        None => reply.created(&FOR_EVER, &attr, GENERATION, handle, flags),
                    }
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        guarded(|| empty(reply, self.fs.fallocate(ino(node), (offset, length), mode, caller(req))));
    }

    fn lseek(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        guarded(|| match self.fs.lseek(ino(node), offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        from: INodeNo,
        _fh_in: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _fh_out: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        guarded(|| {
            let (from, to) = ((ino(from), from_offset), (ino(to), to_offset));
            match self.fs.copy_range(from, to, len, caller(req)) {
                Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }
}
