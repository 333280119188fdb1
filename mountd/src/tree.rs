//! The mount's local tree: records with their base, inode numbers, names and the journal.
//!
//! Owns the embedded store. Leaves bytes of files to `cache`, talking to the server to `engine`, and
//! the rules of POSIX that need a caller's identity to `fs`.
//!
//! ```text
//!            local operation (namespace.rs)            remote records (apply.rs)
//!                       │                                        │
//!                       ▼                                        ▼
//!   Txn: reads through to the store, collects writes ◄── resolve.rs (pure: base, local, remote → verdict)
//!                       │
//!                       ▼  one atomic batch: records + names + inode numbers + journal (+ Merkle)
//!                     Store
//! ```
//!
//! Invariants:
//! - One writer at a time (the tree's lock); readers never wait for it.
//! - A reply is sent only after its batch is in the store's log, which a killed process survives.
//! - `local == base` for every record whose [`SyncState`] is `Clean`; every other record's key stands in
//!   at least one journal group.
//! - The Merkle tree covers the base: exactly the records that the server is known to have.

pub mod apply;
mod audit;
mod conflicts;
pub mod content;
pub mod effect;
pub mod error;
pub mod held;
pub mod journal;
mod keys;
pub mod namespace;
pub mod node;
pub mod pins;
pub mod policy;
pub mod resolve;
pub mod sizes;
pub mod store;
mod txn;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use dfs_shared::hash::MerkleHash;
use dfs_shared::ids::{ClientId, NodeId, VolumeId};
use dfs_shared::lineage::Seen;
use dfs_shared::merkle::NodeStore;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, NodeRecord};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use conflicts::Conflicts;
pub use conflicts::{Fate, Merged, OpenConflict, Taken, Undecided};
pub use effect::{Effect, EffectSink};
pub use error::TreeError;
pub use node::{Cookie, DirEntry, Ino, LocalNode, SyncState};
use node::{EntryTarget, LocalEntry};
use pins::Pins;
pub use sizes::{Quota, Sizes};
use store::{Space, Store, Write, decode};
use txn::Txn;

/// What a mount remembers about its server between two starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The id that the server gave this mount.
    pub client: Option<ClientId>,
    /// Which life of the volume the base belongs to.
    pub volume: Option<VolumeId>,
    /// The newest revision up to which the base is complete.
    pub revision: Revision,
    /// Number of the last commit request that was made.
    pub commit: u64,
}

/// How much the tree holds; approximate, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Nodes.
    pub nodes: u64,
    /// Change groups that the server has not acknowledged.
    pub pending_groups: u64,
}

/// The local tree. Cheap to share; every method may be called from any thread. None waits for the network;
/// only [`Tree::persist`] waits for the disk.
pub struct Tree {
    store: Arc<Store>,
    /// Held by whoever changes the tree, from its first read to its batch.
    writer: Mutex<()>,
    /// Sequence number of the newest change group.
    seq: AtomicU64,
    /// Every change group up to this sequence number is in the store, or was there.
    seq_written: AtomicU64,
    /// No change group up to this sequence number is left: where reading the journal starts, so that it never
    /// wades through what has been removed.
    journal_start: AtomicU64,
    /// The newest change group that carries on older changes: what applying remote records journaled.
    seq_carried: AtomicU64,
    /// Called after each local change, while the writer's lock is held: must only wake somebody.
    on_journal: Box<dyn Fn() + Send + Sync>,
    /// Conflicts that nobody has decided. Taken after the writer's lock, never before it.
    conflicts: Mutex<Conflicts>,
    /// What is to stay here. Taken after the writer's lock, never before it.
    pins: Pins,
    /// What the server told of it last.
    quota: Mutex<Quota>,
    policies: OnceLock<policy::Policies>,
    /// Host name as conflict copies show it.
    host: String,
    /// Makes the ids of new nodes.
    ids: Box<dyn Fn() -> NodeId + Send + Sync>,
}

