//! The queries and statements of the SQLite store for upkeep.

use std::collections::BTreeSet;

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::decode_plain;
use rusqlite::Row;

use super::read::{
    PAST_COLUMNS, Tables, from_micros, micros, past, past_row, signed, unsigned, versioned, versioned_row,
};
use super::{damaged, failed};
use crate::metadata::upkeep::{Dropped, HistoryRow, Kind, ReadUpkeep, WriteUpkeep};
use crate::metadata::{ChunkPlace, MetadataError, PastRecord, VolumeKey};

/// The first byte of an encoded record tells nodes (0) from entries (1).
const IS_NODE: &str = "substr(record, 1, 1) = x'00'";

fn code(kind: Kind) -> i64 {
    match kind {
        Kind::Content => 0,
        Kind::Chunk => 1,
    }
}

/// A past entry leads to the node that it is about.
fn past_entry(row: super::read::PastRow) -> Result<PastRecord, MetadataError> {
    let Record::Entry(entry) = decode_plain(&row.record).map_err(damaged("past record"))? else {
        return Err(MetadataError::Damaged { what: "past entry", source: None });
    };
    past(entry.node, row)
}

impl ReadUpkeep for Tables<'_> {
    fn records_from(
        &self,
        volume: VolumeKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError> {
        let sql = "SELECT revision, value FROM record WHERE volume = ?1 AND key > ?2 ORDER BY key LIMIT ?3";
        let after = after.map(RecordKey::to_bytes).unwrap_or_default();
        let rows =
            self.all("read all records", sql, (volume.0, after, signed(limit as u64)), versioned_row)?;
        rows.into_iter().map(versioned).collect()
    }

    fn history_from(&self, after: u64, limit: usize) -> Result<Vec<HistoryRow>, MetadataError> {
        let sql = format!(
            "SELECT {PAST_COLUMNS}, id, volume, node FROM history WHERE id > ?1 ORDER BY id LIMIT ?2"
        );
        let rows = self.all("read all history", &sql, (signed(after), signed(limit as u64)), |row| {
            let (id, volume, node): (i64, i64, [u8; 16]) = (row.get(5)?, row.get(6)?, row.get(7)?);
            Ok((past_row(row)?, unsigned(id), VolumeKey(volume), NodeId::from_bytes(node)))
        })?;
        let rows = rows.into_iter();
        rows.map(|(row, id, volume, node)| Ok(HistoryRow { id, volume, past: past(node, row)? })).collect()
    }

    fn newest_history(&self) -> Result<u64, MetadataError> {
        let newest =
            self.one("read the newest history", "SELECT max(id) FROM history", (), |row| row.get(0))?;
        Ok(newest.flatten().map_or(0, unsigned))
    }

    fn contents_from(
        &self,
        after: Option<&ContentId>,
        limit: usize,
    ) -> Result<Vec<(ContentId, Option<Manifest>)>, MetadataError> {
        let sql = "SELECT hash, manifest FROM content WHERE hash > ?1 ORDER BY hash LIMIT ?2";
        let after = after.map(|id| id.as_bytes().to_vec()).unwrap_or_default();
        let rows = self.all("read all manifests", sql, (after, signed(limit as u64)), |row| {
            Ok((ContentId::from_bytes(row.get(0)?), row.get::<_, Vec<u8>>(1)?))
        })?;
        let read = |(id, bytes): (ContentId, Vec<u8>)| (id, decode_plain(&bytes).ok());
        Ok(rows.into_iter().map(read).collect())
    }

    fn chunks_from(
        &self,
        after: Option<&ChunkHash>,
        limit: usize,
    ) -> Result<Vec<(ChunkHash, ChunkPlace)>, MetadataError> {
        let sql = "SELECT hash, len, 1 FROM chunk WHERE hash > ?1 \
                   UNION ALL SELECT hash, length(bytes), 0 FROM small_chunk WHERE hash > ?1 \
                   ORDER BY 1 LIMIT ?2";
        let after = after.map(|hash| hash.as_bytes().to_vec()).unwrap_or_default();
        self.all("read all chunks", sql, (after, signed(limit as u64)), |row| {
            let (hash, len, is_stored) = (row.get(0)?, unsigned(row.get(1)?), row.get::<_, bool>(2)?);
            let place = if is_stored { ChunkPlace::Stored { len } } else { ChunkPlace::Small { len } };
            Ok((ChunkHash::from_bytes(hash), place))
        })
    }

    fn content_counts(&self) -> Result<(u64, u64), MetadataError> {
        let sql = "SELECT (SELECT count(*) FROM content), \
                   (SELECT count(*) FROM chunk) + (SELECT count(*) FROM small_chunk)";
        let counts =
            self.one("count contents", sql, [], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))))?;
        Ok(counts.unwrap_or_default())
    }

    fn is_any_condemned(&self) -> Result<bool, MetadataError> {
        let found =
            self.one("look for what is condemned", "SELECT 1 FROM condemned LIMIT 1", [], |_| Ok(()))?;
        Ok(found.is_some())
    }

    fn condemned_since(&self, kind: Kind, hash: &[u8; 32]) -> Result<Option<Timestamp>, MetadataError> {
        let sql = "SELECT time FROM condemned WHERE kind = ?1 AND hash = ?2";
        let found = self.one("look for a condemned one", sql, (code(kind), hash), |row| row.get(0))?;
        Ok(found.map(from_micros))
    }

    fn condemned_count(&self, kind: Kind) -> Result<u64, MetadataError> {
        let sql = "SELECT count(*) FROM condemned WHERE kind = ?1";
        Ok(self.one("count the condemned", sql, [code(kind)], |row| row.get(0))?.map_or(0, unsigned))
    }

    fn crowded_nodes(
        &self,
        keep: u64,
        after: Option<(VolumeKey, NodeId)>,
        limit: usize,
    ) -> Result<Vec<(VolumeKey, NodeId)>, MetadataError> {
        let sql = "SELECT volume, node FROM history WHERE (volume, node) > (?1, ?2) \
                   GROUP BY volume, node HAVING count(*) > ?3 ORDER BY volume, node LIMIT ?4";
        let (volume, node) =
            after.map_or((0, Vec::new()), |(volume, node)| (volume.0, node.as_bytes().to_vec()));
        let params = (volume, node, signed(keep), signed(limit as u64));
        self.all("find long histories", sql, params, |row| {
            Ok((VolumeKey(row.get(0)?), NodeId::from_bytes(row.get(1)?)))
        })
    }

    fn commit_author(
        &self,
        volume: VolumeKey,
        revision: Revision,
    ) -> Result<Option<ClientId>, MetadataError> {
        let sql = "SELECT client FROM commit_author WHERE volume = ?1 AND revision = ?2";
        let found =
            self.one("find an author", sql, (volume.0, signed(revision.0)), |row| row.get::<_, String>(0))?;
        Ok(found.and_then(|client| ClientId::new(&client).ok()))
    }

    fn past_entries(
        &self,
        volume: VolumeKey,
        key: &RecordKey,
        limit: usize,
    ) -> Result<Vec<PastRecord>, MetadataError> {
        let sql = format!(
            "SELECT {PAST_COLUMNS} FROM history WHERE volume = ?1 AND key = ?2 ORDER BY ended DESC, id DESC LIMIT ?3"
        );
        let params = (volume.0, key.to_bytes(), signed(limit as u64));
        self.all("read past entries", &sql, params, past_row)?.into_iter().map(past_entry).collect()
    }

    fn past_names(
        &self,
        volume: VolumeKey,
        parent: NodeId,
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<PastRecord>, MetadataError> {
        // The row that has the largest `ended` gives the other columns too.
        let sql = "SELECT began, max(ended), time, record, author FROM history \
                   WHERE volume = ?1 AND key > ?2 AND key < ?3 GROUP BY key ORDER BY key LIMIT ?4";
        let directory = [&[2][..], parent.as_bytes()].concat();
        let end = [&directory[..], &[0xff; 256]].concat();
        let params = (volume.0, [&directory[..], after].concat(), end, signed(limit as u64));
        self.all("read past names", sql, params, past_row)?.into_iter().map(past_entry).collect()
    }

    fn integrity(&self) -> Result<Vec<String>, MetadataError> {
        let found =
            self.all("check the database", "PRAGMA integrity_check", [], |row| row.get::<_, String>(0))?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }
}

