//! Cuts contents into chunks where their bytes say so (FastCDC, Xia et al. 2020), so that an edit
//! changes the chunks around it and no others.
//!
//! | rule | |
//! |---|---|
//! | a content of up to [`crate::limits::SMALL_CONTENT_LEN_MAX`] bytes | one chunk |
//! | average | 2 to the power of [`chunk_log2_for`]: about a 1024th of the content |
//! | least, but for a content's end | a quarter of the average |
//! | most | four times the average |
//! | a chunk of zeros only | a hole; holes side by side are one |
//!
//! Invariant: where a chunk ends is decided by its own bytes and the one that follows, so cutting may
//! begin at any boundary ([`rechunk()`]) and falls back into the old ones soon after the last changed byte.

use std::ops::Range;

use fastcdc::v2020::MASKS;

use crate::hash::ChunkHash;
use crate::limits::{CHUNK_LOG2_MAX, CHUNK_LOG2_MIN};
use crate::manifest::ChunkRef;

mod rechunk;
mod stream;
#[cfg(test)]
mod tests;

pub use rechunk::{ContentSource, rechunk};
pub use stream::{Chunk, Chunks, manifest_of};

/// By how much the best average may move away, in powers of two, before a content is cut anew.
const LOG2_SLACK: u8 = 2;

/// Returns the base-2 logarithm of the average chunk size for a content of `size` bytes.
///
/// `previous` is that of the content before; it is kept until it is off by more than a factor of four,
/// because another average means that every chunk has to be sent again.
#[must_use]
pub fn chunk_log2_for(size: u64, previous: Option<u8>) -> u8 {
    let ideal = size.div_ceil(1024).checked_next_power_of_two().map_or(64, u64::ilog2);
    let ideal = u8::try_from(ideal).map_or(CHUNK_LOG2_MAX, |log2| log2.clamp(CHUNK_LOG2_MIN, CHUNK_LOG2_MAX));
    match previous {
        Some(log2 @ CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX) if log2.abs_diff(ideal) <= LOG2_SLACK => log2,
        _ => ideal,
    }
}

/// Returns the shortest chunk that can be cut before the end of a content, in bytes.
#[must_use]
pub fn chunk_len_min(log2: u8) -> usize {
    1 << (clamped(log2) - 2)
}

/// Returns the longest chunk, in bytes.
#[must_use]
pub fn chunk_len_max(log2: u8) -> usize {
    1 << (clamped(log2) + 2)
}

/// Returns the length of the chunk at the beginning of `buffer`; `None` while more bytes have to come
/// to tell. `is_end` says that the content ends with the buffer.
///
/// A buffer of [`chunk_len_max`] bytes is always enough. The rule for small contents is not applied here.
#[must_use]
pub fn cut(buffer: &[u8], is_end: bool, log2: u8) -> Option<usize> {
    let max = chunk_len_max(log2);
    if buffer.is_empty() {
        return None;
    }
    let found = match buffer.get(..max) {
        Some(longest) if is_zero(longest) => max,
        _ => find_boundary(buffer, clamped(log2)),
    };
    (found < buffer.len() || found == max || is_end).then_some(found)
}

/// Tells whether all bytes are zero. Stops at the first that is not.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

/// Names the bytes of a chunk; zeros are a hole.
#[must_use]
pub fn chunk_hash(bytes: &[u8]) -> ChunkHash {
    if is_zero(bytes) { ChunkHash::HOLE } else { ChunkHash::of(bytes) }
}

fn clamped(log2: u8) -> u8 {
    log2.clamp(CHUNK_LOG2_MIN, CHUNK_LOG2_MAX)
}

fn find_boundary(buffer: &[u8], log2: u8) -> usize {
    // Normalisation level 1: one bit more before the average, one less after it.
    let (before, after) = (MASKS[usize::from(log2) + 1], MASKS[usize::from(log2) - 1]);
    let (min, average, max) = (chunk_len_min(log2), 1 << log2, chunk_len_max(log2));
    fastcdc::v2020::cut(buffer, min, average, max, before, after, before << 1, after << 1).1
}

/// Adds a chunk; holes side by side become one.
pub fn push_chunk(chunks: &mut Vec<ChunkRef>, chunk: ChunkRef) {
    match chunks.last_mut() {
        Some(last) if last.hash.is_hole() && chunk.hash.is_hole() => last.len += chunk.len,
        _ => chunks.push(chunk),
    }
}

/// Tells whether two ranges overlap or touch.
fn touches(one: &Range<u64>, two: &Range<u64>) -> bool {
    one.start <= two.end && two.start <= one.end
}