const MEMBERSHIP_KEY: &[u8] = b"membership";
const BOOT_KEY: &[u8] = b"boot";
const SEEN_KEY: &[u8] = b"seen";

impl Tree {
    /// Opens the tree in a store; an empty store gets a root directory that belongs to the calling user.
    /// `on_journal` is called after each local change and must only wake somebody.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails or holds something damaged.
    pub fn open(
        store: Arc<Store>,
        host: String,
        on_journal: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Self, TreeError> {
        let last = journal::last_seq(&store)?;
        let conflicts = Mutex::new(Conflicts::load(&store)?);
        let pins = Pins::load(&store)?;
        Sizes::load(&store)?;
        let quota = Mutex::new(sizes::load_quota(&store)?);
        let tree = Self {
            store,
            conflicts,
            pins,
            quota,
            policies: OnceLock::new(),
            writer: Mutex::new(()),
            seq: AtomicU64::new(last),
            seq_written: AtomicU64::new(last),
            journal_start: AtomicU64::new(0),
            seq_carried: AtomicU64::new(0),
            on_journal,
            host,
            ids: Box::new(NodeId::generate),
        };
        if tree.node_by_id(NodeId::ROOT)?.is_none() {
            tree.make_root()?;
        }
        Ok(tree)
    }

    /// Takes the ids of new nodes from `ids` instead of the clock and the random source; none may come twice.
    #[must_use]
    pub fn with_ids(self, ids: Box<dyn Fn() -> NodeId + Send + Sync>) -> Self {
        Self { ids, ..self }
    }

    fn make_root(&self) -> Result<(), TreeError> {
        // SAFETY: neither call has preconditions.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        // Older than anything: the server's times take their place at the first contact.
        let at = Timestamp::default();
        let record = NodeRecord {
            id: NodeId::ROOT,
            kind: NodeKind::Directory,
            mode: 0o755,
            uid,
            gid,
            atime: at,
            mtime: at,
            ctime: at,
            crtime: at,
            size: 0,
            content: None,
            rdev: 0,
            target: Vec::new(),
            xattrs: std::collections::BTreeMap::new(),
        };
        let mut txn = Txn::new(&self.store);
        txn.put_node(LocalNode {
            id: NodeId::ROOT,
            ino: Ino::ROOT,
            record: Some(record),
            sync: SyncState::New,
            entries: 0,
            subdirs: 0,
            parent: NodeId::ROOT,
            dirty_content: None,
        })?;
        self.store.commit(txn.finish(at, || 0))
    }

    fn last_seq(&self) -> u64 {
        self.seq.load(Ordering::Acquire)
    }

    fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Writes a change as one batch and wakes whoever sends the journal. The writer's lock is held.
    fn finish(&self, txn: Txn<'_>, at: Timestamp, growth: bool) -> Result<(), TreeError> {
        let arrivals = self.pins.arrivals(&txn);
        let writes = txn.finish(at, || self.next_seq());
        if growth {
            self.store.commit_growth(writes)?
        } else {
            self.store.commit(writes)?
        }
        self.pins.note(arrivals);
        (self.on_journal)();
        Ok(())
    }

    /// As [`Self::finish`] for a change that carries on what was changed before: a conflict copy holds bytes that were written
    /// earlier, and who waits for those waits for it.
    fn finish_carried(&self, txn: Txn<'_>, at: Timestamp) -> Result<(), TreeError> {
        let before = self.last_seq();
        let arrivals = self.pins.arrivals(&txn);
        let writes = txn.finish(at, || self.next_seq());
        if self.last_seq() > before {
            // Before the batch: nobody may see the old groups gone and not know of the new ones.
            self.seq_carried.store(self.last_seq(), Ordering::Release);
        }
        self.store.commit(writes)?;
        self.pins.note(arrivals);
        (self.on_journal)();
        Ok(())
    }

    /// Returns a number that was never returned before on this mount, also before a crash.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn next_number(&self) -> Result<u64, TreeError> {
        self.store.next_number()
    }

