//! Bytes of files: backing files, which ranges of them are here, filling, evicting.
//!
//! Owns the `files` directories under the state and the cache directory. Leaves what a file's bytes mean
//! (records, journal) to `tree`, getting bytes to whoever implements [`Fetch`], and kernel handles to `fs`.
//!
//! Invariants:
//! - At most one [`Backing`] per node is attached; whoever wants a node's bytes gets that one.
//! - A backing file that no row and no living [`Backing`] names is garbage; the start-up check removes it.
//! - Bytes that the server does not have, and bytes that are pinned, are never evicted.

mod backing;
mod check;
mod compare;
mod copy;
mod error;
mod evict;
mod files;
mod fill;
mod lives;
mod ranges;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};

use dfs_shared::hash::ContentId;
use dfs_shared::ids::NodeId;
use dfs_shared::record::NodeKind;
use parking_lot::Mutex;

pub use backing::{Backing, Noticed};
pub use check::{Claim, Claimed, Standing};
pub(crate) use compare::{Bytes, Found, compare};
pub(crate) use copy::{copy_some, fallocate, seek};
pub use error::{CacheError, FetchError};
pub(crate) use files::{not_before, same_bytes, stamp_of};
pub use fill::{Filler, HashSource};
pub use lives::{Past, Strays};
pub use ranges::RangeSet;

use crate::tree::content::{ContentState, FileId, Place, Present, Stamp};
use crate::tree::{LocalNode, Tree};
use backing::{Discarded, Inner};
use evict::{Recent, is_on_server};
use files::Dirs;
use lives::Numbers;

/// What to call when a fetch is over.
pub type FetchDone = Box<dyn FnOnce(Result<(), FetchError>) + Send>;

/// Gets bytes that are not here. Implemented by the engine.
pub trait Fetch: Send + Sync {
    /// Starts to fetch `range` of a file and returns; `done` is called from any thread, at the latest when the fetch's
    /// deadline passes. After `Ok` the range is here.
    fn fetch(&self, node: NodeId, range: Range<u64>, done: FetchDone);
}

/// Waits until the server has everything that was changed so far. Implemented by the engine.
pub trait ServerBarrier: Send + Sync {
    /// Returns at once; `done` is called from any thread, with an error when the deadline passes.
    fn reached(&self, done: FetchDone);
}

/// Tells how far a node, and everything, has come; the engine knows more than the tree.
pub trait Progress: Send + Sync {
    /// Tells whether the node's content is being sent.
    fn is_uploading(&self, node: NodeId) -> bool;
    /// Tells whether the node is one side of a conflict that waits for somebody.
    fn is_conflict(&self, node: NodeId) -> bool;
    /// Tells whether the server takes what is written here.
    fn is_sending(&self) -> bool;
}

/// Lets the engine coordinate with open files. Implemented by `fs`.
pub trait OpenFiles: Send + Sync {
    /// Looks whether these files' bytes changed without the tree knowing, and tells the tree.
    fn notice(&self, nodes: &[NodeId]);
    /// Tells whether some handle can write to the file now: then its content may not be complete yet.
    fn is_being_written(&self, node: NodeId) -> bool;
    /// Keeps changes of bytes from being noticed until the guard is dropped: to be held from before `Tree::apply` until
    /// its effects have been taken, so that no change is put down to the wrong node. Call [`Self::notice`] before.
    fn hold(&self) -> HoldGuard<'_>;
}

/// Ends what [`OpenFiles::hold`] began when dropped.
pub struct HoldGuard<'a> {
    _guard: parking_lot::RwLockWriteGuard<'a, ()>,
}

impl<'a> HoldGuard<'a> {
    /// Takes the guard of the lock that is held.
    #[must_use]
    pub fn new(guard: parking_lot::RwLockWriteGuard<'a, ()>) -> Self {
        Self { _guard: guard }
    }
}

/// Where a cache keeps its files and how much.
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// For what is written here.
    pub state_dir: PathBuf,
    /// For what is fetched.
    pub cache_dir: PathBuf,
    /// Most bytes of files whose content is on the server.
    pub size_max: u64,
    /// Whether files go only when [`Cache::remove_thrown_away`] is called, and not in the background: for runs that come to the
    /// same every time.
    pub removes_when_asked: bool,
}

