//! A simulated mount: the real tree, cache, engine and file system, without a kernel, on a disk that outlives them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dfs_mountd::cache::{Cache, CacheOptions, Fetch, FetchDone, FetchError};
use dfs_mountd::clock::Clock;
use dfs_mountd::engine::{Engine, Parts, Wake};
use dfs_mountd::fs::{Attr, Caller, Fs, FsError, FsParts, SetAttr, SetTime};
use dfs_mountd::tree::policy::{Policies, Policy};
use dfs_mountd::tree::store::{MemoryDisk, Store};
use dfs_mountd::tree::{Ino, LocalNode, Membership, Tree};
use dfs_shared::event::EventBus;
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::record::NodeKind;
use dfs_shared::time::Timestamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::network::{Link, Network};

/// Who does everything.
pub(crate) const CALLER: Caller = Caller { uid: 0, gid: 0, thread: 1 };
/// When simulated time begins: past any real time, so that it always has the last word.
const BEGINNING_SECS: i64 = 4_000_000_000;

/// Simulated time.
pub(crate) struct SimClock(Instant);

impl SimClock {
    /// Begins now.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let passed = self.0.elapsed();
        let secs = BEGINNING_SECS + i64::try_from(passed.as_secs()).unwrap_or(0);
        Timestamp { secs, nanos: passed.subsec_nanos() }
    }

    fn since_boot(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Ids in the order in which they were asked for, spread as hashes spread.
#[derive(Default)]
pub(crate) struct Ids(AtomicU64);

impl Ids {
    fn next(&self) -> NodeId {
        let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        NodeId::from_bytes((u128::from(number) << 64 | 0x51).to_be_bytes())
    }
}

/// The engine as the file system asks it for bytes; weak, so that a killed mount leaves nothing behind.
struct Bytes(Weak<Engine>);

impl Fetch for Bytes {
    fn fetch(&self, node: NodeId, range: std::ops::Range<u64>, done: FetchDone) {
        match self.0.upgrade() {
            Some(engine) => engine.fetch(node, range, done),
            None => done(Err(FetchError::Offline)),
        }
    }
}

/// A mount's machine.
pub(crate) struct Mount {
    index: usize,
    disk: MemoryDisk,
    dir: PathBuf,
    network: Arc<Network>,
    clock: Arc<dyn Clock>,
    ids: Arc<Ids>,
    policy: Policy,
    live: Option<Live>,
    /// How often the machine was switched on.
    boots: u64,
    /// The bytes of backing files, by name, that had reached the disk when somebody last asked for it.
    synced: BTreeMap<String, Vec<u8>>,
    /// The file that a program has open for writing.
    pub(crate) open: Option<Handle>,
}

struct Live {
    tree: Arc<Tree>,
    cache: Arc<Cache>,
    engine: Arc<Engine>,
    fs: Arc<Fs>,
}

/// An open file; the kernel writes to the backing file itself where it was given one.
pub(crate) struct Handle {
    /// The inode.
    pub(crate) ino: Ino,
    handle: u64,
    given: Option<std::fs::File>,
    /// Something was written through it.
    pub(crate) written: bool,
}

impl Mount {
    /// Makes the machine and starts the mount.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn new(
        index: usize,
        dir: PathBuf,
        network: Arc<Network>,
        clock: Arc<dyn Clock>,
        ids: Arc<Ids>,
        policy: Policy,
    ) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let (disk, synced) = (MemoryDisk::default(), BTreeMap::new());
        let mut mount =
            Self { index, disk, dir, network, clock, ids, policy, live: None, boots: 1, synced, open: None };
        mount.start()?;
        Ok(mount)
    }

    fn start(&mut self) -> Result<()> {
        let (wake, ids) = (Wake::default(), Arc::clone(&self.ids));
        let store = Arc::new(Store::in_memory(&self.disk)?);
        let host = format!("m{}", self.index);
        let tree = Tree::open(store, host.clone(), wake.callback())?.with_ids(Box::new(move || ids.next()));
        tree.set_policies(Policies::new(self.policy, &[])?);
        let tree = Arc::new(tree);
        if tree.membership()? == Membership::default() {
            let client = Some(ClientId::new(&host)?);
            tree.set_membership(&Membership { client, ..Membership::default() })?;
        }
        let options = CacheOptions {
            state_dir: self.dir.clone(),
            cache_dir: self.dir.join("cache"),
            size_max: u64::MAX,
            removes_when_asked: true,
        };
        let cache = Cache::open(Arc::clone(&tree), options)?;
        let parts = Parts {
            tree: Arc::clone(&tree),
            cache: Arc::clone(&cache),
            remote: Arc::new(Link::new(Arc::clone(&self.network), self.index)),
            clock: Arc::clone(&self.clock),
            wake: wake.clone(),
            client_name: host,
            read_only: false,
            seed: self.index as u64 + 1,
        };
        let engine = Engine::on_runtime(parts, tokio::runtime::Handle::current())?;
        let fs = Fs::new(FsParts {
            tree: Arc::clone(&tree),
            cache: Arc::clone(&cache),
            fetch: Arc::new(Bytes(Arc::downgrade(&engine))),
            clock: Arc::clone(&self.clock),
            barrier: None,
            progress: None,
            on_modified: Box::new(move |_| wake.wake()),
            read_only: false,
            control: None,
            boot: Some(self.boots.to_string()),
        })?;
        // Every other mount gives its backing files to the kernel.
        fs.set_passthrough(self.index.is_multiple_of(2));
        cache.check_leftovers()?;
        engine.start(fs.clone(), fs.clone(), &EventBus::new());
        self.live = Some(Live { tree, cache, engine, fs });
        Ok(())
    }

    /// Kills the mount: what was acknowledged stays.
    pub(crate) async fn kill(&mut self) {
        self.disk.kill();
        self.end().await;
    }

    /// Cuts the power. `chance` of 200 tells how many of the journal's batches that were not synced stay, and what
    /// becomes of the bytes of files.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) async fn cut_power(&mut self, chance: u64) -> Result<()> {
        let kept = usize::try_from(chance)? * self.disk.unsynced() / 200;
        self.disk.lose_power(kept);
        self.boots += 1;
        self.end().await;
        self.backing_files()?.iter().try_for_each(|file| self.lose_bytes(file, chance))
    }

    /// The backing files in both places, always in the same order.
    fn backing_files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for place in [&self.dir, &self.dir.join("cache")] {
            for slot in sorted(&place.join("files"))? {
                files.extend(sorted(&slot)?);
            }
        }
        Ok(files)
    }

    async fn end(&mut self) {
        self.open = None;
        if let Some(live) = self.live.take() {
            let tree = Arc::downgrade(&live.tree);
            drop(live);
            // What was aborted is dropped when the runtime comes to it.
            for _ in 0..1000 {
                if tree.strong_count() == 0 {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Leaves of a backing file what may have reached the disk.
    fn lose_bytes(&self, path: &Path, chance: u64) -> Result<()> {
        let name = name_of(path);
        let bytes = std::fs::read(path)?;
        let synced = self.synced.get(&name);
        if synced == Some(&bytes) {
            return Ok(());
        }
        let number = u64::from_str_radix(&name, 16).context("the name of a backing file")?;
        let left = match (number ^ chance) % 5 {
            0 | 1 => return Ok(()),
            // Its directory had not been written.
            2 if synced.is_none() => return Ok(std::fs::remove_file(path)?),
            // Neither had its blocks been, but the length.
            3 => {
                let mut left = synced.cloned().unwrap_or_default();
                left.resize(bytes.len(), 0);
                left
            }
            _ => synced.cloned().unwrap_or_default(),
        };
        let modified = std::fs::metadata(path)?.modified()?;
        let file = std::fs::OpenOptions::new().write(true).open(path)?;
        file.set_len(left.len() as u64)?;
        file.write_all_at(&left, 0)?;
        Ok(file.set_modified(modified)?)
    }

    /// Everything that the file of the open handle holds has reached the disk. After a conflict that is the copy's.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn synced(&mut self) -> Result<()> {
        let Some(handle) = &self.open else { return Ok(()) };
        let name = match &handle.given {
            Some(file) => name_of(&std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?),
            None => {
                let Some(node) = self.tree().node(handle.ino)? else { return Ok(()) };
                let Some(row) = self.tree().content_state(node.id)? else { return Ok(()) };
                format!("{:016x}", row.file.0)
            }
        };
        for file in self.backing_files()?.iter().filter(|file| name_of(file) == name) {
            self.synced.insert(name.clone(), std::fs::read(file)?);
        }
        Ok(())
    }

    /// Removes what the mount has thrown away.
    pub(crate) fn remove_thrown_away(&self) {
        self.live().cache.remove_thrown_away();
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.start().with_context(|| format!("mount {} does not start again", self.index))
    }

    /// Fills the disk or makes room.
    pub(crate) fn set_full(&self, full: bool) {
        self.disk.set_full(full);
    }

    fn live(&self) -> &Live {
        self.live.as_ref().expect("a killed mount is started again in the same step")
    }

    /// The file system.
    #[must_use]
    pub(crate) fn fs(&self) -> &Arc<Fs> {
        &self.live().fs
    }

    /// The tree.
    #[must_use]
    pub(crate) fn tree(&self) -> &Arc<Tree> {
        &self.live().tree
    }

    /// The engine.
    #[must_use]
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.live().engine
    }

    /// Drops a file's bytes, if they may go.
    pub(crate) fn evict(&self, node: NodeId) -> bool {
        self.live().cache.evict(node).is_ok()
    }

    /// Follows a path.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub(crate) fn resolve(&self, path: &str) -> Result<Attr, FsError> {
        let mut at = self.fs().getattr(Ino::ROOT, CALLER)?;
        for name in path.split('/') {
            at = self.fs().lookup(at.ino, name.as_bytes(), CALLER)?.ok_or(FsError::NotFound)?;
        }
        Ok(at)
    }

    /// Returns the directory that a path is in, and its last name.
    ///
    /// # Errors
    /// When the directory does not exist.
    pub(crate) fn split<'p>(&self, path: &'p str) -> Result<(Ino, &'p [u8]), FsError> {
        match path.rsplit_once('/') {
            Some((dir, name)) => Ok((self.resolve(dir)?.ino, name.as_bytes())),
            None => Ok((Ino::ROOT, path.as_bytes())),
        }
    }

    /// Opens a file, making it where `create` says so.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn open(&self, path: &str, flags: i32, create: bool) -> Result<Handle, FsError> {
        let mut given = None;
        let mut register = |file: BorrowedFd<'_>| -> io::Result<dfs_mountd::fs::Token> {
            given = Some(std::fs::File::from(file.try_clone_to_owned()?));
            Ok(Arc::new(()))
        };
        let (ino, opened) = if create {
            let (dir, name) = self.split(path)?;
            let (attr, opened) = self.fs().create(dir, name, 0o644, flags, CALLER, &mut register)?;
            (attr.ino, opened)
        } else {
            let ino = self.resolve(path)?.ino;
            (ino, self.fs().open(ino, flags, CALLER, &mut register)?)
        };
        let given = given.filter(|_| opened.token.is_some());
        Ok(Handle { ino, handle: opened.handle, given, written: false })
    }

    /// Writes as the kernel does: to the backing file where it has one, otherwise through the daemon.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn write(&self, handle: &Handle, at: u64, bytes: &[u8]) -> Result<(), FsError> {
        match &handle.given {
            Some(file) => Ok(file.write_all_at(bytes, at)?),
            None => self.fs().write(handle.ino, at, bytes, None),
        }
    }

    /// Sets when a file was changed to simulated time where that decides something: its bytes are written in real time.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn changed_now(&self, ino: Ino) -> Result<(), FsError> {
        if self.policy != Policy::LastWriteWins {
            return Ok(());
        }
        let mtime = Some(SetTime::At(self.clock.now()));
        self.fs().setattr(ino, &SetAttr { mtime, ..SetAttr::default() }, CALLER).map(drop)
    }

    /// Closes a handle. Returns whether what was written is acknowledged.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn close(&self, handle: Handle) -> Result<(), FsError> {
        drop(handle.given);
        let flushed = self.fs().flush(handle.ino, handle.handle);
        self.fs().release(handle.ino, handle.handle)?;
        flushed
    }

    /// Returns what a program would read through a handle now, if all of it is here.
    #[must_use]
    pub(crate) fn peek(&self, handle: &Handle) -> Option<Vec<u8>> {
        let (sender, mut receiver) = oneshot::channel();
        if let Some(file) = &handle.given {
            let mut bytes = vec![0; usize::try_from(file.metadata().ok()?.len()).ok()?];
            file.read_exact_at(&mut bytes, 0).ok()?;
            return Some(bytes);
        }
        let done = move |read: Result<&[u8], FsError>| drop(sender.send(read.ok().map(<[u8]>::to_vec)));
        self.fs().read(handle.ino, 0, 1 << 20, Box::new(done));
        receiver.try_recv().ok().flatten()
    }

    /// Reads a file, fetching what is not here.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) async fn read(&self, ino: Ino, patience: Duration) -> Result<Vec<u8>> {
        let opened = self.fs().open(ino, libc::O_RDONLY, CALLER, &mut |_| Ok(Arc::new(())));
        let handle = opened?.handle;
        let (sender, receiver) = oneshot::channel();
        let done = move |read: Result<&[u8], FsError>| {
            drop(sender.send(read.map(<[u8]>::to_vec).map_err(|error| anyhow!(error))));
        };
        self.fs().read(ino, 0, 1 << 20, Box::new(done));
        let read = tokio::time::timeout(patience, receiver).await;
        self.fs().release(ino, handle)?;
        read.context("a read takes too long")?.context("a read without an answer")?
    }

    /// Returns the digest of a file's bytes if all of them are here.
    #[must_use]
    pub(crate) fn digest_here(&self, node: &LocalNode) -> Option<ChunkHash> {
        let record = node.live().filter(|record| record.kind == NodeKind::File)?;
        let backing = self.live().cache.backing(node).ok()?;
        if !backing.is_whole() {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(backing.size().unwrap_or(record.size)).ok()?];
        let read = backing.read_at(&mut bytes, 0).ok()?;
        (read == bytes.len()).then(|| ChunkHash::of(&bytes))
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What is in a directory, by name; nothing where there is none.
fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