impl Tables<'_> {
    /// Executes and returns how many rows changed.
    fn changed(
        &self,
        attempted: &'static str,
        sql: &str,
        params: impl rusqlite::Params,
    ) -> Result<u64, MetadataError> {
        let changed = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute(params));
        changed.map(|rows| rows as u64).map_err(failed(attempted))
    }

    /// Removes a row of the history; a node's own record still counts as one of its versions.
    fn drop_row(&self, id: i64, volume: i64, node: &[u8; 16], is_node: bool) -> Result<(), MetadataError> {
        self.execute("drop a past record", "DELETE FROM history WHERE id = ?1", [id])?;
        if is_node {
            let sql = "INSERT INTO history_dropped (volume, node, count) VALUES (?1, ?2, 1) \
                       ON CONFLICT (volume, node) DO UPDATE SET count = count + 1";
            self.execute("count a dropped version", sql, (volume, node))?;
        }
        Ok(())
    }

    /// Forgets the count of a node that is gone for good.
    fn forget_count(&self, volume: i64, node: &[u8; 16]) -> Result<(), MetadataError> {
        let key = RecordKey::Node(NodeId::from_bytes(*node)).to_bytes();
        let sql = "DELETE FROM history_dropped WHERE volume = ?1 AND node = ?2 \
                   AND NOT EXISTS (SELECT 1 FROM record WHERE volume = ?1 AND key = ?3) \
                   AND NOT EXISTS (SELECT 1 FROM history WHERE volume = ?1 AND node = ?2)";
        self.execute("forget a count of versions", sql, (volume, node, key))
    }
}

/// A row that may be dropped: id, volume, node, time, whether it is a node's own record.
type OldRow = (i64, i64, [u8; 16], i64, bool);

