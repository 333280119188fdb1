//! The embedded store: tables of bytes with atomic batches, on fjall.
//!
//! A batch that `Store::commit` returned from is in the log of the store and survives a killed process;
//! `Store::persist` makes everything so far survive power loss.
//!
//! Full disk: the store keeps a reserve in files. While the file system has less room than
//! [`limits::STORE_FREE_MIN`], batches that only grow the tree are refused with [`TreeError::NoSpace`] before
//! they touch the log; book-keeping goes on and lives from the reserve, which is given back to the file
//! system part by part for that and taken again as soon as there is room. Should the log fail to be written all the same,
//! the store closes, opens again (which drops the torn batch) and writes the batch again while there are parts left; then it
//! reports it as failed.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Slice};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::TreeError;
use super::held::TouchedContents;
use super::sizes::Sizes;
use crate::limits;
use memory::{Memory, Tables};
use room::Reserve;
use rows::{Found, RowCache};

mod memory;
mod room;
mod rows;
#[cfg(test)]
mod tests;

pub use memory::MemoryDisk;
pub use room::Shortage;

/// The tables. docs/STORAGE.md describes keys and values of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// Node id → [`super::LocalNode`].
    Nodes,
    /// Inode number → node id.
    Inodes,
    /// Directory, name → [`super::node::LocalEntry`].
    Entries,
    /// Directory, cookie → name and target.
    Index,
    /// Node, directory, name → nothing.
    Names,
    /// Sequence number → the keys of a change group.
    Journal,
    /// Prefix → node of the base's Merkle tree.
    Merkle,
    /// Single values.
    Meta,
    /// Node id → [`super::content::ContentState`].
    Content,
    /// Node id → content id and manifest.
    Manifests,
    /// Node id → nothing: open for writing.
    Opens,
    /// Node id of a conflict copy → what it is in conflict with.
    Conflicts,
    /// Node id → content that the server was told is here.
    Reported,
    /// Node id → nothing: to stay here.
    Pins,
}

const SPACES: [(Space, &str); 14] = [
    (Space::Nodes, "nodes"),
    (Space::Inodes, "inodes"),
    (Space::Entries, "entries"),
    (Space::Index, "index"),
    (Space::Names, "names"),
    (Space::Journal, "journal"),
    (Space::Merkle, "merkle"),
    (Space::Meta, "meta"),
    (Space::Content, "content"),
    (Space::Manifests, "manifests"),
    (Space::Opens, "opens"),
    (Space::Conflicts, "conflicts"),
    (Space::Reported, "reported"),
    (Space::Pins, "pins"),
];

/// Is called with key and value of a row; `false` ends the walk.
type EachRow<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool, TreeError> + 'a;

/// One change of one table.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    space: Space,
    key: Vec<u8>,
    value: Option<Slice>,
}

impl Write {
    /// Returns the value if this puts a row with this key.
    pub(super) fn value_of(&self, space: Space, key: &[u8]) -> Option<&[u8]> {
        self.value.as_deref().filter(|_| self.space == space && *self.key == *key)
    }

    pub(crate) fn put<T: Serialize>(space: Space, key: &[u8], value: &T) -> Self {
        Self { space, key: key.to_vec(), value: Some(dfs_shared::wire::encode_plain(value).into()) }
    }

    pub(crate) fn raw(space: Space, key: &[u8], value: Option<Vec<u8>>) -> Self {
        Self { space, key: key.to_vec(), value: value.map(Slice::from) }
    }

    pub(crate) fn remove(space: Space, key: &[u8]) -> Self {
        Self { space, key: key.to_vec(), value: None }
    }

    pub(crate) fn maybe<T: Serialize>(space: Space, key: &[u8], value: Option<&T>) -> Self {
        Self {
            space,
            key: key.to_vec(),
            value: value.map(|value| dfs_shared::wire::encode_plain(value).into()),
        }
    }
}

/// Decodes a stored value.
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, TreeError> {
    dfs_shared::wire::decode_plain(bytes).map_err(|_| TreeError::Damaged { what })
}

