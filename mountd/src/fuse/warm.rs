//! Threads that list directories for the kernel's caches after somebody changed something in them.
//!
//! ```text
//! fs: hints ─► dfs-warm: which directories, when nobody is changing anything ─► dfs-list: lists them, one at a time
//! dfs-watch: the mount is gone ─► no more hints ─► dfs-warm ends ─► dfs-list ends and lets go of the clone
//! ```
//!
//! The listing goes through a clone of the mount that stands nowhere, so that nobody who unmounts is told that the mount
//! is busy; the clone keeps the file system alive, so it is dropped when the mount itself goes. Needs root; without
//! it the kernel asks for each attribute when it needs it.
//!
//! A process that uses its own file system cannot be killed while it waits for itself: the kernel ends the waiting only
//! once nobody holds `/dev/fuse` any more, and a waiting thread holds the descriptors of its process. So the thread that
//! lists has an empty table of descriptors of its own. Invariant: it touches nothing that has descriptors (the
//! tree, the cache, the device) but the clone, which it opens itself.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::point::look_at;
use crate::fs::Fs;

/// Bytes of one listing; the kernel asks the daemon for as much at once.
const LISTING_LEN: usize = 1 << 20;

/// The threads that fill the kernel's caches and that watch the mount.
pub(super) struct Warmer {
    fs: Arc<Fs>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts the threads for a mount that answers already.
pub(super) fn start(fs: &Arc<Fs>, mount_point: &Path) -> io::Result<Warmer> {
    let mut warmer = Warmer { fs: Arc::clone(fs), threads: Vec::new() };
    let mounts = File::open("/proc/self/mountinfo")?;
    let id = look_at(mount_point)?.stx_mnt_id;
    let path = c_path(mount_point)?;
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.to_owned()).spawn(work)
    };
    // One directory at a time: whoever plans sees what changed since.
    let (paths, queue) = sync_channel(0);
    let (opened, outcome) = sync_channel(1);
    warmer.threads.push(spawn("dfs-list", Box::new(move || list_all(&path, &queue, &opened)))?);
    outcome.recv().unwrap_or_else(|_| Err(io::Error::other("the listing thread ended")))?;
    fs.watch_touched();
    let planner = Arc::clone(fs);
    warmer.threads.push(spawn("dfs-warm", Box::new(move || plan(&planner, &paths)))?);
    let watched = Arc::clone(fs);
    warmer.threads.push(spawn("dfs-watch", Box::new(move || watch(&watched, &mounts, id)))?);
    Ok(warmer)
}

impl Warmer {
    /// Ends the filling before the mount goes; the watching ends by itself when it is gone.
    pub(super) fn stop(&self) {
        self.fs.end_touched();
    }

    pub(super) fn join(self) {
        self.stop();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread that fills the kernel's caches panicked");
            }
        }
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: the kernel just gave this descriptor to us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the filling when the mount is gone from this process's mounts: the kernel says when they change.
fn watch(fs: &Fs, mounts: &File, id: u64) {
    loop {
        let listed = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if !listed.lines().any(|line| line.split(' ').next() == Some(&id.to_string())) {
            break;
        }
        let mut poll = libc::pollfd { fd: mounts.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
        // SAFETY: one structure, valid for reads and writes.
        if unsafe { libc::poll(&raw mut poll, 1, -1) } < 0
            && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted
        {
            tracing::warn!("the mounts cannot be watched; filling the kernel's caches ends");
            break;
        }
    }
    fs.end_touched();
}

fn plan(fs: &Fs, lister: &SyncSender<Vec<u8>>) {
    while let Some(dirs) = fs.touched_directories() {
        for (done, dir) in dirs.iter().enumerate() {
            if fs.is_touched_again() {
                fs.touch_again(&dirs[done..]);
                break;
            }
            if fs.is_worth_listing(dir) && lister.send(dir.path.clone()).is_err() {
                return fs.end_touched();
            }
        }
    }
}

fn list_all(mount_point: &CString, paths: &Receiver<Vec<u8>>, opened: &SyncSender<io::Result<()>>) {
    let root = match part_with_descriptors().and_then(|()| clone_mount(mount_point)) {
        Ok(root) => root,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    if opened.send(Ok(())).is_err() {
        return;
    }
    let mut buffer = vec![0_u8; LISTING_LEN];
    for path in paths {
        // Whatever is not listed ahead is asked for when it is needed.
        let _ = list(&root, &path, &mut buffer);
    }
}

/// Lets the kernel ask for the root's attributes, and waits until it has them.
///
/// Until then it takes the root for a directory that nobody may use. It would ask by itself, but then an answer that is on its way
/// while something is invalidated counts for nothing, and an ordinary user is refused. So this comes before anything can be.
pub(super) fn tell_root(mount_point: &Path) -> io::Result<()> {
    let path = c_path(mount_point)?;
    let ask = move || -> io::Result<()> {
        part_with_descriptors()?;
        let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the path ends with NUL and `stat` is valid for writes.
        match unsafe { libc::lstat(path.as_ptr(), stat.as_mut_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let thread = std::thread::Builder::new().name("dfs-root".to_owned()).spawn(ask)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Gives this thread a table of descriptors of its own, with nothing behind the standard ones: whoever started a daemon
/// waits for its output to end. So this thread does not log.
fn part_with_descriptors() -> io::Result<()> {
    // SAFETY: the closed descriptors are copies in a table that only this thread has; it uses none of the originals.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, 0_u32, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    for _standard in 0..3 {
        // SAFETY: the path ends with NUL. The lowest free descriptor is taken, which is the next standard one.
        if unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn clone_mount(path: &CString) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
    // SAFETY: the path ends with NUL.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

fn list(root: &OwnedFd, path: &[u8], buffer: &mut [u8]) -> io::Result<()> {
    let path = CString::new(if path.is_empty() { b"." } else { path })?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the path ends with NUL and the directory is open.
    let dir = owned(libc::c_long::from(unsafe { libc::openat(root.as_raw_fd(), path.as_ptr(), flags) }))?;
    loop {
        // SAFETY: the buffer is as long as said and the directory is open.
        let read = unsafe {
            libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
        };
        match read {
            // Reading made the kernel forget when the directory was accessed.
            0 => return File::from(dir).metadata().map(drop),
            read if read < 0 => return Err(io::Error::last_os_error()),
            _ => {}
        }
    }
}
