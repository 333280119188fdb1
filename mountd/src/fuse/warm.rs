//! A thread that lists directories for the kernel's caches after somebody changed something in them.
//!
//! It works on a clone of the mount that stands nowhere, so that nobody who unmounts is told that the mount is
//! busy; the clone keeps the file system alive, so it is dropped when the mount itself goes. Needs root; without it the
//! kernel asks for each attribute when it needs it.
//!
//! A process that uses its own file system cannot be killed while it waits for itself: the kernel ends the waiting only
//! once nobody holds `/dev/fuse` any more, and a waiting thread holds the descriptors of its process. So this
//! thread has a table of descriptors of its own, without those.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::fs::Fs;

/// Bytes of one listing; the kernel asks the daemon for as much at once.
const LISTING_LEN: usize = 1 << 20;

/// The threads that warm the kernel's caches and that watch the mount.
pub(super) struct Warmer {
    fs: Arc<Fs>,
    root: Arc<Root>,
    threads: Vec<JoinHandle<()>>,
}

/// The clone of the mount, until the mount goes.
#[derive(Default)]
struct Root(Mutex<Option<OwnedFd>>);

impl Root {
    fn is_there(&self) -> bool {
        self.0.lock().is_some()
    }

    fn duplicate(&self) -> Option<io::Result<OwnedFd>> {
        self.0.lock().as_ref().map(OwnedFd::try_clone)
    }
}

/// Starts the threads for a mount that answers already.
pub(super) fn start(fs: &Arc<Fs>, mount_point: &Path) -> io::Result<Warmer> {
    let mut warmer = Warmer { fs: Arc::clone(fs), root: Arc::default(), threads: Vec::new() };
    *warmer.root.0.lock() = Some(clone_mount(mount_point)?);
    let (root, point, watched) = (Arc::clone(&warmer.root), mount_point.to_owned(), Arc::clone(fs));
    let mounts = File::open("/proc/self/mountinfo")?;
    let id = mount_id(mount_point)?;
    fs.watch_touched();
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.to_owned()).spawn(work)
    };
    warmer.threads.push(spawn("dfs-watch", Box::new(move || watch(&watched, &root, &mounts, &point, id)))?);
    let (root, fs) = (Arc::clone(&warmer.root), Arc::clone(fs));
    warmer.threads.push(spawn("dfs-warm", Box::new(move || warm(&fs, &root)))?);
    Ok(warmer)
}

impl Warmer {
    /// Ends the warming before the mount goes; the watching ends by itself when it is gone.
    pub(super) fn stop(&self) {
        self.fs.end_touched();
        self.root.0.lock().take();
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

fn clone_mount(mount_point: &Path) -> io::Result<OwnedFd> {
    let path = c_path(mount_point)?;
    let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
    // SAFETY: the path ends with NUL.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// Returns the number by which `/proc/self/mountinfo` calls the mount at a path.
fn mount_id(mount_point: &Path) -> io::Result<u64> {
    let path = c_path(mount_point)?;
    let mut found = std::mem::MaybeUninit::<libc::statx>::uninit();
    // SAFETY: the path ends with NUL and `found` has room for what the call fills on success.
    let done = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_STATX_DONT_SYNC,
            libc::STATX_MNT_ID,
            found.as_mut_ptr(),
        )
    };
    match done {
        // SAFETY: the call succeeded, so it filled the structure.
        0 => Ok(unsafe { found.assume_init() }.stx_mnt_id),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops the clone when the mount is gone from this process's mounts: the kernel says when they change.
fn watch(fs: &Fs, root: &Root, mounts: &File, point: &Path, id: u64) {
    loop {
        let listed = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let there = listed.lines().any(|line| line.split(' ').next() == Some(&id.to_string()));
        if !there {
            tracing::debug!(path = %point.display(), "the mount is gone");
            fs.end_touched();
            root.0.lock().take();
            return;
        }
        let mut poll = libc::pollfd { fd: mounts.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
        // SAFETY: one structure, valid for reads and writes.
        if unsafe { libc::poll(&raw mut poll, 1, -1) } < 0
            && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted
        {
            tracing::warn!("the mounts cannot be watched; filling the kernel's caches ends");
            fs.end_touched();
            root.0.lock().take();
            return;
        }
    }
}

fn warm(fs: &Fs, shared: &Root) {
    let root = match part_with_device().and_then(|()| shared.duplicate().transpose()) {
        Ok(Some(root)) => root,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "the kernel's caches are not filled ahead");
            fs.end_touched();
            return;
        }
    };
    let mut buffer = vec![0_u8; LISTING_LEN];
    while let Some(paths) = fs.touched_directories() {
        for (done, path) in paths.iter().enumerate() {
            if fs.is_touched_again() {
                fs.touch_again(&paths[done..]);
                break;
            }
            if !shared.is_there() {
                return;
            }
            if let Err(error) = list(&root, path, &mut buffer) {
                tracing::debug!(path = %String::from_utf8_lossy(path), %error, "a directory was not listed");
            }
        }
    }
}

/// Gives this thread a table of descriptors of its own and closes those of `/dev/fuse` in it.
fn part_with_device() -> io::Result<()> {
    // SAFETY: descriptors that other threads open or close from now on are not seen here; this thread uses only
    // those that it opens itself.
    if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut devices = Vec::new();
    for entry in std::fs::read_dir("/proc/thread-self/fd")? {
        let entry = entry?;
        let is_device = std::fs::read_link(entry.path()).is_ok_and(|target| target == Path::new("/dev/fuse"));
        devices
            .extend(entry.file_name().to_str().and_then(|fd| fd.parse::<i32>().ok()).filter(|_| is_device));
    }
    for fd in devices {
        // SAFETY: the number stands for a copy that belongs to this thread alone and that nothing refers to.
        unsafe { libc::close(fd) };
    }
    Ok(())
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
            0 => return Ok(()),
            read if read < 0 => return Err(io::Error::last_os_error()),
            _ => {}
        }
    }
}
