//! A chunk store in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use dfs_server::chunk_store::{ChunkError, ChunkStore};
use dfs_shared::hash::ChunkHash;
use parking_lot::Mutex;

/// The chunks by hash.
#[derive(Default)]
pub(super) struct MemoryChunks(Mutex<BTreeMap<ChunkHash, Bytes>>);

impl ChunkStore for MemoryChunks {
    fn put(&self, hash: ChunkHash, bytes: &[u8]) -> Result<(), ChunkError> {
        if ChunkHash::of(bytes) != hash {
            return Err(ChunkError::HashMismatch { hash });
        }
        self.0.lock().insert(hash, Bytes::copy_from_slice(bytes));
        Ok(())
    }

    fn sync(&self) -> Result<(), ChunkError> {
        Ok(())
    }

    fn get(&self, hash: ChunkHash) -> Result<Bytes, ChunkError> {
        self.0.lock().get(&hash).cloned().ok_or(ChunkError::Absent { hash })
    }
}
