//! A thread that looks at files which are held open, closed but still mapped, or in the way.
//!
//! A log, a database or a disk image is open for days: its changes are noticed every few seconds, not at the end.
//! In passthrough mode a writable mapping belongs to the backing file and outlives the handle and its RELEASE, so a file
//! that could be mapped is looked at until the kernel grants a lease on it, which it does only when nobody else can write.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::effects::Invalidation;
use super::{Fs, FsError};
use crate::cache::Backing;
use crate::limits::SWEEP_INTERVAL_MS;

/// Keeps the thread; dropping it ends the thread.
pub struct Sweeper {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

/// Wakes the thread before its time.
#[derive(Debug, Default)]
pub(super) struct Bell {
    call: Mutex<Call>,
    rung: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Call {
    #[default]
    None,
    Sweep,
    End,
}

impl Bell {
    pub(super) fn ring(&self) {
        let mut call = self.call.lock();
        if *call == Call::None {
            *call = Call::Sweep;
            self.rung.notify_one();
        }
    }

    /// Waits until the next sweep is due; returns `false` when there will be none.
    fn wait(&self, interval: Duration) -> bool {
        let due = Instant::now() + interval;
        let mut call = self.call.lock();
        while *call == Call::None {
            if self.rung.wait_until(&mut call, due).timed_out() {
                break;
            }
        }
        let ends = *call == Call::End;
        if !ends {
            *call = Call::None;
        }
        !ends
    }
}

impl Fs {
    /// Starts the thread. It checks what the last run left over first.
    ///
    /// # Errors
    /// [`FsError::System`] when no thread can be started.
    pub fn start_sweeper(self: &Arc<Self>) -> Result<Sweeper, FsError> {
        let bell = Arc::clone(&self.bell);
        let fs = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("dfs-sweep".to_owned()).spawn(move || {
            if let Some(fs) = fs.upgrade()
                && let Err(error) = fs.cache.check_leftovers()
            {
                tracing::warn!(%error, "left-over files could not be checked");
            }
            let interval = Duration::from_millis(SWEEP_INTERVAL_MS);
            while bell.wait(interval) {
                match fs.upgrade() {
                    Some(fs) => fs.sweep(),
                    None => break,
                }
            }
        })?;
        Ok(Sweeper { bell: Arc::clone(&self.bell), thread: Some(thread) })
    }

    /// Looks at everything once. Called by the thread, and by the unmounting before it says what is pending.
    pub fn sweep(&self) {
        self.sweep_open();
        self.sweep_lingering();
        self.sweep_marks();
        if let Err(error) = self.cache.make_room() {
            tracing::warn!(%error, "the cache could not be made smaller");
        }
        self.tree.store().watch_reserve();
    }

    fn sweep_marks(&self) {
        // A conflict may be giving a mark to another node: not before it is known which.
        let _hold = self.hold.read();
        if let Err(error) = self.remove_marks() {
            tracing::warn!(%error, "open marks stay until the next start");
        }
    }

    fn sweep_open(&self) {
        let inodes: Vec<_> = self.open_files.lock().keys().copied().collect();
        for ino in inodes {
            let _hold = self.hold.read();
            if let Err(error) = self.notice_open(ino) {
                tracing::warn!(ino = ino.0, %error, "an open file could not be looked at");
            }
        }
    }

    fn sweep_lingering(&self) {
        let mut waiting = std::mem::take(&mut *self.lingering.lock());
        waiting.retain(|backing| match self.look_at_closed(backing) {
            Ok(still_mapped) => still_mapped,
            Err(error) => {
                tracing::warn!(%error, "a closed file could not be looked at");
                true
            }
        });
        self.lingering.lock().extend(waiting);
    }

    /// Tells whether somebody still maps the file for writing.
    fn look_at_closed(&self, backing: &Arc<Backing>) -> Result<bool, FsError> {
        let _hold = self.hold.read();
        let node = backing.node();
        let ino = node.and_then(|node| self.tree.node_by_id(node).ok().flatten()).map(|node| node.ino);
        if let Some(open) = ino.and_then(|ino| self.open_file(ino)) {
            // Its next release comes here again.
            if open.inner.lock().writers > 0 {
                backing.unuse();
                return Ok(false);
            }
        }
        let mapped = node.is_some() && backing.is_writable_elsewhere()?;
        if mapped {
            // Pages that were written back fault on the next store, which moves the time of change.
            backing.file()?.sync_data()?;
        }
        if self.notice(backing, false)?
            && let Some(ino) = ino
        {
            self.versions.lock().outdate(ino);
            self.invalidations.send(Invalidation::Data { ino });
        }
        if !mapped {
            // Another one than before, if the bytes were written too late for their file and became one of their own.
            if let Some(node) = backing.node() {
                self.unmark_open(node)?;
            }
            backing.unuse();
        }
        Ok(mapped)
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        *self.bell.call.lock() = Call::End;
        self.bell.rung.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sweeper panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::path::Path;

    use dfs_shared::ids::NodeId;

    use super::*;
    use crate::cache::{Cache, CacheOptions, Fetch, FetchDone, FetchError};
    use crate::clock::SystemClock;
    use crate::fs::{Caller, FsParts};
    use crate::tree::store::Store;
    use crate::tree::{Ino, Tree};

    struct Nobody;

    impl Fetch for Nobody {
        fn fetch(&self, _node: NodeId, _range: Range<u64>, done: FetchDone) {
            done(Err(FetchError::Offline));
        }
    }

    fn file_system(dir: &Path) -> Arc<Fs> {
        let store = Arc::new(Store::open(dir).unwrap());
        let tree = Arc::new(Tree::open(store, "host".to_owned(), Box::new(|| {})).unwrap());
        let (state_dir, cache_dir) = (dir.to_owned(), dir.join("cache"));
        let options = CacheOptions { state_dir, cache_dir, size_max: u64::MAX, removes_when_asked: false };
        let cache = Cache::open(Arc::clone(&tree), options).unwrap();
        let parts = FsParts {
            tree,
            cache,
            fetch: Arc::new(Nobody),
            clock: Arc::new(SystemClock),
            barrier: None,
            progress: None,
            on_modified: Box::new(|_| {}),
            read_only: false,
            control: None,
            boot: None,
        };
        Fs::new(parts).unwrap()
    }

    #[test]
    fn the_room_of_a_removed_file_that_only_the_sweeper_holds_comes_back_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fs = file_system(dir.path());
        let caller = Caller { uid: 0, gid: 0, thread: 0 };
        let make = |name: &[u8]| {
            let mut not_passed_through =
                |_: std::os::fd::BorrowedFd<'_>| Err(std::io::ErrorKind::Unsupported.into());
            let (attr, opened) =
                fs.create(Ino::ROOT, name, 0o644, libc::O_RDWR, caller, &mut not_passed_through).unwrap();
            fs.release(attr.ino, opened.handle).unwrap();
            fs.tree.node(attr.ino).unwrap().unwrap()
        };
        make(b"closed");
        fs.unlink(Ino::ROOT, b"closed", caller).unwrap();
        assert_eq!(*fs.bell.call.lock(), Call::None);
        let held = fs.cache.backing(&make(b"held")).unwrap();
        held.use_it();
        let weak = Arc::downgrade(&held);
        fs.lingering.lock().push(held);
        fs.unlink(Ino::ROOT, b"held", caller).unwrap();
        assert_eq!(*fs.bell.call.lock(), Call::Sweep);
        assert!(weak.upgrade().is_some(), "it is the sweeper's");
        fs.sweep();
        assert!(weak.upgrade().is_none());
    }
}
