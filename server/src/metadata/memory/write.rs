//! Writes of the store in memory: records, trees, contents, history, clients and tokens.

use std::sync::Arc;

use dfs_shared::hash::{ChunkHash, ContentId, MerkleHash};
use dfs_shared::ids::{ClientId, VolumeId, VolumeName};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;

use super::tables::{Bytes, Content, Tables, Under, whole_micros};
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
        let number = i64::try_from(self.volumes.len()).expect("fewer volumes than 2^63") + 1;
        let key = VolumeKey(number);
        let (revision, root) = (Revision(0), MerkleHash::EMPTY);
        let volume = Volume { key, name: name.clone(), id, revision, root, used: 0, quota: None };
        self.volumes.put(name.clone(), volume.clone());
        self.volume_names.put(key, name.clone());
        Ok(volume)
    }

    fn advance_volume(
        &mut self,
        volume: VolumeKey,
        revision: Revision,
        root: MerkleHash,
        used: u64,
    ) -> Result<(), MetadataError> {
        if let Some(row) = self.volume_mut(volume) {
            (row.revision, row.root, row.used) = (revision, root, used);
        }
        self.roots.put((volume, revision), root);
        let last = Revision(revision.0.saturating_sub(ROOTS_KEPT));
        let old = self.roots.range((volume, Revision::ZERO)..=(volume, last)).map(|(key, _)| *key).collect();
        self.roots.take_all(old);
        Ok(())
    }

    fn set_quota(&mut self, volume: VolumeKey, quota: Option<u64>) -> Result<(), MetadataError> {
        if let Some(row) = self.volume_mut(volume) {
            row.quota = quota;
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
            Record::Node(node) => {
                self.nodes.put((volume, node.id), row);
            }
            Record::Entry(entry) => self.insert_entry(volume, entry, row),
        }
        Ok(())
    }

    fn remove_record(&mut self, volume: VolumeKey, key: &RecordKey) -> Result<(), MetadataError> {
        match key {
            RecordKey::Node(id) => {
                self.nodes.take(&(volume, *id));
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
        match node {
            Some(node) => self.merkle.put((volume, prefix.into()), node.into()),
            None => self.merkle.take(&Under(volume, prefix)),
        };
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
            self.files.put((hash, *id), ());
        }
        self.contents.put(*id, Content { manifest, file_hash });
        Ok(())
    }

    fn put_small_chunk(&mut self, hash: &ChunkHash, bytes: &[u8]) -> Result<(), MetadataError> {
        if !self.small_chunks.contains_key(hash) {
            self.small_chunks.put(*hash, bytes.into());
        }
        Ok(())
    }

    fn put_chunk(&mut self, hash: &ChunkHash, len: u64) -> Result<(), MetadataError> {
        if !self.chunks.contains_key(hash) {
            self.chunks.put(*hash, len);
        }
        Ok(())
    }

    fn forget_chunk(&mut self, hash: &ChunkHash) -> Result<(), MetadataError> {
        self.chunks.take(hash);
        self.small_chunks.take(hash);
        Ok(())
    }

    fn put_history(&mut self, volume: VolumeKey, past: &PastRecord) -> Result<(), MetadataError> {
        self.history_len += 1;
        let order = (past.ended.0, self.history_len);
        let row = Arc::new(PastRecord { time: whole_micros(past.time), ..past.clone() });
        if let Record::Entry(entry) = &past.record {
            let key = ((volume, entry.parent), Bytes::from(entry.name.as_bytes()));
            if self.removed.get(&key).is_none_or(|(newest, _)| *newest < order) {
                self.removed.put(key, (order, Arc::clone(&row)));
            }
        }
        self.past.put(self.history_len, (volume, Arc::clone(&row)));
        self.history.put((volume, past.node, order), row);
        Ok(())
    }

    fn put_client(&mut self, volume: VolumeKey, client: &Client) -> Result<(), MetadataError> {
        let row = Client { last_seen: whole_micros(client.last_seen), ..client.clone() };
        self.clients.put((volume, client.id.clone()), Arc::new(row));
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
        let key = |number| (volume, client.clone(), number);
        self.replies.put(key(number), reply.into());
        if let Some(last) = number.checked_sub(keep) {
            let old = self.replies.range(key(0)..=key(last)).map(|(key, _)| key.clone()).collect();
            self.replies.take_all(old);
        }
        Ok(())
    }

    fn put_token(&mut self, token: &AccessToken) -> Result<(), MetadataError> {
        if self.tokens.contains_key(&token.id) {
            return Err(taken("keep an access token", &token.id));
        }
        let (created, revoked) = (whole_micros(token.created), token.revoked.map(whole_micros));
        self.tokens.put(token.id, AccessToken { created, revoked, ..token.clone() });
        Ok(())
    }

    fn revoke_token(&mut self, id: &TokenId, at: Timestamp) -> Result<bool, MetadataError> {
        let Some(token) = self.tokens.get_mut(id) else { return Ok(false) };
        token.revoked = token.revoked.or(Some(whole_micros(at)));
        Ok(true)
    }
}
