//! Cuts a changed content anew where it changed, and only there.
//!
//! Invariant: if the bytes outside the dirty ranges are as they were, the result is what cutting the
//! whole content with the same average gives.

use std::io;
use std::ops::Range;

use super::{chunk_hash, chunk_len_max, chunk_log2_for, cut, push_chunk, touches};
use crate::hash::ChunkHash;
use crate::limits::SMALL_CONTENT_LEN_MAX;
use crate::manifest::{ChunkRef, Manifest};

/// First bytes that are read at once; each further read of the same chunk doubles what is there.
const READ_LEN_MIN: usize = 128 * 1024;

/// Gives the bytes of a content at any place. Every closure that reads like `pread` is one.
pub trait ContentSource {
    /// Reads bytes at an offset and returns how many; 0 only at the end.
    ///
    /// # Errors
    /// When reading fails.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Returns where the next bytes lie that may not be zero, at `offset` or after it, as `lseek(2)` does
    /// with `SEEK_DATA`; `u64::MAX` when only zeros follow. Sources that cannot tell return `offset`.
    ///
    /// # Errors
    /// When the source fails.
    fn next_data(&mut self, offset: u64) -> io::Result<u64> {
        Ok(offset)
    }
}

impl<F: FnMut(u64, &mut [u8]) -> io::Result<usize>> ContentSource for F {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self(offset, buffer)
    }
}

/// Returns the manifest of a content that was `previous` and has `new_size` bytes now.
///
/// `dirty` are the ranges whose bytes may have changed, in any order; what was added or cut off at the
/// end is known without. With an empty manifest as `previous` everything is read. Reads from the
/// boundary before a dirty range until the new boundaries meet old ones again, at most a few chunks
/// beyond it, unless the content grew or shrank so much that another average is due.
///
/// # Errors
/// The source's, and `UnexpectedEof` when it ends before `new_size`.
pub fn rechunk(
    previous: &Manifest,
    dirty: &[Range<u64>],
    new_size: u64,
    mut source: impl ContentSource,
) -> io::Result<Manifest> {
    let chunk_log2 = chunk_log2_for(new_size, Some(previous.chunk_log2));
    let old = Old::new(previous, dirty, new_size, chunk_log2);
    let mut cutter = Cutter::new(&mut source, new_size, chunk_log2);
    let mut chunks = Vec::new();
    let mut at = 0;
    while at < new_size {
        let next = match old.reusable_from(at) {
            Some(piece) => piece,
            None => cutter.cut_at(at, old.read_until(at))?,
        };
        at += next.len;
        push_chunk(&mut chunks, next);
    }
    Ok(Manifest { chunk_log2, chunks })
}

/// The old chunks and what can be kept of them.
struct Old<'a> {
    chunks: &'a [ChunkRef],
    /// Where each chunk begins.
    starts: Vec<u64>,
    /// Where bytes changed: sorted, apart from one another, not empty, before the new end.
    dirty: Vec<Range<u64>>,
    new_size: u64,
    piece_max: u64,
}

impl<'a> Old<'a> {
    fn new(previous: &'a Manifest, dirty: &[Range<u64>], new_size: u64, chunk_log2: u8) -> Self {
        let old_size = previous.size();
        let is_small = new_size <= SMALL_CONTENT_LEN_MAX || old_size <= SMALL_CONTENT_LEN_MAX;
        let is_same_cut = previous.chunk_log2 == chunk_log2 && !is_small;
        // A small content is cut by another rule. It may be kept whole all the same.
        let is_kept_whole = new_size == old_size && new_size <= SMALL_CONTENT_LEN_MAX;
        let chunks = if is_same_cut || is_kept_whole { &previous.chunks[..] } else { &[] };
        let starts = chunks
            .iter()
            .scan(0_u64, |at, chunk| {
                let start = *at;
                *at = at.saturating_add(chunk.len);
                Some(start)
            })
            .collect();
        let grown = old_size..new_size.max(old_size);
        let mut all: Vec<_> = dirty
            .iter()
            .chain(std::iter::once(&grown))
            .map(|range| range.start..range.end.min(new_size))
            .filter(|range| !range.is_empty())
            .collect();
        all.sort_unstable_by_key(|range| range.start);
        let mut dirty: Vec<Range<u64>> = Vec::with_capacity(all.len());
        for range in all {
            match dirty.last_mut() {
                Some(last) if touches(last, &range) => last.end = last.end.max(range.end),
                _ => dirty.push(range),
            }
        }
        Self { chunks, starts, dirty, new_size, piece_max: chunk_len_max(chunk_log2) as u64 }
    }

