//! What the public API asks of the store in memory.

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Record, RecordKey, Versioned};

use super::tables::{Tables, Under};
use crate::metadata::{Announced, MetadataError, PastRecord, ReadFiles, VolumeKey, WriteFiles};

impl ReadFiles for Tables {
    fn entries_from(
        &self,
        volume: VolumeKey,
        parent: NodeId,
        first: &[u8],
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError> {
        let from = self.entries.range(Under((volume, parent), first)..);
        let of_parent = from.take_while(|((of, _), _)| *of == (volume, parent));
        Ok(of_parent.take(limit).map(|(_, row)| Versioned::clone(row)).collect())
    }

    fn file_hash(&self, id: &ContentId) -> Result<Option<ChunkHash>, MetadataError> {
        let Some(content) = self.contents.get(id) else { return Ok(None) };
        Ok(content.file_hash.or_else(|| match content.manifest.chunks[..] {
            [chunk] if !chunk.hash.is_hole() => Some(chunk.hash),
            _ => None,
        }))
    }

    fn content_of_file(&self, hash: &ChunkHash) -> Result<Option<Manifest>, MetadataError> {
        let from = self.files.range((*hash, ContentId::from_bytes([0; 32]))..).next();
        let first = from.filter(|((of, _), ())| of == hash);
        let content = first.and_then(|((_, id), ())| self.contents.get(id));
        Ok(content.map(|content| Manifest::clone(&content.manifest)))
    }

    fn past_versions(&self, volume: VolumeKey, node: NodeId) -> Result<u64, MetadataError> {
        let past = self.past_of(volume, node);
        let kept = past.filter(|(_, past)| matches!(past.record, Record::Node(_))).count() as u64;
        Ok(kept + self.dropped.get(&(volume, node)).copied().unwrap_or(0))
    }

    fn removed_entry(&self, volume: VolumeKey, key: &RecordKey) -> Result<Option<PastRecord>, MetadataError> {
        let RecordKey::Entry { parent, name } = key else { return Ok(None) };
        let row = self.removed.get(&Under((volume, *parent), name.as_bytes()));
        Ok(row.map(|(_, past)| PastRecord::clone(past)))
    }

    fn announced_from(
        &self,
        volume: VolumeKey,
        first: &[u8],
        limit: usize,
    ) -> Result<Vec<Announced>, MetadataError> {
        let from = self.announced.range(Under(volume, first)..);
        let of_volume = from.take_while(|((of, _), _)| *of == volume);
        Ok(of_volume.take(limit).map(|((_, path), metadata)| (path.to_vec(), metadata.to_vec())).collect())
    }
}

impl WriteFiles for Tables {
    fn put_announced(
        &mut self,
        volume: VolumeKey,
        path: &[u8],
        metadata: Option<&[u8]>,
    ) -> Result<(), MetadataError> {
        match metadata {
            Some(metadata) => self.announced.put((volume, path.into()), metadata.into()),
            None => self.announced.take(&Under(volume, path)),
        };
        Ok(())
    }
}
