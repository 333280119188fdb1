//! Hears of tokens and quotas that another process changed.
//!
//! `dfs-server token` writes to the database and then rewrites the file `access-changed` in the data directory; the
//! server waits for that in a thread of its own (inotify) and reads the tokens anew, so that a token is revoked as
//! soon as the command has returned, give or take the time of one read. So do `dfs-server volume quota` and `quota-changed`.
//! Where the system gives no watch, the thread reads both every [`ACCESS_RELOAD_MS`] instead. Invariant: dropping a [`Watch`]
//! ends its thread.

use std::io::{self, PipeWriter};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::registry::Registry;
use crate::limits::ACCESS_RELOAD_MS;

/// File that is rewritten when tokens have changed. Holds nothing of interest.
pub const CHANGED_FILE: &str = "access-changed";

/// File that is rewritten when a quota has been set. Holds nothing of interest.
pub const QUOTA_FILE: &str = "quota-changed";

/// Tells a running server that tokens have changed.
///
/// # Errors
/// When the file cannot be written; then a server that runs does not know of the change.
pub fn announce(data_dir: &Path) -> io::Result<()> {
    std::fs::write(data_dir.join(CHANGED_FILE), "Rewritten whenever access tokens change.\n")
}

/// Tells a running server that a quota has been set.
///
/// # Errors
/// When the file cannot be written; then mounts that are connected do not know of the change.
pub fn announce_quota(data_dir: &Path) -> io::Result<()> {
    std::fs::write(data_dir.join(QUOTA_FILE), "Rewritten whenever a quota is set.\n")
}

/// What to do when quotas may have been set.
pub type OnQuota = Box<dyn Fn() + Send>;

/// Keeps a registry in step with what other processes change.
#[derive(Debug)]
pub struct Watch {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to watch a data directory; what changed before is read by whoever opened the registry after this.
    ///
    /// # Errors
    /// When the system gives no thread or pipe.
    pub fn start(data_dir: &Path, registry: Arc<Registry>, on_quota: OnQuota) -> io::Result<Self> {
        let changes = match watch(data_dir) {
            Ok(changes) => Some(changes),
            Err(error) => {
                let interval_ms = ACCESS_RELOAD_MS;
                tracing::warn!(%error, interval_ms, "no file watch: access tokens are read at an interval instead");
                None
            }
        };
        let (stopped, stop) = io::pipe()?;
        // What changed between reading the tokens and watching.
        reload(&registry);
        on_quota();
        let run = move || run(stopped.as_fd(), changes.as_ref(), &registry, &on_quota);
        let thread = std::thread::Builder::new().name("access-watch".to_owned()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The other end of the pipe is told.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(data_dir: &Path) -> Result<OwnedFd, Errno> {
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // The directory and not the file: that may be missing, or be replaced.
    inotify::add_watch(&changes, data_dir, WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO)?;
    Ok(changes)
}

fn run(
    stopped: std::os::fd::BorrowedFd<'_>,
    changes: Option<&OwnedFd>,
    registry: &Registry,
    on_quota: &OnQuota,
) {
    let interval = Duration::from_millis(ACCESS_RELOAD_MS);
    let interval = Timespec { tv_sec: 0, tv_nsec: interval.subsec_nanos().into() };
    let timeout = if changes.is_none() { Some(&interval) } else { None };
    loop {
        let mut waits = vec![PollFd::new(&stopped, PollFlags::IN)];
        waits.extend(changes.map(|changes| PollFd::new(changes, PollFlags::IN)));
        match poll(&mut waits, timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "changes of access tokens are not noticed any more: restart the server");
                return;
            }
        }
        if !waits[0].revents().is_empty() {
            return;
        }
        let Changed { tokens, quotas } = changes.map_or(Changed { tokens: true, quotas: true }, changed);
        if tokens {
            reload(registry);
        }
        if quotas {
            on_quota();
        }
    }
}

/// What another process may have changed.
#[derive(Debug, Clone, Copy, Default)]
struct Changed {
    tokens: bool,
    quotas: bool,
}

/// Reads what there is of events and tells what they are about.
fn changed(changes: &OwnedFd) -> Changed {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = Reader::new(changes, &mut buffer);
    let mut changed = Changed::default();
    while let Ok(event) = events.next() {
        let is_all = event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
        let is = |file: &str| event.file_name().is_some_and(|name| name.to_bytes() == file.as_bytes());
        changed.tokens |= is_all || is(CHANGED_FILE);
        changed.quotas |= is_all || is(QUOTA_FILE);
    }
    changed
}

fn reload(registry: &Registry) {
    match registry.reload() {
        Ok(()) => tracing::debug!(active = registry.active(), "access tokens were read"),
        Err(error) => {
            let error = crate::report::chain(&error);
            tracing::error!(error, "cannot read the access tokens: those of before stay good");
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_shared::ids::VolumeName;
    use dfs_shared::time::Timestamp;

    use super::*;
    use crate::access::{Access, AccessToken, Need, TokenId};
    use crate::blocking::block_on;
    use crate::metadata::MetadataStore;
    use crate::metadata::sqlite::SqliteStore;

    #[test]
    fn a_change_of_another_store_on_the_same_directory_ends_a_grant() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn MetadataStore> = Arc::new(SqliteStore::open(dir.path()).unwrap());
        let registry = Arc::new(Registry::open(store, true).unwrap());
        let (told, quotas) = std::sync::mpsc::channel();
        let on_quota = Box::new(move || told.send(()).unwrap());
        let watch = Watch::start(dir.path(), Arc::clone(&registry), on_quota).unwrap();
        quotas.recv().unwrap();
        let grant = registry.check(std::iter::empty(), Need::Server(Access::Read), None).unwrap();
        std::fs::write(dir.path().join("something else"), "x").unwrap();

        let other: &dyn MetadataStore = &SqliteStore::open(dir.path()).unwrap();
        let token = AccessToken {
            id: TokenId::from_bytes([1; 8]),
            digest: [1; 32],
            volume: VolumeName::new("main").unwrap(),
            access: Access::Read,
            name: String::new(),
            created: Timestamp::default(),
            revoked: None,
        };
        other.write(1, move |tx| tx.put_token(&token)).wait().unwrap();
        announce(dir.path()).unwrap();
        block_on(grant.revoked());
        assert_eq!(registry.active(), 1);
        assert!(quotas.try_recv().is_err(), "tokens are no quotas");
        announce_quota(dir.path()).unwrap();
        quotas.recv().unwrap();
        drop(watch);
    }
}