/// An empty backing file without a node. Removed when dropped before it has got one.
pub struct Prepared {
    cache: Arc<Cache>,
    row: ContentState,
    file: Option<File>,
}

impl Prepared {
    /// Returns what the tree has to know of it, for the batch that makes the node.
    #[must_use]
    pub fn row(&self) -> &ContentState {
        &self.row
    }

    /// Returns the file.
    ///
    /// # Panics
    /// Never: it is there until this is consumed.
    #[must_use]
    pub fn file(&self) -> &File {
        self.file.as_ref().expect("it is taken only with the whole")
    }

    /// A node's row names it now.
    pub fn keep(mut self) {
        self.file = None;
        self.cache.account(0, self.row.stamp.blocks);
    }

    /// Gives it to the node that was made with [`Self::row`].
    #[must_use]
    pub fn attach(mut self, node: NodeId) -> Arc<Backing> {
        let mut inner = Inner::empty(node, Place::State);
        inner.stored = true;
        inner.file = self.file.take().map(Arc::new);
        let mut live = self.cache.live.lock();
        // The tree has the node already: somebody may have asked for its bytes before us.
        if let Some(backing) = live.get(&node).and_then(Weak::upgrade) {
            return backing;
        }
        let backing = Arc::new(Backing::new(Arc::clone(&self.cache), self.row.file, true, inner));
        live.insert(node, Arc::downgrade(&backing));
        backing
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.file.is_some() {
            self.cache.throw_away(self.row.place, self.row.file);
        }
    }
}

/// The bytes of files on this mount.
pub struct Cache {
    tree: Arc<Tree>,
    numbers: Numbers,
    dirs: Arc<Dirs>,
    state_dir: PathBuf,
    /// Both directories share their room.
    is_on_one_disk: bool,
    size_max: u64,
    live: Mutex<HashMap<NodeId, Weak<Backing>>>,
    /// Bytes of nodes that are gone while somebody reads them: what is missing can still be fetched.
    orphans: Mutex<HashMap<NodeId, Weak<Backing>>>,
    /// Files of detached backings that are in use: they go with their last user.
    held: Mutex<HashSet<FileId>>,
    /// Allocated blocks of 512 bytes.
    blocks: AtomicU64,
    recent: Mutex<Recent>,
    /// Takes files to be removed: removing a large one takes a while.
    garbage: Sender<(Place, FileId)>,
    /// What is to be removed when somebody asks for it.
    thrown_away: Option<Mutex<Receiver<(Place, FileId)>>>,
}

impl Cache {
    /// Opens the cache; makes its directories. Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError::Io`] when a directory cannot be made.
    pub fn open(tree: Arc<Tree>, options: CacheOptions) -> Result<Arc<Self>, CacheError> {
        let dirs = Arc::new(Dirs::open(&options.state_dir, &options.cache_dir)?);
        let (garbage, files) = channel();
        let thrown_away = if options.removes_when_asked {
            Some(Mutex::new(files))
        } else {
            let (journal, reserve) = (Arc::downgrade(&tree), Arc::downgrade(&tree));
            let make_durable = move || journal.upgrade().is_some_and(|tree| files::make_durable(&tree));
            let room_came = move || reserve.upgrade().iter().for_each(|tree| tree.store().watch_reserve());
            files::start_remover(Arc::clone(&dirs), &options.state_dir, files, make_durable, room_came)?;
            None
        };
        let disk_of = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
        let is_on_one_disk = disk_of(&options.state_dir) == disk_of(&options.cache_dir);
        let numbers = Numbers::open(&tree, &dirs, is_on_one_disk)?;
        Ok(Arc::new(Self {
            tree,
            numbers,
            dirs,
            state_dir: options.state_dir,
            is_on_one_disk,
            size_max: options.size_max,
            live: Mutex::default(),
            orphans: Mutex::default(),
            held: Mutex::default(),
            blocks: AtomicU64::new(0),
            recent: Mutex::default(),
            garbage,
            thrown_away,
        }))
    }

    /// Removes the files that nothing needs any more, where that is not done in the background.
    pub fn remove_thrown_away(&self) {
        if let Some(files) = &self.thrown_away {
            let batch: Vec<_> = files.lock().try_iter().collect();
            if !batch.is_empty() {
                files::remove_batch(&self.dirs, batch, &|| files::make_durable(&self.tree));
            }
        }
    }

