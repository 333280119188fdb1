//! A mount without a kernel: tree, cache and engine in a directory of its own.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_shared::event::EventBus;
use dfs_shared::hash::{ContentId, MerkleHash};
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::Manifest;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, Record};
use dfs_shared::time::Timestamp;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::cache::{Backing, Cache, CacheError, CacheOptions, Fetch, FetchError, HoldGuard, OpenFiles};
use crate::clock::{Clock, SystemClock};
use crate::engine::hash::small_manifest;
use crate::engine::verify::{Finding, Scope, Verified, VerifyEvent};
use crate::engine::{Connection, Engine, Parts, PinError, Status, Wake};
use crate::remote::memory::MemoryRemote;
use crate::tree::content::{ContentState, Place};
use crate::tree::journal::NamedContent;
use crate::tree::namespace::{AttributeChange, NewNode, RenameMode};
use crate::tree::node::{Cookie, Ino};
use crate::tree::policy::{Policies, Policy};
use crate::tree::store::Store;
use crate::tree::{Effect, EffectSink, LocalNode, Tree};

const PATIENCE: Duration = Duration::from_secs(20);

/// Looks again and again: for what no event tells of.
pub(super) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// Bytes that do not compress or repeat.
pub(super) fn bytes_of(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub(super) fn is_file(record: &Record) -> bool {
    matches!(record, Record::Node(node) if node.kind == NodeKind::File)
}

type Asked = Box<dyn FnOnce(&Tree, &Arc<Cache>, NodeId) + Send>;

/// Wakes the test when something changed here.
#[derive(Default)]
struct Sink {
    count: Mutex<u64>,
    /// What `count` was when the engine last waited for the kernel.
    settled: Mutex<u64>,
    changed: Condvar,
    hold: RwLock<()>,
    cache: Mutex<Option<(Arc<Tree>, Arc<Cache>)>>,
    /// What to do when the engine next asks whether a file is being written.
    on_asked: Mutex<Option<Asked>>,
}

impl EffectSink for Sink {
    fn effects(&self, effects: Vec<Effect>) {
        if let Some((tree, cache)) = &*self.cache.lock() {
            for effect in &effects {
                match effect {
                    Effect::Forked { from, to_node, .. } => {
                        if let Ok(Some(node)) = tree.node(*from) {
                            cache.forked(node.id, *to_node);
                        }
                    }
                    Effect::Removed { node } => {
                        cache.discard(node);
                    }
                    _ => {}
                }
            }
        }
        *self.count.lock() += 1;
        self.changed.notify_all();
    }

    fn settle(&self) {
        *self.settled.lock() = *self.count.lock();
    }
}

impl OpenFiles for Sink {
    fn notice(&self, _nodes: &[NodeId]) {}

    fn is_being_written(&self, node: NodeId) -> bool {
        let work = self.on_asked.lock().take();
        if let (Some(work), Some((tree, cache))) = (work, &*self.cache.lock()) {
            work(tree, cache, node);
        }
        false
    }

    fn hold(&self) -> HoldGuard<'_> {
        HoldGuard::new(self.hold.write())
    }
}

pub(super) struct Rig {
    dir: tempfile::TempDir,
    sink: Arc<Sink>,
    live: Option<Live>,
    policies: Option<Policies>,
    /// What the cache may take.
    size_max: u64,
}

struct Live {
    tree: Arc<Tree>,
    cache: Arc<Cache>,
    engine: Arc<Engine>,
}

fn open(dir: &std::path::Path, size_max: u64, server: &MemoryRemote) -> Live {
    let wake = Wake::default();
    // Whoever let go of the last one last may still be closing it.
    let mut opened = None;
    until("the store can be opened", || {
        opened = Store::open(dir).ok();
        opened.is_some()
    });
    let store = Arc::new(opened.expect("it was waited for"));
    let tree = Arc::new(Tree::open(store, "host".to_owned(), wake.callback()).expect("a tree"));
    let (state_dir, cache_dir) = (dir.to_owned(), dir.join("cache"));
    let options = CacheOptions { state_dir, cache_dir, size_max, removes_when_asked: false };
    let cache = Cache::open(Arc::clone(&tree), options).expect("a cache");
    let engine = Engine::new(Parts {
        tree: Arc::clone(&tree),
        cache: Arc::clone(&cache),
        remote: Arc::new(server.clone()),
        clock: Arc::new(SystemClock),
        wake,
        client_name: "host".to_owned(),
        read_only: false,
        seed: 1,
    });
    Live { tree, cache, engine: engine.expect("threads") }
}

