//! What a POSIX file system does, without the kernel's protocol: names, attributes, open files, bytes.
//!
//! Leaves records and the journal to `tree`, backing files to `cache`, encoding to `fuse`. Everything here
//! completes against the local disk; only [`Fs::read`] of bytes that are not here waits for a fetch, and it gives the
//! reply away meanwhile.
//!
//! ```text
//! fuse ─► Fs ─► tree (names, records, journal)
//!          ├──► cache (bytes) ── not here ─► Fetch (engine)
//!          └──► Invalidation channel ─► fuse's own thread ─► kernel caches
//! engine ─► EffectSink ─► Fs: open files, invalidations
//! ```
//!
//! Invariants:
//! - A file that may be changed behind the daemon's back (passthrough, mmap) is marked in the journal before the kernel
//!   gets the handle, and looked at on flush, fsync, release, before it is renamed, every [`SWEEP_INTERVAL_MS`](crate::limits::SWEEP_INTERVAL_MS), and at the next start.
//! - How an inode is open (passthrough or cached) never changes while a handle is open.
//! - Locks are taken in the order: hold, open file, backing, tree; the table of open files alone.
//! - Whoever may tell the tree of changed bytes takes `hold` once, at the entry of the operation.

mod answers;
mod attributes;
mod brake;
mod bytes;
mod effects;
mod error;
mod marks;
mod metadata;
mod names;
mod notice;
mod open;
mod quota;
mod recover;
mod sweep;
mod touched;
mod versions;
mod xattr;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use dfs_shared::ids::NodeId;
use dfs_shared::record::{NodeKind, NodeRecord};
use dfs_shared::time::Timestamp;
use parking_lot::{Mutex, RwLock};

pub use attributes::{Attr, SetAttr, SetTime, Space};
pub use bytes::ReadDone;
pub use effects::{Invalidation, KernelCaches};
pub use error::FsError;
pub use names::{Entry, NewKind};
pub use open::{Opened, Register, Token};
pub use sweep::Sweeper;
pub use touched::TouchedDirectory;

use crate::cache::{Backing, Cache, Fetch, Progress, ServerBarrier};
use crate::clock::Clock;
use crate::tree::{Ino, LocalNode, Tree};
use answers::Answers;
use brake::Brake;
use effects::InvalidationSender;
use marks::Marks;
use open::OpenFile;
use sweep::Bell;
use touched::Touched;
use versions::Versions;

/// Who asks for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Thread, as the kernel names it; 0 if it cannot.
    pub thread: u32,
}

/// What a file system is made of.
pub struct FsParts {
    /// Records and journal.
    pub tree: Arc<Tree>,
    /// Bytes.
    pub cache: Arc<Cache>,
    /// Gets bytes that are not here.
    pub fetch: Arc<dyn Fetch>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Set for `--fsync=server`: fsync waits for it too.
    pub barrier: Option<Arc<dyn ServerBarrier>>,
    /// For `user.dfs.state`.
    pub progress: Option<Arc<dyn Progress>>,
    /// Called after a change of a file's bytes was noticed; must only wake somebody.
    pub on_modified: Box<dyn Fn(NodeId) + Send + Sync>,
    /// Refuses every change.
    pub read_only: bool,
    /// Path of the control socket, as `user.dfs.control` of the root shows it.
    pub control: Option<PathBuf>,
    /// Names the machine's run since it was switched on. `None`: it is not known whether it lost its power since the last run.
    pub boot: Option<String>,
}

