//! The queries of the SQLite store.

use dfs_shared::hash::{ChunkHash, ContentId, MerkleHash};
use dfs_shared::ids::{ClientId, NodeId, VolumeId, VolumeName};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::decode_plain;
use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::{damaged, failed};
use crate::metadata::token::{Access, AccessToken, TokenId};
use crate::metadata::{ChunkPlace, Client, MetadataError, PastRecord, ReadMetadata, Volume, VolumeKey};

/// The tables as one connection sees them, inside a transaction that the caller has begun.
pub(super) struct Tables<'a> {
    pub(super) connection: &'a Connection,
}

impl<'a> Tables<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self { connection }
    }

    /// Reads at most one row.
    pub(super) fn one<T>(
        &self,
        attempted: &'static str,
        sql: &str,
        params: impl Params,
        row: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, MetadataError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(params, row).optional())
            .map_err(failed(attempted))
    }

    /// Reads all rows.
    pub(super) fn all<T>(
        &self,
        attempted: &'static str,
        sql: &str,
        params: impl Params,
        row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, MetadataError> {
        let read = || -> rusqlite::Result<Vec<T>> {
            self.connection.prepare_cached(sql)?.query_map(params, row)?.collect()
        };
        read().map_err(failed(attempted))
    }
}

/// SQLite's integers are signed; revisions and lengths never reach 2^63.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Microseconds since 1970, as times of the server itself are stored.
pub(super) fn micros(at: Timestamp) -> i64 {
    at.secs.saturating_mul(1_000_000).saturating_add(i64::from(at.nanos / 1000))
}

pub(super) fn from_micros(micros: i64) -> Timestamp {
    let nanos = u32::try_from(micros.rem_euclid(1_000_000) * 1000).expect("below 1,000,000,000");
    Timestamp { secs: micros.div_euclid(1_000_000), nanos }
}

struct VolumeRow {
    key: i64,
    name: String,
    id: [u8; 16],
    revision: i64,
    root: [u8; 32],
    used: i64,
    quota: Option<i64>,
}

fn volume_row(row: &Row<'_>) -> rusqlite::Result<VolumeRow> {
    Ok(VolumeRow {
        key: row.get(0)?,
        name: row.get(1)?,
        id: row.get(2)?,
        revision: row.get(3)?,
        root: row.get(4)?,
        used: row.get(5)?,
        quota: row.get(6)?,
    })
}

fn volume(row: VolumeRow) -> Result<Volume, MetadataError> {
    Ok(Volume {
        key: VolumeKey(row.key),
        name: VolumeName::new(&row.name)
            .map_err(|_| MetadataError::Damaged { what: "volume name", source: None })?,
        id: VolumeId::from_bytes(row.id),
        revision: Revision(unsigned(row.revision)),
        root: MerkleHash::from_bytes(row.root),
        used: row.used.cast_unsigned(),
        quota: row.quota.map(i64::cast_unsigned),
    })
}

pub(super) fn versioned_row(row: &Row<'_>) -> rusqlite::Result<(i64, Vec<u8>)> {
    Ok((row.get(0)?, row.get(1)?))
}

pub(super) fn versioned((revision, value): (i64, Vec<u8>)) -> Result<Versioned, MetadataError> {
    let record = decode_plain(&value).map_err(damaged("record"))?;
    Ok(Versioned { revision: Revision(unsigned(revision)), record })
}

pub(super) struct PastRow {
    began: i64,
    ended: i64,
    time: i64,
    pub(super) record: Vec<u8>,
    author: Option<String>,
}

/// What [`past_row`] reads.
pub(super) const PAST_COLUMNS: &str = "began, ended, time, record, author";

pub(super) fn past_row(row: &Row<'_>) -> rusqlite::Result<PastRow> {
    Ok(PastRow {
        began: row.get(0)?,
        ended: row.get(1)?,
        time: row.get(2)?,
        record: row.get(3)?,
        author: row.get(4)?,
    })
}