    /// Writes all bytes through to the disk. Blocks on it.
    ///
    /// # Errors
    /// [`CacheError::Io`].
    pub fn sync(&self) -> Result<(), CacheError> {
        self.dirs.sync()
    }

    /// Returns the directory that holds what is written here.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Returns the bytes of a file, or what is here of them. Does not touch the file.
    ///
    /// # Errors
    /// [`CacheError::NotFound`] when the node is gone or no file; [`CacheError::Tree`].
    pub fn backing(self: &Arc<Self>, node: &LocalNode) -> Result<Arc<Backing>, CacheError> {
        let record =
            node.live().filter(|record| record.kind == NodeKind::File).ok_or(CacheError::NotFound)?;
        let mut live = self.live.lock();
        if let Some(backing) = live.get(&node.id).and_then(Weak::upgrade) {
            if self.is_current(&backing, node) {
                return Ok(backing);
            }
            self.retire(&backing)?;
            // Dropping the last reference takes the lock on `live`.
            drop(live);
            drop(backing);
            live = self.live.lock();
        }
        let row = self.tree.content_state(node.id)?;
        let row = row.filter(|row| node.dirty_content.is_some() || row.content == record.content);
        let (id, whole, inner) = match row {
            Some(row) => stored(node.id, record.size, row),
            None => self.absent(node.id, record.size, record.content)?,
        };
        let backing = Arc::new(Backing::new(Arc::clone(self), id, whole, inner));
        live.insert(node.id, Arc::downgrade(&backing));
        Ok(backing)
    }

