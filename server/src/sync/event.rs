//! What the server tells on the event bus, and the door through which it does.

use std::time::Duration;

use bytes::Bytes;
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{ClientId, VolumeName};
use dfs_shared::revision::Revision;

/// A commit has become durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitEvent {
    /// The volume.
    pub volume: VolumeName,
    /// The volume's revision after it.
    pub revision: Revision,
    /// Who committed.
    pub client: ClientId,
    /// The encoded frame for the event streams; `None` when no group was accepted.
    pub frame: Option<Bytes>,
    /// Records changed.
    pub changes: usize,
    /// Groups accepted.
    pub accepted: usize,
    /// Groups refused.
    pub refused: usize,
    /// From the request to this moment.
    pub took: Duration,
}

/// A stored chunk was found damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkCorrupt {
    /// The chunk.
    pub hash: ChunkHash,
    /// What is wrong, with the file's name.
    pub why: String,
}

/// Chunks came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunksMoved {
    /// An upload has become durable.
    Stored {
        /// Chunks in it.
        count: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// A chunk was read for a mount.
    Served {
        /// Its bytes.
        bytes: u64,
    },
}

type Listener<E> = Box<dyn Fn(&E) + Send + Sync>;

/// The door to the bus.
#[derive(Default)]
pub struct Events {
    commits: Vec<Listener<CommitEvent>>,
    corrupt: Vec<Listener<ChunkCorrupt>>,
    moved: Vec<Listener<ChunksMoved>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    pub(crate) fn on_commit(&mut self, listener: impl Fn(&CommitEvent) + Send + Sync + 'static) {
        self.commits.push(Box::new(listener));
    }

    pub(crate) fn on_chunk_corrupt(&mut self, listener: impl Fn(&ChunkCorrupt) + Send + Sync + 'static) {
        self.corrupt.push(Box::new(listener));
    }

    pub(crate) fn on_chunks_moved(&mut self, listener: impl Fn(&ChunksMoved) + Send + Sync + 'static) {
        self.moved.push(Box::new(listener));
    }

    pub(super) fn committed(&self, event: CommitEvent) {
        self.commits.iter().for_each(|listener| listener(&event));
    }

    pub(super) fn chunk_corrupt(&self, event: &ChunkCorrupt) {
        self.corrupt.iter().for_each(|listener| listener(event));
    }

    pub(super) fn chunks_moved(&self, event: ChunksMoved) {
        self.moved.iter().for_each(|listener| listener(&event));
    }
}