impl Rig {
    pub(super) fn new(server: &MemoryRemote) -> Self {
        Self::bounded(server, u64::MAX)
    }

    /// As [`Self::new`], with a bounded cache.
    pub(super) fn bounded(server: &MemoryRemote, size_max: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut rig = Self { dir, sink: Arc::default(), live: None, policies: None, size_max };
        rig.start(server);
        rig
    }

    /// Returns the state directory; the cache directory is in it.
    pub(super) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Ends the engine and closes the store, without a word to anybody.
    pub(super) fn kill(&mut self) {
        *self.sink.cache.lock() = None;
        let Some(live) = self.live.take() else { return };
        let tree = Arc::downgrade(&live.tree);
        drop(live);
        until("everything is closed", || tree.strong_count() == 0);
    }

    /// Opens everything in the same directory.
    pub(super) fn start(&mut self, server: &MemoryRemote) {
        assert!(self.live.is_none());
        let live = open(self.dir.path(), self.size_max, server);
        *self.sink.cache.lock() = Some((Arc::clone(&live.tree), Arc::clone(&live.cache)));
        if let Some(policies) = &self.policies {
            live.tree.set_policies(policies.clone());
        }
        live.engine.start(self.sink.clone(), self.sink.clone(), &EventBus::new());
        self.live = Some(live);
    }

    /// Writes a file before the mount has found its server again.
    pub(super) fn write_while_alone(&mut self, name: &str, bytes: &[u8]) {
        assert!(self.live.is_none());
        let nobody = MemoryRemote::new();
        nobody.set_online(false);
        self.start(&nobody);
        self.write(name, bytes);
        self.kill();
    }

    fn live(&self) -> &Live {
        self.live.as_ref().expect("the mount is started")
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.live().engine
    }

    /// Lets the later of two contents win from the next start on.
    pub(super) fn last_write_wins(&mut self) {
        self.policies = Some(Policies::new(Policy::LastWriteWins, &[]).expect("no patterns"));
    }

    pub(super) fn online(&self) {
        let mut connection = self.engine().connection();
        let online = connection.wait_for(|connection| matches!(connection, Connection::Online { .. }));
        let online = async { tokio::time::timeout(PATIENCE, online).await.map(drop) };
        self.engine().runtime().block_on(online).expect("the mount comes online");
    }

    pub(super) fn flush(&self) {
        let waited = self.engine().runtime().block_on(self.engine().wait(Some(PATIENCE)));
        assert!(waited.expect("a store"), "not everything reached the server: {:#?}", self.status());
    }

    /// Waits for effects of remote changes until something is true.
    pub(super) fn until(&self, what: &str, done: impl Fn() -> bool) {
        let mut count = self.sink.count.lock();
        let end = Instant::now() + PATIENCE;
        while !done() {
            let late = self.sink.changed.wait_until(&mut count, end.min(Instant::now() + PATIENCE / 50));
            assert!(
                !late.timed_out() || Instant::now() < end,
                "waited in vain until {what}: {:#?}",
                self.status()
            );
        }
    }

    /// Returns whether the engine has waited for the kernel since the last change.
    pub(super) fn is_settled(&self) -> bool {
        *self.sink.settled.lock() == *self.sink.count.lock()
    }

    pub(super) fn status(&self) -> Status {
        self.engine().status().expect("a store")
    }

    pub(super) fn tree(&self) -> &Arc<Tree> {
        &self.live().tree
    }

    pub(super) fn root(&self) -> MerkleHash {
        self.live().tree.base_root().expect("a store")
    }

    pub(super) fn names(&self) -> Vec<String> {
        let entries = self.live().tree.read_dir(NodeId::ROOT, Cookie(0), usize::MAX).expect("a store");
        let mut names: Vec<String> = entries.iter().map(|entry| entry.name.to_string()).collect();
        names.sort();
        names
    }

    pub(super) fn kinds(&self) -> Vec<NodeKind> {
        let entries = self.live().tree.read_dir(NodeId::ROOT, Cookie(0), usize::MAX).expect("a store");
        entries.iter().map(|entry| entry.target.kind).collect()
    }

