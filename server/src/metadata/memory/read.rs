//! Reads of the store in memory: records, trees, contents, history, clients and tokens.

use dfs_shared::hash::{ChunkHash, ContentId, MerkleHash};
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{RecordKey, Versioned};
use dfs_shared::revision::Revision;

use super::tables::{Tables, Under};
use crate::metadata::token::AccessToken;
use crate::metadata::{
    ChunkPlace, Client, MetadataError, PastRecord, ReadFiles, ReadMetadata, Volume, VolumeKey,
};

impl ReadMetadata for Tables {
    fn volume(&self, name: &VolumeName) -> Result<Option<Volume>, MetadataError> {
        Ok(self.volumes.get(name).cloned())
    }

    fn volumes(&self) -> Result<Vec<Volume>, MetadataError> {
        Ok(self.volumes.values().cloned().collect())
    }

    fn root_at(&self, volume: VolumeKey, revision: Revision) -> Result<Option<MerkleHash>, MetadataError> {
        Ok(self.roots.get(&(volume, revision)).copied())
    }

    fn oldest_root(&self, volume: VolumeKey) -> Result<Option<Revision>, MetadataError> {
        let first = self.roots.range((volume, Revision::ZERO)..).next();
        Ok(first.filter(|((of, _), _)| *of == volume).map(|((_, revision), _)| *revision))
    }

    fn record(&self, volume: VolumeKey, key: &RecordKey) -> Result<Option<Versioned>, MetadataError> {
        let row = match key {
            RecordKey::Node(id) => self.nodes.get(&(volume, *id)),
            RecordKey::Entry { parent, name } => self.entry(volume, *parent, name),
        };
        Ok(row.map(|row| Versioned::clone(row)))
    }

    fn entries_to(
        &self,
        volume: VolumeKey,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError> {
        let from = self.targets.range(Under((volume, node, NodeId::ROOT), b"")..);
        let of_node = from.take_while(|(((of, to, _), _), _)| (*of, *to) == (volume, node));
        Ok(of_node.take(limit).map(|(_, row)| Versioned::clone(row)).collect())
    }

    fn entries_in(
        &self,
        volume: VolumeKey,
        parent: NodeId,
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError> {
        self.entries_from(volume, parent, b"", limit)
    }

    fn merkle_node(&self, volume: VolumeKey, prefix: &[u8]) -> Result<Option<Vec<u8>>, MetadataError> {
        Ok(self.merkle.get(&Under(volume, prefix)).map(|node| node.to_vec()))
    }

    fn content(&self, id: &ContentId) -> Result<Option<Manifest>, MetadataError> {
        Ok(self.contents.get(id).map(|content| Manifest::clone(&content.manifest)))
    }

    fn chunk_place(&self, hash: &ChunkHash) -> Result<Option<ChunkPlace>, MetadataError> {
        if let Some(bytes) = self.small_chunks.get(hash) {
            return Ok(Some(ChunkPlace::Small { len: bytes.len() as u64 }));
        }
        Ok(self.chunks.get(hash).map(|len| ChunkPlace::Stored { len: *len }))
    }

    fn small_chunk(&self, hash: &ChunkHash) -> Result<Option<Vec<u8>>, MetadataError> {
        Ok(self.small_chunks.get(hash).map(|bytes| bytes.to_vec()))
    }

    fn history(
        &self,
        volume: VolumeKey,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<PastRecord>, MetadataError> {
        let newest_first = self.past_of(volume, node).rev();
        Ok(newest_first.take(limit).map(|(_, past)| PastRecord::clone(past)).collect())
    }

    fn client(&self, volume: VolumeKey, id: &ClientId) -> Result<Option<Client>, MetadataError> {
        Ok(self.clients.get(&(volume, id.clone())).map(|client| Client::clone(client)))
    }

    fn commit_reply(
        &self,
        volume: VolumeKey,
        client: &ClientId,
        number: u64,
    ) -> Result<Option<Vec<u8>>, MetadataError> {
        Ok(self.replies.get(&(volume, client.clone(), number)).map(|reply| reply.to_vec()))
    }

    fn tokens(&self) -> Result<Vec<AccessToken>, MetadataError> {
        let mut tokens: Vec<_> = self.tokens.values().cloned().collect();
        tokens.sort_by_key(|token| (token.created, token.id));
        Ok(tokens)
    }
}
