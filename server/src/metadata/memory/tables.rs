//! The maps of the store in memory. Cloning them copies handles, not rows.
//!
//! Invariants: a job ends with [`Tables::keep`] or [`Tables::undo`]; an index holds exactly what the map that it serves
//! holds, and both are changed in one method.

use std::sync::Arc;

use dfs_shared::hash::{ChunkHash, ContentId, MerkleHash};
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::manifest::Manifest;
use dfs_shared::name::Name;
use dfs_shared::record::{EntryRecord, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync, RedBlackTreeSetSync};

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
/// Entries by the bytes of their names.
pub(super) type Directory = RedBlackTreeMapSync<Box<[u8]>, Arc<Versioned>>;
pub(super) type Bytes = Arc<[u8]>;

/// What belongs to one sync session.
#[derive(Debug, Clone, Default)]
pub(super) struct SessionTables {
    pub(super) row: Option<Arc<SessionRow>>,
    pub(super) plan: RedBlackTreeMapSync<Vec<u8>, SessionFile>,
    pub(super) files: RedBlackTreeMapSync<Vec<u8>, StagedFile>,
    pub(super) chunks: RedBlackTreeMapSync<Vec<u8>, RedBlackTreeMapSync<u64, StagedChunk>>,
}

/// Makes the tables, each with the memory of the job that runs.
macro_rules! tables {
    ($($(#[$about:meta])* $name:ident: $map:ty,)*) => {
        /// All tables.
        #[derive(Debug, Clone, Default)]
        pub(super) struct Tables {
            $($(#[$about])* pub(super) $name: Logged<$map>,)*
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
    volumes: RedBlackTreeMapSync<VolumeName, Volume>,
    volume_names: RedBlackTreeMapSync<VolumeKey, VolumeName>,
    nodes: HashTrieMapSync<(VolumeKey, NodeId), Arc<Versioned>>,
    directories: HashTrieMapSync<(VolumeKey, NodeId), Directory>,
    /// The entries that lead to a node.
    targets: HashTrieMapSync<(VolumeKey, NodeId), RedBlackTreeMapSync<RecordKey, Arc<Versioned>>>,
    merkle: HashTrieMapSync<(VolumeKey, Vec<u8>), Bytes>,
    contents: HashTrieMapSync<ContentId, Content>,
    /// Contents of several chunks by the hash of the whole.
    files: HashTrieMapSync<ChunkHash, RedBlackTreeSetSync<ContentId>>,
    small_chunks: HashTrieMapSync<ChunkHash, Bytes>,
    chunks: HashTrieMapSync<ChunkHash, u64>,
    history: HashTrieMapSync<(VolumeKey, NodeId), RedBlackTreeMapSync<PastOrder, Arc<PastRecord>>>,
    /// The past records of all volumes in the order in which they came.
    past: RedBlackTreeMapSync<u64, (VolumeKey, Arc<PastRecord>)>,
    /// How many past records of a node itself were dropped.
    dropped: HashTrieMapSync<(VolumeKey, NodeId), u64>,
    authors: RedBlackTreeMapSync<(VolumeKey, Revision), (ClientId, Timestamp)>,
    roots: RedBlackTreeMapSync<(VolumeKey, Revision), MerkleHash>,
    /// Contents and chunks that nothing referred to, and since when.
    condemned: HashTrieMapSync<(Kind, [u8; 32]), Timestamp>,
    /// The numbers of the clients' newest reports.
    reports: HashTrieMapSync<(VolumeKey, ClientId), u64>,
    replicas: RedBlackTreeMapSync<(VolumeKey, NodeId, ClientId), HeldVersion>,
    /// What commits did to files, each with the bytes of all of the volume up to it.
    changes: RedBlackTreeMapSync<(VolumeKey, Revision), (CommitChanges, u64)>,
    /// The newest past record of each entry.
    removed: HashTrieMapSync<(VolumeKey, RecordKey), (PastOrder, Arc<PastRecord>)>,
    clients: HashTrieMapSync<(VolumeKey, ClientId), Client>,
    replies: HashTrieMapSync<(VolumeKey, ClientId), RedBlackTreeMapSync<u64, Bytes>>,
    tokens: RedBlackTreeMapSync<TokenId, AccessToken>,
    announced: RedBlackTreeMapSync<(VolumeKey, Vec<u8>), Bytes>,
    sessions: RedBlackTreeMapSync<SessionId, SessionTables>,
}

/// Times of the server itself are kept in whole microseconds, as every store does.
pub(super) fn whole_micros(at: Timestamp) -> Timestamp {
    Timestamp { secs: at.secs, nanos: at.nanos / 1000 * 1000 }
}

impl Tables {
    pub(super) fn entry(&self, volume: VolumeKey, parent: NodeId, name: &Name) -> Option<&Arc<Versioned>> {
        self.directories.get(&(volume, parent))?.get(name.as_bytes())
    }

    pub(super) fn insert_entry(&mut self, volume: VolumeKey, entry: &EntryRecord, row: Arc<Versioned>) {
        let old = self.entry(volume, entry.parent, &entry.name).map(|old| old.record.clone());
        if let Some(Record::Entry(old)) = old
            && old.node != entry.node
        {
            self.unlink_target(volume, old.node, &old.key());
        }
        let target = (volume, entry.node);
        match self.targets.get_mut(&target) {
            Some(keys) => keys.insert_mut(entry.key(), Arc::clone(&row)),
            None => {
                let keys = RedBlackTreeMapSync::default().insert(entry.key(), Arc::clone(&row));
                self.targets.insert_mut(target, keys);
            }
        }
        let directory = (volume, entry.parent);
        match self.directories.get_mut(&directory) {
            Some(names) => names.insert_mut(entry.name.as_bytes().into(), row),
            None => {
                let names = Directory::default().insert(entry.name.as_bytes().into(), row);
                self.directories.insert_mut(directory, names);
            }
        }
    }

    pub(super) fn remove_entry(&mut self, volume: VolumeKey, parent: NodeId, name: &Name) {
        let Some(old) = self.entry(volume, parent, name).cloned() else { return };
        if let Record::Entry(old) = &old.record {
            self.unlink_target(volume, old.node, &old.key());
        }
        let directory = (volume, parent);
        let Some(names) = self.directories.get_mut(&directory) else { return };
        names.remove_mut(name.as_bytes());
        if names.is_empty() {
            self.directories.remove_mut(&directory);
        }
    }

    fn unlink_target(&mut self, volume: VolumeKey, node: NodeId, key: &RecordKey) {
        let target = (volume, node);
        let Some(keys) = self.targets.get_mut(&target) else { return };
        keys.remove_mut(key);
        if keys.is_empty() {
            self.targets.remove_mut(&target);
        }
    }

    /// The tables of a session, made when they are missing.
    pub(super) fn session_mut(&mut self, id: SessionId) -> &mut SessionTables {
        if !self.sessions.contains_key(&id) {
            self.sessions.insert_mut(id, SessionTables::default());
        }
        self.sessions.get_mut(&id).expect("made above")
    }
}