/// Where the tables are.
enum Inner {
    /// In a database on the disk.
    Database { database: Database, spaces: Vec<Keyspace> },
    /// In memory.
    Memory(Memory),
}

/// The tables at one moment.
pub(crate) enum Snapshot {
    /// Of a database on the disk.
    Database(fjall::Snapshot),
    /// Of tables in memory.
    Memory(Tables),
}

impl Inner {
    fn open(dir: &Path) -> Result<Self, TreeError> {
        let database = Database::builder(dir)
            .cache_size(limits::STORE_CACHE_BYTES)
            .worker_threads(1)
            .manual_journal_persist(true)
            .max_journaling_size(limits::STORE_JOURNALS_BYTES)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(limits::STORE_MEMTABLE_BYTES);
        let spaces =
            SPACES.iter().map(|(_, name)| database.keyspace(name, options)).collect::<Result<_, _>>()?;
        Ok(Self::Database { database, spaces })
    }

    fn snapshot(&self) -> Result<Snapshot, TreeError> {
        Ok(match self {
            Self::Database { database, .. } => Snapshot::Database(database.snapshot()),
            Self::Memory(memory) => Snapshot::Memory(memory.tables()?),
        })
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, TreeError> {
        match self {
            Self::Database { spaces, .. } => Ok(spaces[space as usize].get(key)?),
            Self::Memory(memory) => memory.get(space, key),
        }
    }

    fn get_at(&self, snapshot: &Snapshot, space: Space, key: &[u8]) -> Result<Option<Slice>, TreeError> {
        match (self, snapshot) {
            (Self::Database { spaces, .. }, Snapshot::Database(at)) => {
                Ok(at.get(&spaces[space as usize], key)?)
            }
            (_, Snapshot::Memory(tables)) => Ok(tables.get(space, key)),
            (Self::Memory(_), Snapshot::Database(_)) => Err(TreeError::Closed),
        }
    }

    fn write(&self, writes: &[Write]) -> Result<(), TreeError> {
        let (database, spaces) = match self {
            Self::Database { database, spaces } => (database, spaces),
            Self::Memory(memory) => return memory.write(writes),
        };
        let mut batch = database.batch().durability(Some(PersistMode::Buffer));
        for write in writes {
            let space = &spaces[write.space as usize];
            match &write.value {
                Some(value) => batch.insert(space, &*write.key, value.clone()),
                None => batch.remove(space, &*write.key),
            }
        }
        Ok(batch.commit()?)
    }

    fn persist(&self) -> Result<(), TreeError> {
        match self {
            Self::Database { database, .. } => Ok(database.persist(PersistMode::SyncData)?),
            Self::Memory(memory) => memory.persist(),
        }
    }

    /// Writes out what only the journals hold; returns before that is done if it takes long.
    fn fold_journals(&self) -> Result<(), TreeError> {
        let Self::Database { database, spaces } = self else { return Ok(()) };
        if database.journal_disk_space()? <= limits::STORE_JOURNALS_LEFT_BYTES {
            return Ok(());
        }
        for space in spaces {
            space.rotate_memtable()?;
        }
        // Nothing tells of the end.
        let until = Instant::now() + Duration::from_millis(limits::STORE_FOLD_MS_MAX);
        while spaces.iter().any(|space| space.sealed_memtable_count() > 0) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn each(
        &self,
        snapshot: &Snapshot,
        space: Space,
        prefix: &[u8],
        lower: Bound<Vec<u8>>,
        each: &mut EachRow<'_>,
    ) -> Result<(), TreeError> {
        let (spaces, at) = match (self, snapshot) {
            (Self::Database { spaces, .. }, Snapshot::Database(at)) => (spaces, at),
            (_, Snapshot::Memory(tables)) => return tables.each(space, prefix, lower, each),
            (Self::Memory(_), Snapshot::Database(_)) => return Err(TreeError::Closed),
        };
        let upper = upper_bound(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        for row in at.range(&spaces[space as usize], (lower, upper)) {
            let (key, value) = row.into_inner()?;
            if !each(&key, &value)? {
                break;
            }
        }
        Ok(())
    }

    fn last_key(&self, space: Space) -> Result<Option<Vec<u8>>, TreeError> {
        match self {
            Self::Database { spaces, .. } => {
                spaces[space as usize].last_key_value().map(|row| Ok(row.key()?.to_vec())).transpose()
            }
            Self::Memory(memory) => Ok(memory.tables()?.last_key(space)),
        }
    }

    fn approximate_len(&self, space: Space) -> Result<u64, TreeError> {
        match self {
            Self::Database { spaces, .. } => Ok(spaces[space as usize].approximate_len() as u64),
            Self::Memory(memory) => Ok(memory.tables()?.len(space)),
        }
    }
}

/// The numbers that are handed out, and up to where the store knows that they may have been.
struct Numbers {
    next: u64,
    reserved: u64,
}

/// The embedded store.
pub struct Store {
    dir: PathBuf,
    /// `None` only while (and if) opening again after a failed write failed.
    inner: RwLock<Option<Inner>>,
    rows: RowCache,
    numbers: Mutex<Numbers>,
    commits: Mutex<Numbers>,
    committed: AtomicU64,
    persisted: AtomicU64,
    reserve: Reserve,
    touched_contents: TouchedContents,
    sizes: Mutex<Sizes>,
}

/// First number that is handed out: smaller ones have fixed meanings (inode 1, `.` and `..`).
const NUMBER_FIRST: u64 = 16;
const NUMBERS_KEY: &[u8] = b"numbers";
const COMMITS_KEY: &[u8] = b"commits";

impl Store {
    /// Opens or makes the store in `dir/tree`. Blocks on the disk.
    ///
    /// # Errors
    /// [`TreeError`] when the directory cannot be used or holds something damaged.
    pub fn open(dir: &Path) -> Result<Self, TreeError> {
        let reserve = Reserve::open(dir);
        let inner = reserve.with(|| Inner::open(&dir.join("tree")))?;
        let store = Self::with_inner(inner, dir, reserve)?;
        store.watch_reserve();
        Ok(store)
    }

    /// Opens or makes the store on a disk in memory; whoever had it open before finds it closed.
    ///
    /// # Errors
    /// [`TreeError`] when it holds something damaged.
    pub fn in_memory(disk: &MemoryDisk) -> Result<Self, TreeError> {
        Self::with_inner(Inner::Memory(Memory::open(disk)), Path::new(""), Reserve::none())
    }

    fn with_inner(inner: Inner, dir: &Path, reserve: Reserve) -> Result<Self, TreeError> {
        let store = Self {
            dir: dir.to_owned(),
            inner: RwLock::new(Some(inner)),
            rows: RowCache::default(),
            numbers: Mutex::new(Numbers { next: NUMBER_FIRST, reserved: NUMBER_FIRST }),
            commits: Mutex::new(Numbers { next: 1, reserved: 1 }),
            committed: AtomicU64::new(1),
            persisted: AtomicU64::new(0),
            reserve,
            touched_contents: TouchedContents::default(),
            sizes: Mutex::default(),
        };
        for (numbers, key) in [(&store.numbers, NUMBERS_KEY), (&store.commits, COMMITS_KEY)] {
            if let Some(reserved) = store.read(Space::Meta, key)? {
                *numbers.lock() = Numbers { next: reserved, reserved };
            }
        }
        Ok(store)
    }

    /// Returns a number that was never returned before on this mount, also not before a power loss. Rarely writes.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub(crate) fn next_number(&self) -> Result<u64, TreeError> {
        self.next_of(&self.numbers, NUMBERS_KEY, 0)
    }

    /// Returns what all numbers that were ever handed out are below; `None` if there were none.
    pub(crate) fn numbers_given(&self) -> Option<u64> {
        Some(self.numbers.lock().reserved).filter(|reserved| *reserved > NUMBER_FIRST)
    }

    /// Goes on with `first` if the next number would be smaller. Durable with the next number.
    pub(crate) fn skip_numbers(&self, first: u64) {
        let mut numbers = self.numbers.lock();
        numbers.next = numbers.next.max(first);
    }

    /// As [`Self::next_number`], of a sequence of its own without gaps while the mount runs; none below `first`.
    pub(crate) fn next_commit(&self, first: u64) -> Result<u64, TreeError> {
        self.next_of(&self.commits, COMMITS_KEY, first)
    }

    fn next_of(&self, numbers: &Mutex<Numbers>, key: &[u8], first: u64) -> Result<u64, TreeError> {
        let mut numbers = numbers.lock();
        let next = numbers.next.max(first);
        if next >= numbers.reserved {
            let reserved = next + limits::NUMBERS_RESERVED_AT_ONCE;
            self.commit(vec![Write::put(Space::Meta, key, &reserved)])?;
            // What is given away outlives a power loss: files on the disk, replies on the server.
            self.persist()?;
            numbers.reserved = reserved;
        }
        numbers.next = next + 1;
        Ok(next)
    }

    /// Makes every batch so far survive power loss: one fsync, or none when nothing is new. Blocks on the disk.
    ///
    /// # Errors
    /// [`TreeError`] when the disk fails.
    pub(crate) fn persist(&self) -> Result<(), TreeError> {
        let committed = self.committed.load(Ordering::Acquire);
        if self.persisted.load(Ordering::Acquire) >= committed {
            return Ok(());
        }
        self.with(Inner::persist)?;
        self.persisted.fetch_max(committed, Ordering::AcqRel);
        Ok(())
    }

    /// Makes the next start fast, which reads all journals. To be called when nothing more is written. Blocks on the disk, for some
    /// seconds at most.
    ///
    /// # Errors
    /// [`TreeError`] when the disk fails; nothing is lost then.
    pub(crate) fn fold_journals(&self) -> Result<(), TreeError> {
        self.with(Inner::fold_journals)
    }

    fn with<T>(&self, work: impl FnOnce(&Inner) -> Result<T, TreeError>) -> Result<T, TreeError> {
        let guard = self.inner.read();
        match &*guard {
            Some(inner) => work(inner),
            None => Err(TreeError::Closed),
        }
    }

    /// Returns the files whose rows of bytes were written.
    pub(crate) fn touched_contents(&self) -> &TouchedContents {
        &self.touched_contents
    }

    /// Returns the sums of sizes, as the newest batch left them; [`Sizes::load`] has to have been called.
    pub(crate) fn sizes(&self) -> Sizes {
        *self.sizes.lock()
    }

    pub(super) fn set_sizes(&self, sizes: Sizes) {
        *self.sizes.lock() = sizes;
    }

    /// Freezes what the store holds now, for several reads that must fit together.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, TreeError> {
        self.with(Inner::snapshot)
    }

    /// As [`Self::read_raw`], from a snapshot.
    pub(crate) fn read_raw_at(
        &self,
        snapshot: &Snapshot,
        space: Space,
        key: &[u8],
    ) -> Result<Option<Slice>, TreeError> {
        self.with(|inner| inner.get_at(snapshot, space, key))
    }

    /// Reads one value as bytes.
    pub(crate) fn read_raw(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, TreeError> {
        let ticket = match self.rows.get(space, key) {
            Found::Row(row) => return Ok(row),
            Found::Unknown(ticket) => ticket,
        };
        let row = self.with(|inner| inner.get(space, key))?;
        if let Some(ticket) = ticket {
            self.rows.offer(&ticket, key, row.as_ref());
        }
        Ok(row)
    }

    /// Reads one value.
    pub(crate) fn read<T: DeserializeOwned>(&self, space: Space, key: &[u8]) -> Result<Option<T>, TreeError> {
        self.read_raw(space, key)?.map(|bytes| decode(SPACES[space as usize].1, &bytes)).transpose()
    }

    /// Calls `each` with every row whose key starts with `prefix`, in order, from one snapshot, until it returns `false`.
    pub(crate) fn each(
        &self,
        space: Space,
        prefix: &[u8],
        each: impl FnMut(&[u8], &[u8]) -> Result<bool, TreeError>,
    ) -> Result<(), TreeError> {
        self.each_from(space, prefix, &[], each)
    }

    /// As [`Self::each`], starting after the key `prefix` + `after` when `after` is not empty.
    pub(crate) fn each_from(
        &self,
        space: Space,
        prefix: &[u8],
        after: &[u8],
        each: impl FnMut(&[u8], &[u8]) -> Result<bool, TreeError>,
    ) -> Result<(), TreeError> {
        let snapshot = self.snapshot()?;
        self.each_at(&snapshot, space, prefix, after, each)
    }

    /// As [`Self::each_from`], from a snapshot.
    pub(crate) fn each_at(
        &self,
        snapshot: &Snapshot,
        space: Space,
        prefix: &[u8],
        after: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, TreeError>,
    ) -> Result<(), TreeError> {
        let start = [prefix, after].concat();
        let lower = if after.is_empty() { Bound::Included(start) } else { Bound::Excluded(start) };
        self.with(|inner| inner.each(snapshot, space, prefix, lower, &mut each))
    }

    /// Returns the last key of a table.
    pub(crate) fn last_key(&self, space: Space) -> Result<Option<Vec<u8>>, TreeError> {
        self.with(|inner| inner.last_key(space))
    }

    /// Returns about how many rows a table has; costs no reading.
    pub(crate) fn approximate_len(&self, space: Space) -> Result<u64, TreeError> {
        self.with(|inner| inner.approximate_len(space))
    }

    /// Writes a batch of book-keeping: all of it or nothing.
    pub(crate) fn commit(&self, writes: Vec<Write>) -> Result<(), TreeError> {
        if writes.is_empty() {
            return Ok(());
        }
        if self.room() < limits::STORE_RESERVE_PART_BYTES {
            self.reserve.release();
        }
        loop {
            let Err(failed) = self.write(&writes) else { return Ok(()) };
            tracing::error!(error = %failed, "writing the tree's log failed; opening it again");
            // What is in the log of it is dropped then, or comes to the same when it is written again.
            if !self.reopen()? || !matches!(failed, TreeError::NoSpace) {
                return Err(failed);
            }
        }
    }

    fn write(&self, writes: &[Write]) -> Result<(), TreeError> {
        self.rows.begin(writes.iter().map(|write| (write.space, &*write.key)));
        let written = self.with(|inner| inner.write(writes));
        let rows = writes.iter().map(|write| (write.space, &*write.key, write.value.as_ref()));
        self.rows.end(rows, written.is_ok());
        written?;
        self.committed.fetch_add(1, Ordering::AcqRel);
        let contents = writes.iter().filter(|write| write.space == Space::Content);
        self.touched_contents.note(contents.map(|write| &*write.key));
        if let Some(sizes) = Sizes::written(writes) {
            self.set_sizes(sizes);
        }
        Ok(())
    }

    /// Writes a batch that grows the tree; refused while the disk is nearly full.
    pub(crate) fn commit_growth(&self, writes: Vec<Write>) -> Result<(), TreeError> {
        if self.room() < limits::STORE_FREE_MIN {
            return Err(TreeError::NoSpace);
        }
        self.commit(writes)
    }

    /// Tells whether there is more room than before: a part of the reserve was given up for it.
    fn reopen(&self) -> Result<bool, TreeError> {
        let mut guard = self.inner.write();
        if matches!(&*guard, Some(Inner::Memory(_))) {
            return Ok(false);
        }
        let has_room = self.reserve.release();
        drop(guard.take());
        *guard = Some(self.reserve.with(|| Inner::open(&self.dir.join("tree")))?);
        Ok(has_room)
    }
}

/// Returns the first key after all that start with `prefix`.
fn upper_bound(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}
