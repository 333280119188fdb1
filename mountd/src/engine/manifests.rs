//! Manifests that were pushed and not used yet.
//!
//! They are not put into the tree at once, because a file's old manifest tells which of its old bytes can be used
//! again; losing them costs a request.

use std::collections::{HashMap, VecDeque};

use dfs_shared::hash::ContentId;
use dfs_shared::manifest::Manifest;
use parking_lot::Mutex;
use std::sync::Arc;

/// Pushed manifests, the newest up to a number of chunks.
#[derive(Debug)]
pub(super) struct Manifests {
    chunks_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<ContentId, Arc<Manifest>>,
    order: VecDeque<ContentId>,
    chunks: usize,
}

impl Manifests {
    pub(super) fn new(chunks_max: usize) -> Self {
        Self { chunks_max, kept: Mutex::default() }
    }

    pub(super) fn put(&self, manifest: Manifest) {
        let (id, chunks) = (manifest.id(), manifest.chunks.len());
        let mut kept = self.kept.lock();
        if chunks > self.chunks_max || kept.by_id.contains_key(&id) {
            return;
        }
        kept.by_id.insert(id, Arc::new(manifest));
        kept.order.push_back(id);
        kept.chunks += chunks;
        while kept.chunks > self.chunks_max {
            let Some(oldest) = kept.order.pop_front() else { break };
            let gone = kept.by_id.remove(&oldest);
            kept.chunks -= gone.map_or(0, |manifest| manifest.chunks.len());
        }
    }

    pub(super) fn get(&self, id: ContentId) -> Option<Arc<Manifest>> {
        self.kept.lock().by_id.get(&id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use dfs_shared::hash::ChunkHash;
    use dfs_shared::manifest::ChunkRef;

    use super::*;

    fn manifest(name: &str, chunks: usize) -> Manifest {
        let chunk = ChunkRef { hash: ChunkHash::of(name.as_bytes()), len: 1 };
        Manifest { chunk_log2: 14, chunks: vec![chunk; chunks] }
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_chunks_and_a_too_long_one_is_not_kept() {
        let kept = Manifests::new(10);
        for name in ["a", "b", "c"] {
            kept.put(manifest(name, 4));
            kept.put(manifest(name, 4));
        }
        assert!(kept.get(manifest("a", 4).id()).is_none());
        assert!(kept.get(manifest("b", 4).id()).is_some() && kept.get(manifest("c", 4).id()).is_some());
        kept.put(manifest("long", 11));
        assert!(kept.get(manifest("long", 11).id()).is_none());
        assert!(kept.get(manifest("c", 4).id()).is_some());
    }
}
