//! Which chunks a reader needs and which it will need next. Pure.

use std::ops::Range;

use dfs_shared::manifest::ChunkRef;

use crate::limits::{DOWNLOAD_BATCH_LEN, READ_AHEAD_LEN};

/// Guesses where a reader goes from where it has been.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    /// Where the last read ended.
    end: u64,
    /// How far to read ahead, in bytes; 0 until reads follow each other.
    window: u64,
}

impl ReadAhead {
    /// Takes note of a read and returns the range to have here: the read and what is likely to follow.
    pub(super) fn extend(&mut self, range: &Range<u64>) -> Range<u64> {
        // The kernel reads ahead itself, so reads that follow each other may arrive out of order.
        let slack = *READ_AHEAD_LEN.start();
        let follows =
            range.start <= self.end.saturating_add(slack) && range.end.saturating_add(slack) >= self.end;
        self.window = match (follows, self.window) {
            (false, _) => 0,
            (true, 0) => *READ_AHEAD_LEN.start(),
            (true, window) => (window * 2).min(*READ_AHEAD_LEN.end()),
        };
        self.end = if follows { self.end.max(range.end) } else { range.end };
        range.start..range.end.saturating_add(self.window)
    }
}

/// A chunk and where it stands in the file.
pub(super) type Place = (u64, ChunkRef);

/// Picks those of the missing chunks (ascending) that overlap the range, but for holes.
pub(super) fn overlapping<'a>(missing: &'a [Place], range: &Range<u64>) -> impl Iterator<Item = Place> + 'a {
    let range = range.clone();
    let first = missing.partition_point(|(at, chunk)| at.saturating_add(chunk.len) <= range.start);
    missing[first..].iter().take_while(move |(at, _)| *at < range.end).copied()
}

/// Cuts chunks into requests.
pub(super) fn batches(chunks: Vec<Place>) -> Vec<Vec<Place>> {
    let mut batches: Vec<Vec<Place>> = Vec::new();
    let mut room = 0;
    for (at, chunk) in chunks {
        match batches.last_mut() {
            Some(batch) if chunk.len <= room => batch.push((at, chunk)),
            _ => {
                batches.push(vec![(at, chunk)]);
                room = DOWNLOAD_BATCH_LEN;
            }
        }
        room = room.saturating_sub(chunk.len);
    }
    batches
}

#[cfg(test)]
mod tests {
    use dfs_shared::hash::ChunkHash;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn reads_that_follow_each_other_are_read_ahead_of_and_a_jump_is_not() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.extend(&(0..MIB)), 0..5 * MIB);
        assert_eq!(ahead.extend(&(MIB..2 * MIB)), MIB..10 * MIB);
        assert_eq!(ahead.extend(&(3 * MIB..4 * MIB)), 3 * MIB..20 * MIB);
        assert_eq!(ahead.extend(&(2 * MIB..3 * MIB)), 2 * MIB..19 * MIB, "out of order");
        assert_eq!(ahead.extend(&(100 * MIB..101 * MIB)), 100 * MIB..101 * MIB, "a jump");
        assert_eq!(ahead.extend(&(101 * MIB..102 * MIB)), 101 * MIB..106 * MIB);
    }

    #[test]
    fn chunks_are_picked_by_overlap_and_cut_into_requests() {
        let chunk = |at: u64, len: u64| (at, ChunkRef { hash: ChunkHash::of(&at.to_be_bytes()), len });
        let missing = [chunk(0, MIB), chunk(MIB, MIB), chunk(3 * MIB, 4 * MIB), chunk(7 * MIB, 5 * MIB)];
        let picked: Vec<_> = overlapping(&missing, &(MIB..3 * MIB + 1)).map(|(at, _)| at).collect();
        assert_eq!(picked, [MIB, 3 * MIB]);
        assert_eq!(overlapping(&missing, &(2 * MIB..3 * MIB)).count(), 0);
        let lens: Vec<Vec<u64>> = batches(missing.to_vec())
            .into_iter()
            .map(|batch| batch.into_iter().map(|(_, chunk)| chunk.len / MIB).collect())
            .collect();
        assert_eq!(lens, [vec![1, 1], vec![4], vec![5]]);
    }
}