pub(super) fn past(node: NodeId, row: PastRow) -> Result<PastRecord, MetadataError> {
    Ok(PastRecord {
        node,
        began: Revision(unsigned(row.began)),
        ended: Revision(unsigned(row.ended)),
        time: from_micros(row.time),
        author: row.author.and_then(|client| ClientId::new(&client).ok()),
        record: decode_plain(&row.record).map_err(damaged("past record"))?,
    })
}

struct TokenRow {
    id: [u8; 8],
    digest: [u8; 32],
    volume: String,
    access: i64,
    name: String,
    created: i64,
    revoked: Option<i64>,
}

fn token_row(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow {
        id: row.get(0)?,
        digest: row.get(1)?,
        volume: row.get(2)?,
        access: row.get(3)?,
        name: row.get(4)?,
        created: row.get(5)?,
        revoked: row.get(6)?,
    })
}

fn token(row: TokenRow) -> Result<AccessToken, MetadataError> {
    let damaged = || MetadataError::Damaged { what: "access token", source: None };
    Ok(AccessToken {
        id: TokenId::from_bytes(row.id),
        digest: row.digest,
        volume: VolumeName::new(&row.volume).map_err(|_| damaged())?,
        access: Access::from_code(row.access).ok_or_else(damaged)?,
        name: row.name,
        created: from_micros(row.created),
        revoked: row.revoked.map(from_micros),
    })
}

