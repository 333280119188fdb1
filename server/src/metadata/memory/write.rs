//! Writes of the store in memory: records, trees, contents, history, clients and tokens.

use std::sync::Arc;

use dfs_shared::hash::{ChunkHash, ContentId, MerkleHash};
use dfs_shared::ids::{ClientId, VolumeId, VolumeName};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

use super::tables::{Content, Tables, whole_micros};
use crate::limits::ROOTS_KEPT;
use crate::metadata::token::{AccessToken, TokenId};
use crate::metadata::{Client, MetadataError, PastRecord, Volume, VolumeKey, WriteMetadata};

/// A row with this key is there already.
#[derive(Debug, thiserror::Error)]
#[error("`{key}` is taken")]
struct Taken {
    /// The key.
    key: String,
}

fn taken(attempted: &'static str, key: &impl ToString) -> MetadataError {
    let source = Arc::new(Taken { key: key.to_string() });
    MetadataError::Database { attempted, source, is_fatal: false }
}

impl WriteMetadata for Tables {
    fn create_volume(&mut self, name: &VolumeName, id: VolumeId) -> Result<Volume, MetadataError> {
        if self.volumes.contains_key(name) {
            return Err(taken("create a volume", name));
        }
        let number = i64::try_from(self.volumes.size()).expect("fewer volumes than 2^63") + 1;
        let key = VolumeKey(number);
        let (revision, root) = (Revision(0), MerkleHash::EMPTY);
        let volume = Volume { key, name: name.clone(), id, revision, root };
        self.volumes.insert_mut(name.clone(), volume.clone());
        self.volume_names.insert_mut(key, name.clone());
        Ok(volume)
    }

    fn advance_volume(
        &mut self,
        volume: VolumeKey,
        revision: Revision,
        root: MerkleHash,
    ) -> Result<(), MetadataError> {
        let name = self.volume_names.get(&volume);
        if let Some(row) = name.and_then(|name| self.volumes.get_mut(name)) {
            (row.revision, row.root) = (revision, root);
        }
        self.roots.insert_mut((volume, revision), root);
        let last = Revision(revision.0.saturating_sub(ROOTS_KEPT));
        let old: Vec<_> =
            self.roots.range((volume, Revision::ZERO)..=(volume, last)).map(|(key, _)| *key).collect();
        for key in old {
            self.roots.remove_mut(&key);
        }
        Ok(())
    }

    fn put_record(
        &mut self,
        volume: VolumeKey,
        revision: Revision,
        record: &Record,
    ) -> Result<(), MetadataError> {
        let row = Arc::new(Versioned { revision, record: record.clone() });
        match record {
            Record::Node(node) => self.nodes.insert_mut((volume, node.id), row),
            Record::Entry(entry) => self.insert_entry(volume, entry, row),
        }
        Ok(())
    }

    fn remove_record(&mut self, volume: VolumeKey, key: &RecordKey) -> Result<(), MetadataError> {
        match key {
            RecordKey::Node(id) => {
                self.nodes.remove_mut(&(volume, *id));
            }
            RecordKey::Entry { parent, name } => self.remove_entry(volume, *parent, name),
        }
        Ok(())
    }

    fn put_merkle_node(
        &mut self,
        volume: VolumeKey,
        prefix: &[u8],
        node: Option<&[u8]>,
    ) -> Result<(), MetadataError> {
        let key = (volume, prefix.to_vec());
        match node {
            Some(node) => self.merkle.insert_mut(key, node.into()),
            None => {
                self.merkle.remove_mut(&key);
            }
        }
        Ok(())
    }

    fn put_content(
        &mut self,
        id: &ContentId,
        manifest: &Manifest,
        file_hash: Option<&ChunkHash>,
    ) -> Result<(), MetadataError> {
        let known = self.contents.get(id).cloned();
        let told = known.as_ref().and_then(|content| content.file_hash);
        let manifest = known.map_or_else(|| Arc::new(manifest.clone()), |content| content.manifest);
        let file_hash = told.or(file_hash.copied());
        if let Some(hash) = file_hash
            && manifest.chunks.len() > 1
        {
            let ids = self.files.get(&hash).cloned();
            let ids = ids.unwrap_or_else(RedBlackTreeSetSync::default).insert(*id);
            self.files.insert_mut(hash, ids);
        }
        self.contents.insert_mut(*id, Content { manifest, file_hash });
        Ok(())
    }

    fn put_small_chunk(&mut self, hash: &ChunkHash, bytes: &[u8]) -> Result<(), MetadataError> {
        if !self.small_chunks.contains_key(hash) {
            self.small_chunks.insert_mut(*hash, bytes.into());
        }
        Ok(())
    }

    fn put_chunk(&mut self, hash: &ChunkHash, len: u64) -> Result<(), MetadataError> {
        if !self.chunks.contains_key(hash) {
            self.chunks.insert_mut(*hash, len);
        }
        Ok(())
    }

    fn forget_chunk(&mut self, hash: &ChunkHash) -> Result<(), MetadataError> {
        self.chunks.remove_mut(hash);
        self.small_chunks.remove_mut(hash);
        Ok(())
    }

    fn put_history(&mut self, volume: VolumeKey, past: &PastRecord) -> Result<(), MetadataError> {
        self.history_len += 1;
        let order = (past.ended.0, self.history_len);
        let row = Arc::new(PastRecord { time: whole_micros(past.time), ..past.clone() });
        if let Record::Entry(entry) = &past.record {
            let key = (volume, entry.key());
            if self.removed.get(&key).is_none_or(|(newest, _)| *newest < order) {
                self.removed.insert_mut(key, (order, Arc::clone(&row)));
            }
        }
        self.past.insert_mut(self.history_len, (volume, Arc::clone(&row)));
        let key = (volume, past.node);
        match self.history.get_mut(&key) {
            Some(rows) => rows.insert_mut(order, row),
            None => self.history.insert_mut(key, RedBlackTreeMapSync::default().insert(order, row)),
        }
        Ok(())
    }

    fn put_client(&mut self, volume: VolumeKey, client: &Client) -> Result<(), MetadataError> {
        let row = Client { last_seen: whole_micros(client.last_seen), ..client.clone() };
        self.clients.insert_mut((volume, client.id.clone()), row);
        Ok(())
    }

    fn put_commit_reply(
        &mut self,
        volume: VolumeKey,
        client: &ClientId,
        number: u64,
        reply: &[u8],
        keep: u64,
    ) -> Result<(), MetadataError> {
        let key = (volume, client.clone());
        let mut replies = self.replies.get(&key).cloned().unwrap_or_default();
        replies.insert_mut(number, reply.into());
        if let Some(last) = number.checked_sub(keep) {
            let old: Vec<_> = replies.range(..=last).map(|(number, _)| *number).collect();
            old.iter().for_each(|number| {
                replies.remove_mut(number);
            });
        }
        self.replies.insert_mut(key, replies);
        Ok(())
    }

    fn put_token(&mut self, token: &AccessToken) -> Result<(), MetadataError> {
        if self.tokens.contains_key(&token.id) {
            return Err(taken("keep an access token", &token.id));
        }
        let (created, revoked) = (whole_micros(token.created), token.revoked.map(whole_micros));
        self.tokens.insert_mut(token.id, AccessToken { created, revoked, ..token.clone() });
        Ok(())
    }

    fn revoke_token(&mut self, id: &TokenId, at: Timestamp) -> Result<bool, MetadataError> {
        let Some(token) = self.tokens.get_mut(id) else { return Ok(false) };
        token.revoked = token.revoked.or(Some(whole_micros(at)));
        Ok(true)
    }
}
