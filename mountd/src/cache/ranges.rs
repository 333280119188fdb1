//! Sets of byte ranges: which bytes of a backing file are there.
//!
//! Invariant: the ranges are ascending, not empty, and neither overlap nor touch.

use std::ops::Range;

/// A set of byte offsets, kept as ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<Range<u64>>,
}

impl RangeSet {
    /// Takes ranges in any order; empty ones are dropped.
    #[must_use]
    pub fn from_ranges(ranges: &[Range<u64>]) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range.clone());
        }
        set
    }

    /// Returns the ranges, ascending.
    #[must_use]
    pub fn as_slice(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Tells whether the set has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the number of bytes in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// Adds a range.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        let first = self.ranges.partition_point(|old| old.end < range.start);
        let last = self.ranges.partition_point(|old| old.start <= range.end);
        let mut merged = range;
        if let Some(old) = self.ranges.get(first).filter(|_| first < last) {
            merged.start = merged.start.min(old.start);
        }
        if first < last {
            merged.end = merged.end.max(self.ranges[last - 1].end);
        }
        self.ranges.splice(first..last, [merged]);
    }

    /// Removes a range.
    pub fn remove(&mut self, range: &Range<u64>) {
        if range.start >= range.end {
            return;
        }
        let first = self.ranges.partition_point(|old| old.end <= range.start);
        let last = self.ranges.partition_point(|old| old.start < range.end);
        if first >= last {
            return;
        }
        let before = self.ranges[first].start..range.start;
        let after = range.end..self.ranges[last - 1].end;
        self.ranges.splice(first..last, [before, after].into_iter().filter(|rest| rest.start < rest.end));
    }

    /// Returns where the last range ends; 0 if there is none.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |last| last.end)
    }

    /// Removes everything from `len` on.
    pub fn truncate(&mut self, len: u64) {
        self.ranges.retain(|range| range.start < len);
        if let Some(last) = self.ranges.last_mut() {
            last.end = last.end.min(len);
        }
    }

    /// Tells whether every byte of `range` is in the set.
    #[must_use]
    pub fn contains(&self, range: &Range<u64>) -> bool {
        if range.start >= range.end {
            return true;
        }
        let after = self.ranges.partition_point(|old| old.end <= range.start);
        self.ranges.get(after).is_some_and(|old| old.start <= range.start && range.end <= old.end)
    }

    /// Returns the parts of `range` that are not in the set, ascending.
    #[must_use]
    pub fn missing(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let first = self.ranges.partition_point(|old| old.end <= range.start);
        for old in &self.ranges[first..] {
            if old.start >= range.end {
                break;
            }
            if old.start > at {
                gaps.push(at..old.start);
            }
            at = old.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u64, u64)]) -> RangeSet {
        RangeSet::from_ranges(&ranges.iter().map(|(start, end)| *start..*end).collect::<Vec<_>>())
    }

    #[test]
    fn touching_and_overlapping_ranges_become_one() {
        assert_eq!(set(&[(0, 2), (4, 6), (2, 4)]).as_slice(), std::slice::from_ref(&(0..6)));
        assert_eq!(set(&[(5, 9), (0, 2), (1, 6)]).as_slice(), std::slice::from_ref(&(0..9)));
        assert_eq!(set(&[(5, 9), (0, 2), (3, 4)]).as_slice(), [0..2, 3..4, 5..9]);
        assert_eq!(set(&[(3, 3)]).as_slice(), []);
        assert_eq!(set(&[(0, 1), (2, 3), (4, 5), (0, 5)]).len(), 5);
    }

    #[test]
    fn missing_is_what_contains_denies() {
        let set = set(&[(2, 4), (6, 8)]);
        assert_eq!(set.missing(&(0..10)), [0..2, 4..6, 8..10]);
        assert_eq!(set.missing(&(3..7)), std::slice::from_ref(&(4..6)));
        assert!(set.missing(&(6..8)).is_empty());
        for start in 0..10_u64 {
            for end in start..10 {
                let all = (start..end).all(|at| (2..4).contains(&at) || (6..8).contains(&at));
                assert_eq!(set.contains(&(start..end)), all, "{start}..{end}");
            }
        }
    }

    #[test]
    fn what_is_removed_is_missing_and_nothing_else() {
        for start in 0..10_u64 {
            for end in start..10 {
                let mut cut = set(&[(1, 4), (6, 9)]);
                cut.remove(&(start..end));
                for at in 0..10 {
                    let there = ((1..4).contains(&at) || (6..9).contains(&at)) && !(start..end).contains(&at);
                    assert_eq!(cut.contains(&(at..at + 1)), there, "{at} without {start}..{end}");
                }
                assert!(cut.as_slice().iter().all(|range| range.start < range.end), "{cut:?}");
            }
        }
    }

    #[test]
    fn truncating_cuts_a_range_in_two_and_drops_what_lies_behind() {
        let mut cut = set(&[(2, 4), (6, 8)]);
        cut.truncate(7);
        assert_eq!(cut.as_slice(), [2..4, 6..7]);
        cut.truncate(2);
        assert!(cut.is_empty());
    }
}