impl ReadMetadata for Tables<'_> {
    fn volume(&self, name: &VolumeName) -> Result<Option<Volume>, MetadataError> {
        let sql = "SELECT id, name, uuid, revision, root, used, quota FROM volume WHERE name = ?1";
        self.one("read a volume", sql, [name.as_str()], volume_row)?.map(volume).transpose()
    }

    fn volumes(&self) -> Result<Vec<Volume>, MetadataError> {
        let sql = "SELECT id, name, uuid, revision, root, used, quota FROM volume ORDER BY name";
        self.all("list the volumes", sql, [], volume_row)?.into_iter().map(volume).collect()
    }

    fn root_at(&self, volume: VolumeKey, revision: Revision) -> Result<Option<MerkleHash>, MetadataError> {
        let sql = "SELECT root FROM past_root WHERE volume = ?1 AND revision = ?2";
        let root = self.one("read a past root", sql, (volume.0, signed(revision.0)), |row| row.get(0))?;
        Ok(root.map(MerkleHash::from_bytes))
    }

    fn oldest_root(&self, volume: VolumeKey) -> Result<Option<Revision>, MetadataError> {
        let sql = "SELECT min(revision) FROM past_root WHERE volume = ?1";
        let oldest: Option<Option<i64>> =
            self.one("read the oldest root", sql, (volume.0,), |row| row.get(0))?;
        Ok(oldest.flatten().map(|revision| Revision(unsigned(revision))))
    }

    fn record(&self, volume: VolumeKey, key: &RecordKey) -> Result<Option<Versioned>, MetadataError> {
        let sql = "SELECT revision, value FROM record WHERE volume = ?1 AND key = ?2";
        self.one("read a record", sql, (volume.0, key.to_bytes()), versioned_row)?.map(versioned).transpose()
    }

    fn entries_to(
        &self,
        volume: VolumeKey,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError> {
        // Without statistics the planner would rather walk the whole volume in the order of its keys.
        let sql = "SELECT revision, value FROM record INDEXED BY record_target \
                   WHERE volume = ?1 AND target = ?2 ORDER BY key LIMIT ?3";
        let params = (volume.0, node.as_bytes(), signed(limit as u64));
        self.all("read the entries of a node", sql, params, versioned_row)?
            .into_iter()
            .map(versioned)
            .collect()
    }

    fn entries_in(
        &self,
        volume: VolumeKey,
        parent: NodeId,
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError> {
        let sql = "SELECT revision, value FROM record WHERE volume = ?1 AND key > ?2 AND key < ?3 ORDER BY key LIMIT ?4";
        let first = [&[2][..], parent.as_bytes()].concat();
        // Sorts after every name: 255 times the largest byte is the last possible name.
        let end = [&first[..], &[0xff; 256]].concat();
        let params = (volume.0, first, end, signed(limit as u64));
        self.all("read a directory", sql, params, versioned_row)?.into_iter().map(versioned).collect()
    }

    fn merkle_node(&self, volume: VolumeKey, prefix: &[u8]) -> Result<Option<Vec<u8>>, MetadataError> {
        let sql = "SELECT node FROM merkle WHERE volume = ?1 AND prefix = ?2";
        self.one("read a Merkle node", sql, (volume.0, prefix), |row| row.get(0))
    }

    fn content(&self, id: &ContentId) -> Result<Option<Manifest>, MetadataError> {
        let sql = "SELECT manifest FROM content WHERE hash = ?1";
        self.one("read a manifest", sql, [id.as_bytes()], |row| row.get::<_, Vec<u8>>(0))?
            .map(|bytes| decode_plain(&bytes).map_err(damaged("manifest")))
            .transpose()
    }

    fn chunk_place(&self, hash: &ChunkHash) -> Result<Option<ChunkPlace>, MetadataError> {
        let small = "SELECT length(bytes) FROM small_chunk WHERE hash = ?1";
        let stored = "SELECT len FROM chunk WHERE hash = ?1";
        let len = |row: &Row<'_>| row.get::<_, i64>(0).map(unsigned);
        if let Some(len) = self.one("find a small chunk", small, [hash.as_bytes()], len)? {
            return Ok(Some(ChunkPlace::Small { len }));
        }
        Ok(self.one("find a chunk", stored, [hash.as_bytes()], len)?.map(|len| ChunkPlace::Stored { len }))
    }

    fn small_chunk(&self, hash: &ChunkHash) -> Result<Option<Vec<u8>>, MetadataError> {
        let sql = "SELECT bytes FROM small_chunk WHERE hash = ?1";
        self.one("read a small chunk", sql, [hash.as_bytes()], |row| row.get(0))
    }

    fn history(
        &self,
        volume: VolumeKey,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<PastRecord>, MetadataError> {
        let sql = format!(
            "SELECT {PAST_COLUMNS} FROM history WHERE volume = ?1 AND node = ?2 ORDER BY ended DESC, id DESC LIMIT ?3"
        );
        let params = (volume.0, node.as_bytes(), signed(limit as u64));
        let rows = self.all("read the history", &sql, params, past_row)?;
        rows.into_iter().map(|row| past(node, row)).collect()
    }

    fn client(&self, volume: VolumeKey, id: &ClientId) -> Result<Option<Client>, MetadataError> {
        let sql = "SELECT name, last_seen FROM client WHERE volume = ?1 AND id = ?2";
        let row =
            self.one("read a client", sql, (volume.0, id.as_str()), |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(row.map(|(name, seen)| Client { id: id.clone(), name, last_seen: from_micros(seen) }))
    }

    fn commit_reply(
        &self,
        volume: VolumeKey,
        client: &ClientId,
        number: u64,
    ) -> Result<Option<Vec<u8>>, MetadataError> {
        let sql = "SELECT reply FROM client_commit WHERE volume = ?1 AND client = ?2 AND number = ?3";
        self.one("read a kept reply", sql, (volume.0, client.as_str(), signed(number)), |row| row.get(0))
    }

    fn tokens(&self) -> Result<Vec<AccessToken>, MetadataError> {
        let sql = "SELECT id, digest, volume, access, name, created, revoked FROM access_token ORDER BY created, id";
        self.all("list the access tokens", sql, [], token_row)?.into_iter().map(token).collect()
    }
}
