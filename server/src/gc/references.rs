//! A set of hashes that are referred to, a part at a time so that memory is bounded.
//!
//! Eight bytes stand for a hash: two that share them are both kept, which is the safe side.

use std::collections::HashSet;

/// The hashes whose first byte is in one part of all.
#[derive(Debug)]
pub(super) struct References {
    part: u16,
    parts: u16,
    found: HashSet<u64>,
}

/// Returns in how many parts so many hashes are looked at.
pub(super) fn parts(count: u64, max: usize) -> u16 {
    let parts = count.div_ceil(max.max(1) as u64).clamp(1, 256);
    u16::try_from(parts).expect("at most 256").next_power_of_two()
}

impl References {
    pub(super) fn new(part: u16, parts: u16) -> Self {
        Self { part, parts, found: HashSet::new() }
    }

    /// Tells whether a hash belongs to this part.
    pub(super) fn covers(&self, hash: &[u8; 32]) -> bool {
        u16::from(hash[0]) % self.parts == self.part
    }

    pub(super) fn insert(&mut self, hash: &[u8; 32]) {
        if self.covers(hash) {
            self.found.insert(short(hash));
        }
    }

    /// Tells whether a hash of this part is referred to.
    pub(super) fn contains(&self, hash: &[u8; 32]) -> bool {
        self.found.contains(&short(hash))
    }
}

fn short(hash: &[u8; 32]) -> u64 {
    let bytes = hash.first_chunk().expect("a hash has 32 bytes");
    u64::from_be_bytes(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hash_belongs_to_exactly_one_part() {
        for count in [0, 1, 10, 11, 99, 100_000] {
            let parts = parts(count, 10);
            assert!(parts.is_power_of_two() && parts <= 256, "{parts}");
            let all: Vec<_> = (0..parts).map(|part| References::new(part, parts)).collect();
            for first in 0..=255 {
                let hash = [first; 32];
                assert_eq!(all.iter().filter(|part| part.covers(&hash)).count(), 1);
            }
        }
    }

    #[test]
    fn a_part_holds_its_own_hashes_and_no_others() {
        for count in [1, 2, 4, 256] {
            let mut part = References::new(0, count);
            (0..=255).for_each(|first| part.insert(&[first; 32]));
            assert_eq!(part.found.len(), 256 / usize::from(count), "{count}");
        }
    }
}