    fn find(&self, name: &str) -> Option<LocalNode> {
        self.live().tree.resolve_path(name.as_bytes()).ok()
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    /// Returns the directory and the name of a path.
    fn place(&self, path: &str) -> (Ino, Name) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.find(parent).expect("a directory").ino, Name::new(name.as_bytes()).expect("a name"))
    }

    pub(super) fn rename(&self, from: &str, to: &str) {
        let (from, to) = (self.place(from), self.place(to));
        let (from, to) = ((from.0, &from.1), (to.0, &to.1));
        self.live().tree.rename(from, to, RenameMode::Replace, SystemClock.now()).expect("renamed");
    }

    pub(super) fn pin(&self, path: &str) {
        self.engine().pin(self.id(path)).expect("pinned");
    }

    pub(super) fn unpin(&self, path: &str) {
        assert!(self.live().tree.unpin(self.id(path)).expect("unpinned"));
    }

    /// Waits until all that is pinned below a path is here.
    pub(super) fn wait_pinned(&self, path: &str) -> Result<(), PinError> {
        let (progress, _news) = tokio::sync::mpsc::channel(1);
        let waiting = self.engine().wait_pinned(self.id(path), progress);
        let waiting = async { tokio::time::timeout(PATIENCE, waiting).await };
        self.engine().runtime().block_on(waiting).expect("waited in vain for what is pinned")
    }

    pub(super) fn make_room(&self) {
        self.live().cache.make_room().expect("a store");
    }

    pub(super) fn try_evict(&self, path: &str) -> Result<(), CacheError> {
        self.live().cache.evict(self.id(path))
    }

    pub(super) fn content(&self, name: &str) -> Option<ContentId> {
        self.find(name)?.live()?.content
    }

    pub(super) fn id(&self, name: &str) -> NodeId {
        self.find(name).map_or(NodeId::ROOT, |node| node.id)
    }

    pub(super) fn evict(&self, name: &str) {
        self.live().cache.evict(self.id(name)).expect("nobody uses it");
    }

    pub(super) fn manifest(&self, name: &str) -> Manifest {
        let node = self.find(name).expect("a file");
        self.live().tree.manifest(node.id).expect("a store").expect("a manifest").1
    }

    fn make(&self, name: &str, kind: NodeKind, content: Option<ContentState>) -> LocalNode {
        let at = SystemClock.now();
        let new = NewNode { content, ..NewNode::plain(kind, 0o644, (0, 0), at) };
        let (parent, name) = self.place(name);
        match self.live().tree.create(parent, &name, new) {
            Ok(node) => node,
            Err(crate::tree::TreeError::Exists) => {
                self.live().tree.lookup(parent, &name).expect("a store").expect("it exists")
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) fn make_dir(&self, name: &str) {
        self.make(name, NodeKind::Directory, None);
    }

    /// Makes or replaces a file's bytes.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        // As a file system does: nothing is applied between the writing and its being noticed.
        let _hold = self.sink.hold.read();
        let cache = &self.live().cache;
        let backing = match self.find(name) {
            Some(node) => cache.backing(&node).expect("a disk"),
            None => {
                let prepared = cache.prepare().expect("a disk");
                let node = self.make(name, NodeKind::File, Some(prepared.row().clone()));
                prepared.attach(node.id)
            }
        };
        backing.set_len(bytes.len() as u64).expect("a disk");
        backing.write_at(bytes, 0).expect("a disk");
        backing.notice(true).expect("a disk");
    }

    /// Gives a file another length.
    pub(super) fn cut(&self, name: &str, len: u64) {
        let _hold = self.sink.hold.read();
        let backing = self.backing(name);
        backing.set_len(len).expect("a disk");
        backing.notice(true).expect("a disk");
    }

    /// Makes an empty file; its bytes come when the engine asks whether it is still open.
    pub(super) fn make_and_write_when_asked(&self, name: &str, bytes: &'static [u8]) {
        *self.sink.on_asked.lock() = Some(Box::new(move |tree, cache, node| {
            let node = tree.node_by_id(node).expect("a store").expect("a file");
            let backing = cache.backing(&node).expect("a disk");
            backing.write_at(bytes, 0).expect("a disk");
            backing.notice(true).expect("a disk");
        }));
        let prepared = self.live().cache.prepare().expect("a disk");
        let node = self.make(name, NodeKind::File, Some(prepared.row().clone()));
        drop(prepared.attach(node.id));
    }

    /// Returns where a file's backing file is.
    pub(super) fn backing_path(&self, name: &str) -> std::path::PathBuf {
        let row = self.live().tree.content_state(self.id(name)).expect("a store").expect("bytes");
        let root = match row.place {
            Place::State => self.dir.path().join("files"),
            Place::Cache => self.dir.path().join("cache/files"),
        };
        let slots = std::fs::read_dir(root).expect("a directory");
        let mut paths = slots.map(|slot| slot.expect("an entry").path().join(format!("{:016x}", row.file.0)));
        paths.find(|path| path.exists()).expect("a backing file")
    }

    /// Gives the bytes of a small file their name, as the sender does before it has sent them.
    pub(super) fn name_content(&self, name: &str) {
        let node = self.find(name).expect("a file");
        let (manifest, _) = small_manifest(self.here(name).expect("all of it is here"));
        let number = node.dirty_content.expect("it has changed");
        let named = NamedContent { id: node.id, number, content: Some(manifest.id()), manifest };
        assert_eq!(self.live().tree.set_contents(&[named]).expect("a store").len(), 1);
    }

    /// Changes a file's backing file behind the mount's back and leaves no trace of that, as a failing disk does, once
    /// nobody uses it.
    pub(super) fn rot(&self, name: &str, work: impl FnOnce(&std::fs::File)) {
        until("nobody uses it", || !self.backing(name).is_used());
        let file = std::fs::File::options().read(true).write(true).open(self.backing_path(name));
        let file = file.expect("a backing file");
        work(&file);
        let stamp = crate::cache::stamp_of(&file).expect("a disk");
        let changed = self
            .live()
            .tree
            .update_content_state(self.id(name), |row| row.map(|row| ContentState { stamp, ..row }));
        changed.expect("a store");
    }

    /// Verifies, and returns what was found.
    pub(super) fn verify(&self, scope: Scope, is_repairing: bool) -> (Verified, Vec<Finding>) {
        let (events, mut news) = tokio::sync::mpsc::channel(1);
        let work = async {
            let listen = async {
                let mut found = Vec::new();
                while let Some(event) = news.recv().await {
                    if let VerifyEvent::Found(finding) = event {
                        found.push(finding);
                    }
                }
                found
            };
            tokio::join!(self.engine().verify(scope, is_repairing, events), listen)
        };
        let (verified, found) = self.engine().runtime().block_on(work);
        (verified.expect("a disk and a store"), found)
    }

    pub(super) fn touch(&self, name: &str) {
        let node = self.find(name).expect("a file");
        let at: Timestamp = SystemClock.now();
        let change = AttributeChange { mtime: Some(at), ctime: at, ..AttributeChange::default() };
        self.live().tree.set_attributes(node.ino, &change).expect("a store");
    }

    pub(super) fn remove(&self, name: &str) {
        let name = Name::new(name.as_bytes()).expect("a name");
        let removed = self.live().tree.unlink(Ino::ROOT, &name, SystemClock.now()).expect("it exists");
        self.live().cache.discard(&removed.node);
    }

    /// Opens a file's bytes.
    pub(super) fn backing(&self, name: &str) -> Arc<Backing> {
        self.live().cache.backing(&self.find(name).expect("a file")).expect("a disk")
    }

    /// Returns a file's bytes if all of them are here.
    pub(super) fn here(&self, name: &str) -> Option<Vec<u8>> {
        let node = self.find(name)?;
        let backing = self.live().cache.backing(&node).ok()?;
        let mut bytes = vec![0; usize::try_from(node.live()?.size).ok()?];
        let read = backing.is_whole().then(|| backing.read_at(&mut bytes, 0).ok())??;
        (read == bytes.len()).then_some(bytes)
    }

    pub(super) fn fetch(&self, name: &str, range: Range<u64>) -> Result<(), FetchError> {
        let node = self.find(name).expect("a file");
        let (sender, receiver) = std::sync::mpsc::channel();
        let done = move |result| drop(sender.send(result));
        self.engine().fetch(node.id, range, Box::new(done));
        receiver.recv_timeout(PATIENCE).expect("an answer")
    }
}