    /// Makes the empty backing file of a file that is about to be created. Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn prepare(self: &Arc<Self>) -> Result<Prepared, CacheError> {
        let (place, id) = (Place::State, self.next_file()?);
        let file = self.dirs.create(place, id)?;
        let path = || self.dirs.path(place, id);
        let stamp =
            stamp_of(&file).map_err(|source| CacheError::Io { action: "look at", path: path(), source })?;
        let row = ContentState { file: id, place, content: None, present: Present::All, stamp };
        Ok(Prepared { cache: Arc::clone(self), row, file: Some(file) })
    }

    /// Makes a backing file that holds a whole content, which survives power loss. Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn prepare_whole(self: &Arc<Self>, bytes: &[u8]) -> Result<Prepared, CacheError> {
        let mut prepared = self.prepare()?;
        let path = || self.dirs.path(prepared.row.place, prepared.row.file);
        let failed = |source| CacheError::Io { action: "write", path: path(), source };
        let file = prepared.file();
        let written = file.write_all_at(bytes, 0).and_then(|()| file.sync_data());
        let stamp = written.and_then(|()| stamp_of(file)).map_err(failed)?;
        prepared.row.stamp = stamp;
        Ok(prepared)
    }

    /// A batch of the tree has put another row in the place of this one. Its file goes, at once or with its last user.
    pub fn drop_replaced(&self, row: &ContentState) {
        self.account(row.stamp.blocks, 0);
        self.remove_file(row.place, row.file);
    }

    /// Tells whether a backing holds the version that the node has now.
    fn is_current(&self, backing: &Backing, node: &LocalNode) -> bool {
        let inner = backing.inner.lock();
        let content = node.live().and_then(|record| record.content);
        if !inner.attached {
            return false;
        }
        if node.dirty_content.is_some() || inner.touched {
            return true;
        }
        // Hashing changes a row's content without anybody here, so a row of ours knows better: a content that was
        // replaced by a write here may come back from the server.
        let row = self.tree.content_state(inner.node).ok().flatten();
        match row.filter(|row| row.file == backing.id()) {
            Some(row) => row.content == content,
            None => inner.content == content,
        }
    }

    /// Another backing takes the place of this one. Its row stays as a source of chunks until the other has its own.
    fn retire(&self, backing: &Backing) -> Result<(), CacheError> {
        let mut inner = backing.inner.lock();
        if inner.users > 0 && inner.attached {
            self.set_aside(backing, &mut inner)?;
        }
        Ok(())
    }

    fn set_aside(&self, backing: &Backing, inner: &mut Inner) -> Result<(), CacheError> {
        if inner.superseded.is_none() {
            let row = self.tree.content_state(inner.node)?.filter(|row| row.file == backing.id());
            inner.superseded = Some(match row {
                Some(row) => row.stamp,
                None => backing.stamp(inner)?,
            });
        }
        inner.attached = false;
        self.held.lock().insert(backing.id());
        Ok(())
    }

    /// A newer version takes the node while the kernel can still write to this one, whose bytes are no source of chunks then.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn supersede(&self, backing: &Backing) -> Result<(), CacheError> {
        let mut inner = backing.inner.lock();
        self.set_aside(backing, &mut inner)?;
        self.disown(inner.node, backing.id())
    }

    /// Removes a node's row if it names `file`.
    fn disown(&self, node: NodeId, file: FileId) -> Result<(), CacheError> {
        self.tree.update_content_state(node, |row| row.filter(|row| row.file != file))?;
        Ok(())
    }

    /// Gives bytes that were written too late to a node of their own, which was just made for them.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn rehome(&self, backing: &Arc<Backing>, node: NodeId) -> Result<(), CacheError> {
        let mut inner = backing.inner.lock();
        self.disown(inner.node, backing.id())?;
        (inner.node, inner.attached) = (node, true);
        (inner.superseded, inner.discarded) = (None, None);
        // What is missing of it can only be fetched by that name.
        inner.content.take_if(|_| backing.is_whole());
        backing.store_row(&mut inner)?;
        drop(inner);
        self.held.lock().remove(&backing.id());
        self.live.lock().insert(node, Arc::downgrade(backing));
        Ok(())
    }

    fn absent(
        &self,
        node: NodeId,
        size: u64,
        content: Option<ContentId>,
    ) -> Result<(FileId, bool, Inner), CacheError> {
        let id = self.next_file()?;
        let inner = Inner { content, size, ..Inner::empty(node, Place::Cache) };
        Ok((id, size == 0, inner))
    }

    /// Returns how many blocks of 512 bytes `stat` should show for a file.
    ///
    /// # Errors
    /// [`CacheError::Tree`].
    pub fn blocks_of(&self, node: &LocalNode) -> Result<u64, CacheError> {
        let Some(record) = node.live() else { return Ok(0) };
        if record.size == 0 {
            return Ok(0);
        }
        let row = self.tree.content_state(node.id)?.filter(|row| {
            row.present == Present::All && (node.dirty_content.is_some() || row.content == record.content)
        });
        Ok(row.map_or(record.size.div_ceil(512), |row| row.stamp.blocks))
    }

    /// Returns the row of a file's bytes if it is about the version that the node has now.
    ///
    /// # Errors
    /// [`CacheError::Tree`].
    pub fn row_of(&self, node: &LocalNode) -> Result<Option<ContentState>, CacheError> {
        let content = node.live().and_then(|record| record.content);
        let row = self.tree.content_state(node.id)?;
        Ok(row.filter(|row| node.dirty_content.is_some() || row.content == content))
    }

    /// Forgets the bytes of a node that is gone and was `node`; tells whether open handles keep them until then. Blocks on the disk.
    pub fn discard(&self, node: &LocalNode) -> bool {
        self.discard_bytes(node.id, is_on_server(node))
    }

    fn discard_bytes(&self, node: NodeId, is_on_server: bool) -> bool {
        let live = self.live.lock().remove(&node).and_then(|weak| weak.upgrade());
        let mut row = None;
        let removed = self.tree.update_content_state(node, |old| {
            row = old;
            None
        });
        if let Err(error) = removed {
            tracing::warn!(%node, %error, "the bytes of a removed file stay until the next start");
            return false;
        }
        let is_held = live.is_some();
        if let Some(backing) = live {
            self.separate(&backing, row.as_ref(), is_on_server);
        } else if let Some(row) = row {
            self.account(row.stamp.blocks, 0);
            self.remove_file(row.place, row.file);
        }
        is_held
    }

    /// A node is gone that somebody uses the bytes of. If the tree moved its row to another node, they belong to that one.
    fn separate(&self, backing: &Arc<Backing>, row: Option<&ContentState>, is_on_server: bool) {
        let mut inner = backing.inner.lock();
        let mut owner = None;
        if row.is_none() && inner.stored {
            let found = self.tree.content_states(|node, row| {
                if row.file == backing.id() {
                    owner = Some(node);
                }
            });
            if let Err(error) = found {
                tracing::warn!(%error, "a backing file stays until the next start");
                inner.foreign = true;
            }
        }
        match owner {
            Some(owner) => {
                inner.node = owner;
                drop(inner);
                self.live.lock().insert(owner, Arc::downgrade(backing));
            }
            None => {
                inner.attached = false;
                let stamp = match row {
                    _ if !is_on_server => Some(Stamp::default()),
                    Some(row) => Some(row.stamp),
                    None => backing.stamp(&inner).ok(),
                };
                if backing.is_whole() {
                    inner.discarded = stamp.map(Discarded::Whole);
                } else {
                    inner.discarded = Some(Discarded::Part);
                    inner.touched |= !is_on_server;
                }
                let node = inner.node;
                drop(inner);
                self.orphans.lock().insert(node, Arc::downgrade(backing));
            }
        }
    }

    /// The bytes of `from` belong to `to` now; the tree has moved the row already.
    pub fn forked(&self, from: NodeId, to: NodeId) {
        let mut live = self.live.lock();
        let Some(weak) = live.remove(&from) else { return };
        if let Some(backing) = weak.upgrade() {
            backing.inner.lock().node = to;
            live.insert(to, weak);
            drop(live);
        }
    }

    /// Returns how many bytes the backing files take on the disk.
    #[must_use]
    pub fn bytes_used(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed).saturating_mul(512)
    }

    /// Returns how many bytes the backing files may take.
    #[must_use]
    pub fn size_max(&self) -> u64 {
        self.size_max
    }

    fn account(&self, old: u64, new: u64) {
        if new >= old {
            self.blocks.fetch_add(new - old, Ordering::Relaxed);
        } else {
            let less = old - new;
            let _ = self
                .blocks
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| Some(all.saturating_sub(less)));
        }
    }

    fn remove_file(&self, place: Place, file: FileId) {
        if !self.held.lock().contains(&file) {
            self.throw_away(place, file);
        }
    }

    /// The last user of a set-aside file is gone. The row's next owner looks whether it is held after taking the row from it, so
    /// that one of the two removes the file.
    fn drop_set_aside(&self, node: NodeId, place: Place, file: FileId, blocks: u64) {
        self.held.lock().remove(&file);
        let named = self.tree.content_state(node).is_ok_and(|row| row.is_some_and(|row| row.file == file));
        if !named {
            self.account(blocks, 0);
            self.throw_away(place, file);
        }
    }

    fn throw_away(&self, place: Place, file: FileId) {
        // A failure means that the remover is gone; the next start finds the file.
        let _ = self.garbage.send((place, file));
    }

    /// Returns the content of a node that is gone while somebody reads it.
    #[must_use]
    pub fn orphan_content(&self, node: NodeId) -> Option<ContentId> {
        self.orphan(node)?.inner.lock().content
    }

    fn orphan(&self, node: NodeId) -> Option<Arc<Backing>> {
        self.orphans.lock().get(&node).and_then(Weak::upgrade)
    }

    fn drop_dead(&self, node: NodeId) {
        let mut orphans = self.orphans.lock();
        if orphans.get(&node).is_some_and(|weak| weak.strong_count() == 0) {
            orphans.remove(&node);
        }
        drop(orphans);
        let mut live = self.live.lock();
        if live.get(&node).is_some_and(|weak| weak.strong_count() == 0) {
            live.remove(&node);
        }
    }
}

fn stored(node: NodeId, size: u64, row: ContentState) -> (FileId, bool, Inner) {
    let (whole, present) = match &row.present {
        Present::All => (true, RangeSet::default()),
        Present::Ranges(ranges) => (false, RangeSet::from_ranges(ranges)),
    };
    let Stamp { blocks, .. } = row.stamp;
    let inner = Inner {
        node,
        attached: true,
        stored: true,
        place: row.place,
        content: row.content,
        present,
        size,
        file: None,
        touched: false,
        users: 0,
        foreign: false,
        superseded: None,
        discarded: None,
        counted: blocks,
    };
    (row.file, whole, inner)
}