fn old_row(row: &Row<'_>) -> rusqlite::Result<OldRow> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

impl WriteUpkeep for Tables<'_> {
    fn put_commit_author(
        &mut self,
        volume: VolumeKey,
        revision: Revision,
        client: &ClientId,
        time: Timestamp,
    ) -> Result<(), MetadataError> {
        let sql =
            "INSERT OR REPLACE INTO commit_author (volume, revision, client, time) VALUES (?1, ?2, ?3, ?4)";
        self.execute("note an author", sql, (volume.0, signed(revision.0), client.as_str(), micros(time)))
    }

    fn drop_commit_authors(
        &mut self,
        volume: VolumeKey,
        before: Timestamp,
        limit: usize,
    ) -> Result<u64, MetadataError> {
        // Revisions are in the order of time, so only the first ones are looked at.
        let sql = "DELETE FROM commit_author WHERE volume = ?1 AND time < ?2 AND revision IN \
                   (SELECT revision FROM commit_author WHERE volume = ?1 ORDER BY revision LIMIT ?3)";
        self.changed("forget authors", sql, (volume.0, micros(before), signed(limit as u64)))
    }

    fn lift_history(&mut self, after: u64, to: Timestamp) -> Result<u64, MetadataError> {
        let sql = "UPDATE history SET time = ?2 WHERE id > ?1 AND time < ?2";
        self.changed("correct times of the history", sql, (signed(after), micros(to)))
    }

    fn drop_history(
        &mut self,
        after: u64,
        before: Timestamp,
        limit: usize,
    ) -> Result<Dropped, MetadataError> {
        let sql = format!(
            "SELECT id, volume, node, time, {IS_NODE} FROM history WHERE id > ?1 ORDER BY id LIMIT ?2"
        );
        let rows = self.all("read old history", &sql, (signed(after), signed(limit as u64)), old_row)?;
        let last = rows.last().map(|row| unsigned(row.0));
        let (mut count, mut nodes) = (0, BTreeSet::new());
        for (id, volume, node, time, is_node) in rows {
            if time < micros(before) {
                self.drop_row(id, volume, &node, is_node)?;
                nodes.insert((volume, node));
                count += 1;
            }
        }
        nodes.iter().try_for_each(|(volume, node)| self.forget_count(*volume, node))?;
        Ok(Dropped { count, next: last.filter(|_| count > 0) })
    }

    fn drop_versions(
        &mut self,
        volume: VolumeKey,
        node: NodeId,
        keep: u64,
        limit: usize,
    ) -> Result<u64, MetadataError> {
        let sql = format!(
            "SELECT id, volume, node, time, 1 FROM history WHERE volume = ?1 AND node = ?2 AND {IS_NODE} \
             ORDER BY ended DESC, id DESC LIMIT ?3 OFFSET ?4"
        );
        let params = (volume.0, node.as_bytes(), signed(limit as u64), signed(keep));
        let rows = self.all("read old versions", &sql, params, old_row)?;
        for (id, volume, node, _, is_node) in &rows {
            self.drop_row(*id, *volume, node, *is_node)?;
        }
        Ok(rows.len() as u64)
    }

    fn condemn(&mut self, kind: Kind, hash: &[u8; 32], at: Timestamp) -> Result<(), MetadataError> {
        let sql = "INSERT INTO condemned (kind, hash, time) VALUES (?1, ?2, ?3) \
                   ON CONFLICT (kind, hash) DO UPDATE SET time = min(time, ?3)";
        self.execute("condemn", sql, (code(kind), hash, micros(at)))
    }

    fn reprieve(&mut self, kind: Kind, hash: &[u8; 32]) -> Result<(), MetadataError> {
        let sql = "DELETE FROM condemned WHERE kind = ?1 AND hash = ?2";
        self.execute("reprieve", sql, (code(kind), hash))
    }

    fn take_content(&mut self, id: &ContentId) -> Result<bool, MetadataError> {
        let sql = "DELETE FROM condemned WHERE kind = 0 AND hash = ?1";
        if self.changed("take a content", sql, [id.as_bytes()])? == 0 {
            return Ok(false);
        }
        self.execute("take a content", "DELETE FROM content WHERE hash = ?1", [id.as_bytes()])?;
        Ok(true)
    }

    fn take_chunk(&mut self, hash: &ChunkHash) -> Result<bool, MetadataError> {
        let sql = "DELETE FROM condemned WHERE kind = 1 AND hash = ?1";
        if self.changed("take a chunk", sql, [hash.as_bytes()])? == 0 {
            return Ok(false);
        }
        self.execute("take a chunk", "DELETE FROM chunk WHERE hash = ?1", [hash.as_bytes()])?;
        self.execute("take a small chunk", "DELETE FROM small_chunk WHERE hash = ?1", [hash.as_bytes()])?;
        Ok(true)
    }

    fn clear_merkle(&mut self, volume: VolumeKey) -> Result<(), MetadataError> {
        self.execute("clear a Merkle tree", "DELETE FROM merkle WHERE volume = ?1", [volume.0])
    }
}
