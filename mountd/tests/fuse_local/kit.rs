//! A mount in a temporary directory, with a server that is a map of contents.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use dfs_mountd::cache::{Cache, CacheOptions, Fetch, FetchDone, FetchError, OpenFiles, Progress};
use dfs_mountd::fs::{Fs, FsParts};
use dfs_mountd::fuse::{MountOptions, Mounted, mount};
use dfs_mountd::tree::Tree;
use dfs_mountd::tree::store::Store;
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::{ChunkRef, Manifest};

/// Stands for the server's contents; fetches whole chunks, on a thread of its own.
#[derive(Default)]
pub(crate) struct Contents {
    chunks: Mutex<HashMap<ChunkHash, Vec<u8>>>,
    manifests: Mutex<HashMap<NodeId, Manifest>>,
    pub(crate) fetched: Mutex<Vec<Range<u64>>>,
    /// The next fetch runs this before it does anything.
    pub(crate) before_fetch: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// It takes what is written here.
    pub(crate) takes: AtomicBool,
    cache: OnceLock<std::sync::Weak<Cache>>,
}

impl Contents {
    /// Cuts `bytes` into chunks of `len` and keeps them.
    pub(crate) fn add(&self, bytes: &[u8], len: usize) -> Manifest {
        let mut chunks = self.chunks.lock().expect("no panic");
        let mut manifest = Manifest { chunk_log2: 14, chunks: Vec::new() };
        for part in bytes.chunks(len) {
            let hash = ChunkHash::of(part);
            chunks.insert(hash, part.to_vec());
            manifest.chunks.push(ChunkRef { hash, len: part.len() as u64 });
        }
        manifest
    }

    /// Says what a node's content is.
    pub(crate) fn set(&self, node: NodeId, manifest: &Manifest) {
        self.manifests.lock().expect("no panic").insert(node, manifest.clone());
    }

    /// Knows all chunks of `other`, too.
    pub(crate) fn take(&self, other: &Contents) {
        let chunks = other.chunks.lock().expect("no panic").clone();
        self.chunks.lock().expect("no panic").extend(chunks);
    }

    fn fill(&self, cache: &Arc<Cache>, node: NodeId, range: &Range<u64>) -> Result<(), FetchError> {
        let failed = |error: &dyn std::fmt::Display| FetchError::Failed { reason: error.to_string() };
        let manifest = self.manifests.lock().expect("no panic").get(&node).cloned();
        let manifest = manifest.ok_or(FetchError::NotFound)?;
        let filler = cache.begin_fill(node, &manifest).map_err(|error| failed(&error))?;
        for (at, chunk) in filler.missing() {
            if at < range.end && at + chunk.len > range.start {
                let chunks = self.chunks.lock().expect("no panic");
                let bytes = chunks.get(&chunk.hash).ok_or(FetchError::NotFound)?;
                filler.write(at, bytes).map_err(|error| failed(&error))?;
                self.fetched.lock().expect("no panic").push(at..at + chunk.len);
            }
        }
        Ok(())
    }
}

struct Fetcher(Arc<Contents>);

impl Fetch for Fetcher {
    fn fetch(&self, node: NodeId, range: Range<u64>, done: FetchDone) {
        let contents = Arc::clone(&self.0);
        std::thread::spawn(move || {
            let before = contents.before_fetch.lock().expect("no panic").take();
            before.into_iter().for_each(|before| before());
            let cache = contents.cache.get().and_then(std::sync::Weak::upgrade);
            done(match cache {
                Some(cache) => contents.fill(&cache, node, &range),
                None => Err(FetchError::Offline),
            });
        });
    }
}

impl Progress for Fetcher {
    fn is_uploading(&self, _node: NodeId) -> bool {
        false
    }

    fn is_conflict(&self, _node: NodeId) -> bool {
        false
    }

    fn is_sending(&self) -> bool {
        self.0.takes.load(Ordering::SeqCst)
    }
}

/// Stands for the machine's run since it was switched on.
const BOOT: &str = "a boot";

/// A mount.
pub(crate) struct Local {
    mounted: Option<Mounted>,
    pub(crate) tree: Arc<Tree>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) fs: Arc<Fs>,
    pub(crate) contents: Arc<Contents>,
    root: Root,
    no_passthrough: bool,
}

/// Where state, cache and mount point are.
enum Root {
    Own(tempfile::TempDir),
    /// Of somebody else, who takes it away, and expects a guardian.
    Guarded(PathBuf),
}

impl Root {
    fn path(&self) -> &Path {
        match self {
            Self::Own(dir) => dir.path(),
            Self::Guarded(path) => path,
        }
    }

    fn guardian(&self) -> Option<PathBuf> {
        matches!(self, Self::Guarded(_)).then(|| env!("CARGO_BIN_EXE_dfs-mount").into())
    }
}

