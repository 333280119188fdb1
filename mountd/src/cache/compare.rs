//! Compares bytes with the manifest that says what they should be. Pure: reading is the caller's.
//!
//! Invariant: memory is bounded by the longest chunk and by `VERIFY_RANGES_MAX`, however long the file is.

use std::ops::Range;

use dfs_shared::chunking::is_zero;
use dfs_shared::hash::ChunkHash;
use dfs_shared::limits::CHUNK_LEN_MAX;
use dfs_shared::manifest::{ChunkRef, Manifest};

use super::ranges::RangeSet;
use crate::limits::{COPY_BUFFER_LEN, VERIFY_RANGES_MAX};

/// Where bytes come from.
pub(crate) trait Bytes {
    /// Returns how many there are.
    fn len(&self) -> u64;
    /// Reads at `offset` until the buffer is full or the bytes end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize>;
    /// Returns where the next bytes at or after `offset` are that may not be zero; `None` if there are none.
    fn data_from(&self, offset: u64) -> Option<u64>;
    /// Is told how many bytes were compared; `false` ends the comparison.
    fn compared(&self, len: u64) -> bool;
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Ranges that are not what they should be, chunk by chunk, ascending; those that touch are one.
    pub(crate) damaged: Vec<Range<u64>>,
    /// Bytes in them, and in those that did not fit into the list.
    pub(crate) damaged_len: u64,
    /// Some of it cannot be put right by fetching chunks: the length is wrong, or a hole is not empty, or there is too much.
    pub(crate) is_beyond_chunks: bool,
    /// The comparison was ended before its end.
    pub(crate) is_cut_off: bool,
    /// The system could not read some of the bytes.
    pub(crate) is_unreadable: bool,
}

impl Found {
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged_len > 0 || self.is_beyond_chunks
    }

    fn add(&mut self, range: Range<u64>) {
        self.damaged_len += range.end - range.start;
        let is_full = self.damaged.len() == VERIFY_RANGES_MAX;
        match self.damaged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if is_full => self.is_beyond_chunks = true,
            _ => self.damaged.push(range),
        }
    }
}

/// Compares what is `present` (`None`: everything) with the manifest. A chunk of which only a part is present is left out.
pub(crate) fn compare(manifest: &Manifest, present: Option<&RangeSet>, bytes: &impl Bytes) -> Found {
    let mut found = Found::default();
    let mut buffer = Vec::new();
    let (should, is) = (manifest.size(), bytes.len());
    if should != is {
        found.is_beyond_chunks = true;
        found.damaged_len += is.saturating_sub(should);
    }
    for (at, chunk) in manifest.offsets() {
        let range = at..at.saturating_add(chunk.len);
        if present.is_some_and(|present| !present.contains(&range)) {
            continue;
        }
        let is_good = match chunk.hash.is_hole() {
            true => is_empty(bytes, &range, &mut buffer),
            false => is_chunk(bytes, at, &chunk, &mut buffer),
        };
        match is_good {
            Ok(true) => {}
            Ok(false) => found.add(range),
            Err(_) => {
                found.is_unreadable = true;
                found.add(range);
            }
        }
        found.is_beyond_chunks |= chunk.hash.is_hole() && !matches!(is_good, Ok(true));
        if !bytes.compared(chunk.len) {
            found.is_cut_off = true;
            break;
        }
    }
    found
}

fn is_chunk(bytes: &impl Bytes, at: u64, chunk: &ChunkRef, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    let len = usize::try_from(chunk.len).ok().filter(|_| chunk.len <= CHUNK_LEN_MAX);
    let Some(len) = len else { return Ok(false) };
    buffer.resize(len, 0);
    let read = bytes.read_at(buffer, at)?;
    Ok(read == len && ChunkHash::of(buffer) == chunk.hash)
}

