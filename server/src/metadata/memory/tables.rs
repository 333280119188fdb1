//! The maps of the store in memory. Cloning them copies handles, not rows.
//!
//! Each is ordered, and what is asked for together stands together: the names in a directory, the past of a node. A batch
//! copies the leaves that it touches, so what is long is behind a pointer there, and a leaf's copy is some counters.
//! Invariants: a job ends with [`Tables::keep`] or [`Tables::undo`]; an index holds exactly what the map that it serves
//! holds, and both are changed in one method.

use std::cmp::Ordering;
use std::sync::Arc;

use dfs_shared::hash::{ChunkHash, ContentId, MerkleHash};
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::manifest::Manifest;
use dfs_shared::name::Name;
use dfs_shared::record::{EntryRecord, Record, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use equivalent::{Comparable, Equivalent};
use imbl::OrdMap;

use super::logged::Logged;
use crate::metadata::sessions::{SessionFile, SessionId, SessionRow, StagedChunk, StagedFile};
use crate::metadata::token::{AccessToken, TokenId};
use crate::metadata::upkeep::Kind;
use crate::metadata::{Client, CommitChanges, HeldVersion, PastRecord, Volume, VolumeKey};

/// A manifest and, if it was told, the SHA-256 of the whole content.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) manifest: Arc<Manifest>,
    pub(super) file_hash: Option<ChunkHash>,
}

/// Orders past records of a node: the revision that ended them, then the order in which they came.
pub(super) type PastOrder = (u64, u64);
pub(super) type Bytes = Arc<[u8]>;
/// A directory of a volume, and a name in it.
pub(super) type EntryKey = ((VolumeKey, NodeId), Bytes);

/// A key that ends in bytes, with these borrowed: sorts as the owned one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Under<'a, P>(pub(super) P, pub(super) &'a [u8]);

impl<P: Ord> Comparable<(P, Bytes)> for Under<'_, P> {
    fn compare(&self, key: &(P, Bytes)) -> Ordering {
        self.0.cmp(&key.0).then_with(|| self.1.cmp(&key.1))
    }
}

impl<P: Ord> Equivalent<(P, Bytes)> for Under<'_, P> {
    fn equivalent(&self, key: &(P, Bytes)) -> bool {
        self.compare(key).is_eq()
    }
}

/// What belongs to one sync session.
#[derive(Debug, Clone, Default)]
pub(super) struct SessionTables {
    pub(super) row: Option<Arc<SessionRow>>,
    pub(super) plan: OrdMap<Bytes, Arc<SessionFile>>,
    pub(super) files: OrdMap<Bytes, StagedFile>,
    pub(super) chunks: OrdMap<Bytes, OrdMap<u64, StagedChunk>>,
}