    /// Returns what all numbers that were ever returned are below; `None` if there were none.
    #[must_use]
    pub fn numbers_given(&self) -> Option<u64> {
        self.store.numbers_given()
    }

    /// Goes on with `first` if the next number would be smaller.
    pub fn skip_numbers(&self, first: u64) {
        self.store.skip_numbers(first);
    }

    /// Returns the number of the next commit request: greater than that of every earlier one, also before a crash or a power
    /// loss, for the server answers a number that it knows with the answer that it gave.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn next_commit(&self) -> Result<u64, TreeError> {
        self.store.next_commit(self.membership()?.commit + 1)
    }

    /// Tells whether the machine may have lost its power (or crashed) since the store was last used: the last run did not end by
    /// [`Self::end_boot`], and `boot`, which names the machine's run since it was switched on, is another one now.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn lost_power(&self, boot: &str) -> Result<bool, TreeError> {
        let last: Option<String> = self.store.read(Space::Meta, BOOT_KEY)?;
        Ok(last.is_some_and(|last| last != boot))
    }

    /// Remembers, durably, under which boot the store is used from now on. Blocks on the disk.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn begin_boot(&self, boot: &str) -> Result<(), TreeError> {
        self.store.commit(vec![Write::put(Space::Meta, BOOT_KEY, &boot)])?;
        self.persist()
    }

    /// Says, durably, that everything is as the tree says and nobody changes it any more. Blocks on the disk.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn end_boot(&self) -> Result<(), TreeError> {
        self.store.commit(vec![Write::remove(Space::Meta, BOOT_KEY)])?;
        self.persist()?;
        self.store.fold_journals()
    }

    /// Makes everything that the tree holds survive power loss. Waits for the disk; free when nothing is new.
    ///
    /// # Errors
    /// [`TreeError`] when the disk fails.
    pub fn persist(&self) -> Result<(), TreeError> {
        self.store.persist()
    }

    /// Returns the store, for its free room and reserve.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns what the mount remembers about its server.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn membership(&self) -> Result<Membership, TreeError> {
        Ok(self.store.read(Space::Meta, MEMBERSHIP_KEY)?.unwrap_or_default())
    }

    /// Remembers something about the server.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn set_membership(&self, membership: &Membership) -> Result<(), TreeError> {
        self.store.commit(vec![Write::put(Space::Meta, MEMBERSHIP_KEY, membership)])
    }

    /// Returns the states of the volume that the server told.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn seen(&self) -> Result<Seen, TreeError> {
        Ok(self.store.read(Space::Meta, SEEN_KEY)?.unwrap_or_default())
    }

    /// Remembers states of the volume.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn set_seen(&self, seen: &Seen) -> Result<(), TreeError> {
        self.store.commit(vec![Write::put(Space::Meta, SEEN_KEY, seen)])
    }

    /// Returns the Merkle root over the base: what the server is known to have.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn base_root(&self) -> Result<MerkleHash, TreeError> {
        Ok(dfs_shared::merkle::root(&self.local_merkle())?)
    }

    /// Returns a read-only view of the base's Merkle tree.
    #[must_use]
    pub fn local_merkle(&self) -> impl NodeStore<Error = TreeError> + '_ {
        Txn::new(&self.store)
    }

    fn id_of(&self, ino: Ino) -> Result<Option<NodeId>, TreeError> {
        if ino == Ino::ROOT {
            return Ok(Some(NodeId::ROOT));
        }
        let Some(bytes) = self.store.read_raw(Space::Inodes, &keys::inode(ino))? else { return Ok(None) };
        let id = <[u8; 16]>::try_from(&*bytes).map_err(|_| TreeError::Damaged { what: "inode" })?;
        Ok(Some(NodeId::from_bytes(id)))
    }

    /// Returns a node that exists here by its inode number.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn node(&self, ino: Ino) -> Result<Option<LocalNode>, TreeError> {
        let Some(id) = self.id_of(ino)? else { return Ok(None) };
        Ok(self.node_by_id(id)?.filter(|node| node.record.is_some()))
    }

    /// Returns a node's row, also one that is deleted here and not on the server.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn node_by_id(&self, id: NodeId) -> Result<Option<LocalNode>, TreeError> {
        self.store.read(Space::Nodes, id.as_bytes())
    }

    /// Returns the node that a name leads to.
    ///
    /// # Errors
    /// [`TreeError`]: `NotFound` or `NotDirectory` (the parent), or a failing store.
    pub fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<LocalNode>, TreeError> {
        let dir = self.id_of(parent)?.ok_or(TreeError::NotFound)?;
        let entry: Option<LocalEntry> = self.store.read(Space::Entries, &keys::entry(dir, name))?;
        let Some(target) = entry.and_then(|entry| entry.target) else {
            let dir = self.node_by_id(dir)?.and_then(|dir| dir.record).ok_or(TreeError::NotFound)?;
            return match dir.kind {
                NodeKind::Directory => Ok(None),
                _ => Err(TreeError::NotDirectory),
            };
        };
        Ok(self.node_by_id(target.node)?.filter(|node| node.record.is_some()))
    }

    /// Returns up to `limit` entries of a directory after the position `after` (0 for the start), in the order of
    /// their positions, which never change. `.` and `..` are not among them; real positions start at 16.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn read_dir(&self, dir: NodeId, after: Cookie, limit: usize) -> Result<Vec<DirEntry>, TreeError> {
        let mut entries = Vec::new();
        if limit == 0 {
            return Ok(entries);
        }
        self.store.each_from(Space::Index, dir.as_bytes(), &after.0.to_be_bytes(), |_, value| {
            let (name, target): (Name, EntryTarget) = decode("directory index", value)?;
            entries.push(DirEntry { name, target });
            Ok(entries.len() < limit)
        })?;
        Ok(entries)
    }

    /// Returns the directories and names that lead to a node here.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn names_of(&self, node: NodeId) -> Result<Vec<(NodeId, Name)>, TreeError> {
        Txn::new(&self.store).live_names_of(node)
    }

    /// Returns one path of a node, relative to the root and without a leading slash; empty for the root.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn path_of(&self, node: NodeId) -> Result<Option<Vec<u8>>, TreeError> {
        let mut parts = Vec::new();
        let mut at = node;
        while at != NodeId::ROOT {
            let Some((parent, name)) = self.names_of(at)?.into_iter().next() else { return Ok(None) };
            if parts.len() > crate::limits::PATH_DEPTH_MAX {
                return Ok(None);
            }
            parts.push(name.as_bytes().to_vec());
            at = parent;
        }
        parts.reverse();
        Ok(Some(parts.join(&b'/')))
    }

    /// Returns a path of a name, whether it leads anywhere or not; `None` if its directory has no path.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn path_of_name(&self, parent: NodeId, name: &Name) -> Result<Option<Vec<u8>>, TreeError> {
        Ok(self.path_of(parent)?.map(|mut path| {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            path
        }))
    }

    /// Returns the node at a path relative to the root.
    ///
    /// # Errors
    /// [`TreeError`]: `NotFound`, `NotDirectory`, or a failing store.
    pub fn resolve_path(&self, relative: &[u8]) -> Result<LocalNode, TreeError> {
        let mut at = self.node(Ino::ROOT)?.ok_or(TreeError::NotFound)?;
        for part in relative.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".") {
            let name = Name::new(part).map_err(|_| TreeError::NotFound)?;
            at = self.lookup(at.ino, &name)?.ok_or(TreeError::NotFound)?;
        }
        Ok(at)
    }

    /// Returns how much the tree holds, roughly and at once.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn counts(&self) -> Result<Counts, TreeError> {
        Ok(Counts {
            nodes: self.store.approximate_len(Space::Nodes)?,
            pending_groups: self.store.approximate_len(Space::Journal)?,
        })
    }
}

#[cfg(test)]
mod tests;
