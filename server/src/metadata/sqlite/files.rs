//! The queries and statements about files of the SQLite store.

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Record, RecordKey, Versioned};
use dfs_shared::wire::decode_plain;

use super::damaged;
use super::read::{PAST_COLUMNS, Tables, past, past_row, signed, unsigned, versioned, versioned_row};
use crate::metadata::{Announced, MetadataError, PastRecord, ReadFiles, VolumeKey, WriteFiles};

fn manifest(bytes: &[u8]) -> Result<Manifest, MetadataError> {
    decode_plain(bytes).map_err(damaged("manifest"))
}

impl ReadFiles for Tables<'_> {
    fn entries_from(
        &self,
        volume: VolumeKey,
        parent: NodeId,
        first: &[u8],
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError> {
        let sql = "SELECT revision, value FROM record WHERE volume = ?1 AND key >= ?2 AND key < ?3 ORDER BY key LIMIT ?4";
        let directory = [&[2][..], parent.as_bytes()].concat();
        // Sorts after every name: 255 times the largest byte is the last possible name.
        let end = [&directory[..], &[0xff; 256]].concat();
        let params = (volume.0, [&directory[..], first].concat(), end, signed(limit as u64));
        self.all("read a directory", sql, params, versioned_row)?.into_iter().map(versioned).collect()
    }

    fn file_hash(&self, id: &ContentId) -> Result<Option<ChunkHash>, MetadataError> {
        // 60 bytes hold a manifest of one chunk, not one of two; longer ones are not read.
        let sql = "SELECT file_hash, CASE WHEN length(manifest) <= 60 THEN manifest END FROM content WHERE hash = ?1";
        let row = self.one("read a file's hash", sql, [id.as_bytes()], |row| {
            Ok((row.get::<_, Option<[u8; 32]>>(0)?, row.get::<_, Option<Vec<u8>>>(1)?))
        })?;
        match row {
            Some((Some(hash), _)) => Ok(Some(ChunkHash::from_bytes(hash))),
            Some((None, Some(bytes))) => match manifest(&bytes)?.chunks[..] {
                [chunk] if !chunk.hash.is_hole() => Ok(Some(chunk.hash)),
                _ => Ok(None),
            },
            Some((None, None)) | None => Ok(None),
        }
    }

    fn content_of_file(&self, hash: &ChunkHash) -> Result<Option<Manifest>, MetadataError> {
        let sql = "SELECT manifest FROM content WHERE file_hash = ?1 AND length(manifest) > 60 ORDER BY hash LIMIT 1";
        let found = self.one("find a content by its file's hash", sql, [hash.as_bytes()], |row| {
            row.get::<_, Vec<u8>>(0)
        })?;
        found.map(|bytes| manifest(&bytes)).transpose()
    }

    fn past_versions(&self, volume: VolumeKey, node: NodeId) -> Result<u64, MetadataError> {
        // The first byte of an encoded record tells nodes (0) from entries (1). Dropped versions keep their numbers.
        let sql = "SELECT (SELECT count(*) FROM history \
                   WHERE volume = ?1 AND node = ?2 AND substr(record, 1, 1) = x'00') \
                   + coalesce((SELECT count FROM history_dropped WHERE volume = ?1 AND node = ?2), 0)";
        let count = self.one("count versions", sql, (volume.0, node.as_bytes()), |row| row.get(0))?;
        Ok(count.map_or(0, unsigned))
    }

    fn removed_entry(&self, volume: VolumeKey, key: &RecordKey) -> Result<Option<PastRecord>, MetadataError> {
        let sql = format!(
            "SELECT {PAST_COLUMNS} FROM history WHERE volume = ?1 AND key = ?2 ORDER BY ended DESC, id DESC LIMIT 1"
        );
        let row = self.one("find a removed entry", &sql, (volume.0, key.to_bytes()), past_row)?;
        let Some(row) = row else { return Ok(None) };
        let Record::Entry(entry) = decode_plain(&row.record).map_err(damaged("past record"))? else {
            return Err(MetadataError::Damaged { what: "past entry", source: None });
        };
        past(entry.node, row).map(Some)
    }

    fn announced_from(
        &self,
        volume: VolumeKey,
        first: &[u8],
        limit: usize,
    ) -> Result<Vec<Announced>, MetadataError> {
        let sql =
            "SELECT path, metadata FROM announced WHERE volume = ?1 AND path >= ?2 ORDER BY path LIMIT ?3";
        let params = (volume.0, first, signed(limit as u64));
        self.all("read announced files", sql, params, |row| Ok((row.get(0)?, row.get(1)?)))
    }
}

impl WriteFiles for Tables<'_> {
    fn put_announced(
        &mut self,
        volume: VolumeKey,
        path: &[u8],
        metadata: Option<&[u8]>,
    ) -> Result<(), MetadataError> {
        match metadata {
            Some(metadata) => {
                let sql = "INSERT INTO announced (volume, path, metadata) VALUES (?1, ?2, ?3) \
                           ON CONFLICT (volume, path) DO UPDATE SET metadata = ?3";
                self.execute("announce a file", sql, (volume.0, path, metadata))
            }
            None => {
                let sql = "DELETE FROM announced WHERE volume = ?1 AND path = ?2";
                self.execute("drop an announced file", sql, (volume.0, path))
            }
        }
    }
}