    /// Returns up to where bytes have to be read in any case, if the one at `at` has.
    fn read_until(&self, at: u64) -> u64 {
        if self.chunks.is_empty() {
            return self.new_size;
        }
        let next_dirty = self.dirty.partition_point(|range| range.end <= at);
        self.dirty.get(next_dirty).filter(|range| range.start <= at).map_or(at, |range| range.end)
    }

    /// Returns the old chunk, or the piece of an old hole, that begins at `at` and is still what cutting gives.
    fn reusable_from(&self, at: u64) -> Option<ChunkRef> {
        let index = self.starts.partition_point(|&start| start <= at).checked_sub(1)?;
        let (start, chunk) = (self.starts[index], self.chunks[index]);
        let end = start.checked_add(chunk.len)?;
        // The byte after a chunk has a say in where it ends, so a change right there counts.
        let next_dirty = self.dirty.partition_point(|range| range.end <= at);
        let clean_end = match self.dirty.get(next_dirty) {
            Some(range) if range.start <= at => return None,
            Some(range) => range.start - 1,
            None => self.new_size,
        };
        let is_boundary =
            at == start || (chunk.hash.is_hole() && (at - start).is_multiple_of(self.piece_max));
        if at >= end || !is_boundary {
            return None;
        }
        if end <= clean_end {
            return Some(ChunkRef { hash: chunk.hash, len: end - at });
        }
        let len = (clean_end - at) / self.piece_max * self.piece_max;
        (chunk.hash.is_hole() && len > 0).then_some(ChunkRef { hash: chunk.hash, len })
    }
}

/// Cuts single chunks out of a source.
struct Cutter<'a, S> {
    source: &'a mut S,
    size: u64,
    log2: u8,
    /// Bytes of the content from `start` on.
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
}

impl<'a, S: ContentSource> Cutter<'a, S> {
    fn new(source: &'a mut S, size: u64, log2: u8) -> Self {
        Self { source, size, log2, buffer: Vec::new(), start: 0, filled: 0 }
    }

    /// Returns the chunk that begins at `at`, which is before the end. Zeros that the source knows of are
    /// returned in one, however many there are. What lies before `read_until` may be read ahead.
    fn cut_at(&mut self, at: u64, read_until: u64) -> io::Result<ChunkRef> {
        self.move_to(at);
        let max = chunk_len_max(self.log2);
        if self.filled == 0
            && let Some(len) = self.zeros_at(at, max as u64)?
        {
            return Ok(ChunkRef { hash: ChunkHash::HOLE, len });
        }
        loop {
            let is_end = at + self.filled as u64 == self.size;
            let window = &self.buffer[..self.filled];
            let found = match self.size {
                0..=SMALL_CONTENT_LEN_MAX => is_end.then_some(self.filled),
                _ => cut(window, is_end, self.log2),
            };
            if let Some(len) = found {
                return Ok(ChunkRef { hash: chunk_hash(&window[..len]), len: len as u64 });
            }
            self.read_more(max, read_until)?;
        }
    }

    /// Returns how many of the bytes at `at` are zeros in whole longest chunks, or up to the end.
    fn zeros_at(&mut self, at: u64, max: u64) -> io::Result<Option<u64>> {
        let data = self.source.next_data(at)?.clamp(at, self.size);
        let len = if data == self.size { self.size - at } else { (data - at) / max * max };
        Ok((len > 0).then_some(len))
    }

    /// Drops what is before `at` from the buffer.
    fn move_to(&mut self, at: u64) {
        let skip = at.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        match skip {
            Some(skip) if skip < self.filled => {
                self.buffer.copy_within(skip..self.filled, 0);
                self.filled -= skip;
            }
            _ => self.filled = 0,
        }
        self.start = at;
    }

    fn read_more(&mut self, max: usize, read_until: u64) -> io::Result<()> {
        let step = (2 * self.filled).clamp(READ_LEN_MIN.min(max), max) as u64;
        let ahead = read_until.saturating_sub(self.start).min(2 * max as u64);
        let want = step.max(ahead).min(self.size - self.start);
        let want = usize::try_from(want).expect("at most two of the longest chunks");
        if self.buffer.len() < want {
            self.buffer.resize(want, 0);
        }
        while self.filled < want {
            let at = self.start + self.filled as u64;
            match self.source.read_at(at, &mut self.buffer[self.filled..want]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
