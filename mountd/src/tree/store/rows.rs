//! Rows that were read or written a moment ago, in front of the store's tables.
//!
//! One system call comes to a dozen reads of the same few rows (the directory, its names, the node), and each of them walks
//! the tables in memory, which is the larger part of its time. Bounded; losing a row costs a read.
//!
//! Invariant: a row that stands here is the one that the tables hold. While a batch is being written its rows stand here with
//! neither value, and what was read from the tables before it is not taken in after it:
//!
//! ```text
//! reader: get ─ miss, with the shard's epoch ─► read the tables ─► offer: taken if the epoch is still the same
//! writer: begin: its rows leave, offers are refused ─► commit ─► end: the new rows come in, the epoch grows
//! ```

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use fjall::Slice;
use parking_lot::Mutex;

use super::Space;
use crate::limits::{STORE_ROW_CACHED_LEN_MAX, STORE_ROWS_CACHED};

const SHARDS: usize = 16;
/// The tables whose rows are read again and again.
const CACHED: [Space; 4] = [Space::Nodes, Space::Inodes, Space::Entries, Space::Content];

type Rows = HashMap<Box<[u8]>, Option<Slice>>;

#[derive(Default)]
struct Shard {
    epoch: u64,
    writers: u32,
    /// Per table: rows that came or were asked for since the last turn, and those of the turn before.
    young: [Rows; CACHED.len()],
    old: [Rows; CACHED.len()],
    young_len: usize,
}

/// The rows.
#[derive(Default)]
pub(super) struct RowCache {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// What [`RowCache::get`] found.
pub(super) enum Found {
    /// The row, or that there is none.
    Row(Option<Slice>),
    /// To be read from the tables, and offered if there is a ticket.
    Unknown(Option<Ticket>),
}

/// Says from when a row is that was read.
pub(super) struct Ticket {
    table: usize,
    shard: usize,
    epoch: u64,
}

fn table(space: Space) -> Option<usize> {
    CACHED.iter().position(|cached| *cached == space)
}

impl RowCache {
    fn shard(&self, table: usize, key: &[u8]) -> usize {
        usize::try_from(self.hasher.hash_one((table, key)) % SHARDS as u64).unwrap_or(0)
    }

    pub(super) fn get(&self, space: Space, key: &[u8]) -> Found {
        let Some(table) = table(space) else { return Found::Unknown(None) };
        let number = self.shard(table, key);
        let mut shard = self.shards[number].lock();
        if let Some(row) = shard.young[table].get(key) {
            return Found::Row(row.clone());
        }
        if let Some((key, row)) = shard.old[table].remove_entry(key) {
            shard.insert(table, key, row.clone());
            return Found::Row(row);
        }
        let ticket = (shard.writers == 0).then_some(Ticket { table, shard: number, epoch: shard.epoch });
        Found::Unknown(ticket)
    }

    /// Takes a row in that was read from the tables.
    pub(super) fn offer(&self, ticket: &Ticket, key: &[u8], row: Option<&Slice>) {
        let mut shard = self.shards[ticket.shard].lock();
        if shard.writers == 0 && shard.epoch == ticket.epoch && fits(row) {
            shard.insert(ticket.table, key.into(), row.cloned());
        }
    }

    /// These rows are about to be written.
    pub(super) fn begin<'a>(&self, rows: impl Iterator<Item = (Space, &'a [u8])>) {
        for (space, key) in rows {
            let Some(table) = table(space) else { continue };
            let mut shard = self.shards[self.shard(table, key)].lock();
            shard.writers += 1;
            shard.young[table].remove(key);
            shard.old[table].remove(key);
        }
    }

    /// These rows, the same as in [`Self::begin`], were written; or they were not, and the tables have what they had.
    pub(super) fn end<'a>(
        &self,
        rows: impl Iterator<Item = (Space, &'a [u8], Option<&'a Slice>)>,
        written: bool,
    ) {
        for (space, key, row) in rows {
            let Some(table) = table(space) else { continue };
            let mut shard = self.shards[self.shard(table, key)].lock();
            shard.writers -= 1;
            shard.epoch += 1;
            // Another batch may be writing this very row.
            if written && shard.writers == 0 && fits(row) {
                shard.insert(table, key.into(), row.cloned());
            }
        }
    }
}

fn fits(row: Option<&Slice>) -> bool {
    row.is_none_or(|row| row.len() <= STORE_ROW_CACHED_LEN_MAX)
}

impl Shard {
    fn insert(&mut self, table: usize, key: Box<[u8]>, row: Option<Slice>) {
        if self.young_len >= STORE_ROWS_CACHED / SHARDS / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_len = 0;
        }
        self.young_len += 1;
        self.young[table].insert(key, row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: u8) -> Slice {
        Slice::from(vec![value])
    }

    fn cached(cache: &RowCache, key: &[u8]) -> Option<Option<Slice>> {
        match cache.get(Space::Nodes, key) {
            Found::Row(row) => Some(row),
            Found::Unknown(_) => None,
        }
    }

    fn ticket(cache: &RowCache, key: &[u8]) -> Option<Ticket> {
        match cache.get(Space::Nodes, key) {
            Found::Unknown(ticket) => ticket,
            Found::Row(_) => panic!("a hit"),
        }
    }

    #[test]
    fn a_row_that_was_read_before_a_batch_is_not_taken_in_after_it() {
        let cache = RowCache::default();
        let early = ticket(&cache, b"k").expect("nobody writes");
        cache.begin([(Space::Nodes, &b"k"[..])].into_iter());
        assert!(ticket(&cache, b"k").is_none(), "a batch is under way");
        cache.offer(&early, b"k", Some(&row(1)));
        assert!(cached(&cache, b"k").is_none());
        let new = row(2);
        cache.end([(Space::Nodes, &b"k"[..], Some(&new))].into_iter(), true);
        cache.offer(&early, b"k", Some(&row(1)));
        assert_eq!(cached(&cache, b"k"), Some(Some(new)));
    }

    #[test]
    fn a_batch_that_failed_leaves_nothing_behind() {
        let cache = RowCache::default();
        let before = ticket(&cache, b"k").expect("nobody writes");
        cache.offer(&before, b"k", None);
        assert_eq!(cached(&cache, b"k"), Some(None));
        cache.begin([(Space::Nodes, &b"k"[..])].into_iter());
        cache.end([(Space::Nodes, &b"k"[..], Some(&row(2)))].into_iter(), false);
        assert!(ticket(&cache, b"k").is_some());
    }

    #[test]
    fn rows_are_bounded_and_those_in_use_stay() {
        let cache = RowCache::default();
        for n in 0..4 * STORE_ROWS_CACHED {
            let key = n.to_be_bytes();
            let ticket = ticket(&cache, &key).expect("nobody writes");
            cache.offer(&ticket, &key, Some(&row(0)));
            if n > 0 {
                assert!(cached(&cache, &0_usize.to_be_bytes()).is_some(), "{n}");
            }
        }
        let kept: usize = cache
            .shards
            .iter()
            .map(|shard| shard.lock())
            .map(|shard| shard.young[0].len() + shard.old[0].len())
            .sum();
        assert!(kept <= STORE_ROWS_CACHED, "{kept}");
        let ticket = ticket(&cache, b"long").expect("nobody writes");
        cache.offer(&ticket, b"long", Some(&Slice::from(vec![0; STORE_ROW_CACHED_LEN_MAX + 1])));
        assert!(cached(&cache, b"long").is_none());
    }
}
