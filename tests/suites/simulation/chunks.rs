//! A chunk store in memory.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use dfs_server::chunk_store::{ChunkError, ChunkFile, ChunkStore};
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

    fn remove(&self, hash: ChunkHash) -> Result<(), ChunkError> {
        self.0.lock().remove(&hash);
        Ok(())
    }

    fn each(&self, visit: &mut dyn FnMut(ChunkHash, u64) -> ControlFlow<()>) -> Result<(), ChunkError> {
        let mut chunks =
            self.0.lock().iter().map(|(hash, bytes)| (*hash, bytes.len() as u64)).collect::<Vec<_>>();
        while let Some((hash, len)) = chunks.pop() {
            if visit(hash, len).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, _hash: ChunkHash) -> Result<Option<ChunkFile>, ChunkError> {
        Ok(None)
    }

    fn is_verified(&self, _hash: ChunkHash) -> bool {
        false
    }
}
