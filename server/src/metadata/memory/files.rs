//! What the public API asks of the store in memory.

use std::ops::Bound;

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Record, RecordKey, Versioned};

use super::tables::Tables;
use crate::metadata::{Announced, MetadataError, PastRecord, ReadFiles, VolumeKey, WriteFiles};

impl ReadFiles for Tables {
    fn entries_from(
        &self,
        volume: VolumeKey,
        parent: NodeId,
        first: &[u8],
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError> {
        let Some(names) = self.directories.get(&(volume, parent)) else { return Ok(Vec::new()) };
        let from = (Bound::Included(first), Bound::<&[u8]>::Unbounded);
        let entries = names.range::<[u8], _>(from).map(|(_, row)| Versioned::clone(row));
        Ok(entries.take(limit).collect())
    }

    fn file_hash(&self, id: &ContentId) -> Result<Option<ChunkHash>, MetadataError> {
        let Some(content) = self.contents.get(id) else { return Ok(None) };
        Ok(content.file_hash.or_else(|| match content.manifest.chunks[..] {
            [chunk] if !chunk.hash.is_hole() => Some(chunk.hash),
            _ => None,
        }))
    }

    fn content_of_file(&self, hash: &ChunkHash) -> Result<Option<Manifest>, MetadataError> {
        let id = self.files.get(hash).and_then(|ids| ids.first());
        let content = id.and_then(|id| self.contents.get(id));
        Ok(content.map(|content| Manifest::clone(&content.manifest)))
    }

    fn past_versions(&self, volume: VolumeKey, node: NodeId) -> Result<u64, MetadataError> {
        let past = self.history.get(&(volume, node)).into_iter().flat_map(|past| past.values());
        let kept = past.filter(|past| matches!(past.record, Record::Node(_))).count() as u64;
        Ok(kept + self.dropped.get(&(volume, node)).copied().unwrap_or(0))
    }

    fn removed_entry(&self, volume: VolumeKey, key: &RecordKey) -> Result<Option<PastRecord>, MetadataError> {
        let row = self.removed.get(&(volume, key.clone()));
        Ok(row.map(|(_, past)| PastRecord::clone(past)))
    }

    fn announced_from(
        &self,
        volume: VolumeKey,
        first: &[u8],
        limit: usize,
    ) -> Result<Vec<Announced>, MetadataError> {
        let from = self.announced.range((volume, first.to_vec())..);
        let of_volume = from.take_while(|((of, _), _)| *of == volume);
        Ok(of_volume.take(limit).map(|((_, path), metadata)| (path.clone(), metadata.to_vec())).collect())
    }
}

impl WriteFiles for Tables {
    fn put_announced(
        &mut self,
        volume: VolumeKey,
        path: &[u8],
        metadata: Option<&[u8]>,
    ) -> Result<(), MetadataError> {
        let key = (volume, path.to_vec());
        match metadata {
            Some(metadata) => self.announced.insert_mut(key, metadata.into()),
            None => {
                self.announced.remove_mut(&key);
            }
        }
        Ok(())
    }
}
