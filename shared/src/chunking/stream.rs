//! Chunks of a content that is read from its beginning to its end.
//!
//! Invariant: memory is bounded by two of the longest chunks, whatever the content's length.

use std::io::{self, Read};

use super::{chunk_hash, chunk_len_max, chunk_log2_for, cut, push_chunk};
use crate::hash::ChunkHash;
use crate::limits::SMALL_CONTENT_LEN_MAX;
use crate::manifest::{ChunkRef, Manifest};

/// One chunk, with its bytes in the reader's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Where it begins in the content.
    pub offset: u64,
    /// Its name; [`ChunkHash::HOLE`] when all bytes are zero.
    pub hash: ChunkHash,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Reads a content and cuts it into chunks. Holes come in pieces of at most the longest chunk.
#[derive(Debug)]
pub struct Chunks<R> {
    reader: R,
    log2: u8,
    is_small: bool,
    /// Where the buffer's first unused byte lies in the content.
    offset: u64,
    /// Bytes of the content that are not read yet.
    unread: u64,
    buffer: Vec<u8>,
    used: usize,
    filled: usize,
}

impl<R: Read> Chunks<R> {
    /// Begins to cut the next `size` bytes of a reader in chunks of 2 to the power of `log2` on average.
    #[must_use]
    pub fn new(reader: R, size: u64, log2: u8) -> Self {
        let room = (2 * chunk_len_max(log2) as u64).min(size);
        let buffer = vec![0; usize::try_from(room).expect("at most two of the longest chunks")];
        let is_small = size <= SMALL_CONTENT_LEN_MAX;
        Self { reader, log2, is_small, offset: 0, unread: size, buffer, used: 0, filled: 0 }
    }

    /// Returns the next chunk; `None` at the end of the content.
    ///
    /// # Errors
    /// The reader's, and `UnexpectedEof` when it ends before `size` bytes.
    pub fn next_chunk(&mut self) -> io::Result<Option<Chunk<'_>>> {
        self.fill()?;
        let window = &self.buffer[self.used..self.filled];
        let len =
            if self.is_small { window.len() } else { cut(window, self.unread == 0, self.log2).unwrap_or(0) };
        if len == 0 {
            return Ok(None);
        }
        let bytes = &self.buffer[self.used..self.used + len];
        let chunk = Chunk { offset: self.offset, hash: chunk_hash(bytes), bytes };
        self.used += len;
        self.offset += len as u64;
        Ok(Some(chunk))
    }

    /// Reads until a longest chunk or the whole rest is in the buffer.
    fn fill(&mut self) -> io::Result<()> {
        if self.unread == 0 || self.filled - self.used >= chunk_len_max(self.log2) {
            return Ok(());
        }
        self.buffer.copy_within(self.used..self.filled, 0);
        self.filled -= self.used;
        self.used = 0;
        while self.unread > 0 && self.filled < self.buffer.len() {
            let room = &mut self.buffer[self.filled..];
            let want = room.len().min(usize::try_from(self.unread).unwrap_or(usize::MAX));
            match self.reader.read(&mut room[..want]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    self.filled += len;
                    self.unread -= len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Cuts a content of `size` bytes; `previous` as in [`chunk_log2_for`].
///
/// # Errors
/// The reader's, and `UnexpectedEof` when it ends before `size` bytes.
pub fn manifest_of(reader: impl Read, size: u64, previous: Option<u8>) -> io::Result<Manifest> {
    let chunk_log2 = chunk_log2_for(size, previous);
    let mut reader = Chunks::new(reader, size, chunk_log2);
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        push_chunk(&mut chunks, ChunkRef { hash: chunk.hash, len: chunk.bytes.len() as u64 });
    }
    Ok(Manifest { chunk_log2, chunks })
}