/// Tells (and prints) whether mounts are possible here.
pub(crate) fn can_mount() -> bool {
    match std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: /dev/fuse: {error}");
            false
        }
    }
}

impl Local {
    /// Mounts with passthrough where this user may.
    pub(crate) fn new() -> Option<Self> {
        Self::with(false)
    }

    /// Mounts without passthrough.
    pub(crate) fn served() -> Option<Self> {
        Self::with(true)
    }

    /// Both ways to serve bytes.
    pub(crate) fn both() -> impl Iterator<Item = Self> {
        [Self::new, Self::served].into_iter().filter_map(|make| make())
    }

    fn with(no_passthrough: bool) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let root = tempfile::tempdir().expect("a directory");
        Some(Self::start(Root::Own(root), no_passthrough, BOOT))
    }

    /// Mounts in a directory of somebody else, with a guardian.
    pub(crate) fn guarded(root: &Path) -> Self {
        Self::start(Root::Guarded(root.to_owned()), false, BOOT)
    }

    fn start(root: Root, no_passthrough: bool, boot: &str) -> Self {
        let state_dir = root.path().join("state");
        std::fs::create_dir_all(&state_dir).expect("a directory");
        let store = Arc::new(Store::open(&state_dir).expect("a store"));
        let tree = Arc::new(Tree::open(store, "host".to_owned(), Box::new(|| {})).expect("a tree"));
        let cache_dir = root.path().join("cache");
        let options = CacheOptions { state_dir, cache_dir, size_max: 64 << 20, removes_when_asked: false };
        let cache = Cache::open(Arc::clone(&tree), options).expect("a cache");
        let contents = Arc::new(Contents::default());
        contents.cache.set(Arc::downgrade(&cache)).expect("set once");
        let fs = Fs::new(FsParts {
            tree: Arc::clone(&tree),
            cache: Arc::clone(&cache),
            fetch: Arc::new(Fetcher(Arc::clone(&contents))),
            clock: Arc::new(dfs_mountd::clock::SystemClock),
            barrier: None,
            progress: Some(Arc::new(Fetcher(Arc::clone(&contents)))),
            on_modified: Box::new(|_| {}),
            read_only: false,
            control: Some("/run/control".into()),
            boot: Some(boot.to_owned()),
        })
        .expect("a file system");
        let options = MountOptions {
            mount_point: root.path().join("mnt"),
            no_passthrough,
            guardian: root.guardian(),
            ..MountOptions::default()
        };
        let mounted = mount(Arc::clone(&fs), &options).expect("a mount");
        Self { mounted: Some(mounted), tree, cache, fs, contents, root, no_passthrough }
    }

    /// Unmounts and mounts again, on the same directories.
    pub(crate) fn restart(self) -> Self {
        self.restart_after(BOOT, |_| {})
    }

    /// Something is done to the directory of state and cache meanwhile.
    pub(crate) fn restart_with(self, work: impl FnOnce(&Path)) -> Self {
        self.restart_after(BOOT, work)
    }

    /// As if the machine had lost its power meanwhile; `damage` is done to the directory of state and cache.
    pub(crate) fn restart_after_power_loss(self, damage: impl FnOnce(&Path)) -> Self {
        self.restart_after("another boot", damage)
    }

    fn restart_after(mut self, boot: &str, damage: impl FnOnce(&Path)) -> Self {
        self.mounted = None;
        let Self { root, no_passthrough, tree, cache, fs, .. } = {
            let placeholder = tempfile::tempdir().expect("a directory");
            Self {
                mounted: None,
                tree: Arc::clone(&self.tree),
                cache: Arc::clone(&self.cache),
                fs: Arc::clone(&self.fs),
                contents: Arc::clone(&self.contents),
                root: std::mem::replace(&mut self.root, Root::Own(placeholder)),
                no_passthrough: self.no_passthrough,
            }
        };
        drop((self, fs, cache, tree));
        damage(root.path());
        Self::start(root, no_passthrough, boot)
    }

    /// The mount point.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.path().join("mnt")
    }

    /// A path in the mount.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path().join(path)
    }

    /// Waits until the daemon has dealt with the last close of a file that was written: the kernel tells it without waiting.
    pub(crate) fn wait_released(&self, path: &str) {
        let node = self.node(path).id;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while self.fs.is_being_written(node) {
            assert!(std::time::Instant::now() < deadline, "{path} is still open");
            std::thread::yield_now();
        }
    }

    /// The node at a path.
    pub(crate) fn node(&self, path: &str) -> dfs_mountd::tree::LocalNode {
        self.tree.resolve_path(path.as_bytes()).expect("a node")
    }
}
