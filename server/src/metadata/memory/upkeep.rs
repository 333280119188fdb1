//! Looking after the store in memory.
//!
//! Tables that are read by their keys alone have no order: a page of them costs a look at the whole table. Upkeep is rare
//! and the store small; point reads are what it is for.

use std::collections::BTreeSet;
use std::sync::Arc;

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;

use super::tables::{Tables, whole_micros};
use crate::metadata::upkeep::{Dropped, HistoryRow, Kind, ReadUpkeep, WriteUpkeep};
use crate::metadata::{ChunkPlace, MetadataError, PastRecord, VolumeKey};

/// Returns the first `limit` rows in the order of their keys.
fn page<K: Ord, V>(mut rows: Vec<(K, V)>, limit: usize) -> Vec<(K, V)> {
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    rows.truncate(limit);
    rows
}

impl ReadUpkeep for Tables {
    fn records_from(
        &self,
        volume: VolumeKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError> {
        let after = after.map(RecordKey::to_bytes).unwrap_or_default();
        let nodes = self.nodes.iter().filter(|((of, _), _)| *of == volume).map(|(_, row)| row);
        let directories = self.directories.iter().filter(|((of, _), _)| *of == volume);
        let entries = directories.flat_map(|(_, names)| names.values());
        let rows = nodes.chain(entries).map(|row| (row.record.key().to_bytes(), row));
        let found = page(rows.filter(|(key, _)| *key > after).collect(), limit);
        Ok(found.into_iter().map(|(_, row)| Versioned::clone(row)).collect())
    }

    fn history_from(&self, after: u64, limit: usize) -> Result<Vec<HistoryRow>, MetadataError> {
        let rows = self.past.range(after + 1..).take(limit);
        let row = |(id, (volume, past)): (&u64, &(VolumeKey, Arc<PastRecord>))| HistoryRow {
            id: *id,
            volume: *volume,
            past: PastRecord::clone(past),
        };
        Ok(rows.map(row).collect())
    }

    fn contents_from(
        &self,
        after: Option<&ContentId>,
        limit: usize,
    ) -> Result<Vec<(ContentId, Option<Manifest>)>, MetadataError> {
        let rows = self.contents.iter().filter(|(id, _)| after.is_none_or(|after| *id > after));
        let found = page(rows.map(|(id, content)| (*id, &content.manifest)).collect(), limit);
        Ok(found.into_iter().map(|(id, manifest)| (id, Some(Manifest::clone(manifest)))).collect())
    }

    fn chunks_from(
        &self,
        after: Option<&ChunkHash>,
        limit: usize,
    ) -> Result<Vec<(ChunkHash, ChunkPlace)>, MetadataError> {
        let stored = self.chunks.iter().map(|(hash, len)| (*hash, ChunkPlace::Stored { len: *len }));
        let small = self.small_chunks.iter().map(|(hash, bytes)| {
            let len = bytes.len() as u64;
            (*hash, ChunkPlace::Small { len })
        });
        let rows = stored.chain(small).filter(|(hash, _)| after.is_none_or(|after| hash > after));
        Ok(page(rows.collect(), limit))
    }

    fn content_counts(&self) -> Result<(u64, u64), MetadataError> {
        Ok((self.contents.size() as u64, (self.chunks.size() + self.small_chunks.size()) as u64))
    }

    fn is_any_condemned(&self) -> Result<bool, MetadataError> {
        Ok(!self.condemned.is_empty())
    }

    fn condemned_since(&self, kind: Kind, hash: &[u8; 32]) -> Result<Option<Timestamp>, MetadataError> {
        Ok(self.condemned.get(&(kind, *hash)).copied())
    }

    fn condemned_count(&self, kind: Kind) -> Result<u64, MetadataError> {
        Ok(self.condemned.keys().filter(|(of, _)| *of == kind).count() as u64)
    }

    fn crowded_nodes(
        &self,
        keep: u64,
        after: Option<(VolumeKey, NodeId)>,
        limit: usize,
    ) -> Result<Vec<(VolumeKey, NodeId)>, MetadataError> {
        let crowded = self
            .history
            .iter()
            .filter(|(key, rows)| rows.size() as u64 > keep && after.is_none_or(|after| **key > after));
        let found = page(crowded.map(|(key, _)| (*key, ())).collect(), limit);
        Ok(found.into_iter().map(|(key, ())| key).collect())
    }

    fn commit_author(
        &self,
        volume: VolumeKey,
        revision: Revision,
    ) -> Result<Option<ClientId>, MetadataError> {
        Ok(self.authors.get(&(volume, revision)).map(|(client, _)| client.clone()))
    }

    fn past_entries(
        &self,
        volume: VolumeKey,
        key: &RecordKey,
        limit: usize,
    ) -> Result<Vec<PastRecord>, MetadataError> {
        let of_key = self.past.iter().filter(|(_, (of, past))| {
            *of == volume && matches!(past.record, Record::Entry(_)) && past.record.key() == *key
        });
        let mut rows: Vec<_> = of_key.map(|(id, (_, past))| ((past.ended, *id), past)).collect();
        rows.sort_by_key(|(order, _)| std::cmp::Reverse(*order));
        Ok(rows.into_iter().take(limit).map(|(_, past)| PastRecord::clone(past)).collect())
    }

    fn past_names(
        &self,
        volume: VolumeKey,
        parent: NodeId,
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<PastRecord>, MetadataError> {
        let rows = self.removed.iter().filter_map(|((of, key), (_, past))| match key {
            RecordKey::Entry { parent: of_parent, name }
                if (*of, *of_parent) == (volume, parent) && name.as_bytes() > after =>
            {
                Some((name.as_bytes(), past))
            }
            RecordKey::Entry { .. } | RecordKey::Node(_) => None,
        });
        let found = page(rows.collect(), limit);
        Ok(found.into_iter().map(|(_, past)| PastRecord::clone(past)).collect())
    }

    fn integrity(&self) -> Result<Vec<String>, MetadataError> {
        Ok(Vec::new())
    }
}

impl Tables {
    /// Removes a past record; a node's own still counts as one of its versions.
    fn drop_past(&mut self, id: u64) {
        let Some((volume, past)) = self.past.get(&id).cloned() else { return };
        self.past.remove_mut(&id);
        let (node, order) = ((volume, past.node), (past.ended.0, id));
        if let Some(rows) = self.history.get_mut(&node) {
            rows.remove_mut(&order);
            if rows.is_empty() {
                self.history.remove_mut(&node);
            }
        }
        match &past.record {
            Record::Node(_) => {
                let count = self.dropped.get(&node).copied().unwrap_or(0);
                self.dropped.insert_mut(node, count + 1);
            }
            Record::Entry(entry) => {
                let key = (volume, entry.key());
                if self.removed.get(&key).is_some_and(|(newest, _)| *newest == order) {
                    self.removed.remove_mut(&key);
                }
            }
        }
    }

    /// Forgets the count of a node that is gone for good.
    fn forget_dropped(&mut self, node: &(VolumeKey, NodeId)) {
        if !self.nodes.contains_key(node) && !self.history.contains_key(node) {
            self.dropped.remove_mut(node);
        }
    }
}

impl WriteUpkeep for Tables {
    fn put_commit_author(
        &mut self,
        volume: VolumeKey,
        revision: Revision,
        client: &ClientId,
        time: Timestamp,
    ) -> Result<(), MetadataError> {
        self.authors.insert_mut((volume, revision), (client.clone(), whole_micros(time)));
        Ok(())
    }

    fn drop_commit_authors(
        &mut self,
        volume: VolumeKey,
        before: Timestamp,
        limit: usize,
    ) -> Result<u64, MetadataError> {
        let first = self.authors.range((volume, Revision::ZERO)..=(volume, Revision(u64::MAX))).take(limit);
        let old = first.filter(|(_, (_, time))| *time < whole_micros(before));
        let old: Vec<_> = old.map(|(key, _)| *key).collect();
        for key in &old {
            self.authors.remove_mut(key);
        }
        Ok(old.len() as u64)
    }

    fn drop_history(
        &mut self,
        after: u64,
        before: Timestamp,
        limit: usize,
    ) -> Result<Dropped, MetadataError> {
        let rows = self.history_from(after, limit)?;
        let (mut count, mut nodes) = (0, BTreeSet::new());
        for row in rows.iter().filter(|row| row.past.time < whole_micros(before)) {
            self.drop_past(row.id);
            nodes.insert((row.volume, row.past.node));
            count += 1;
        }
        nodes.iter().for_each(|node| self.forget_dropped(node));
        Ok(Dropped { count, next: rows.last().map(|row| row.id).filter(|_| count > 0) })
    }

    fn drop_versions(
        &mut self,
        volume: VolumeKey,
        node: NodeId,
        keep: u64,
        limit: usize,
    ) -> Result<u64, MetadataError> {
        let rows = self.history.get(&(volume, node)).into_iter().flat_map(|rows| rows.iter().rev());
        let versions = rows.filter(|(_, past)| matches!(past.record, Record::Node(_)));
        let skipped = usize::try_from(keep).unwrap_or(usize::MAX);
        let old: Vec<u64> = versions.skip(skipped).take(limit).map(|((_, id), _)| *id).collect();
        old.iter().for_each(|id| self.drop_past(*id));
        Ok(old.len() as u64)
    }

    fn condemn(&mut self, kind: Kind, hash: &[u8; 32], at: Timestamp) -> Result<(), MetadataError> {
        if !self.condemned.contains_key(&(kind, *hash)) {
            self.condemned.insert_mut((kind, *hash), whole_micros(at));
        }
        Ok(())
    }

    fn reprieve(&mut self, kind: Kind, hash: &[u8; 32]) -> Result<(), MetadataError> {
        self.condemned.remove_mut(&(kind, *hash));
        Ok(())
    }

    fn take_content(&mut self, id: &ContentId) -> Result<bool, MetadataError> {
        if !self.condemned.remove_mut(&(Kind::Content, *id.as_bytes())) {
            return Ok(false);
        }
        let hash = self.contents.get(id).and_then(|content| content.file_hash);
        if let Some(hash) = hash
            && let Some(ids) = self.files.get_mut(&hash)
        {
            ids.remove_mut(id);
            if ids.is_empty() {
                self.files.remove_mut(&hash);
            }
        }
        self.contents.remove_mut(id);
        Ok(true)
    }

    fn take_chunk(&mut self, hash: &ChunkHash) -> Result<bool, MetadataError> {
        if !self.condemned.remove_mut(&(Kind::Chunk, *hash.as_bytes())) {
            return Ok(false);
        }
        self.chunks.remove_mut(hash);
        self.small_chunks.remove_mut(hash);
        Ok(true)
    }

    fn clear_merkle(&mut self, volume: VolumeKey) -> Result<(), MetadataError> {
        let keys = self.merkle.keys().filter(|(of, _)| *of == volume).cloned();
        for key in keys.collect::<Vec<_>>() {
            self.merkle.remove_mut(&key);
        }
        Ok(())
    }
}
