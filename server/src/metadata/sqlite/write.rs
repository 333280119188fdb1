//! The statements of the SQLite store that change rows.

use dfs_shared::hash::{ChunkHash, ContentId, MerkleHash};
use dfs_shared::ids::{ClientId, VolumeId, VolumeName};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Record, RecordKey};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::encode_plain;
use rusqlite::Params;

use super::failed;
use super::read::{Tables, micros, signed};
use crate::limits::ROOTS_KEPT;
use crate::metadata::token::{AccessToken, TokenId};
use crate::metadata::upkeep::{Kind, WriteUpkeep};
use crate::metadata::{Client, MetadataError, PastRecord, ReadMetadata, Volume, VolumeKey, WriteMetadata};

impl Tables<'_> {
    pub(super) fn execute(
        &self,
        attempted: &'static str,
        sql: &str,
        params: impl Params,
    ) -> Result<(), MetadataError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map(|_| ())
            .map_err(failed(attempted))
    }
}

impl WriteMetadata for Tables<'_> {
    fn create_volume(&mut self, name: &VolumeName, id: VolumeId) -> Result<Volume, MetadataError> {
        let sql = "INSERT INTO volume (name, uuid, revision, root) VALUES (?1, ?2, 0, ?3)";
        let params = (name.as_str(), id.as_bytes(), MerkleHash::EMPTY.as_bytes());
        self.execute("create a volume", sql, params)?;
        self.volume(name)?.ok_or(MetadataError::Damaged { what: "volume row", source: None })
    }

    fn advance_volume(
        &mut self,
        volume: VolumeKey,
        revision: Revision,
        root: MerkleHash,
        used: u64,
    ) -> Result<(), MetadataError> {
        let sql = "UPDATE volume SET revision = ?2, root = ?3, used = ?4 WHERE id = ?1";
        let params = (volume.0, signed(revision.0), root.as_bytes(), used.cast_signed());
        self.execute("advance a volume", sql, params)?;
        let sql = "INSERT OR REPLACE INTO past_root (volume, revision, root) VALUES (?1, ?2, ?3)";
        self.execute("keep a root", sql, (volume.0, signed(revision.0), root.as_bytes()))?;
        let sql = "DELETE FROM past_root WHERE volume = ?1 AND revision <= ?2";
        self.execute("drop old roots", sql, (volume.0, signed(revision.0.saturating_sub(ROOTS_KEPT))))
    }

    fn set_quota(&mut self, volume: VolumeKey, quota: Option<u64>) -> Result<(), MetadataError> {
        let sql = "UPDATE volume SET quota = ?2 WHERE id = ?1";
        self.execute("set a quota", sql, (volume.0, quota.map(u64::cast_signed)))
    }

    fn put_record(
        &mut self,
        volume: VolumeKey,
        revision: Revision,
        record: &Record,
    ) -> Result<(), MetadataError> {
        let sql = "INSERT INTO record (volume, key, revision, target, value) VALUES (?1, ?2, ?3, ?4, ?5) \
                   ON CONFLICT (volume, key) DO UPDATE SET revision = ?3, target = ?4, value = ?5";
        let target = match record {
            Record::Node(_) => None,
            Record::Entry(entry) => Some(entry.node.as_bytes()),
        };
        let params = (volume.0, record.key().to_bytes(), signed(revision.0), target, encode_plain(record));
        self.execute("write a record", sql, params)
    }

    fn remove_record(&mut self, volume: VolumeKey, key: &RecordKey) -> Result<(), MetadataError> {
        let sql = "DELETE FROM record WHERE volume = ?1 AND key = ?2";
        self.execute("remove a record", sql, (volume.0, key.to_bytes()))
    }

    fn put_merkle_node(
        &mut self,
        volume: VolumeKey,
        prefix: &[u8],
        node: Option<&[u8]>,
    ) -> Result<(), MetadataError> {
        match node {
            Some(node) => {
                let sql = "INSERT INTO merkle (volume, prefix, node) VALUES (?1, ?2, ?3) \
                           ON CONFLICT (volume, prefix) DO UPDATE SET node = ?3";
                self.execute("write a Merkle node", sql, (volume.0, prefix, node))
            }
            None => {
                let sql = "DELETE FROM merkle WHERE volume = ?1 AND prefix = ?2";
                self.execute("remove a Merkle node", sql, (volume.0, prefix))
            }
        }
    }

    fn put_content(
        &mut self,
        id: &ContentId,
        manifest: &Manifest,
        file_hash: Option<&ChunkHash>,
    ) -> Result<(), MetadataError> {
        let sql = "INSERT INTO content (hash, manifest, file_hash) VALUES (?1, ?2, ?3) \
                   ON CONFLICT (hash) DO UPDATE SET file_hash = ?3 WHERE file_hash IS NULL AND ?3 IS NOT NULL";
        let params = (id.as_bytes(), encode_plain(manifest), file_hash.map(ChunkHash::as_bytes));
        self.execute("write a manifest", sql, params)
    }

    fn put_small_chunk(&mut self, hash: &ChunkHash, bytes: &[u8]) -> Result<(), MetadataError> {
        let sql = "INSERT INTO small_chunk (hash, bytes) VALUES (?1, ?2) ON CONFLICT (hash) DO NOTHING";
        self.execute("write a small chunk", sql, (hash.as_bytes(), bytes))?;
        self.reprieve(Kind::Chunk, hash.as_bytes())
    }

    fn put_chunk(&mut self, hash: &ChunkHash, len: u64) -> Result<(), MetadataError> {
        let sql = "INSERT INTO chunk (hash, len) VALUES (?1, ?2) ON CONFLICT (hash) DO NOTHING";
        self.execute("note a chunk", sql, (hash.as_bytes(), signed(len)))?;
        self.reprieve(Kind::Chunk, hash.as_bytes())
    }

    fn forget_chunk(&mut self, hash: &ChunkHash) -> Result<(), MetadataError> {
        self.execute("forget a chunk", "DELETE FROM chunk WHERE hash = ?1", [hash.as_bytes()])?;
        self.execute("forget a small chunk", "DELETE FROM small_chunk WHERE hash = ?1", [hash.as_bytes()])
    }

    fn put_history(&mut self, volume: VolumeKey, past: &PastRecord) -> Result<(), MetadataError> {
        let sql = "INSERT INTO history (volume, node, began, ended, time, record, key, author) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let key = match &past.record {
            Record::Node(_) => None,
            Record::Entry(entry) => Some(entry.key().to_bytes()),
        };
        let params = (
            volume.0,
            past.node.as_bytes(),
            signed(past.began.0),
            signed(past.ended.0),
            micros(past.time),
            encode_plain(&past.record),
            key,
            past.author.as_ref().map(ClientId::as_str),
        );
        self.execute("write the history", sql, params)
    }

    fn put_client(&mut self, volume: VolumeKey, client: &Client) -> Result<(), MetadataError> {
        let sql = "INSERT INTO client (volume, id, name, last_seen) VALUES (?1, ?2, ?3, ?4) \
                   ON CONFLICT (volume, id) DO UPDATE SET name = ?3, last_seen = ?4";
        let params = (volume.0, client.id.as_str(), &client.name, micros(client.last_seen));
        self.execute("write a client", sql, params)
    }

    fn put_commit_reply(
        &mut self,
        volume: VolumeKey,
        client: &ClientId,
        number: u64,
        reply: &[u8],
        keep: u64,
    ) -> Result<(), MetadataError> {
        let put =
            "INSERT OR REPLACE INTO client_commit (volume, client, number, reply) VALUES (?1, ?2, ?3, ?4)";
        self.execute("keep a reply", put, (volume.0, client.as_str(), signed(number), reply))?;
        let drop = "DELETE FROM client_commit WHERE volume = ?1 AND client = ?2 AND number <= ?3";
        self.execute("drop old replies", drop, (volume.0, client.as_str(), signed(number) - signed(keep)))
    }

    fn put_token(&mut self, token: &AccessToken) -> Result<(), MetadataError> {
        let sql = "INSERT INTO access_token (id, digest, volume, access, name, created, revoked) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let params = (
            token.id.as_bytes(),
            token.digest,
            token.volume.as_str(),
            token.access.code(),
            &token.name,
            micros(token.created),
            token.revoked.map(micros),
        );
        self.execute("keep an access token", sql, params)
    }

    fn revoke_token(&mut self, id: &TokenId, at: Timestamp) -> Result<bool, MetadataError> {
        let sql = "UPDATE access_token SET revoked = coalesce(revoked, ?2) WHERE id = ?1";
        let changed = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute((id.as_bytes(), micros(at))));
        changed.map(|rows| rows > 0).map_err(failed("revoke an access token"))
    }
}
