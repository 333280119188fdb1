//! Looking after the store in memory: pages in the order of the keys.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;

use super::tables::{Tables, Under, whole_micros};
use crate::metadata::upkeep::{Dropped, HistoryRow, Kind, ReadUpkeep, WriteUpkeep};
use crate::metadata::{ChunkPlace, MetadataError, PastRecord, VolumeKey};

/// The bound behind a key, or before the first one.
fn behind<K>(after: Option<K>) -> (Bound<K>, Bound<K>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

impl ReadUpkeep for Tables {
    fn records_from(
        &self,
        volume: VolumeKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<Versioned>, MetadataError> {
        let first_entry = Bound::Included(Under((volume, NodeId::ROOT), &b""[..]));
        let (node, entry) = match after {
            None => (Some(Bound::Included((volume, NodeId::ROOT))), first_entry),
            Some(RecordKey::Node(id)) => (Some(Bound::Excluded((volume, *id))), first_entry),
            Some(RecordKey::Entry { parent, name }) => {
                (None, Bound::Excluded(Under((volume, *parent), name.as_bytes())))
            }
        };
        let nodes = node.map(|node| self.nodes.range((node, Bound::Unbounded)));
        let nodes = nodes.into_iter().flatten().take_while(|((of, _), _)| *of == volume);
        let entries = self.entries.range((entry, Bound::Unbounded));
        let entries = entries.take_while(|(((of, _), _), _)| *of == volume);
        let rows = nodes.map(|(_, row)| row).chain(entries.map(|(_, row)| row));
        Ok(rows.take(limit).map(|row| Versioned::clone(row)).collect())
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

    fn newest_history(&self) -> Result<u64, MetadataError> {
        Ok(self.past.range(0..).next_back().map_or(0, |(id, _)| *id))
    }

    fn contents_from(
        &self,
        after: Option<&ContentId>,
        limit: usize,
    ) -> Result<Vec<(ContentId, Option<Manifest>)>, MetadataError> {
        let rows = self.contents.range(behind(after.copied())).take(limit);
        Ok(rows.map(|(id, content)| (*id, Some(Manifest::clone(&content.manifest)))).collect())
    }

    fn chunks_from(
        &self,
        after: Option<&ChunkHash>,
        limit: usize,
    ) -> Result<Vec<(ChunkHash, ChunkPlace)>, MetadataError> {
        let stored = self.chunks.range(behind(after.copied())).take(limit);
        let small = self.small_chunks.range(behind(after.copied())).take(limit);
        let mut rows: Vec<_> = stored.map(|(hash, len)| (*hash, ChunkPlace::Stored { len: *len })).collect();
        rows.extend(small.map(|(hash, bytes)| (*hash, ChunkPlace::Small { len: bytes.len() as u64 })));
        rows.sort_by_key(|(hash, _)| *hash);
        rows.truncate(limit);
        Ok(rows)
    }

    fn content_counts(&self) -> Result<(u64, u64), MetadataError> {
        Ok((self.contents.len() as u64, (self.chunks.len() + self.small_chunks.len()) as u64))
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
        let after = after.map(|(volume, node)| (volume, node, (u64::MAX, u64::MAX)));
        let (mut crowded, mut count, mut last) = (Vec::new(), 0, None);
        for (volume, node, _) in self.history.range(behind(after)).map(|(key, _)| *key) {
            count = if last == Some((volume, node)) { count + 1 } else { 1 };
            last = Some((volume, node));
            if crowded.len() == limit {
                break;
            }
            if count == keep.saturating_add(1) {
                crowded.push((volume, node));
            }
        }
        Ok(crowded)
    }

    fn commit_author(
        &self,
        volume: VolumeKey,
        revision: Revision,
    ) -> Result<Option<ClientId>, MetadataError> {
        Ok(self.authors.get(&(volume, revision)).map(|author| author.0.clone()))
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
        let from = (Bound::Excluded(Under((volume, parent), after)), Bound::Unbounded);
        let of_parent = self.removed.range(from).take_while(|((of, _), _)| *of == (volume, parent));
        Ok(of_parent.take(limit).map(|(_, (_, past))| PastRecord::clone(past)).collect())
    }

    fn integrity(&self) -> Result<Vec<String>, MetadataError> {
        Ok(Vec::new())
    }
}

impl Tables {
    /// Removes a past record; a node's own still counts as one of its versions.
    fn drop_past(&mut self, id: u64) {
        let Some((volume, past)) = self.past.take(&id).cloned() else { return };
        let order = (past.ended.0, id);
        self.history.take(&(volume, past.node, order));
        match &past.record {
            Record::Node(_) => {
                let node = (volume, past.node);
                let count = self.dropped.get(&node).copied().unwrap_or(0);
                self.dropped.put(node, count + 1);
            }
            Record::Entry(entry) => {
                let key = Under((volume, entry.parent), entry.name.as_bytes());
                if self.removed.get(&key).is_some_and(|(newest, _)| *newest == order) {
                    self.removed.take(&key);
                }
            }
        }
    }

    /// Forgets the count of a node that is gone for good.
    fn forget_dropped(&mut self, node: &(VolumeKey, NodeId)) {
        if !self.nodes.contains_key(node) && self.past_of(node.0, node.1).next().is_none() {
            self.dropped.take(node);
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
        self.authors.put((volume, revision), Arc::new((client.clone(), whole_micros(time))));
        Ok(())
    }

    fn drop_commit_authors(
        &mut self,
        volume: VolumeKey,
        before: Timestamp,
        limit: usize,
    ) -> Result<u64, MetadataError> {
        let first = self.authors.range((volume, Revision::ZERO)..=(volume, Revision(u64::MAX))).take(limit);
        let old = first.filter(|(_, author)| author.1 < whole_micros(before));
        let old: Vec<_> = old.map(|(key, _)| *key).collect();
        let count = old.len() as u64;
        self.authors.take_all(old);
        Ok(count)
    }

    fn lift_history(&mut self, after: u64, to: Timestamp) -> Result<u64, MetadataError> {
        let to = whole_micros(to);
        let early = self.past.range(after + 1..).filter(|(_, (_, past))| past.time < to);
        let early: Vec<_> = early.map(|(id, row)| (*id, row.clone())).collect();
        let count = early.len() as u64;
        for (id, (volume, past)) in early {
            let row = Arc::new(PastRecord { time: to, ..PastRecord::clone(&past) });
            let order = (past.ended.0, id);
            if let Record::Entry(entry) = &past.record {
                let key = ((volume, entry.parent), super::tables::Bytes::from(entry.name.as_bytes()));
                if self.removed.get(&key).is_some_and(|(newest, _)| *newest == order) {
                    self.removed.put(key, (order, Arc::clone(&row)));
                }
            }
            self.history.put((volume, past.node, order), Arc::clone(&row));
            self.past.put(id, (volume, row));
        }
        Ok(count)
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
        let newest_first = self.past_of(volume, node).rev();
        let versions = newest_first.filter(|(_, past)| matches!(past.record, Record::Node(_)));
        let skipped = usize::try_from(keep).unwrap_or(usize::MAX);
        let old: Vec<u64> = versions.skip(skipped).take(limit).map(|((_, id), _)| *id).collect();
        old.iter().for_each(|id| self.drop_past(*id));
        Ok(old.len() as u64)
    }

    fn condemn(&mut self, kind: Kind, hash: &[u8; 32], at: Timestamp) -> Result<(), MetadataError> {
        let (key, at) = ((kind, *hash), whole_micros(at));
        if self.condemned.get(&key).is_none_or(|since| at < *since) {
            self.condemned.put(key, at);
        }
        Ok(())
    }

    fn reprieve(&mut self, kind: Kind, hash: &[u8; 32]) -> Result<(), MetadataError> {
        self.condemned.take(&(kind, *hash));
        Ok(())
    }

    fn take_content(&mut self, id: &ContentId) -> Result<bool, MetadataError> {
        if self.condemned.take(&(Kind::Content, *id.as_bytes())).is_none() {
            return Ok(false);
        }
        if let Some(hash) = self.contents.take(id).and_then(|content| content.file_hash) {
            self.files.take(&(hash, *id));
        }
        Ok(true)
    }

    fn take_chunk(&mut self, hash: &ChunkHash) -> Result<bool, MetadataError> {
        if self.condemned.take(&(Kind::Chunk, *hash.as_bytes())).is_none() {
            return Ok(false);
        }
        self.chunks.take(hash);
        self.small_chunks.take(hash);
        Ok(true)
    }

    fn clear_merkle(&mut self, volume: VolumeKey) -> Result<(), MetadataError> {
        let from = self.merkle.range(Under(volume, b"")..).map(|(key, _)| key.clone());
        let keys = from.take_while(|(of, _)| *of == volume).collect();
        self.merkle.take_all(keys);
        Ok(())
    }
}