/// Makes the tables, each with the memory of the job that runs.
macro_rules! tables {
    ($($(#[$about:meta])* $name:ident: $key:ty => $row:ty,)*) => {
        /// All tables.
        #[derive(Debug, Clone, Default)]
        pub(super) struct Tables {
            $($(#[$about])* pub(super) $name: Logged<$key, $row>,)*
            /// How many past records there were ever, and how many before the job that runs.
            pub(super) history_len: u64,
            history_len_before: u64,
        }

        impl Tables {
            /// Keeps what the job has done.
            pub(super) fn keep(&mut self) {
                $(self.$name.keep();)*
                self.history_len_before = self.history_len;
            }

            /// Undoes what the job has done.
            pub(super) fn undo(&mut self) {
                $(self.$name.undo();)*
                self.history_len = self.history_len_before;
            }
        }
    };
}

tables! {
    volumes: VolumeName => Volume,
    volume_names: VolumeKey => VolumeName,
    nodes: (VolumeKey, NodeId) => Arc<Versioned>,
    entries: EntryKey => Arc<Versioned>,
    /// The entries by the node that they lead to, then by their directory and name.
    targets: ((VolumeKey, NodeId, NodeId), Bytes) => Arc<Versioned>,
    merkle: (VolumeKey, Bytes) => Bytes,
    contents: ContentId => Content,
    /// Contents of several chunks by the hash of the whole.
    files: (ChunkHash, ContentId) => (),
    small_chunks: ChunkHash => Bytes,
    chunks: ChunkHash => u64,
    history: (VolumeKey, NodeId, PastOrder) => Arc<PastRecord>,
    /// The past records of all volumes in the order in which they came.
    past: u64 => (VolumeKey, Arc<PastRecord>),
    /// How many past records of a node itself were dropped.
    dropped: (VolumeKey, NodeId) => u64,
    authors: (VolumeKey, Revision) => Arc<(ClientId, Timestamp)>,
    roots: (VolumeKey, Revision) => MerkleHash,
    /// Contents and chunks that nothing referred to, and since when.
    condemned: (Kind, [u8; 32]) => Timestamp,
    /// The numbers of the clients' newest reports.
    reports: (VolumeKey, ClientId) => u64,
    replicas: (VolumeKey, NodeId, ClientId) => HeldVersion,
    /// What commits did to files, each with the bytes of all of the volume up to it.
    changes: (VolumeKey, Revision) => (Arc<CommitChanges>, u64),
    /// The newest past record of each entry.
    removed: EntryKey => (PastOrder, Arc<PastRecord>),
    clients: (VolumeKey, ClientId) => Arc<Client>,
    replies: (VolumeKey, ClientId, u64) => Bytes,
    tokens: TokenId => AccessToken,
    announced: (VolumeKey, Bytes) => Bytes,
    sessions: SessionId => SessionTables,
}

/// Times of the server itself are kept in whole microseconds, as every store does.
pub(super) fn whole_micros(at: Timestamp) -> Timestamp {
    Timestamp { secs: at.secs, nanos: at.nanos / 1000 * 1000 }
}

impl Tables {
    pub(super) fn volume_mut(&mut self, volume: VolumeKey) -> Option<&mut Volume> {
        let name = self.volume_names.get(&volume)?;
        self.volumes.get_mut(name)
    }

    pub(super) fn entry(&self, volume: VolumeKey, parent: NodeId, name: &Name) -> Option<&Arc<Versioned>> {
        self.entries.get(&Under((volume, parent), name.as_bytes()))
    }

    /// Returns the past of a node, oldest first.
    pub(super) fn past_of(
        &self,
        volume: VolumeKey,
        node: NodeId,
    ) -> impl DoubleEndedIterator<Item = (&PastOrder, &Arc<PastRecord>)> {
        let all = (volume, node, (0, 0))..=(volume, node, (u64::MAX, u64::MAX));
        self.history.range(all).map(|((_, _, order), past)| (order, past))
    }

    pub(super) fn insert_entry(&mut self, volume: VolumeKey, entry: &EntryRecord, row: Arc<Versioned>) {
        let name = Bytes::from(entry.name.as_bytes());
        let key = ((volume, entry.parent), Arc::clone(&name));
        let old = self.entries.put(key, Arc::clone(&row));
        if let Some(old) = old
            && let Record::Entry(old) = &old.record
            && old.node != entry.node
        {
            self.targets.take(&Under((volume, old.node, old.parent), &name));
        }
        self.targets.put(((volume, entry.node, entry.parent), name), row);
    }

    pub(super) fn remove_entry(&mut self, volume: VolumeKey, parent: NodeId, name: &Name) {
        let old = self.entries.take(&Under((volume, parent), name.as_bytes()));
        if let Some(old) = old
            && let Record::Entry(old) = &old.record
        {
            self.targets.take(&Under((volume, old.node, parent), name.as_bytes()));
        }
    }

    /// The tables of a session, made when they are missing.
    pub(super) fn session_mut(&mut self, id: SessionId) -> &mut SessionTables {
        if !self.sessions.contains_key(&id) {
            self.sessions.put(id, SessionTables::default());
        }
        self.sessions.get_mut(&id).expect("made above")
    }
}