/// The file system. Every method may be called from any thread.
pub struct Fs {
    /// For what goes on after a call has returned.
    this: Weak<Fs>,
    tree: Arc<Tree>,
    cache: Arc<Cache>,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    barrier: Option<Arc<dyn ServerBarrier>>,
    progress: Option<Arc<dyn Progress>>,
    on_modified: Box<dyn Fn(NodeId) + Send + Sync>,
    read_only: bool,
    control: Option<PathBuf>,
    /// The kernel takes backing files. Switched off for good when it refuses one.
    passthrough: AtomicBool,
    open_files: Mutex<HashMap<Ino, Arc<OpenFile>>>,
    /// Nodes without a name that the kernel still knows.
    orphans: Mutex<HashMap<Ino, LocalNode>>,
    /// Content versions whose pages the kernel has.
    versions: Mutex<Versions>,
    /// Files that were closed after writing but may still be mapped.
    lingering: Mutex<Vec<Arc<Backing>>>,
    /// Files whose bytes the end of the last run took.
    lost: Mutex<Vec<NodeId>>,
    brake: Brake,
    marks: Marks,
    bell: Arc<Bell>,
    touched: Touched,
    answers: Answers,
    /// Changes that only the tree knows (a name, an attribute, an open mark), and how many of them survive power loss. Changed
    /// bytes do not count: a marked file is looked at after a crash.
    told: AtomicU64,
    persisted: AtomicU64,
    /// Held shared while a change of bytes is told to the tree, exclusively while remote changes are applied.
    hold: RwLock<()>,
    invalidations: InvalidationSender,
    kernel: RwLock<Option<Box<dyn KernelCaches>>>,
}

impl Fs {
    /// Puts a file system together and looks at files that were open for writing when the last run ended.
    ///
    /// # Errors
    /// [`FsError`] when the disk or the tree fails.
    pub fn new(parts: FsParts) -> Result<Arc<Self>, FsError> {
        let fs = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            tree: parts.tree,
            cache: parts.cache,
            fetch: parts.fetch,
            clock: parts.clock,
            barrier: parts.barrier,
            progress: parts.progress,
            on_modified: parts.on_modified,
            read_only: parts.read_only,
            control: parts.control,
            passthrough: AtomicBool::new(false),
            open_files: Mutex::default(),
            orphans: Mutex::default(),
            versions: Mutex::default(),
            lingering: Mutex::default(),
            lost: Mutex::default(),
            brake: Brake::default(),
            marks: Marks::default(),
            bell: Arc::default(),
            touched: Touched::default(),
            answers: Answers::default(),
            told: AtomicU64::new(1),
            persisted: AtomicU64::new(0),
            hold: RwLock::new(()),
            invalidations: InvalidationSender::default(),
            kernel: RwLock::new(None),
        });
        fs.recover(parts.boot.as_deref())?;
        Ok(fs)
    }

    /// Tells whether the kernel can be given backing files. Called by `fuse` before the first operation.
    pub fn set_passthrough(&self, available: bool) {
        self.passthrough.store(available, Ordering::Release);
    }

    /// Tells whether changes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Notes a change that an fsync has to make durable. To be called after the tree has it, before the reply.
    fn told_tree(&self) {
        self.told.fetch_add(1, Ordering::AcqRel);
    }

    fn check_writable(&self) -> Result<(), FsError> {
        if self.read_only { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    /// Returns the present. Not the kernel's coarse clock: two changes in one tick must have different times.
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns a node that has a name or that the kernel still knows.
    fn node(&self, ino: Ino) -> Result<LocalNode, FsError> {
        if let Some(node) = self.tree.node(ino)? {
            return Ok(node);
        }
        self.orphans.lock().get(&ino).cloned().ok_or(FsError::NotFound)
    }

    fn open_file(&self, ino: Ino) -> Option<Arc<OpenFile>> {
        self.open_files.lock().get(&ino).map(Arc::clone)
    }
}

/// Returns the record of a node that [`Fs::node`] returned.
fn record_of(node: &LocalNode) -> Result<&NodeRecord, FsError> {
    node.live().ok_or(FsError::NotFound)
}

fn check_file(node: &LocalNode) -> Result<(), FsError> {
    match record_of(node)?.kind {
        NodeKind::File => Ok(()),
        NodeKind::Directory => Err(FsError::IsDirectory),
        NodeKind::Symlink
        | NodeKind::Fifo
        | NodeKind::Socket
        | NodeKind::CharDevice
        | NodeKind::BlockDevice => Err(FsError::Invalid),
    }
}