/// Tells whether a range reads as zeros. What the file system says is a hole is not read.
fn is_empty(bytes: &impl Bytes, range: &Range<u64>, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    let end = range.end.min(bytes.len());
    let mut at = range.start;
    while let Some(data) = bytes.data_from(at).filter(|data| *data < end) {
        let len = usize::try_from(end - data).unwrap_or(usize::MAX).min(COPY_BUFFER_LEN);
        buffer.resize(len, 0);
        let read = bytes.read_at(buffer, data)?;
        if !is_zero(&buffer[..read]) {
            return Ok(false);
        }
        if read == 0 {
            break;
        }
        at = data + read as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Bytes in memory. Those of `holes` are not there as far as the file system can tell; at `bad` it cannot read.
    struct Memory {
        bytes: Vec<u8>,
        bad: Option<u64>,
        read: Cell<u64>,
        stop_after: u64,
        compared: Cell<u64>,
    }

    impl Memory {
        fn new(bytes: &[u8]) -> Self {
            let (read, compared) = (Cell::new(0), Cell::new(0));
            Self { bytes: bytes.to_vec(), bad: None, read, stop_after: u64::MAX, compared }
        }
    }

    impl Bytes for Memory {
        fn len(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
            if self.bad.is_some_and(|bad| (offset..offset + buffer.len() as u64).contains(&bad)) {
                return Err(std::io::Error::from_raw_os_error(libc::EIO));
            }
            let there = self.bytes.get(usize::try_from(offset).expect("small")..).unwrap_or_default();
            let len = there.len().min(buffer.len());
            buffer[..len].copy_from_slice(&there[..len]);
            self.read.set(self.read.get() + len as u64);
            Ok(len)
        }

        fn data_from(&self, offset: u64) -> Option<u64> {
            let there = &self.bytes[usize::try_from(offset).expect("small")..];
            there.iter().position(|byte| *byte != 0).map(|at| offset + at as u64)
        }

        fn compared(&self, len: u64) -> bool {
            self.compared.set(self.compared.get() + len);
            self.compared.get() < self.stop_after
        }
    }

    /// Chunks of ten bytes: `aaaaaaaaaa`, a hole, `bbbbbbbbbb`, `cccccccccc`.
    fn content() -> (Manifest, Vec<u8>) {
        let bytes = [[b'a'; 10], [0; 10], [b'b'; 10], [b'c'; 10]];
        let chunks = bytes
            .iter()
            .map(|bytes| ChunkRef { hash: dfs_shared::chunking::chunk_hash(bytes), len: bytes.len() as u64 });
        (Manifest { chunk_log2: 12, chunks: chunks.collect() }, bytes.concat())
    }

    fn first(found: &Found) -> Option<Range<u64>> {
        found.damaged.first().cloned()
    }

    #[test]
    fn good_bytes_are_good_and_every_flipped_bit_is_found_in_its_chunk() {
        let (manifest, good) = content();
        let memory = Memory::new(&good);
        assert_eq!(compare(&manifest, None, &memory), Found::default());
        assert_eq!((memory.read.get(), memory.compared.get()), (30, 40), "the hole is not read");
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            let found = compare(&manifest, None, &Memory::new(&bytes));
            let begin = at as u64 / 10 * 10;
            assert_eq!(found.damaged, std::slice::from_ref(&(begin..begin + 10)), "{at}");
            assert_eq!((found.damaged_len, found.is_beyond_chunks), (10, begin == 10), "{at}");
        }
    }

    #[test]
    fn only_whole_chunks_that_are_present_are_compared() {
        let (manifest, mut bytes) = content();
        (bytes[5], bytes[25], bytes[35]) = (b'x', b'x', b'x');
        let present = RangeSet::from_ranges(&[5..20, 30..40]);
        let found = compare(&manifest, Some(&present), &Memory::new(&bytes));
        assert_eq!(found.damaged, std::slice::from_ref(&(30..40)));
    }

    #[test]
    fn a_wrong_length_and_what_cannot_be_read_are_damage() {
        let (manifest, bytes) = content();
        let short = compare(&manifest, None, &Memory::new(&bytes[..35]));
        assert_eq!((first(&short), short.is_beyond_chunks), (Some(30..40), true));
        let long = compare(&manifest, None, &Memory::new(&[&bytes[..], b"x"].concat()));
        assert_eq!((long.damaged_len, long.is_beyond_chunks, long.is_damaged()), (1, true, true));
        let unreadable = Memory { bad: Some(22), ..Memory::new(&bytes) };
        let found = compare(&manifest, None, &unreadable);
        assert_eq!((first(&found), found.is_unreadable), (Some(20..30), true));
    }

    #[test]
    fn ranges_that_touch_are_one_and_no_more_are_listed_than_the_limit() {
        let (manifest, mut bytes) = content();
        (bytes[20], bytes[30]) = (0, 0);
        let found = compare(&manifest, None, &Memory::new(&bytes));
        assert_eq!((first(&found), found.damaged.len(), found.damaged_len), (Some(20..40), 1, 20));
        let many = |count: usize| {
            let chunk = |byte: u8| ChunkRef { hash: ChunkHash::of(&[byte]), len: 1 };
            let chunks = (0..count).flat_map(|_| [chunk(1), chunk(2)]).collect();
            compare(&Manifest { chunk_log2: 12, chunks }, None, &Memory::new(&[1, 3].repeat(count)))
        };
        let at_the_limit = many(VERIFY_RANGES_MAX);
        assert_eq!((at_the_limit.damaged.len(), at_the_limit.is_beyond_chunks), (VERIFY_RANGES_MAX, false));
        let past_it = many(VERIFY_RANGES_MAX + 1);
        assert_eq!((past_it.damaged.len(), past_it.is_beyond_chunks), (VERIFY_RANGES_MAX, true));
        assert_eq!(past_it.damaged_len, VERIFY_RANGES_MAX as u64 + 1);
    }

    #[test]
    fn who_gives_up_waiting_ends_it_at_the_next_chunk() {
        let (manifest, bytes) = content();
        let memory = Memory { stop_after: 10, ..Memory::new(&bytes) };
        assert!(compare(&manifest, None, &memory).is_cut_off);
        assert_eq!(memory.compared.get(), 10);
    }
}
