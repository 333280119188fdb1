//! Chunks that are being uploaded: whoever removes chunk files leaves these alone.
//!
//! An upload claims a chunk before it writes the file and lets go when the row is durable. Invariant: inside
//! [`Claims::unless_claimed`] no upload of that chunk is between these two, and none begins.

use std::collections::HashMap;
use std::sync::Arc;

use dfs_shared::hash::ChunkHash;
use parking_lot::Mutex;

/// Locks: an upload waits for a removal of one chunk in so many.
const SHARDS: usize = 64;

/// Counts the uploads of each chunk.
#[derive(Debug)]
pub struct Claims {
    shards: [Mutex<HashMap<ChunkHash, usize>>; SHARDS],
}

impl Default for Claims {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Claims {
    fn shard(&self, hash: ChunkHash) -> &Mutex<HashMap<ChunkHash, usize>> {
        &self.shards[usize::from(hash.as_bytes()[31]) % SHARDS]
    }

    /// Claims a chunk until the claim is dropped.
    #[must_use]
    pub(super) fn claim(self: &Arc<Self>, hash: ChunkHash) -> Claim {
        *self.shard(hash).lock().entry(hash).or_default() += 1;
        Claim { claims: Arc::clone(self), hash }
    }

    /// Runs `work` if nobody is uploading the chunk; uploads that begin meanwhile wait for it.
    pub fn unless_claimed<T>(&self, hash: ChunkHash, work: impl FnOnce() -> T) -> Option<T> {
        let shard = self.shard(hash).lock();
        (!shard.contains_key(&hash)).then(work)
    }
}

/// An upload of a chunk under way.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    hash: ChunkHash,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut shard = self.claims.shard(self.hash).lock();
        if let Some(count) = shard.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&self.hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_left_alone_until_its_last_upload_has_ended() {
        let claims = Arc::<Claims>::default();
        let (a, b) = (ChunkHash::of(b"a"), ChunkHash::of(b"b"));
        let (first, second) = (claims.claim(a), claims.claim(a));
        assert_eq!(claims.unless_claimed(b, || 1), Some(1));
        drop(first);
        assert_eq!(claims.unless_claimed(a, || 1), None);
        drop(second);
        assert_eq!(claims.unless_claimed(a, || 1), Some(1));
    }
}
